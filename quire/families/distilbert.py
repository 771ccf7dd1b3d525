"""DistilBERT (Sanh et al. 2019): BERT with half of its layers, without token types and pooler, and with names of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection

from ..nn.config import FFN, Attn, LabelHead, Layer, ModelConfig, Norm, Sizes, Stack
from .encoder import head_of, head_rules, held, masked, older_files
from .family import ACTS, Family, Fields, Json, Rule, check_sizes, no_groups, register, split_heads

EPS = 1e-12  # no field of config.json


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    width, heads = f.integer("dim", 768), f.integer("n_heads", 12, high=1 << 12)
    norm = Norm("layer", EPS)
    attn = Attn(heads, heads, split_heads(width, heads, heads), bias=True, out_bias=True, causal=False)
    layer = Layer(attn, FFN(f.integer("hidden_dim", 3072), f.choice("activation", "gelu", ACTS), bias=True), norm, wiring="post")
    context = f.integer("max_position_embeddings", 512)
    model = ModelConfig(
        width,
        vocab=f.integer("vocab_size"),
        context=context,
        encoder=Stack((layer,) * f.integer("n_layers", 6, high=1000), positions=context, embed_norm=norm),
        head=head_of(f, "DistilBert", masked(layer), LabelHead(0, act="relu")),
        dropout=f.number("dropout", 0.1, high=0.99),
        attention_dropout=f.number("attention_dropout", 0.1, high=0.99),
        init_std=f.number("initializer_range", 0.02),
        init="bert",
    )
    f.close(FAMILY.harmless)
    return model


def adjust(config: Json, model: ModelConfig, names: Collection[str], equal: Callable[[str, str], bool]) -> ModelConfig:
    assert model.encoder is not None
    return held(model, names, masked(model.encoder.layers[0]), "vocab_projector.bias")


def new(sizes: Sizes) -> Json:
    no_groups(check_sizes(sizes), "distilbert")
    return {
        "model_type": "distilbert",
        "architectures": ["DistilBertForMaskedLM"],
        "vocab_size": sizes.vocab,
        "dim": sizes.width,
        "n_layers": sizes.layers,
        "n_heads": sizes.heads,
        "hidden_dim": sizes.hidden or 4 * sizes.width,
        "activation": "gelu",
        "max_position_embeddings": sizes.context,
        "dropout": sizes.dropout,
        "attention_dropout": sizes.dropout,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "pad_token_id": sizes.pad,
    }


LAYER = "distilbert.transformer.layer.{i}."
BASE = [
    Rule("embed.weight", "distilbert.embeddings.word_embeddings.weight"),
    Rule("encoder.positions.weight", "distilbert.embeddings.position_embeddings.weight"),
    Rule("encoder.embed_norm.*", "distilbert.embeddings.LayerNorm.*"),
    Rule("encoder.layers.{i}.attn.{q,k,v,o}.*", LAYER + "attention.{q_lin,k_lin,v_lin,out_lin}.*"),
    Rule("encoder.layers.{i}.{norm_attn,norm_ffn}.*", LAYER + "{sa_layer_norm,output_layer_norm}.*"),
    Rule("encoder.layers.{i}.ffn.{up,down}.*", LAYER + "ffn.{lin1,lin2}.*"),
]
WORDS = ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias")


def weights(config: ModelConfig) -> list[Rule]:
    return BASE + head_rules(config.head, WORDS, "pre_classifier")


TINY: Json = {
    "model_type": "distilbert",
    "architectures": ["DistilBertForMaskedLM"],
    "vocab_size": 96,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 48,
    "max_position_embeddings": 64,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "pad_token_id": 0,
}

FAMILY = register(
    Family(
        names=("distilbert",),
        kind="encoder",
        new=new,
        build=build,
        adjust=adjust,
        weights=weights,
        tiny=TINY,
        variants=(
            {"architectures": ["DistilBertModel"], "dim": 36, "n_heads": 3},
            {"architectures": ["DistilBertForSequenceClassification"], "num_labels": 3, "activation": "relu"},
            {"architectures": ["DistilBertForTokenClassification"], "num_labels": 5},
            {"architectures": ["DistilBertForQuestionAnswering"], "sinusoidal_pos_embds": True},
        ),
        prefix="distilbert.",
        bare=("DistilBertModel",),
        **older_files("distilbert", "vocab_projector", "vocab_projector.bias"),
        # how the position table was first filled: it lies in the file; dropout of heads
        harmless=frozenset({"sinusoidal_pos_embds", "tie_weights_", "qa_dropout", "seq_classif_dropout"}),
    )
)
