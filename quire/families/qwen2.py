"""Qwen 2 and 2.5 (Yang et al. 2024): LLaMA with biases on queries, keys and values; the upper layers may look through a window."""

from __future__ import annotations

from dataclasses import replace

from ..nn.config import FFN, Attn, Layer, ModelConfig, Norm, Sizes, Stack
from . import decoders as d
from .family import ACTS, Family, Fields, Json, register
from .rope import read_rope

CLASSES = d.classes("Qwen2")


def layers(f: Fields, attn: Attn, ffn: FFN, norm: Norm) -> tuple[Layer, ...]:
    """The layers of Qwen 2 and 3: from `max_window_layers` on they slide, where sliding is switched on at all."""
    count, first = d.read_layers(f), f.integer("max_window_layers", 28, low=0)
    size = d.read_window(f, absent=4096)
    window = size if f.flag("use_sliding_window", False) else None
    sliding = d.read_sliding(f, count, window, lambda i: window is not None and i >= first)
    return tuple(Layer(replace(attn, window=window if slides else None), ffn, norm) for slides in sliding)


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    width, context = f.integer("hidden_size"), f.integer("max_position_embeddings", 32768)
    heads, kv_heads, head_dim = d.read_heads(f, width, absent=32)
    attn = Attn(heads, kv_heads, head_dim, bias=True, rope=read_rope(f, head_dim, context))
    ffn = FFN(f.integer("intermediate_size"), f.choice("hidden_act", "silu", ACTS), gated=True)
    norm = Norm("rms", f.number("rms_norm_eps", 1e-6))
    stack = Stack(layers(f, attn, ffn, norm), final_norm=norm)
    model = d.finish(f, stack, d.read_head(f, CLASSES), width, context)
    f.fixed("use_mrope", False)  # positions in three dimensions, of a model that sees
    f.close(FAMILY.harmless)
    return model


def new(sizes: Sizes) -> Json:
    return d.stock(sizes, "qwen2", CLASSES[0], use_sliding_window=False)


FAMILY = register(
    Family(
        names=("qwen2",),
        kind="decoder",
        new=new,
        build=build,
        weights=lambda config: [*d.ENDS, d.ATTENTION, d.FEED, d.NORMS],
        tiny=d.TINY | {"model_type": "qwen2", "architectures": [CLASSES[0]]},
        variants=(
            {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "tie_word_embeddings": True},
            {"hidden_size": 42, "num_attention_heads": 7, "num_key_value_heads": 1, "use_sliding_window": False, "sliding_window": 4},
            {"use_sliding_window": True, "sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"]},
            {"architectures": [CLASSES[1]]},
            {"architectures": [CLASSES[2]], **d.LABELS},
        ),
        prefix="model.",
        bare=(CLASSES[1],),
        same=d.TIED,
        recomputed=d.RECOMPUTED,
    )
)
