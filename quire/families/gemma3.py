"""Gemma 3, the text model (Kamath et al. 2025): Gemma 2 with normed queries and keys in place of capped scores; most layers look through
a window and turn at one pace, every sixth sees everything and turns at another, slower one, which alone is scaled."""

from __future__ import annotations

import math
from dataclasses import replace

from ..errors import ModelError
from ..nn.config import FFN, Attn, Layer, ModelConfig, Norm, QKNorm, Rope, Sizes, Stack
from . import decoders as d
from .family import ACTS, Family, Fields, Json, register
from .gemma2 import cap
from .rope import read_rope

CLASSES = d.classes("Gemma3", "Gemma3TextModel", "Gemma3TextForSequenceClassification")
KINDS = ("full_attention", "sliding_attention")


def ropes(f: Fields, head_dim: int, context: int) -> tuple[Rope, Rope]:
    """(of layers that see everything, of layers that slide), from a table each or from the older fields side by side."""
    tables, scaling = f.record("rope_parameters"), f.record("rope_scaling")
    if set(tables) - set(KINDS):
        raise ModelError(
            f"config.json: rope_parameters has {', '.join(sorted(tables))}; allowed is a table for each of {', '.join(KINDS)}."
        )
    found = []
    for kind, name, theta in zip(KINDS, ("rope_theta", "rope_local_base_freq"), (1e6, 1e4), strict=True):
        table: Json = {"rope_type": "default"} | Fields(tables).record(kind) | (scaling if kind == KINDS[0] else {})
        table.setdefault("rope_theta", f.number(name, theta, low=1.0))
        if table.get("truncate") is False:
            raise ModelError(
                "config.json: rope_parameters has truncate false, which the reference does not read in this family. Leave it out."
            )
        found.append(read_rope(Fields({"rope_parameters": table}), head_dim, context))
    return found[0], found[1]


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    width, context = f.integer("hidden_size"), f.integer("max_position_embeddings", 131072)
    heads, kv_heads, head_dim = d.read_heads(f, width, absent=4, head_dim=256)
    norm = Norm("rms", f.number("rms_norm_eps", 1e-6), offset=1.0)
    bias, scale = f.flag("attention_bias", False), f.number("query_pre_attn_scalar", 256.0, low=1e-6) ** -0.5
    wide, near = ropes(f, head_dim, context)
    attn = Attn(heads, kv_heads, head_dim, bias, bias, rope=wide, scale=scale, norm=QKNorm(norm))
    ffn = FFN(f.integer("intermediate_size"), f.choice("hidden_activation", "gelu_pytorch_tanh", ACTS), gated=True)
    count, window = d.read_layers(f), d.read_window(f, absent=4096)
    pattern = f.integer("sliding_window_pattern", f.integer("_sliding_window_pattern", 6))
    sliding = d.read_sliding(f, count, window, lambda i: (i + 1) % pattern != 0)
    through = replace(attn, rope=near, window=window)
    layers = tuple(Layer(through if slides else attn, ffn, norm, wiring="sandwich") for slides in sliding)
    f.fixed("use_bidirectional_attention", False)
    head = d.read_head(f, CLASSES, tied=True, softcap=cap(f, "final_logit_softcapping", None))
    model = d.finish(f, Stack(layers, final_norm=norm), head, width, context, embed_scale=math.sqrt(width))
    f.close(FAMILY.harmless)
    return model


def new(sizes: Sizes) -> Json:
    rope = {"full_attention": {"rope_type": "default", "rope_theta": 1e6}, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    stock = d.stock(sizes, "gemma3_text", CLASSES[0], hidden_act=None, hidden_activation="gelu_pytorch_tanh", rope_theta=None)
    return stock | {"query_pre_attn_scalar": stock["head_dim"], "sliding_window": sizes.context, "rope_parameters": rope}


BOTH = {"sliding_window_pattern": 2}
SCALED = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 2000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
}

FAMILY = register(
    Family(
        names=("gemma3_text",),
        kind="decoder",
        new=new,
        build=build,
        weights=lambda config: [*d.ENDS, d.ATTENTION, d.QK_NORMS, d.FEED, d.FOUR_NORMS],
        tiny=d.TINY | BOTH | {"model_type": "gemma3_text", "architectures": [CLASSES[0]], "head_dim": 16, "sliding_window": 4},
        variants=(
            {"rope_parameters": SCALED, "query_pre_attn_scalar": 20, "final_logit_softcapping": 2.0, "tie_word_embeddings": False},
            {"rope_theta": 900.0, "rope_local_base_freq": 30.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0}, "head_dim": 10},
            {"layer_types": ["full_attention", "sliding_attention"], "attention_bias": True, "num_key_value_heads": 1},
            {"architectures": [CLASSES[1]]},
            {"architectures": [CLASSES[2]], **d.LABELS},
        ),
        prefix="model.",
        bare=(CLASSES[1],),
        same=d.TIED,
        recomputed=d.RECOMPUTED,
        harmless=frozenset({"cache_implementation"}),
    )
)
