"""LLaMA (Touvron et al. 2023; Grattafiori et al. 2024): pre-norm with RMS, rotary positions, grouped keys and values, gated SiLU."""

from __future__ import annotations

from ..nn.config import FFN, Attn, Layer, ModelConfig, Norm, Sizes, Stack
from . import decoders as d
from .family import ACTS, Family, Fields, Json, register
from .rope import read_rope

CLASSES = d.classes("Llama")


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    width, context = f.integer("hidden_size"), f.integer("max_position_embeddings", 2048)
    heads, kv_heads, head_dim = d.read_heads(f, width)
    bias = f.flag("attention_bias", False)
    attn = Attn(heads, kv_heads, head_dim, bias=bias, out_bias=bias, rope=read_rope(f, head_dim, context))
    ffn = FFN(f.integer("intermediate_size"), f.choice("hidden_act", "silu", ACTS), gated=True, bias=f.flag("mlp_bias", False))
    norm = Norm("rms", f.number("rms_norm_eps", 1e-6))
    stack = Stack((Layer(attn, ffn, norm),) * d.read_layers(f), final_norm=norm)
    model = d.finish(f, stack, d.read_head(f, CLASSES), width, context)
    f.close(FAMILY.harmless)
    return model


def new(sizes: Sizes) -> Json:
    return d.stock(sizes, "llama", CLASSES[0], attention_bias=False, mlp_bias=False)


TINY: Json = d.TINY | {"model_type": "llama", "architectures": [CLASSES[0]], "tie_word_embeddings": False}
SCALED = {"rope_theta": 500.0, "max_position_embeddings": 16, "head_dim": 16}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4, "beta_fast": 8.0, "mscale": 0.7, "mscale_all_dim": 0.4}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.3, 1.6, 2.0, 2.5, 3.1, 3.8],
    "long_factor": [2.0, 2.2, 2.6, 3.2, 4.0, 5.0, 6.2, 7.6],
    "original_max_position_embeddings": 12,
    "rope_theta": 500.0,
}

FAMILY = register(
    Family(
        names=("llama",),
        kind="decoder",
        new=new,
        build=build,
        weights=lambda config: [*d.ENDS, d.ATTENTION, d.FEED, d.NORMS],
        tiny=TINY,
        variants=(
            {"tie_word_embeddings": True, "num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True},
            {"head_dim": 16, "num_key_value_heads": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
            {"hidden_size": 36, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 10},
            {"architectures": [CLASSES[1]]},
            {"architectures": [CLASSES[2]], **d.LABELS},
            SCALED | {"rope_scaling": {"type": "linear", "factor": 2.5}},
            SCALED | {"rope_scaling": {"type": "dynamic", "factor": 3.0}},
            SCALED | {"rope_scaling": LLAMA3},
            SCALED | {"rope_parameters": YARN | {"rope_theta": 500.0, "truncate": False}},
            SCALED | {"rope_parameters": LONG},
        ),
        prefix="model.",
        bare=(CLASSES[1],),
        same=d.TIED,
        recomputed=d.RECOMPUTED,
    )
)
