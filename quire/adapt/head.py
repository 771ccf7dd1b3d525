"""The head of a base as an adapter was trained with it.

An adapter of a task with labels is often trained on a base that has another head, or none: the labels' classifier is in the adapter's own
file. Quire records which fields of config.json describe that head; in a folder that PEFT alone wrote, its task and the rows of the
classifier tell as much, without the labels' names.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import BindingError, ModelError
from ..families import heads
from ..families.folder import ModelFolder
from ..nn.config import LabelHead, MLMHead
from .folder import RECORD, base_of, read_json, read_slots

# A record changes the head and what is said about its labels, nothing else of the base.
_FIELDS = frozenset("architectures id2label label2id num_labels problem_type task_specific_params".split())
_OVER: dict[str, heads.Over] = {"SEQ_CLS": "row", "TOKEN_CLS": "token", "QUESTION_ANS": "span"}
_LAST = ("classifier.weight", "score.weight", "out_proj.weight", "qa_outputs.weight")


def with_its_head(path: Path | str, opened: ModelFolder) -> ModelFolder:
    """`opened` with the head that the adapter in `path` belongs to; as it is where that is its own.

    Raises BindingError for a record that would change more than a head, ModelError for a head that this family does not have: then it is
    another base that the adapter was trained on.
    """
    path = Path(path)
    fields = _recorded(path) if (path / RECORD).exists() else _told(path, opened)
    if all(opened.config.get(name) == value for name, value in fields.items()):
        return opened
    with _fitting(path, opened):
        return opened.with_head(fields)


@contextmanager
def _fitting(path: Path, opened: ModelFolder) -> Iterator[None]:
    """Names both bases where a family says that it has no such head."""
    try:
        yield
    except ModelError as error:
        own = base_of(path) or "a base that it does not name"
        raise type(error)(f"{path} was trained on {own}, and its head does not fit {opened.path}: {error}") from None


def _recorded(path: Path) -> dict[str, Any]:
    fields = read_json(path, RECORD).get("head") or {}
    if not isinstance(fields, dict) or (strange := sorted(fields.keys() - _FIELDS)):
        what = "no object" if not isinstance(fields, dict) else strange[0]
        raise BindingError(f"{path / RECORD} is damaged: its head has {what[:80]!r}; allowed are {', '.join(sorted(_FIELDS))}. Restore it.")
    return fields


def _told(path: Path, opened: ModelFolder) -> dict[str, Any]:
    """Of an adapter without a record: PEFT's word for the task, and how many rows its classifier has."""
    config, head = read_json(path), opened.model_config.head
    if config.get("task_type") == "FEATURE_EXTRACTION" and config.get("peft_type") != "LORA" and isinstance(head, MLMHead):
        return heads.fields(opened, "base")  # virtual tokens know no hidden words, so they were trained on the stack alone
    over = _OVER.get(str(config.get("task_type")))
    rows = [slot.shape[0] for name, slot in read_slots(path).items() if name.endswith(_LAST) and ".lora_" not in name]
    if over is None or len(set(rows)) != 1 or (isinstance(head, LabelHead) and (head.over, head.labels) == (over, rows[0])):
        return {}
    with _fitting(path, opened):
        return heads.fields(opened, over, [f"LABEL_{number}" for number in range(rows[0])])
