"""BART (Lewis et al. 2019): encoder-decoder, norms behind each part, learned positions that begin at row 2, a norm over the embeddings.

mBART (Liu et al. 2020) is the same with the norms before each part and one at the end of each stack. A classifier (`BartForSequence-
Classification`) reads the row on both sides and labels it by the decoder's state at its end-of-text token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from ..errors import ModelError
from ..nn.config import FFN, Attn, LabelHead, Layer, LMHead, ModelConfig, Norm, Sizes, Stack
from .family import Family, Fields, Json, Rule, check_sizes, no_groups, register, split_heads
from .ops import Op

ACTS = {"gelu": "gelu", "relu": "relu", "silu": "silu", "swish": "silu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
OFFSET = 2  # rows of the position table before the first position
HEADS = ("ForConditionalGeneration", "ForSequenceClassification", "Model")

ROW = Op("one row", lambda t, shapes: [t.reshape(shapes[0])], lambda parts: parts[0].unsqueeze(0))


def settled(f: Fields, **values: bool) -> None:
    """Fields of old configs that would make another model of it, were they not what the reference computes whatever they say."""
    for name, value in values.items():
        if f.flag(name, value) is not value:
            raise ModelError(f"config.json: {name} is {not value}, which this family does not compute. Allowed is {value}.")


def sides(f: Fields, wiring: str, **more: Any) -> tuple[Stack, Stack]:
    """Encoder and decoder of BART's and Marian's configs. `more` goes into both stacks.

    activation_dropout is dropped out at the one rate of the model where it is not 0: only training knows it.
    """
    width = f.integer("d_model")
    act, norm = f.choice("activation_function", "gelu", ACTS), Norm("layer", 1e-5)
    dropout = f.number("activation_dropout", 0.0, high=0.99) > 0
    stacks = []
    for side in ("encoder", "decoder"):
        heads = f.integer(f"{side}_attention_heads", 16, high=1 << 12)
        both = Attn(heads, heads, split_heads(width, heads, heads), bias=True, out_bias=True, causal=False)
        ffn = FFN(f.integer(f"{side}_ffn_dim", 4096), act, bias=True, dropout=dropout)
        layer = Layer(both, ffn, norm, wiring="pre" if wiring == "pre" else "post")
        if side == "decoder":
            layer = replace(layer, attn=replace(both, causal=True), cross=both)
        stacks.append(Stack((layer,) * f.integer(f"{side}_layers", 12, high=1000), final_norm=norm if wiring == "pre" else None))
    encoder, decoder = (replace(stack, **more) for stack in stacks)
    settled(f, normalize_before=wiring == "pre", add_final_layer_norm=wiring == "pre", add_bias_logits=False)
    return encoder, decoder


def model_of(f: Fields, encoder: Stack, decoder: Stack, head: LMHead | LabelHead | None, context: int) -> ModelConfig:
    """The rest of BART's and Marian's configs."""
    width = f.integer("d_model")
    if not f.flag("tie_word_embeddings", True):
        raise ModelError("config.json: tie_word_embeddings is False. This family's output table is its embedding; another is not read.")
    return ModelConfig(
        width,
        vocab=f.integer("vocab_size"),
        context=context,
        encoder=encoder,
        decoder=decoder,
        head=head,
        embed_scale=math.sqrt(width) if f.flag("scale_embedding", False) else 1.0,
        dropout=f.number("dropout", 0.1, high=0.99),
        attention_dropout=f.number("attention_dropout", 0.0, high=0.99),
        init_std=f.number("init_std", 0.02),
        init="bert",
    )


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    name, wiring = ("MBart", "pre") if config.get("model_type") == "mbart" else ("Bart", "post")
    context = f.integer("max_position_embeddings", 1024)
    encoder, decoder = sides(f, wiring, positions=context + OFFSET, position_offset=OFFSET, embed_norm=Norm("layer", 1e-5))
    settled(f, normalize_embedding=True, static_position_embeddings=False)
    architecture = f.architecture([name + head for head in HEADS]).removeprefix(name)
    head: LMHead | LabelHead | None = None
    if architecture == "ForConditionalGeneration":
        head = LMHead(bias=True)
    elif architecture == "ForSequenceClassification":
        said = config.get("id2label") or config.get("num_labels")
        head = LabelHead(f.labels() if said else 3, pool="eos", twice=True)  # the reference's own default is three
    model = model_of(f, encoder, decoder, head, context)
    f.close(FAMILY.harmless)
    return model


def biased(config: Json, model: ModelConfig, names: Collection[str], equal: Callable[[str, str], bool]) -> ModelConfig:
    """Old files have no bias of the logits: it was zero."""
    if not isinstance(model.head, LMHead):
        return model
    return replace(model, head=replace(model.head, bias="final_logits_bias" in names))


def common(sizes: Sizes, family: str, architecture: str) -> Json:
    """What BART's and Marian's stock configs share; an answer starts with the padding token unless it is said otherwise."""
    no_groups(check_sizes(sizes), family)
    both = {"layers": sizes.layers, "attention_heads": sizes.heads, "ffn_dim": sizes.hidden or 4 * sizes.width}
    return {
        "model_type": family,
        "architectures": [architecture],
        "vocab_size": sizes.vocab,
        "d_model": sizes.width,
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in both.items()},
        "max_position_embeddings": sizes.context,
        "dropout": sizes.dropout,
        "attention_dropout": sizes.dropout,
        "activation_dropout": 0.0,
        "init_std": 0.02,
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
        "bos_token_id": sizes.bos,
        "eos_token_id": sizes.eos,
        "pad_token_id": sizes.pad,
    }


def new(sizes: Sizes) -> Json:
    config = common(sizes, "bart", "BartForConditionalGeneration")
    return config | {
        "activation_function": "gelu",
        "scale_embedding": False,
        "decoder_start_token_id": sizes.eos,
        "forced_eos_token_id": sizes.eos,
    }


def rules(head: str = "final_logits_bias") -> list[Rule]:
    """The table of BART's and Marian's checkpoints."""
    found = [Rule("embed.weight", "model.shared.weight"), Rule("head.bias", head, ROW)]
    for side in ("encoder", "decoder"):
        ours, theirs = side + ".layers.{i}.", f"model.{side}" + ".layers.{i}."
        found += [
            Rule(ours + "attn.{q,k,v,o}.*", theirs + "self_attn.{q_proj,k_proj,v_proj,out_proj}.*"),
            Rule(ours + "norm_attn.*", theirs + "self_attn_layer_norm.*"),
            Rule(ours + "cross.{q,k,v,o}.*", theirs + "encoder_attn.{q_proj,k_proj,v_proj,out_proj}.*"),
            Rule(ours + "norm_cross.*", theirs + "encoder_attn_layer_norm.*"),
            Rule(ours + "ffn.{up,down}.*", theirs + "{fc1,fc2}.*"),
            Rule(ours + "norm_ffn.*", theirs + "final_layer_norm.*"),
            Rule(side + ".positions.weight", f"model.{side}.embed_positions.weight"),
            Rule(side + ".embed_norm.*", f"model.{side}.layernorm_embedding.*"),
            Rule(side + ".norm.*", f"model.{side}.layer_norm.*"),
        ]
    return found


def weights(config: ModelConfig) -> list[Rule]:
    return rules() + [Rule("head.{dense,classifier}.*", "classification_head.{dense,out_proj}.*")]


SAME = tuple(
    (name, "model.shared.weight") for name in ("lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")
)
HARMLESS = frozenset(  # how to write, and what only training knows
    """bad_words_ids classif_dropout classifier_dropout decoder_layerdrop early_stopping encoder_layerdrop force_bos_token_to_be_generated
    forced_bos_token_id forced_eos_token_id hidden_size length_penalty max_length min_length no_repeat_ngram_size num_attention_heads
    num_beams num_hidden_layers prefix save_step""".split()
)

TINY: Json = {
    "model_type": "bart",
    "architectures": ["BartForConditionalGeneration"],
    "vocab_size": 96,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 64,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "is_encoder_decoder": True,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}

FAMILY = register(
    Family(
        names=("bart", "mbart"),
        kind="seq2seq",
        new=new,
        build=build,
        adjust=biased,
        weights=weights,
        tiny=TINY,
        variants=(
            {"scale_embedding": True, "decoder_layers": 1, "decoder_attention_heads": 2, "activation_function": "relu"},
            {"architectures": ["BartModel"]},
            {"architectures": ["BartForSequenceClassification"], "num_labels": 5},
            {"model_type": "mbart", "architectures": ["MBartForConditionalGeneration"], "scale_embedding": True},
            {"model_type": "mbart", "architectures": ["MBartModel"], "activation_function": "gelu_new"},
        ),
        prefix="model.",
        bare=("BartModel", "MBartModel"),
        same=SAME,
        recomputed={r"(model\.)?(en|de)coder\.version": "a number of the format"},
        harmless=HARMLESS,
    )
)
