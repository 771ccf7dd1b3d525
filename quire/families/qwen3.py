"""Qwen 3 (Yang et al. 2025): Qwen 2 without its biases, and with a norm over the channels of every query and key."""

from __future__ import annotations

from ..nn.config import FFN, Attn, ModelConfig, Norm, QKNorm, Sizes, Stack
from . import decoders as d
from .family import ACTS, Family, Fields, Json, register
from .qwen2 import layers
from .rope import read_rope

CLASSES = d.classes("Qwen3")


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    width, context = f.integer("hidden_size"), f.integer("max_position_embeddings", 32768)
    heads, kv_heads, head_dim = d.read_heads(f, width, absent=32, head_dim=128)
    norm = Norm("rms", f.number("rms_norm_eps", 1e-6))
    bias = f.flag("attention_bias", False)
    attn = Attn(heads, kv_heads, head_dim, bias=bias, out_bias=bias, rope=read_rope(f, head_dim, context), norm=QKNorm(norm))
    ffn = FFN(f.integer("intermediate_size"), f.choice("hidden_act", "silu", ACTS), gated=True)
    stack = Stack(layers(f, attn, ffn, norm), final_norm=norm)
    model = d.finish(f, stack, d.read_head(f, CLASSES), width, context)
    f.close(FAMILY.harmless)
    return model


def new(sizes: Sizes) -> Json:
    return d.stock(sizes, "qwen3", CLASSES[0], attention_bias=False, use_sliding_window=False)


FAMILY = register(
    Family(
        names=("qwen3",),
        kind="decoder",
        new=new,
        build=build,
        weights=lambda config: [*d.ENDS, d.ATTENTION, d.QK_NORMS, d.FEED, d.NORMS],
        tiny=d.TINY | {"model_type": "qwen3", "architectures": [CLASSES[0]], "head_dim": 16},
        variants=(
            {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "tie_word_embeddings": True},
            {"hidden_size": 36, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 10, "attention_bias": True},
            {"architectures": [CLASSES[1]]},
            {"architectures": [CLASSES[2]], **d.LABELS},
        ),
        prefix="model.",
        bare=(CLASSES[1],),
        same=d.TIED,
        recomputed=d.RECOMPUTED,
    )
)
