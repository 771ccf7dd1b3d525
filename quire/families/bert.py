"""BERT (Devlin et al. 2018): post-norm encoder, learned positions, token types, masked-token and next-sentence heads.

Which heads a folder has is what its `architectures` demands and what its weights hold, joined: nothing that is there is dropped, and
nothing that the architecture needs may be missing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from ..errors import ModelError
from ..nn.config import FFN, Attn, Layer, MLMHead, ModelConfig, Norm, Pooler, Sizes, Stack
from .family import Family, Fields, Json, Rule, check_sizes, no_groups, register, split_heads

ARCHITECTURES = ("BertForPreTraining", "BertForMaskedLM", "BertModel")


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    width, heads = f.integer("hidden_size"), f.integer("num_attention_heads", high=1 << 12)
    attn = Attn(heads, heads, split_heads(width, heads, heads), bias=True, out_bias=True, causal=False)
    act = f.choice("hidden_act", "gelu", {"gelu": "gelu", "relu": "relu"})
    norm = Norm("layer", f.number("layer_norm_eps", 1e-12))
    if not f.flag("tie_word_embeddings", True):
        raise ModelError("config.json: tie_word_embeddings is False. BERT's output table is its embedding; a table of its own is not read.")
    context = f.integer("max_position_embeddings", 512)
    stack = Stack(
        (Layer(attn, FFN(f.integer("intermediate_size"), act, bias=True), norm, wiring="post"),)
        * f.integer("num_hidden_layers", high=1000),
        positions=context,
        types=f.integer("type_vocab_size", 2, high=1 << 12),
        embed_norm=norm,
    )
    architecture = f.architecture(ARCHITECTURES)
    model = ModelConfig(
        width,
        vocab=f.integer("vocab_size"),
        context=context,
        encoder=stack,
        head=Pooler() if architecture == "BertModel" else MLMHead(act, norm.eps, architecture == "BertForPreTraining"),
        dropout=f.number("hidden_dropout_prob", 0.1, high=0.99),
        attention_dropout=f.number("attention_probs_dropout_prob", 0.1, high=0.99),
        init_std=f.number("initializer_range", 0.02),
        init="bert",
    )
    f.close(FAMILY.harmless)
    return model


def adjust(config: Json, model: ModelConfig, names: Collection[str], equal: Callable[[str, str], bool]) -> ModelConfig:
    """Heads that the file holds beyond what the architecture demands; a base model without its pooler has none."""
    next_sentence = "cls.seq_relationship.weight" in names
    if isinstance(model.head, MLMHead):
        return replace(model, head=replace(model.head, next_sentence=model.head.next_sentence or next_sentence))
    if "cls.predictions.bias" in names and model.encoder is not None:
        layer = model.encoder.layers[0]
        return replace(model, head=MLMHead("relu" if layer.ffn.act == "relu" else "gelu", layer.norm.eps, next_sentence))
    return model if "bert.pooler.dense.weight" in names else replace(model, head=None)


def new(sizes: Sizes) -> Json:
    no_groups(check_sizes(sizes), "bert")
    return {
        "model_type": "bert",
        "architectures": ["BertForPreTraining" if sizes.next_sentence else "BertForMaskedLM"],
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.hidden or 4 * sizes.width,
        "hidden_act": "gelu",
        "max_position_embeddings": sizes.context,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": sizes.dropout,
        "attention_probs_dropout_prob": sizes.dropout,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "pad_token_id": sizes.pad,
    }


BASE = [
    Rule("embed.weight", "bert.embeddings.word_embeddings.weight"),
    Rule("encoder.{positions,types}.weight", "bert.embeddings.{position_embeddings,token_type_embeddings}.weight"),
    Rule("encoder.embed_norm.*", "bert.embeddings.LayerNorm.*"),
    Rule("encoder.layers.{i}.attn.{q,k,v}.*", "bert.encoder.layer.{i}.attention.self.{query,key,value}.*"),
    Rule("encoder.layers.{i}.attn.o.*", "bert.encoder.layer.{i}.attention.output.dense.*"),
    Rule("encoder.layers.{i}.norm_attn.*", "bert.encoder.layer.{i}.attention.output.LayerNorm.*"),
    Rule("encoder.layers.{i}.ffn.{up,down}.*", "bert.encoder.layer.{i}.{intermediate.dense,output.dense}.*"),
    Rule("encoder.layers.{i}.norm_ffn.*", "bert.encoder.layer.{i}.output.LayerNorm.*"),
]
HEADS = [
    Rule("head.dense.*", "cls.predictions.transform.dense.*"),
    Rule("head.norm.*", "cls.predictions.transform.LayerNorm.*"),
    Rule("head.bias", "cls.predictions.bias"),
    Rule("head.pooler.dense.*", "bert.pooler.dense.*"),
    Rule("head.classifier.*", "cls.seq_relationship.*"),
]


def weights(config: ModelConfig) -> list[Rule]:
    return BASE + ([Rule("head.dense.*", "bert.pooler.dense.*")] if isinstance(config.head, Pooler) else HEADS)


TINY: Json = {
    "model_type": "bert",
    "architectures": ["BertForPreTraining"],
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": 0,
}

FAMILY = register(
    Family(
        names=("bert",),
        kind="encoder",
        new=new,
        build=build,
        adjust=adjust,
        weights=weights,
        tiny=TINY,
        variants=({"architectures": ["BertForMaskedLM"], "hidden_act": "relu"}, {"architectures": ["BertModel"]}),
        prefix="bert.",
        bare=("BertModel",),
        same=(
            ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
            ("cls.predictions.decoder.bias", "cls.predictions.bias"),
        ),
        renames=((".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias")),
        recomputed={
            r"bert\.embeddings\.position_ids": "positions count from 0",
            r"bert\.pooler\.dense\.(weight|bias)": "the summary of a row, which no head of this model reads",
        },
    )
)
