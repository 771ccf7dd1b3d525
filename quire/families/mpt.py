"""MPT (MosaicML 2023): no positions but slopes (ALiBi, Press et al. 2022), no biases, q, k and v in one matrix."""

from __future__ import annotations

import math

from ..errors import ModelError
from ..nn.config import FFN, Attn, Layer, ModelConfig, Norm, Sizes, Stack
from . import decoders as d
from .family import Family, Fields, Json, Rule, check_sizes, no_groups, register, split_heads
from .ops import SPLIT

CLASSES = d.classes("Mpt")


def slopes(heads: int) -> tuple[float, ...]:
    """Of 2^ceil(log2 H) slopes, every second one first, then the others, as many as there are heads."""
    power = 1 << math.ceil(math.log2(heads))
    found = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    return tuple((found[1::2] + found[::2])[:heads] if power != heads else found)


def read_attention(f: Fields, heads: int, head_dim: int) -> tuple[Attn, float]:
    """(attention, dropout) from the table attn_config."""
    inner = Fields(f.record("attn_config"))
    inner.fixed("attn_type", "multihead_attention")
    inner.fixed("alibi", True)
    inner.fixed("alibi_bias_max", 8)
    for name in ("prefix_lm", "qk_ln", "attn_uses_sequence_id"):
        inner.fixed(name, False)
    attn = Attn(
        heads,
        heads,
        head_dim,
        scale=inner.number("softmax_scale", 0.0) if inner.config.get("softmax_scale") is not None else None,
        clip=inner.number("clip_qkv", 0.0) or None,
    )
    dropout = inner.number("attn_pdrop", 0.0, high=0.99)
    unknown = [name for name in inner.close({"attn_impl"}) if inner.config[name] is not None]
    if unknown:
        raise ModelError(
            f"config.json: attn_config has {', '.join(unknown)}, which is not understood. Known: {', '.join(sorted(inner.read))}."
        )
    return attn, dropout


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    width, heads = f.integer("d_model"), f.integer("n_heads", high=1 << 12)
    attn, dropout = read_attention(f, heads, split_heads(width, heads, heads))
    norm = Norm("layer", f.number("layer_norm_epsilon", 1e-5), bias=False)
    f.fixed("expansion_ratio", 4)
    f.fixed("no_bias", True)
    f.fixed("logit_scale")
    f.fixed("norm_type", "low_precision_layernorm", "layernorm")
    stack = Stack((Layer(attn, FFN(4 * width, "gelu"), norm),) * d.read_layers(f, "n_layers"), final_norm=norm, alibi=slopes(heads))
    model = ModelConfig(
        width,
        vocab=f.integer("vocab_size"),
        context=f.integer("max_seq_len", 2048),
        decoder=stack,
        head=d.read_head(f, CLASSES, tied=True),
        dropout=f.number("resid_pdrop", 0.0, high=0.99),
        attention_dropout=dropout or None,  # the reference's config allows whole numbers alone here: a model from scratch leaves it out
        init_std=f.number("initializer_range", 0.02),
    )
    f.close(FAMILY.harmless)
    return model


def new(sizes: Sizes) -> Json:
    no_groups(check_sizes(sizes), "mpt")
    if sizes.hidden not in (0, 4 * sizes.width):
        raise ModelError(f"hidden is {sizes.hidden}, but mpt always has four times its width ({4 * sizes.width}). Use 0.")
    return {
        "model_type": "mpt",
        "architectures": [CLASSES[0]],
        "vocab_size": sizes.vocab,
        "d_model": sizes.width,
        "n_layers": sizes.layers,
        "n_heads": sizes.heads,
        "max_seq_len": sizes.context,
        "attn_config": {"attn_type": "multihead_attention", "alibi": True, "alibi_bias_max": 8},
        "resid_pdrop": sizes.dropout,
        "layer_norm_epsilon": 1e-5,
        "expansion_ratio": 4,
        "no_bias": True,
        "initializer_range": 0.02,
        "tie_word_embeddings": sizes.tied,
        "bos_token_id": sizes.bos,
        "eos_token_id": sizes.eos,
        "pad_token_id": sizes.pad,
    }


WEIGHTS = [
    Rule("embed.weight", "transformer.wte.weight"),
    Rule("decoder.layers.{i}.attn.{q,k,v}.weight", "transformer.blocks.{i}.attn.Wqkv.weight", SPLIT),
    Rule("decoder.layers.{i}.attn.o.weight", "transformer.blocks.{i}.attn.out_proj.weight"),
    Rule("decoder.layers.{i}.ffn.{up,down}.weight", "transformer.blocks.{i}.ffn.{up_proj,down_proj}.weight"),
    Rule("decoder.layers.{i}.{norm_attn,norm_ffn}.weight", "transformer.blocks.{i}.{norm_1,norm_2}.weight"),
    Rule("decoder.norm.weight", "transformer.norm_f.weight"),
    Rule("head.weight", "lm_head.weight"),
    Rule("head.classifier.weight", "score.weight"),
]

TINY: Json = {
    "model_type": "mpt",
    "architectures": [CLASSES[0]],
    "vocab_size": 96,
    "d_model": 32,
    "n_layers": 2,
    "n_heads": 4,
    "max_seq_len": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

FAMILY = register(
    Family(
        names=("mpt",),
        kind="decoder",
        new=new,
        build=build,
        weights=lambda config: WEIGHTS,
        tiny=TINY,
        variants=(
            {"d_model": 36, "n_heads": 6, "attn_config": {"clip_qkv": 0.5, "softmax_scale": 0.3}, "tie_word_embeddings": False},
            {"d_model": 30, "n_heads": 3},
            {"architectures": [CLASSES[1]]},
            {"architectures": [CLASSES[2]], **d.LABELS},
        ),
        prefix="transformer.",
        bare=(CLASSES[1],),
        same=(("lm_head.weight", "transformer.wte.weight"),),
        harmless=frozenset(
            # learned_pos_emb counts only without slopes; embedding_fraction scales a gradient
            """emb_pdrop embedding_fraction init_config init_device learned_pos_emb tokenizer_name use_pad_tok_in_ffn
            verbose""".split()
        ),
    )
)
