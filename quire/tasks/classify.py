"""Labels of texts and of pairs of texts: one of several, several at once, or a number (regression).

What the labels are called (`id2label`) and which function makes scores of logits (`problem_type`) is said by the config.json of the model,
with the defaults of transformers' text-classification pipeline: nothing for regression, a sigmoid for labels that do not exclude each other
and for one label alone, otherwise a softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..binding.contract import Contract
from ..errors import ModelError, RecipeError
from ..nn.transformer import Transformer
from ..types import Text
from .lengths import by_length
from .reading import Long, budget, labelled, read

Function = Literal["softmax", "sigmoid", "none"]
_FUNCTIONS: dict[str, Function] = {
    "regression": "none",
    "multi_label_classification": "sigmoid",
    "single_label_classification": "softmax",
}


def names(config: Mapping[str, Any], count: int) -> dict[int, str]:
    """{number: name} of `count` labels, from config.json's id2label; LABEL_0 ... where it has none. Raises ModelError for one that is
    not whole: a label without a name would be reported under another's."""
    table = config.get("id2label")
    if table is None:
        return {number: f"LABEL_{number}" for number in range(count)}
    try:
        found = {int(number): name for number, name in table.items()}
    except (AttributeError, TypeError, ValueError):
        raise ModelError(f"config.json: id2label is {str(table)[:80]!r}; allowed is a table of numbers and names.") from None
    if sorted(found) != list(range(count)) or not all(isinstance(name, str) for name in found.values()):
        raise ModelError(f"config.json: id2label names {len(found)} labels; this model has {count}, each of 0 to {count - 1} needs a name.")
    if len(set(found.values())) != count:
        twice = sorted({name for name in found.values() if list(found.values()).count(name) > 1})
        raise ModelError(f"config.json: id2label gives several labels the name {twice[0]!r}. Give each its own.")
    return dict(sorted(found.items()))


def one_of(labels: Mapping[int, str], label: str | None) -> str:
    """The label asked for, or the only one. Raises RecipeError when there are several and none, or none of them, is named."""
    if label is None and len(labels) == 1:
        return labels[0]
    if label is None or label not in labels.values():
        said = f"label is {label!r}; this model has {', '.join(labels.values())}. Name the one whose score counts."
        raise RecipeError(said, field="label")
    return label


def none_of(label: str | None) -> None:
    """Raises RecipeError for a label that is asked for where none is read: of a model that compares vectors."""
    if label is not None:
        raise RecipeError(f"label is {label!r}; this model has no labels: it compares vectors. Leave it out.", field="label")


def ranked(scores: Sequence[float]) -> list[tuple[int, float]]:
    """(number, score), the highest first; of equal ones the first."""
    return sorted(enumerate(scores), key=lambda each: -each[1])


def function_of(config: Mapping[str, Any], count: int) -> Function:
    """What makes scores of logits when the caller does not say."""
    kind = config.get("problem_type")
    if kind is None:
        return "sigmoid" if count == 1 else "softmax"
    if kind not in _FUNCTIONS:
        raise ModelError(f"config.json: problem_type is {kind!r}; allowed: {', '.join(_FUNCTIONS)}, or null.")
    if kind == "single_label_classification" and count == 1:
        return "sigmoid"
    return _FUNCTIONS[kind]


def scores(logits: npt.NDArray[np.float32], function: str) -> npt.NDArray[np.float32]:
    """logits (.., labels) -> scores of the same shape."""
    if function == "none":
        return logits
    if function == "sigmoid":
        e = np.exp(-np.abs(logits))  # never overflows
        return np.asarray(np.where(logits >= 0, 1, e) / (1 + e))
    if function != "softmax":
        raise RecipeError(f"function is {function!r}; allowed: softmax, sigmoid, none.")
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def classify(
    model: Transformer,
    contract: Contract,
    texts: Sequence[Text],
    labels: Mapping[int, str],
    function: str,
    long: Long | None = None,
    cut: list[int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[dict[str, float]]:
    """{label: score} of each text or pair, best first. long: None is as in training. Errors as in `reading.read`."""
    scores(np.zeros((1, 1), dtype=np.float32), function)  # an unknown one is refused before any work
    rows = read(contract, texts, contract.limit(model.config.context), long, cut)
    found = by_length(rows, lambda part: labelled(model, part, contract.decoder_start).numpy(), budget(model), progress)
    return [listed(row, labels, function) for row in found]


def listed(row: npt.NDArray[np.float32], labels: Mapping[int, str], function: str) -> dict[str, float]:
    """logits (labels,) as {label: score}, best first."""
    values = scores(row, function)
    return {labels[int(i)]: float(values[i]) for i in np.argsort(-values, kind="stable")}
