"""Phi 3 and 4 (Abdin et al. 2024): LLaMA with q, k, v and gate, up fused on disk, and a divisor for every pair of channels (longrope)."""

from __future__ import annotations

from ..nn.config import FFN, Attn, Layer, ModelConfig, Norm, Sizes, Stack
from . import decoders as d
from .family import ACTS, Family, Fields, Json, Rule, register
from .ops import SPLIT
from .rope import Spelling, read_rope

CLASSES = d.classes("Phi3")
# the first release said "su" or "yarn" and meant longrope
SPELLING = Spelling(partial=1.0, original=4096, kinds=("default", "longrope"), aliases={"su": "longrope", "yarn": "longrope"})


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    width, context = f.integer("hidden_size"), f.integer("max_position_embeddings", 4096)
    heads, kv_heads, head_dim = d.read_heads(f, width, even=False)
    attn = Attn(heads, kv_heads, head_dim, rope=read_rope(f, head_dim, context, SPELLING), window=d.read_window(f))
    ffn = FFN(f.integer("intermediate_size"), f.choice("hidden_act", "silu", ACTS), gated=True)
    norm = Norm("rms", f.number("rms_norm_eps", 1e-5))
    stack = Stack((Layer(attn, ffn, norm),) * d.read_layers(f), final_norm=norm)
    f.number("embd_pdrop", 0.0)  # read by nothing in the reference
    f.fixed("lm_head_bias", False)
    model = d.finish(f, stack, d.read_head(f, CLASSES), width, context)
    f.close(FAMILY.harmless)
    return model


def new(sizes: Sizes) -> Json:
    stock = d.stock(sizes, "phi3", CLASSES[0], head_dim=None)
    return stock | {"resid_pdrop": sizes.dropout, "original_max_position_embeddings": sizes.context, "sliding_window": None}


WEIGHTS = [
    *d.ENDS,
    Rule("decoder.layers.{i}.attn.{q,k,v}.weight", "model.layers.{i}.self_attn.qkv_proj.weight", SPLIT),
    Rule("decoder.layers.{i}.attn.o.weight", "model.layers.{i}.self_attn.o_proj.weight"),
    Rule("decoder.layers.{i}.ffn.{gate,up}.weight", "model.layers.{i}.mlp.gate_up_proj.weight", SPLIT),
    Rule("decoder.layers.{i}.ffn.down.weight", "model.layers.{i}.mlp.down_proj.weight"),
    d.NORMS,
]
SHORT, LONG = [1.0, 1.2, 1.5, 2.0], [2.0, 3.0, 5.0, 8.0]

FAMILY = register(
    Family(
        names=("phi3",),
        kind="decoder",
        new=new,
        build=build,
        weights=lambda config: WEIGHTS,
        tiny=d.TINY | {"model_type": "phi3", "architectures": [CLASSES[0]]},
        variants=(
            {
                "original_max_position_embeddings": 12,
                "rope_scaling": {"type": "longrope", "short_factor": SHORT, "long_factor": LONG},
                "tie_word_embeddings": True,
            },
            {
                "hidden_size": 60,
                "num_attention_heads": 6,
                "num_key_value_heads": 3,
                "original_max_position_embeddings": 12,
                "partial_rotary_factor": 0.8,
                "rope_scaling": {"type": "longrope", "short_factor": SHORT, "long_factor": LONG},
                "sliding_window": 4,
            },
            {"architectures": [CLASSES[1]]},
            {"architectures": [CLASSES[2]], **d.LABELS},
        ),
        prefix="model.",
        bare=(CLASSES[1],),
        same=d.TIED,
        recomputed=d.RECOMPUTED,
        harmless=frozenset({"full_attn_mod", "interpolate_factor"}),
    )
)
