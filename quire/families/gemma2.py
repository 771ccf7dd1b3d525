"""Gemma 2 (Riviere et al. 2024): norms on both sides of every part, soft caps on scores and logits, every other layer through a window."""

from __future__ import annotations

import math
from dataclasses import replace

from ..nn.config import FFN, Attn, Layer, ModelConfig, Norm, Sizes, Stack
from . import decoders as d
from .family import ACTS, Family, Fields, Json, register
from .rope import read_rope

CLASSES = d.classes("Gemma2")


def cap(f: Fields, name: str, absent: float | None) -> float | None:
    """A soft cap; null is none, and a missing field is the family's."""
    return f.number(name, 0.0 if name in f.config else absent or 0.0) or None


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    width, context = f.integer("hidden_size"), f.integer("max_position_embeddings", 8192)
    heads, kv_heads, head_dim = d.read_heads(f, width, absent=4, head_dim=256)
    bias, rope = f.flag("attention_bias", False), read_rope(f, head_dim, context)
    scale = f.number("query_pre_attn_scalar", 256.0, low=1e-6) ** -0.5
    attn = Attn(heads, kv_heads, head_dim, bias, bias, rope=rope, scale=scale, softcap=cap(f, "attn_logit_softcapping", 50.0))
    ffn = FFN(f.integer("intermediate_size"), f.choice("hidden_activation", "gelu_pytorch_tanh", ACTS), gated=True)
    norm = Norm("rms", f.number("rms_norm_eps", 1e-6), offset=1.0)
    count, window = d.read_layers(f), d.read_window(f, absent=4096)
    sliding = d.read_sliding(f, count, window, lambda i: i % 2 == 0)
    layers = tuple(Layer(replace(attn, window=window if slides else None), ffn, norm, wiring="sandwich") for slides in sliding)
    f.fixed("use_bidirectional_attention", False)
    head = d.read_head(f, CLASSES, tied=True, softcap=cap(f, "final_logit_softcapping", 30.0))
    model = d.finish(f, Stack(layers, final_norm=norm), head, width, context, embed_scale=math.sqrt(width))
    f.close(FAMILY.harmless)
    return model


def new(sizes: Sizes) -> Json:
    stock = d.stock(sizes, "gemma2", CLASSES[0], hidden_act=None, hidden_activation="gelu_pytorch_tanh", sliding_window=sizes.context)
    return stock | {"query_pre_attn_scalar": stock["head_dim"], "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}


FAMILY = register(
    Family(
        names=("gemma2",),
        kind="decoder",
        new=new,
        build=build,
        weights=lambda config: [*d.ENDS, d.ATTENTION, d.FEED, d.FOUR_NORMS],
        tiny=d.TINY | {"model_type": "gemma2", "architectures": [CLASSES[0]], "head_dim": 16, "sliding_window": 4},
        variants=(
            {"query_pre_attn_scalar": 20, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0, "tie_word_embeddings": False},
            {"attn_logit_softcapping": None, "final_logit_softcapping": None, "attention_bias": True, "num_key_value_heads": 1},
            {"layer_types": ["full_attention", "sliding_attention"], "head_dim": 10, "hidden_activation": "gelu"},
            {"architectures": [CLASSES[1]]},
            {"architectures": [CLASSES[2]], **d.LABELS},
        ),
        prefix="model.",
        bare=(CLASSES[1],),
        same=d.TIED,
        recomputed=d.RECOMPUTED,
        harmless=frozenset({"cache_implementation", "hidden_act", "sliding_window_size"}),  # the last two: earlier names, still written
    )
)
