"""GPT-2 (Radford et al. 2019): pre-norm, learned positions, tanh-GELU; on disk q, k and v are one matrix, and matrices lie transposed."""

from __future__ import annotations

from ..nn.config import FFN, Attn, Layer, ModelConfig, Norm, Sizes, Stack
from .decoders import LABELS, read_head
from .family import ACTS, Family, Fields, Json, Rule, check_sizes, no_groups, register, split_heads
from .ops import SPLIT_TRANSPOSED, TRANSPOSE

CLASSES = ("GPT2LMHeadModel", "GPT2Model", "GPT2ForSequenceClassification")


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    width, heads = f.integer("n_embd"), f.integer("n_head", high=1 << 12)
    head_dim = split_heads(width, heads, heads)
    attn = Attn(heads, heads, head_dim, bias=True, out_bias=True, scale=None if f.flag("scale_attn_weights", True) else 1.0)
    ffn = FFN(f.integer("n_inner", 4 * width), f.choice("activation_function", "gelu_new", ACTS), bias=True)
    norm = Norm("layer", f.number("layer_norm_epsilon", 1e-5))
    context = f.integer("n_positions", 1024)
    f.number("embd_pdrop", 0.1)  # one number for the residual stream: the reference's default has them equal
    model = ModelConfig(
        width,
        vocab=f.integer("vocab_size"),
        context=context,
        decoder=Stack((Layer(attn, ffn, norm),) * f.integer("n_layer", high=1000), final_norm=norm, positions=context),
        head=read_head(f, CLASSES, tied=True),
        dropout=f.number("resid_pdrop", 0.1, high=0.99),
        attention_dropout=f.number("attn_pdrop", 0.1, high=0.99),
        init_std=f.number("initializer_range", 0.02),
    )
    f.close(FAMILY.harmless)
    return model


def new(sizes: Sizes) -> Json:
    no_groups(check_sizes(sizes), "gpt2")
    return {
        "model_type": "gpt2",
        "architectures": [CLASSES[0]],
        "vocab_size": sizes.vocab,
        "n_embd": sizes.width,
        "n_layer": sizes.layers,
        "n_head": sizes.heads,
        "n_inner": sizes.hidden or 4 * sizes.width,
        "n_positions": sizes.context,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "resid_pdrop": sizes.dropout,
        "embd_pdrop": sizes.dropout,
        "attn_pdrop": sizes.dropout,
        "initializer_range": 0.02,
        "tie_word_embeddings": sizes.tied,
        "bos_token_id": sizes.bos,
        "eos_token_id": sizes.eos,
        "pad_token_id": sizes.pad,
    }


WEIGHTS = [
    Rule("embed.weight", "transformer.wte.weight"),
    Rule("decoder.positions.weight", "transformer.wpe.weight"),
    Rule("decoder.layers.{i}.attn.{q,k,v}.*", "transformer.h.{i}.attn.c_attn.*", SPLIT_TRANSPOSED),
    Rule("decoder.layers.{i}.attn.o.*", "transformer.h.{i}.attn.c_proj.*", TRANSPOSE),
    Rule("decoder.layers.{i}.ffn.{up,down}.*", "transformer.h.{i}.mlp.{c_fc,c_proj}.*", TRANSPOSE),
    Rule("decoder.layers.{i}.{norm_attn,norm_ffn}.*", "transformer.h.{i}.{ln_1,ln_2}.*"),
    Rule("decoder.norm.*", "transformer.ln_f.*"),
    Rule("head.weight", "lm_head.weight"),
    Rule("head.classifier.weight", "score.weight"),
]

TINY: Json = {
    "model_type": "gpt2",
    "architectures": [CLASSES[0]],
    "vocab_size": 96,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

FAMILY = register(
    Family(
        names=("gpt2",),
        kind="decoder",
        new=new,
        build=build,
        weights=lambda config: WEIGHTS,
        tiny=TINY,
        variants=(
            {"tie_word_embeddings": False, "n_inner": 48, "activation_function": "relu"},
            {"architectures": [CLASSES[1]]},
            {"architectures": [CLASSES[2]], "pad_token_id": 0, **LABELS},
        ),
        prefix="transformer.",
        bare=(CLASSES[1],),
        same=(("lm_head.weight", "transformer.wte.weight"),),
        recomputed={r".*\.attn\.(masked_)?bias": "the causal mask follows from the positions"},
        harmless=frozenset(
            """n_ctx reorder_and_upcast_attn summary_activation summary_first_dropout summary_proj_to_labels summary_type
            summary_use_proj""".split()
        ),
    )
)
