"""RoBERTa (Liu et al. 2019) and XLM-RoBERTa (Conneau et al. 2020): BERT whose positions begin after the padding's row.

Both are one architecture under two names of classes and of `model_type`; their tensors have the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from ..errors import ModelError
from ..nn.config import LabelHead, ModelConfig, Pooler, Sizes, Stack
from .encoder import bert_layer, bert_model, bert_rules, head_of, head_rules, held, masked, older_files, stock
from .family import Family, Fields, Json, Rule, register

WORDS = ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias")


def weights(config: ModelConfig) -> list[Rule]:
    return bert_rules("roberta") + head_rules(config.head, WORDS, "classifier.dense", "classifier.out_proj", "roberta.pooler.dense")


def adjust(config: Json, model: ModelConfig, names: Collection[str], equal: Callable[[str, str], bool]) -> ModelConfig:
    assert model.encoder is not None
    return held(model, names, masked(model.encoder.layers[0], "gelu"), "lm_head.bias", "roberta.pooler.dense.weight")


def family(name: str, stem: str, variants: tuple[Json, ...]) -> Family:
    """One of the two; stem: what its class names begin with."""

    def build(config: Json) -> ModelConfig:
        f = Fields(config)
        layer = bert_layer(f)
        rows, offset = f.integer("max_position_embeddings", 512), f.integer("pad_token_id", 1, low=0) + 1
        if rows <= offset:
            raise ModelError(
                f"config.json: max_position_embeddings is {rows}; it must be above pad_token_id + 1, the row where they begin."
            )
        stack = Stack(
            (layer,) * f.integer("num_hidden_layers", high=1000),
            positions=rows,
            position_offset=offset,
            types=f.integer("type_vocab_size", 2, high=1 << 12),
            embed_norm=layer.norm,
        )
        head = head_of(f, stem, masked(layer, "gelu"), LabelHead(0, twice=True), pooler=Pooler())  # the word head's activation is fixed
        f.close(made.harmless)
        return bert_model(f, stack, head, rows - offset)

    def new(sizes: Sizes) -> Json:
        pad = 1 if sizes.pad is None else sizes.pad
        ids = {"pad_token_id": pad, "bos_token_id": sizes.bos, "eos_token_id": sizes.eos}
        return stock(sizes, name, f"{stem}ForMaskedLM", max_position_embeddings=sizes.context + pad + 1, **ids)

    tiny = {
        "model_type": name,
        "architectures": [f"{stem}ForMaskedLM"],
        "vocab_size": 96,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 34,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-5,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": 1,
    }
    made = Family(
        names=(name,),
        kind="encoder",
        new=new,
        build=build,
        adjust=adjust,
        weights=weights,
        tiny=tiny,
        variants=variants,
        prefix="roberta.",
        bare=(f"{stem}Model",),
        **older_files("roberta", "lm_head.decoder", "lm_head.bias"),
        harmless=frozenset({"language", "name"}),
    )
    return register(made)


ROBERTA = family(
    "roberta",
    "Roberta",
    (
        {"architectures": ["RobertaModel"], "hidden_act": "relu"},
        {"architectures": ["RobertaForMaskedLM"], "hidden_act": "relu", "hidden_size": 36, "num_attention_heads": 3},
        {"architectures": ["RobertaForSequenceClassification"], "num_labels": 3, "pad_token_id": 0},
        {"architectures": ["RobertaForTokenClassification"], "num_labels": 5},
        {"architectures": ["RobertaForQuestionAnswering"]},
    ),
)
XLM_ROBERTA = family(
    "xlm-roberta",
    "XLMRoberta",
    ({"architectures": ["XLMRobertaModel"]}, {"architectures": ["XLMRobertaForSequenceClassification"], "num_labels": 1}),
)
