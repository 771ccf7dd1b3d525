"""Values of one record, checked: a text that holds something, a number that is one, a list of a kind. What is wrong is said in one line."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import nearest
from .problems import shown

_MISSING = object()
_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?")
_LARGEST = 1e18  # of a label or score: its squared error is a number of 32 bits


class Wrong(ValueError):
    """A fault of a row, without the row's place."""


class Cells:
    """The columns of one record that a schema reads, under our names. places: {our name: the file's}, see `find`."""

    __slots__ = ("fields", "places")

    def __init__(self, fields: Mapping[str, Any], places: Mapping[str, str]) -> None:
        self.fields, self.places = fields, places

    def has(self, ours: str) -> bool:
        """Is there such a column, with a value?"""
        return self.value(ours) is not None

    def value(self, ours: str) -> Any:
        return find(self.fields, self.places[ours]) if ours in self.places else None

    def text(self, ours: str) -> str:
        return text(self.value(ours), self.places[ours])

    def number(self, ours: str) -> float:
        return number(self.value(ours), self.places[ours])


def find(fields: Mapping[str, Any], place: str) -> Any:
    """The value at a place: a column, a key inside one ('translation.en'), or several texts joined by a space ('title+body'); else None."""
    found = fields.get(place, _MISSING)
    if found is not _MISSING:
        return found
    if "+" in place:
        parts = [find(fields, part) for part in place.split("+")]
        return " ".join(text(part, name) for part, name in zip(parts, place.split("+"), strict=True)) if None not in parts else None
    head, dot, rest = place.partition(".")
    inner = fields.get(head) if dot else None
    return find(inner, rest) if isinstance(inner, Mapping) else None


def is_there(fields: Mapping[str, Any], place: str) -> bool:
    """Does the record have the column (or the columns) that a place names?"""
    if place in fields:
        return True
    if "+" in place:
        return all(is_there(fields, part) for part in place.split("+"))
    head, dot, rest = place.partition(".")
    return bool(dot) and isinstance(fields.get(head), Mapping) and is_there(fields[head], rest)


def text(value: Any, name: str, empty: bool = False) -> str:
    """A text that can be written as UTF-8 and, unless `empty` may be, says something. Raises Wrong."""
    if not isinstance(value, str):
        kind = "missing" if value is None else f"{shown(value)}, of type {type(value).__name__}"
        raise Wrong(f"'{name}' is {kind}; a text is needed.")
    if not (empty or value.strip()):
        raise Wrong(f"'{name}' is empty. Take the row out, or give it its text.")
    if value.isascii():
        if "\0" in value:
            raise Wrong(f"'{name}' holds a NUL character: {shown(value[max(0, value.index(chr(0)) - 20) :])}. Take it out.")
        return value
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        around = shown(value[max(0, error.start - 20) :])
        raise Wrong(f"'{name}' holds half a surrogate pair at character {error.start}: {around}. Write the text again as UTF-8.") from None
    if "\0" in value:
        raise Wrong(f"'{name}' holds a NUL character: {shown(value[max(0, value.index(chr(0)) - 20) :])}. Take it out.")
    return value


def number(value: Any, name: str) -> float:
    """A finite number, also one written as text (a CSV file has nothing else). Raises Wrong."""
    try:
        found = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        found = None
    if found is None:
        raise Wrong(f"'{name}' is {shown(value)}; a number is needed.")
    if not math.isfinite(found):
        raise Wrong(f"'{name}' is {found}; a finite number is needed. Take the row out, or give it its number.")
    if abs(found) > _LARGEST:
        raise Wrong(f"'{name}' is {found:g}, whose square no number of the model holds; allowed: to {_LARGEST:g}. Divide them all alike.")
    return found


def listed(value: Any, name: str, of: str) -> list[Any]:
    """A list, for example out of JSON. Raises Wrong."""
    if not isinstance(value, list | tuple):
        kind = "missing" if value is None else f"{shown(value)}, of type {type(value).__name__}"
        raise Wrong(f"'{name}' is {kind}; a list of {of} is needed.")
    return list(value)


def as_number(label: str) -> float | None:
    """The number that a label is written as, with a point or a comma; None for a name."""
    return float(label.replace(",", ".")) if _NUMBER.fullmatch(label) else None


def label(value: Any, name: str, names: Mapping[str, str]) -> str:
    """A label by its name. `names`: what a file's numbers stand for; with it, only these names and numbers are labels. Raises Wrong."""
    if isinstance(value, bool):
        value = "true" if value else "false"
    elif isinstance(value, int):
        value = str(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise Wrong(f"'{name}' is {value!r}, which is no label. Take the row out, or give it its label.")
    elif isinstance(value, float):
        kind = "a number written with a point" if value.is_integer() else "a number with a fraction"
        whole = f": write {value:.0f}" if value.is_integer() else ""
        raise Wrong(f"'{name}' is {value!r}, {kind}. For a regression set task.labels to 'number'; a class is a text or whole{whole}.")
    found = text(value, name)
    if not names or found in names.values():
        return names.get(found, found)
    if found not in names:
        known = ", ".join(f"{key}={one}" for key, one in list(names.items())[:20])
        hint = nearest(found, list(names.values()))
        if found.isdecimal() and found == str(len(names)):
            hint = f" Does the file count from 1? Then give each name with its number (1={next(iter(names.values()))})."
        raise Wrong(f"'{name}' is {shown(found)}, which is none of the labels.{hint} Known: {known}.")
    return names[found]


def named(names: Iterable[str] | Mapping[str, str]) -> dict[str, str]:
    """{number as text: name} of class names in order from 0, or of a mapping that says its numbers."""
    if isinstance(names, Mapping):
        return {str(key): value for key, value in names.items()}
    return {str(at): name for at, name in enumerate(names)}
