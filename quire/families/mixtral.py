"""Mixtral (Jiang et al. 2024): Mistral with experts in place of each feed-forward part, two of them for each token."""

from __future__ import annotations

from ..nn.config import FFN, Attn, Layer, ModelConfig, Norm, Sizes, Stack
from . import decoders as d
from .family import ACTS, Family, Fields, Json, Rule, register
from .rope import Spelling, read_rope

CLASSES = d.classes("Mixtral")
EXPERTS = 8


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    width, context = f.integer("hidden_size"), f.integer("max_position_embeddings", 131072)
    heads, kv_heads, head_dim = d.read_heads(f, width, absent=8)
    attn = Attn(heads, kv_heads, head_dim, rope=read_rope(f, head_dim, context, Spelling(theta=1e6)), window=d.read_window(f))
    expert = FFN(f.integer("intermediate_size"), f.choice("hidden_act", "silu", ACTS), gated=True)
    moe = d.read_experts(f, expert, EXPERTS, top=2, normalise=True)
    f.fixed("router_jitter_noise", 0.0)  # noise on the router's input in training, which ours has not
    norm = Norm("rms", f.number("rms_norm_eps", 1e-5))
    stack = Stack((Layer(attn, moe, norm),) * d.read_layers(f, experts=moe.experts), final_norm=norm)
    model = d.finish(f, stack, d.read_head(f, CLASSES), width, context)
    f.close(FAMILY.harmless)
    return model


def new(sizes: Sizes) -> Json:
    config = d.stock(sizes, "mixtral", CLASSES[0], num_local_experts=EXPERTS, num_experts_per_tok=2, router_aux_loss_coef=0.01)
    config["intermediate_size"] = sizes.hidden or d.half_hidden(sizes)
    return config | {"sliding_window": None}


WEIGHTS = [
    *d.ENDS,
    d.ATTENTION,
    d.NORMS,
    Rule("decoder.layers.{i}.ffn.router.weight", "model.layers.{i}.block_sparse_moe.gate.weight"),
    Rule(
        "decoder.layers.{i}.ffn.experts.{e}.{gate,up,down}.weight",
        "model.layers.{i}.block_sparse_moe.experts.{e}.{w1,w3,w2}.weight",
    ),
    *d.FUSED_EXPERTS,
]

FAMILY = register(
    Family(
        names=("mixtral",),
        kind="decoder",
        new=new,
        build=build,
        weights=lambda config: WEIGHTS,
        tiny=d.TINY | {"model_type": "mixtral", "architectures": [CLASSES[0]], "num_local_experts": 4, "num_experts_per_tok": 2},
        variants=(
            {"num_local_experts": 3, "num_experts_per_tok": 1, "sliding_window": 4, "tie_word_embeddings": True, "head_dim": 6},
            {"architectures": [CLASSES[1]]},
            {"architectures": [CLASSES[2]], **d.LABELS},
        ),
        prefix="model.",
        bare=(CLASSES[1],),
        same=d.TIED,
        recomputed=d.RECOMPUTED,
        harmless=frozenset({"output_router_logits"}),
    )
)
