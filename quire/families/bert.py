"""BERT (Devlin et al. 2018): post-norm encoder, learned positions, token types, masked-token and next-sentence heads, and label heads.

Which heads a folder has is what its `architectures` demands and what its weights hold, joined: nothing that is there is dropped, and
nothing that the architecture needs may be missing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from ..nn.config import Head, LabelHead, MLMHead, ModelConfig, Pooler, Sizes, Stack
from .encoder import bert_layer, bert_model, bert_rules, head_of, head_rules, held, masked, older_files, stock
from .family import Family, Fields, Json, Rule, register

NEXT = LabelHead(2, "next")


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    layer = bert_layer(f)
    context = f.integer("max_position_embeddings", 512)
    stack = Stack(
        (layer,) * f.integer("num_hidden_layers", high=1000),
        positions=context,
        types=f.integer("type_vocab_size", 2, high=1 << 12),
        embed_norm=layer.norm,
    )
    more: dict[str, Head] = {"ForPreTraining": masked(layer, next_sentence=True), "ForNextSentencePrediction": NEXT}
    head = head_of(f, "Bert", masked(layer), LabelHead(0), pooler=Pooler(), more=more, first="ForPreTraining")
    f.close(FAMILY.harmless)
    return bert_model(f, stack, head, context)


def adjust(config: Json, model: ModelConfig, names: Collection[str], equal: Callable[[str, str], bool]) -> ModelConfig:
    """Heads that the file holds beyond what the architecture demands; a base model without its pooler has none."""
    assert model.encoder is not None
    second = "cls.seq_relationship.weight" in names
    if isinstance(model.head, MLMHead):
        return replace(model, head=replace(model.head, next_sentence=model.head.next_sentence or second))
    words = masked(model.encoder.layers[0], next_sentence=second)
    if model.head == NEXT:
        return replace(model, head=words) if "cls.predictions.bias" in names else model
    return held(model, names, words, "cls.predictions.bias", "bert.pooler.dense.weight")


def new(sizes: Sizes) -> Json:
    return stock(sizes, "bert", "BertForPreTraining" if sizes.next_sentence else "BertForMaskedLM")


WORDS = ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias")
SECOND = [Rule("head.pooler.dense.*", "bert.pooler.dense.*"), Rule("head.classifier.*", "cls.seq_relationship.*")]


def weights(config: ModelConfig) -> list[Rule]:
    rules = bert_rules("bert") + head_rules(config.head, WORDS, "bert.pooler.dense", pooler="bert.pooler.dense")
    return rules + SECOND if isinstance(config.head, MLMHead) else rules


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
        variants=(
            {"architectures": ["BertForMaskedLM"], "hidden_act": "relu"},
            {"architectures": ["BertModel"], "hidden_act": "gelu_new"},
            {"architectures": ["BertForNextSentencePrediction"]},
            {"architectures": ["BertForSequenceClassification"], "num_labels": 3, "hidden_size": 36, "num_attention_heads": 3},
            {"architectures": ["BertForTokenClassification"], "num_labels": 5, "type_vocab_size": 3},
            {"architectures": ["BertForQuestionAnswering"]},
        ),
        prefix="bert.",
        bare=("BertModel",),
        **older_files("bert", "cls.predictions.decoder", "cls.predictions.bias"),
        # what the first release noted about its pooler, which has one form
        harmless=frozenset(
            "directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type".split()
        ),
    )
)
