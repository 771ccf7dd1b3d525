"""Marian (Junczys-Dowmunt et al. 2018; Opus-MT), and with it the original Transformer (Vaswani et al. 2017).

Encoder-decoder, norms behind each part, fixed positions: sines, then cosines. Opus-MT's checkpoints have swish, embeddings scaled by the
root of the width and a bias of the logits. The paper's model is the config with relu: `new` writes it, and its stacks equal
`torch.nn.Transformer`'s. Files that carry the position tables are read without them: they are recomputed.
"""

from __future__ import annotations

from ..errors import ModelError
from ..nn.config import LMHead, ModelConfig, Sizes
from .bart import HARMLESS, SAME, biased, common, model_of, rules, settled, sides
from .family import Family, Fields, Json, Rule, register


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    context = f.integer("max_position_embeddings", 1024)
    encoder, decoder = sides(f, "post", positions=context, sinusoid=True)
    vocab, other = f.integer("vocab_size"), f.integer("decoder_vocab_size", 0, low=0)
    if not f.flag("share_encoder_decoder_embeddings", True) or other not in (0, vocab):
        raise ModelError(
            f"config.json: decoder_vocab_size is {config.get('decoder_vocab_size')!r} beside a vocab_size of {vocab}, and "
            f"share_encoder_decoder_embeddings is {config.get('share_encoder_decoder_embeddings')!r}. A decoder with a vocabulary "
            "of its own is not computed; take a model whose two sides share one."
        )
    settled(f, static_position_embeddings=True, normalize_embedding=False)
    base = f.architecture(("MarianMTModel", "MarianModel")) == "MarianModel"
    model = model_of(f, encoder, decoder, None if base else LMHead(bias=True), context)
    f.close(FAMILY.harmless)
    return model


def new(sizes: Sizes) -> Json:
    """The original Transformer: relu, scaled embeddings."""
    start = 0 if sizes.pad is None else sizes.pad  # an answer starts with the padding token
    return common(sizes, "marian", "MarianMTModel") | {
        "activation_function": "relu",
        "scale_embedding": True,
        "static_position_embeddings": True,
        "share_encoder_decoder_embeddings": True,
        "decoder_vocab_size": sizes.vocab,
        "pad_token_id": start,
        "decoder_start_token_id": start,
        "forced_eos_token_id": sizes.eos,
    }


def weights(config: ModelConfig) -> list[Rule]:
    return rules()


TINY: Json = {
    "model_type": "marian",
    "architectures": ["MarianMTModel"],
    "vocab_size": 96,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 64,
    "activation_function": "swish",
    "scale_embedding": True,
    "static_position_embeddings": True,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "is_encoder_decoder": True,
    "pad_token_id": 4,
    "eos_token_id": 0,
    "decoder_start_token_id": 4,
    "forced_eos_token_id": 0,
}

FAMILY = register(
    Family(
        names=("marian",),
        kind="seq2seq",
        new=new,
        build=build,
        adjust=biased,
        weights=weights,
        tiny=TINY,
        variants=(
            {"scale_embedding": False, "activation_function": "relu", "d_model": 36, "encoder_attention_heads": 6, "decoder_layers": 1},
        ),
        prefix="model.",
        bare=("MarianModel",),
        same=SAME,
        recomputed={r"(model\.)?(en|de)coder\.embed_positions\.weight": "sines and cosines follow from max_position_embeddings"},
        harmless=HARMLESS,
    )
)
