"""LLaMA (Touvron et al. 2023): pre-norm with RMS, rotary positions, grouped keys and values, gated SiLU."""

from __future__ import annotations

from ..nn.config import FFN, Attn, Layer, LMHead, ModelConfig, Norm, Rope, Sizes, Stack
from .family import Family, Fields, Json, Rule, check_sizes, gated_hidden, register, rope_theta, split_heads


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    width, heads = f.integer("hidden_size"), f.integer("num_attention_heads", high=1 << 12)
    kv_heads = f.integer("num_key_value_heads", heads, high=heads)
    head_dim = split_heads(width, heads, kv_heads, f.integer("head_dim", 0) or None, even=True)
    bias = f.flag("attention_bias", False)
    attn = Attn(heads, kv_heads, head_dim, bias=bias, out_bias=bias, rope=Rope(rope_theta(f)))
    ffn = FFN(f.integer("intermediate_size"), f.choice("hidden_act", "silu", {"silu": "silu"}), gated=True, bias=f.flag("mlp_bias", False))
    norm = Norm("rms", f.number("rms_norm_eps", 1e-6))
    base = f.architecture(("LlamaForCausalLM", "LlamaModel")) == "LlamaModel"
    tied = f.flag("tie_word_embeddings", False)
    model = ModelConfig(
        width,
        vocab=f.integer("vocab_size"),
        context=f.integer("max_position_embeddings", 2048),
        decoder=Stack((Layer(attn, ffn, norm),) * f.integer("num_hidden_layers", high=1000), final_norm=norm),
        head=None if base else LMHead(tied=tied),
        dropout=f.number("resid_pdrop", 0.0, high=0.99),  # not a stock field: training from scratch with dropout
        attention_dropout=f.number("attention_dropout", 0.0, high=0.99),
        init_std=f.number("initializer_range", 0.02),
    )
    f.close(FAMILY.harmless)
    return model


def new(sizes: Sizes) -> Json:
    check_sizes(sizes)
    dropout = {"resid_pdrop": sizes.dropout} if sizes.dropout else {}
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads or sizes.heads,
        "head_dim": split_heads(sizes.width, sizes.heads, sizes.kv_heads or sizes.heads, even=True),
        "intermediate_size": sizes.hidden or gated_hidden(sizes.width),
        "hidden_act": "silu",
        "max_position_embeddings": sizes.context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": sizes.dropout,
        "initializer_range": 0.02,
        "tie_word_embeddings": sizes.tied,
        "bos_token_id": sizes.bos,
        "eos_token_id": sizes.eos,
        "pad_token_id": sizes.pad,
        **dropout,
    }


WEIGHTS = [
    Rule("embed.weight", "model.embed_tokens.weight"),
    Rule("decoder.layers.{i}.attn.{q,k,v,o}.*", "model.layers.{i}.self_attn.{q_proj,k_proj,v_proj,o_proj}.*"),
    Rule("decoder.layers.{i}.ffn.{gate,up,down}.*", "model.layers.{i}.mlp.{gate_proj,up_proj,down_proj}.*"),
    Rule("decoder.layers.{i}.{norm_attn,norm_ffn}.weight", "model.layers.{i}.{input_layernorm,post_attention_layernorm}.weight"),
    Rule("decoder.norm.weight", "model.norm.weight"),
    Rule("head.weight", "lm_head.weight"),
]

TINY: Json = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

FAMILY = register(
    Family(
        names=("llama",),
        kind="decoder",
        new=new,
        build=build,
        weights=lambda config: WEIGHTS,
        tiny=TINY,
        variants=(
            {"tie_word_embeddings": True, "num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True},
            {"head_dim": 16, "num_key_value_heads": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
            {"architectures": ["LlamaModel"]},
        ),
        prefix="model.",
        bare=("LlamaModel",),
        same=(("lm_head.weight", "model.embed_tokens.weight"),),
        recomputed={r".*rotary_emb\.inv_freq": "rotary frequencies follow from rope_theta"},
    )
)
