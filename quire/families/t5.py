"""T5 (Raffel et al. 2020) and mT5 (Xue et al. 2021): encoder-decoder, RMS norms, relative position buckets, unscaled scores.

1.0: ReLU, the output table tied to the embedding and scaled by width^-0.5. 1.1 (Shazeer 2020): gated tanh-GELU and a table of its own.
Newer configs say "tied" of both and mean the scale apart (`scale_decoder_outputs`), so a table of its own in the file decides. mT5 is 1.1
over another vocabulary; its outputs are never scaled. An encoder alone (`T5EncoderModel`) is what sentence-t5 reads texts with.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from ..nn.config import FFN, Attn, Layer, LMHead, ModelConfig, Norm, Relative, Sizes, Stack
from .family import Family, Fields, Json, Rule, check_sizes, gated_hidden, no_groups, register, split_heads

FORMS = {
    "relu": ("relu", False),
    "gelu": ("gelu", False),
    "gelu_new": ("gelu_tanh", False),
    "silu": ("silu", False),
    "gated-gelu": ("gelu_tanh", True),  # the reference reads it so, for compatibility
    "gated-gelu_new": ("gelu_tanh", True),
    "gated-silu": ("silu", True),
}


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    width, heads, head_dim = f.integer("d_model"), f.integer("num_heads", high=1 << 12), f.integer("d_kv", 64)
    many = config.get("model_type") == "mt5"
    act, gated = f.choice("feed_forward_proj", "gated-gelu" if many else "relu", FORMS)
    ffn = FFN(f.integer("d_ff"), act, gated=gated, dropout=True)
    norm = Norm("rms", f.number("layer_norm_epsilon", 1e-6))
    buckets = f.integer("relative_attention_num_buckets", 32, low=4, high=1 << 16)
    relative = Relative(buckets, f.integer("relative_attention_max_distance", 128, low=buckets // 2 + 1))
    layers = f.integer("num_layers", high=1000)
    both = Attn(heads, heads, head_dim, causal=False, scale=1.0)
    encoder = Stack((Layer(both, ffn, norm),) * layers, final_norm=norm, relative=relative)
    decoder = Stack(
        (Layer(replace(both, causal=True), ffn, norm, cross=both),) * f.integer("num_decoder_layers", layers, high=1000),
        final_norm=norm,
        relative=relative,
    )
    prefix = "MT5" if many else "T5"
    architecture = f.architecture([prefix + name for name in ("ForConditionalGeneration", "Model", "EncoderModel")]).removeprefix(prefix)
    tied = f.flag("tie_word_embeddings", True)
    scaled = f.flag("scale_decoder_outputs", tied) and not many
    model = ModelConfig(
        width,
        vocab=f.integer("vocab_size"),
        context=f.integer("n_positions", 512),
        encoder=encoder,
        decoder=None if architecture == "EncoderModel" else decoder,
        head=None if architecture != "ForConditionalGeneration" else LMHead(tied=tied, scale=width**-0.5 if scaled else 1.0),
        dropout=f.number("dropout_rate", 0.1, high=0.99),
        init_std=f.number("initializer_factor", 1.0),
        init="t5",
    )
    f.close(FAMILY.harmless)
    return model


def adjust(config: Json, model: ModelConfig, names: Collection[str], equal: Callable[[str, str], bool]) -> ModelConfig:
    """Tied or not is what the file holds: no table for the output, or one that repeats the embedding, is tied."""
    if not isinstance(model.head, LMHead):
        return model
    own = "lm_head.weight" in names and not (model.head.tied and equal("lm_head.weight", "shared.weight"))
    return replace(model, head=replace(model.head, tied=not own))


def new(sizes: Sizes) -> Json:
    """Tied sizes give T5 1.0, untied ones 1.1."""
    no_groups(check_sizes(sizes), "t5")
    start = 0 if sizes.pad is None else sizes.pad  # an answer starts with the padding token
    return {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "vocab_size": sizes.vocab,
        "d_model": sizes.width,
        "d_kv": split_heads(sizes.width, sizes.heads, sizes.heads),
        "d_ff": sizes.hidden or (4 * sizes.width if sizes.tied else gated_hidden(sizes.width)),
        "num_layers": sizes.layers,
        "num_decoder_layers": sizes.layers,
        "num_heads": sizes.heads,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "n_positions": sizes.context,
        "dropout_rate": sizes.dropout,
        "layer_norm_epsilon": 1e-6,
        "initializer_factor": 1.0,
        "feed_forward_proj": "relu" if sizes.tied else "gated-gelu",
        "is_encoder_decoder": True,
        "tie_word_embeddings": sizes.tied,
        "scale_decoder_outputs": sizes.tied,
        "pad_token_id": start,
        "decoder_start_token_id": start,
        "eos_token_id": sizes.eos,
    }


def weights(config: ModelConfig) -> list[Rule]:
    stack = config.encoder or config.decoder
    gated = stack is not None and isinstance(stack.layers[0].ffn, FFN) and stack.layers[0].ffn.gated
    ours, theirs = ("{gate,up,down}", "{wi_0,wi_1,wo}") if gated else ("{up,down}", "{wi,wo}")
    rules = [Rule("embed.weight", "shared.weight"), Rule("head.weight", "lm_head.weight")]
    for side, last in (("encoder", 1), ("decoder", 2)):
        block = side + ".block.{i}.layer."
        rules += [
            Rule(side + ".layers.{i}.attn.{q,k,v,o}.*", block + "0.SelfAttention.{q,k,v,o}.*"),
            Rule(side + ".layers.{i}.norm_attn.*", block + "0.layer_norm.*"),
            Rule(side + ".relative.weight", side + ".block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
            Rule(side + ".layers.{i}.cross.{q,k,v,o}.*", block + "1.EncDecAttention.{q,k,v,o}.*"),
            Rule(side + ".layers.{i}.norm_cross.*", block + "1.layer_norm.*"),
            Rule(side + ".layers.{i}.ffn." + ours + ".*", block + f"{last}.DenseReluDense." + theirs + ".*"),
            Rule(side + ".layers.{i}.norm_ffn.*", block + f"{last}.layer_norm.*"),
            Rule(side + ".norm.*", side + ".final_layer_norm.*"),
        ]
    return rules


TINY: Json = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "vocab_size": 96,
    "d_model": 32,
    "d_kv": 12,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "dropout_rate": 0.0,
    "feed_forward_proj": "relu",
    "is_encoder_decoder": True,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
}

FAMILY = register(
    Family(
        names=("t5", "mt5"),
        kind="seq2seq",
        new=new,
        build=build,
        adjust=adjust,
        weights=weights,
        tiny=TINY,
        variants=(
            {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "scale_decoder_outputs": False, "num_decoder_layers": 1},
            {"architectures": ["T5Model"]},
            {"architectures": ["T5EncoderModel"], "d_kv": 8},
            {"model_type": "mt5", "architectures": ["MT5ForConditionalGeneration"], "feed_forward_proj": "gated-gelu"},
            {"model_type": "mt5", "architectures": ["MT5EncoderModel"], "feed_forward_proj": "gated-gelu"},
        ),
        same=(
            ("lm_head.weight", "shared.weight"),
            ("encoder.embed_tokens.weight", "shared.weight"),
            ("decoder.embed_tokens.weight", "shared.weight"),
        ),
        recomputed={r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight": "cross-attention has no positions"},
        harmless=frozenset(("dense_act_fn", "is_gated_act")),  # they repeat feed_forward_proj
    )
)
