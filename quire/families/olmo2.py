"""OLMo 2 (Walsh et al. 2024): LLaMA with its norms behind each part, and one over all queries and one over all keys of a token."""

from __future__ import annotations

from ..nn.config import FFN, Attn, Layer, ModelConfig, Norm, QKNorm, Sizes, Stack
from . import decoders as d
from .family import ACTS, Family, Fields, Json, Rule, register
from .rope import read_rope

CLASSES = d.classes("Olmo2")


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    width, context = f.integer("hidden_size"), f.integer("max_position_embeddings", 2048)
    heads, kv_heads, head_dim = d.read_heads(f, width)
    norm = Norm("rms", f.number("rms_norm_eps", 1e-5))
    bias, rope = f.flag("attention_bias", False), read_rope(f, head_dim, context)
    attn = Attn(heads, kv_heads, head_dim, bias, bias, rope=rope, norm=QKNorm(norm, whole=True))
    ffn = FFN(f.integer("intermediate_size"), f.choice("hidden_act", "silu", ACTS), gated=True)
    stack = Stack((Layer(attn, ffn, norm, wiring="after"),) * d.read_layers(f), final_norm=norm)
    model = d.finish(f, stack, d.read_head(f, CLASSES), width, context)
    f.close(FAMILY.harmless)
    return model


def new(sizes: Sizes) -> Json:
    return d.stock(sizes, "olmo2", CLASSES[0], attention_bias=False)


WEIGHTS = [
    *d.ENDS,
    d.ATTENTION,
    d.QK_NORMS,
    d.FEED,
    Rule(
        "decoder.layers.{i}.{norm_attn,norm_ffn}.weight",
        "model.layers.{i}.{post_attention_layernorm,post_feedforward_layernorm}.weight",
    ),
]

FAMILY = register(
    Family(
        names=("olmo2",),
        kind="decoder",
        new=new,
        build=build,
        weights=lambda config: WEIGHTS,
        tiny=d.TINY | {"model_type": "olmo2", "architectures": [CLASSES[0]]},
        variants=(
            {"hidden_size": 36, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 10, "tie_word_embeddings": True},
            {"attention_bias": True, "num_key_value_heads": 1, "rope_theta": 500000.0},
            {"architectures": [CLASSES[1]]},
            {"architectures": [CLASSES[2]], **d.LABELS},
        ),
        prefix="model.",
        bare=(CLASSES[1],),
        same=d.TIED,
        recomputed=d.RECOMPUTED,
    )
)
