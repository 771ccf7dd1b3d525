"""JSON documents as records: an array of objects, {"data": an array of objects}, and SQuAD's nested form, one record a question.

A document has to be read whole, so its size is bounded; rows without end belong into JSON Lines, which streams.
Source: Rajpurkar et al. 2018 (SQuAD 2.0), the form of its files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .formats import open_file
from .lines import Fault, bytes_fault, decoded
from .problems import shown

LARGEST = 128 << 20  # bytes of one JSON document, unpacked; parsed it can take 30 times that in memory


class Twice(ValueError):
    """A key that an object has twice: one of its values would vanish."""


def parse(text: str) -> Any:
    """JSON, without objects that hold a key twice. Raises ValueError (json.JSONDecodeError, Twice) and RecursionError."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Twice(f"the key {shown(twice)} stands twice in one object")
    return found


def why(error: ValueError | RecursionError) -> str:
    """What is wrong with JSON, in words."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]


def document(path: Path, fault: Fault) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a .json file: (where, fields)."""
    with open_file(path) as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        fault(
            str(path),
            f"a JSON document of more than {LARGEST >> 20} MB, which would have to be read whole. Write it as JSON Lines (.jsonl).",
        )
        return
    text = decoded(data, True)
    if text is None or "\0" in text:
        line = data.count(b"\n", 0, data.find(b"\0") if text else _first_wrong(data)) + 1
        fault(f"{path}:{line}", bytes_fault(data.split(b"\n")[line - 1] if line > 1 else data, line == 1))
        return
    if not text.strip():
        fault(str(path), "the file is empty.")
        return
    del data
    try:
        whole = parse(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 0)
        lines = isinstance(error, json.JSONDecodeError) and error.msg == "Extra data"
        advice = " It looks like JSON Lines: name it .jsonl." if lines else " Mend it or write it again."
        fault(f"{path}:{line}" if line else str(path), f"no JSON: {why(error)}.{advice}")
        return
    yield from _rows(path, whole, fault)


def _first_wrong(data: bytes) -> int:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return 0


def _rows(path: Path, whole: Any, fault: Fault) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = whole.get("data") if isinstance(whole, dict) else whole
    if not isinstance(rows, list):
        lists = [key for key, value in whole.items() if isinstance(value, list)] if isinstance(whole, dict) else []
        there = f"an object with the keys {shown(list(whole))}" if isinstance(whole, dict) else shown(whole)
        hint = f" If its rows are in {shown(lists[0])}, write that list alone into the file." if lists else ""
        fault(str(path), f'the file holds {there}; an array of objects or {{"data": [...]}} is needed.{hint}')
        return
    if not rows:
        fault(str(path), "the array is empty: there are no rows.")
    for number, row in enumerate(rows, start=1):
        where = f"{path}, row {number}"
        if not isinstance(row, dict):
            fault(where, f"{shown(row)} is no object.")
        elif "paragraphs" in row and isinstance(whole, dict):
            yield from _questions(row, where.replace(", row", ", article"), fault)
        else:
            yield where, row


def _questions(article: dict[str, Any], where: str, fault: Fault) -> Iterator[tuple[str, dict[str, Any]]]:
    """The questions of one article of SQuAD, each with its paragraph."""
    for paragraph in _objects(article, "paragraphs", where, fault):
        for question in _objects(paragraph, "qas", where, fault):
            place = f"{where}, question {shown(question.get('id', '?'), 40)}"
            if not isinstance(paragraph.get("context"), str):
                fault(place, f"its paragraph has the context {shown(paragraph.get('context'))}; a text is needed.")
                continue
            fields: dict[str, Any] = {key: question[key] for key in ("id", "question", "answers", "is_impossible") if key in question}
            yield place, {**fields, "context": paragraph["context"]}


def _objects(holder: dict[str, Any], key: str, where: str, fault: Fault) -> Iterator[dict[str, Any]]:
    found = holder.get(key)
    if not isinstance(found, list):
        fault(where, f"'{key}' is {shown(found)}; SQuAD's form has an array of objects there.")
        return
    for one in found:
        if isinstance(one, dict):
            yield one
        else:
            fault(where, f"'{key}' holds {shown(one)}, which is no object.")
