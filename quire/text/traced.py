"""Text that remembers, character by character, where it came from, through everything that a chat template does to it.

A template trims, splits, slices, joins, compares and replaces what users wrote before it prints it. `Traced` is a `str` that carries one
byte of marks for each character and keeps them through all of that; whatever a template may call on a string and that is not here, it may
not call (`METHODS`). Where an operation has no place-by-place meaning, every character of its result gets the marks of all it was made of.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, SupportsIndex

USER = 1  # written by whoever wrote the messages or the tools, not by the template
TRAINED = 2  # inside the template's generation marks: what the assistant is taught to write

_WITH_TRAINED = bytes(value | TRAINED for value in range(256))

# What a template may call on a string.
METHODS = frozenset(
    "strip lstrip rstrip split rsplit splitlines partition rpartition replace removeprefix removesuffix join upper lower casefold "
    "swapcase capitalize title startswith endswith find rfind index rindex count isalnum isalpha isascii isdecimal isdigit isidentifier "
    "islower isnumeric isprintable isspace istitle isupper".split()
)


class Traced(str):
    """A string and its marks. Equal to, and hashed as, the plain string."""

    __slots__ = ("marks",)
    marks: bytes

    def __new__(cls, text: str, marks: bytes) -> Traced:
        made = super().__new__(cls, text)
        made.marks = marks
        if len(marks) != len(text):
            raise AssertionError(f"{len(marks)} marks for {len(text)} characters")
        return made

    def __str__(self) -> str:
        return self

    def __getitem__(self, key: SupportsIndex | slice) -> Traced:
        if isinstance(key, slice):
            return Traced(super().__getitem__(key), self.marks[key])
        return Traced(super().__getitem__(key), bytes([self.marks[key]]))

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def __add__(self, other: str) -> Traced:
        return Traced(super().__add__(other), self.marks + marks_of(other))

    def __radd__(self, other: str) -> Traced:
        return Traced(plain(other) + plain(self), marks_of(other) + self.marks)

    def __mul__(self, count: SupportsIndex) -> Traced:
        return Traced(super().__mul__(count), self.marks * count)

    __rmul__ = __mul__

    # -- cutting -----------------------------------------------------------------------------------------------------------------

    def lstrip(self, chars: str | None = None) -> Traced:
        return self[len(self) - len(super().lstrip(chars)) :]

    def rstrip(self, chars: str | None = None) -> Traced:
        return self[: len(super().rstrip(chars))]

    def strip(self, chars: str | None = None) -> Traced:
        return self.lstrip(chars).rstrip(chars)

    def removeprefix(self, prefix: str) -> Traced:
        return self[len(prefix) :] if self.startswith(prefix) else self

    def removesuffix(self, suffix: str) -> Traced:
        return self[: len(self) - len(suffix)] if suffix and self.endswith(suffix) else self

    def _cut(self, parts: Iterable[str]) -> list[str]:
        """Parts that stand in this order in the string, as pieces of it."""
        at, pieces = 0, list[str]()
        for part in parts:
            start = self.index(part, at)
            at = start + len(part)
            pieces.append(self[start:at])
        return pieces

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        if sep is None:
            return self._cut(super().split(None, maxsplit))
        return self._between(super().split(sep, maxsplit), len(sep))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        if sep is None:
            return self._cut(super().rsplit(None, maxsplit))
        return self._between(super().rsplit(sep, maxsplit), len(sep))

    def _between(self, parts: Iterable[str], gap: int) -> list[str]:
        at, pieces = 0, list[str]()
        for part in parts:
            pieces.append(self[at : at + len(part)])
            at += len(part) + gap
        return pieces

    def splitlines(self, keepends: bool = False) -> list[str]:
        at, lines = 0, list[str]()
        for whole, shown in zip(super().splitlines(True), super().splitlines(keepends)):
            lines.append(self[at : at + len(shown)])
            at += len(whole)
        return lines

    def partition(self, sep: str) -> tuple[str, str, str]:
        before, found, _ = super().partition(sep)
        end = len(before) + len(found)
        return self[: len(before)], self[len(before) : end], self[end:]

    def rpartition(self, sep: str) -> tuple[str, str, str]:
        before, found, _ = super().rpartition(sep)
        end = len(before) + len(found)
        return self[: len(before)], self[len(before) : end], self[end:]

    # -- putting together ----------------------------------------------------------------------------------------------------------

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> Traced:
        if old == "":
            gaps = len(self) + 1 if int(count) < 0 else min(int(count), len(self) + 1)
            pieces = [part for i in range(gaps) for part in (new, self[i : i + 1])] + [self[gaps:]]
            return as_traced(joined(pieces))
        return as_traced(joined(_interleave(self.split(old, count), new)))

    def join(self, parts: Iterable[str]) -> Traced:
        return as_traced(joined(_interleave(parts, self)))

    # -- changing characters -------------------------------------------------------------------------------------------------------

    def _changed(self, change: Callable[[str], str]) -> Traced:
        text = plain(self)
        whole = change(text)
        singles = [change(character) for character in text]
        if "".join(singles) == whole:
            return Traced(whole, b"".join(bytes([mark]) * len(single) for single, mark in zip(singles, self.marks)))
        if len(whole) == len(text):  # what a letter becomes may depend on its neighbours (a final sigma); its place does not
            return Traced(whole, self.marks)
        return Traced(whole, bytes([union(self)]) * len(whole))

    def upper(self) -> Traced:
        return self._changed(str.upper)

    def lower(self) -> Traced:
        return self._changed(str.lower)

    def casefold(self) -> Traced:
        return self._changed(str.casefold)

    def swapcase(self) -> Traced:
        return self._changed(str.swapcase)

    def capitalize(self) -> Traced:
        return self._changed(str.capitalize)

    def title(self) -> Traced:
        return self._changed(str.title)

    def trained(self) -> Traced:
        """The same text, all of it marked as what the assistant is taught."""
        return Traced(self, self.marks.translate(_WITH_TRAINED))


def plain(text: str) -> str:
    """The same characters as an ordinary string."""
    return "".join((text,)) if type(text) is not str else text


def marks_of(text: str) -> bytes:
    return text.marks if isinstance(text, Traced) else bytes(len(text))


def as_traced(text: str) -> Traced:
    return text if isinstance(text, Traced) else Traced(text, bytes(len(text)))


def union(text: str) -> int:
    found = 0
    for mark in set(marks_of(text)):
        found |= mark
    return found


def joined(parts: Iterable[str]) -> str:
    """One string; a plain one when no part is traced."""
    parts = list(parts)
    text = "".join(map(plain, parts))
    return Traced(text, b"".join(map(marks_of, parts))) if any(isinstance(part, Traced) for part in parts) else text


def _interleave(parts: Iterable[str], between: str) -> Iterator[str]:
    for number, part in enumerate(parts):
        if number:
            yield between
        yield part


def from_user(value: Any) -> Any:
    """A copy of JSON-like data in which every string, keys included, is marked as the user's. Other objects are refused (TypeError)."""
    if isinstance(value, str):
        return Traced(plain(value), bytes([USER]) * len(value))
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {from_user(key): from_user(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [from_user(item) for item in value]
    raise TypeError(f"a {type(value).__name__} is no JSON value")


def without_marks(value: Any) -> Any:
    """The same data with ordinary strings."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {without_marks(key): without_marks(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(without_marks(item) for item in value)
    return value


def all_marks(value: Any) -> int:
    """Every mark found on the strings anywhere in a value."""
    if isinstance(value, str):
        return union(value)
    items: Iterable[Any] = ()
    if isinstance(value, dict):
        items = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set):
        items = value
    found = 0
    for item in items:
        found |= all_marks(item)
    return found


def shown(value: Any) -> str:
    """What `{{ value }}` prints: strings as they are, the rest as Python writes it, with the marks of all that is in it."""
    if isinstance(value, str):
        return value
    text = str(value)
    marks = all_marks(value)
    return Traced(plain(text), bytes([marks]) * len(text)) if marks else text


def to_json(value: Any, ensure_ascii: bool, indent: int | str | None, separators: tuple[str, str] | None, sort_keys: bool) -> str:
    """`json.dumps`, with each string's marks on what it is written as. Raises ValueError where the two would differ."""
    comma, colon = separators if separators is not None else ("," if indent is not None else ", ", ": ")
    step = " " * indent if isinstance(indent, int) else indent

    def string(text: str) -> Iterator[str]:
        inside = json.dumps(plain(text), ensure_ascii=ensure_ascii)[1:-1]
        marks = marks_of(text) if len(inside) == len(text) else bytes([union(text)]) * len(inside)
        yield from ('"', Traced(inside, marks), '"')

    def write(item: Any, level: int) -> Iterator[str]:
        if isinstance(item, str):
            yield from string(item)
        elif isinstance(item, dict | list | tuple) and item:
            start, end = "{}" if isinstance(item, dict) else "[]"
            gap = "" if step is None else "\n" + step * (level + 1)
            entries: Iterable[Any] = (sorted(item.items()) if sort_keys else item.items()) if isinstance(item, dict) else item
            yield start
            for number, entry in enumerate(entries):
                yield (comma if number else "") + gap
                if isinstance(item, dict):
                    yield from string(entry[0]) if isinstance(entry[0], str) else (json.dumps({entry[0]: 0})[1:-4],)
                    yield colon
                    entry = entry[1]
                yield from write(entry, level + 1)
            yield ("" if step is None else "\n" + step * level) + end
        else:
            yield json.dumps(item)

    expected = json.dumps(without_marks(value), ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    made = joined(write(value, 0))
    if made != expected:
        raise ValueError("the JSON text could not be followed character by character")
    return made
