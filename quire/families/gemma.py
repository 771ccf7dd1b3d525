"""Gemma (Mesnard et al. 2024): LLaMA with norms stored around zero, embeddings multiplied by the root of the width, and a gated GELU."""

from __future__ import annotations

import math

from ..nn.config import FFN, Attn, Layer, ModelConfig, Norm, Sizes, Stack
from . import decoders as d
from .family import Family, Fields, Json, register
from .rope import read_rope

CLASSES = d.classes("Gemma")
TANH = {"gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
WORKS = TANH | {"gelu": "gelu_tanh"}  # the first release said "gelu" and meant the approximation


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    width, context = f.integer("hidden_size"), f.integer("max_position_embeddings", 8192)
    heads, kv_heads, head_dim = d.read_heads(f, width, absent=16, head_dim=256)
    bias = f.flag("attention_bias", False)
    attn = Attn(heads, kv_heads, head_dim, bias=bias, out_bias=bias, rope=read_rope(f, head_dim, context))
    f.fixed("hidden_activation", *TANH)
    ffn = FFN(f.integer("intermediate_size"), f.choice("hidden_act", "gelu_pytorch_tanh", WORKS), gated=True)
    norm = Norm("rms", f.number("rms_norm_eps", 1e-6), offset=1.0)
    stack = Stack((Layer(attn, ffn, norm),) * d.read_layers(f), final_norm=norm)
    f.fixed("use_bidirectional_attention", False)
    model = d.finish(f, stack, d.read_head(f, CLASSES, tied=True), width, context, embed_scale=math.sqrt(width))
    f.close(FAMILY.harmless)
    return model


def new(sizes: Sizes) -> Json:
    return d.stock(sizes, "gemma", CLASSES[0], hidden_act="gelu_pytorch_tanh", attention_bias=False)


FAMILY = register(
    Family(
        names=("gemma",),
        kind="decoder",
        new=new,
        build=build,
        weights=lambda config: [*d.ENDS, d.ATTENTION, d.FEED, d.NORMS],
        tiny=d.TINY | {"model_type": "gemma", "architectures": [CLASSES[0]], "head_dim": 16},
        variants=(
            {"tie_word_embeddings": False, "hidden_act": "gelu", "num_key_value_heads": 1},
            {"hidden_size": 36, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 10, "attention_bias": True},
            {"architectures": [CLASSES[1]]},
            {"architectures": [CLASSES[2]], **d.LABELS},
        ),
        prefix="model.",
        bare=(CLASSES[1],),
        same=d.TIED,
        recomputed=d.RECOMPUTED,
    )
)
