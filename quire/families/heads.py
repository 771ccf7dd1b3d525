"""Another head for a model that is there: which fields of config.json describe it, in the words of the model's own family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ModelError
from .family import Json

if TYPE_CHECKING:
    from .folder import ModelFolder

Over = Literal["row", "token", "span", "words", "base"]
_ENDINGS: dict[Over, tuple[str, ...]] = {
    "row": ("ForSequenceClassification", "TextForSequenceClassification"),
    "token": ("ForTokenClassification",),
    "span": ("ForQuestionAnswering",),
    "words": ("ForMaskedLM", "ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "MTModel"),
    "base": ("Model", "TextModel"),
}
_WHAT = {
    "row": "labels of a text",
    "token": "labels of tokens",
    "span": "answers in a text",
    "words": "words",
    "base": "vectors of a text",
}


def fields(opened: ModelFolder, over: Over, labels: Sequence[str] = (), more: Json | None = None) -> Json:
    """The fields of config.json with which `ModelFolder.with_head` gives `opened` a head over rows, tokens, spans, words, or none.

    labels: their names, in order. Raises ModelError for a family that has no such head.
    """
    config = opened.config
    architecture = str((config.get("architectures") or [opened.family.tiny["architectures"][0]])[0])
    stem = _stem(architecture)
    table: dict[str, Any] = {"architectures": [architecture], **(more or {})}
    if over == "span":
        labels = ("LABEL_0", "LABEL_1")
    if labels:
        table["id2label"] = {str(number): name for number, name in enumerate(labels)}
        table["label2id"] = {name: number for number, name in enumerate(labels)}
        table |= {"num_labels": len(labels)} if "num_labels" in config else {}
    for ending in _ENDINGS[over]:
        tried = table | {"architectures": [stem + ending]}
        try:
            opened.family.build(config | tried)
        except ModelError as error:
            refusal = error
            continue
        return tried
    raise ModelError(f"a model of the family '{opened.family.names[0]}' cannot learn {_WHAT[over]} here: {refusal}")


def _stem(architecture: str) -> str:
    """What the class names of a family begin with: "Bert" of BertForMaskedLM, "GPT2" of GPT2LMHeadModel."""
    for ending in ("LMHeadModel", "MTModel", "TextModel", "Model"):
        if architecture.endswith(ending):
            return architecture.removesuffix(ending)
    return architecture.partition("For")[0]
