"""ALBERT (Lan et al. 2019): BERT whose layers share their weights in groups, over a narrow embedding that one product widens.

What stands in the next sentence's place was trained to tell two texts in their order (label 0) from the same two swapped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from ..errors import ModelError
from ..nn.config import LabelHead, MLMHead, ModelConfig, Pooler, Sizes, Stack
from .encoder import bert_layer, bert_model, head_of, head_rules, held, masked, older_files, stock
from .family import Family, Fields, Json, Rule, register


def build(config: Json) -> ModelConfig:
    f = Fields(config)
    layer = bert_layer(f, act="gelu_new")
    count, groups = f.integer("num_hidden_layers", 12, high=1000), f.integer("num_hidden_groups", 1, high=1000)
    inner = f.integer("inner_group_num", 1)
    if inner != 1:
        raise ModelError(f"config.json: inner_group_num is {inner}; read are groups of one layer, as every published ALBERT has.")
    context = f.integer("max_position_embeddings", 512)
    stack = Stack(
        (layer,) * groups,
        positions=context,
        types=f.integer("type_vocab_size", 2, high=1 << 12),
        embed_norm=layer.norm,
        order=tuple(int(i / (count / groups)) for i in range(count)),
    )
    more = {"ForPreTraining": masked(layer, next_sentence=True)}
    head = head_of(f, "Albert", masked(layer), LabelHead(0), pooler=Pooler(), more=more)
    if isinstance(head, MLMHead) and head.next_sentence and f.labels() != 2:
        raise ModelError(f"config.json has {f.labels()} labels; AlbertForPreTraining needs 2: in order, or swapped.")
    model = bert_model(f, stack, head, context, dropout=0.0, embed_width=f.integer("embedding_size", 128))
    f.close(FAMILY.harmless)
    return model


def adjust(config: Json, model: ModelConfig, names: Collection[str], equal: Callable[[str, str], bool]) -> ModelConfig:
    assert model.encoder is not None
    second = "sop_classifier.classifier.weight" in names
    if isinstance(model.head, MLMHead):
        return replace(model, head=replace(model.head, next_sentence=model.head.next_sentence or second))
    return held(model, names, masked(model.encoder.layers[0], next_sentence=second), "predictions.bias", "albert.pooler.weight")


def new(sizes: Sizes) -> Json:
    architecture = "AlbertForPreTraining" if sizes.next_sentence else "AlbertForMaskedLM"
    more = {"embedding_size": min(128, sizes.width), "num_hidden_groups": 1, "inner_group_num": 1}
    return stock(sizes, "albert", architecture, hidden_act="gelu_new", bos_token_id=sizes.bos, eos_token_id=sizes.eos, **more)


LAYER = "albert.encoder.albert_layer_groups.{i}.albert_layers.0."
BASE = [
    Rule("embed.weight", "albert.embeddings.word_embeddings.weight"),
    Rule("encoder.{positions,types}.weight", "albert.embeddings.{position_embeddings,token_type_embeddings}.weight"),
    Rule("encoder.embed_norm.*", "albert.embeddings.LayerNorm.*"),
    Rule("widen.*", "albert.encoder.embedding_hidden_mapping_in.*"),
    Rule("encoder.layers.{i}.attn.{q,k,v,o}.*", LAYER + "attention.{query,key,value,dense}.*"),
    Rule("encoder.layers.{i}.{norm_attn,norm_ffn}.*", LAYER + "{attention.LayerNorm,full_layer_layer_norm}.*"),
    Rule("encoder.layers.{i}.ffn.{up,down}.*", LAYER + "{ffn,ffn_output}.*"),
]
WORDS = ("predictions.dense", "predictions.LayerNorm", "predictions.bias")
SECOND = [Rule("head.pooler.dense.*", "albert.pooler.*"), Rule("head.classifier.*", "sop_classifier.classifier.*")]


def weights(config: ModelConfig) -> list[Rule]:
    rules = BASE + head_rules(config.head, WORDS, "albert.pooler", pooler="albert.pooler")
    return rules + SECOND if isinstance(config.head, MLMHead) else rules


TINY: Json = {
    "model_type": "albert",
    "architectures": ["AlbertForMaskedLM"],
    "vocab_size": 96,
    "embedding_size": 12,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}

FAMILY = register(
    Family(
        names=("albert",),
        kind="encoder",
        new=new,
        build=build,
        adjust=adjust,
        weights=weights,
        tiny=TINY,
        variants=(
            {"architectures": ["AlbertModel"], "num_hidden_layers": 5, "num_hidden_groups": 2, "hidden_act": "gelu"},
            {"architectures": ["AlbertForPreTraining"], "embedding_size": 32},
            {"architectures": ["AlbertForSequenceClassification"], "num_labels": 3, "hidden_size": 36, "num_attention_heads": 3},
            {"architectures": ["AlbertForTokenClassification"], "num_labels": 5, "num_hidden_groups": 3},
            {"architectures": ["AlbertForQuestionAnswering"], "hidden_act": "relu"},
        ),
        prefix="albert.",
        bare=("AlbertModel",),
        **older_files("albert", "predictions.decoder", "predictions.bias"),
        # dropout of heads, and what the first release noted of designs that were not published
        harmless=frozenset("classifier_dropout_prob down_scale_factor gap_size net_structure_type num_memory_blocks".split()),
    )
)
