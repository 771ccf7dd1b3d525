"""Mistral (Jiang et al. 2023): LLaMA whose queries may see only the last few thousand keys."""

from __future__ import annotations

from ..nn.config import FFN, Attn, Layer, ModelConfig, Norm, Sizes, Stack
from . import decoders as d
from .family import ACTS, Family, Fields, Json, register
from .rope import read_rope

CLASSES = d.classes("Mistral")


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    width, context = f.integer("hidden_size"), f.integer("max_position_embeddings", 131072)
    heads, kv_heads, head_dim = d.read_heads(f, width, absent=8)
    attn = Attn(heads, kv_heads, head_dim, rope=read_rope(f, head_dim, context), window=d.read_window(f, absent=4096))
    ffn = FFN(f.integer("intermediate_size"), f.choice("hidden_act", "silu", ACTS), gated=True)
    norm = Norm("rms", f.number("rms_norm_eps", 1e-6))
    stack = Stack((Layer(attn, ffn, norm),) * d.read_layers(f), final_norm=norm)
    model = d.finish(f, stack, d.read_head(f, CLASSES), width, context)
    f.close(FAMILY.harmless)
    return model


def new(sizes: Sizes) -> Json:
    return d.stock(sizes, "mistral", CLASSES[0]) | {"sliding_window": None}


FAMILY = register(
    Family(
        names=("mistral",),
        kind="decoder",
        new=new,
        build=build,
        weights=lambda config: [*d.ENDS, d.ATTENTION, d.FEED, d.NORMS],
        tiny=d.TINY | {"model_type": "mistral", "architectures": [CLASSES[0]], "sliding_window": 4},
        variants=(
            {"sliding_window": None, "tie_word_embeddings": True},
            {"hidden_size": 40, "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 6, "hidden_act": "gelu_new"},
            {"architectures": [CLASSES[1]]},
            {"architectures": [CLASSES[2]], **d.LABELS},
        ),
        prefix="model.",
        bare=(CLASSES[1],),
        same=d.TIED,
        recomputed=d.RECOMPUTED,
    )
)
