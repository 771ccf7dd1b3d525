"""Qwen 3 with experts (Yang et al. 2025): many small ones, in all layers or in some."""

from __future__ import annotations

from ..errors import ModelError
from ..nn.config import FFN, Attn, Layer, ModelConfig, Norm, QKNorm, Sizes, Stack
from . import decoders as d
from .family import ACTS, Family, Fields, Json, Rule, register
from .rope import read_rope

CLASSES = d.classes("Qwen3Moe")


def sparse(f: Fields, layers: int) -> list[bool]:
    """Which layers have experts: every `decoder_sparse_step`-th, but none of `mlp_only_layers`."""
    step, plain = f.integer("decoder_sparse_step", 1), f.array("mlp_only_layers")
    if any(not isinstance(i, int) or isinstance(i, bool) for i in plain):
        raise ModelError(f"config.json: mlp_only_layers is {plain!r}; allowed is a list of layer numbers.")
    return [i not in plain and (i + 1) % step == 0 for i in range(layers)]


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    width, context = f.integer("hidden_size"), f.integer("max_position_embeddings", 32768)
    heads, kv_heads, head_dim = d.read_heads(f, width, absent=4)
    norm = Norm("rms", f.number("rms_norm_eps", 1e-6))
    bias, size = f.flag("attention_bias", False), d.read_window(f, absent=4096)
    window = size if f.flag("use_sliding_window", False) else None
    attn = Attn(heads, kv_heads, head_dim, bias, bias, rope=read_rope(f, head_dim, context), window=window, norm=QKNorm(norm))
    act = f.choice("hidden_act", "silu", ACTS)
    ffn = FFN(f.integer("intermediate_size", 6144), act, gated=True)
    expert = FFN(f.integer("moe_intermediate_size", 768), act, gated=True)
    moe = d.read_experts(f, expert, absent=128, top=8, normalise=f.flag("norm_topk_prob", False))
    layers = tuple(Layer(attn, moe if here else ffn, norm) for here in sparse(f, d.read_layers(f, experts=moe.experts)))
    model = d.finish(f, Stack(layers, final_norm=norm), d.read_head(f, CLASSES), width, context)
    f.close(FAMILY.harmless)
    return model


def new(sizes: Sizes) -> Json:
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": True, "router_aux_loss_coef": 0.01}
    expert = sizes.hidden or d.half_hidden(sizes)
    return d.stock(sizes, "qwen3_moe", CLASSES[0], moe_intermediate_size=expert, attention_bias=False, use_sliding_window=False, **experts)


WEIGHTS = [
    *d.ENDS,
    d.ATTENTION,
    d.QK_NORMS,
    d.FEED,
    d.NORMS,
    Rule("decoder.layers.{i}.ffn.router.weight", "model.layers.{i}.mlp.gate.weight"),
    Rule(
        "decoder.layers.{i}.ffn.experts.{e}.{gate,up,down}.weight",
        "model.layers.{i}.mlp.experts.{e}.{gate_proj,up_proj,down_proj}.weight",
    ),
    *d.FUSED_EXPERTS,
]
SPARSE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}

FAMILY = register(
    Family(
        names=("qwen3_moe",),
        kind="decoder",
        new=new,
        build=build,
        weights=lambda config: WEIGHTS,
        tiny=d.TINY | SPARSE | {"model_type": "qwen3_moe", "architectures": [CLASSES[0]], "norm_topk_prob": True},
        variants=(
            {"norm_topk_prob": False, "decoder_sparse_step": 2, "tie_word_embeddings": True, "head_dim": 10, "attention_bias": True},
            {"mlp_only_layers": [0], "use_sliding_window": True, "sliding_window": 4, "num_experts": 5, "num_experts_per_tok": 3},
            {"architectures": [CLASSES[1]]},
            {"architectures": [CLASSES[2]], **d.LABELS},
        ),
        prefix="model.",
        bare=(CLASSES[1],),
        same=d.TIED,
        recomputed=d.RECOMPUTED,
        harmless=frozenset({"output_router_logits", "max_window_layers"}),
    )
)
