"""A traced string does what a string does, and each of its characters keeps the mark of the one it came from."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.text.traced import METHODS, Traced, all_marks, as_traced, from_user, joined, marks_of, plain, shown, to_json, without_marks

# Every character of the alphabet has its own mark, so where a character came from can be read off the result.
ALPHABET = " \n\tabcABCxßİǅΣς.,<|>é👋\u2028"
texts = st.text(ALPHABET, max_size=12)


def mark(character: str) -> int:
    return ALPHABET.index(character) + 1


def traced(text: str) -> Traced:
    return Traced(text, bytes(map(mark, text)))


def check(result: Any, expected: Any) -> None:
    """The same value as with strings, every character with its own mark."""
    assert result == expected and type(result) is (Traced if isinstance(expected, str) else type(expected))
    if isinstance(expected, str):
        assert len(result.marks) == len(expected)
        assert all(found == mark(character) for found, character in zip(result.marks, expected) if found)
        assert 0 not in [found for found, character in zip(result.marks, expected) if character not in ","]
    elif isinstance(expected, list | tuple):
        for one, other in zip(result, expected):
            check(one, other)


MOVING: dict[str, Callable[[str, str], Any]] = {
    "strip": lambda text, other: text.strip(),
    "strip some": lambda text, other: text.strip(other),
    "lstrip": lambda text, other: text.lstrip(other),
    "rstrip": lambda text, other: text.rstrip(),
    "removeprefix": lambda text, other: text.removeprefix(other[:1]),
    "removesuffix": lambda text, other: text.removesuffix(other[:1]),
    "split": lambda text, other: text.split(),
    "split at most": lambda text, other: text.split(None, 1),
    "rsplit at most": lambda text, other: text.rsplit(None, 1),
    "split at": lambda text, other: text.split(other[:1] or "a"),
    "split at once": lambda text, other: text.split(other[:1] or "a", 1),
    "rsplit at once": lambda text, other: text.rsplit(other[:1] or "a", 1),
    "splitlines": lambda text, other: text.splitlines(),
    "splitlines whole": lambda text, other: text.splitlines(True),
    "partition": lambda text, other: text.partition(other[:1] or "a"),
    "rpartition": lambda text, other: text.rpartition(other[:1] or "a"),
    "slice": lambda text, other: text[1:-1],
    "steps": lambda text, other: text[::-2],
    "index": lambda text, other: text[-1] if text else text,
    "letters": lambda text, other: list(text),
    "twice": lambda text, other: text * 2,
    "none": lambda text, other: text * 0,
    "itself": lambda text, other: str(text),
}


@pytest.mark.parametrize("name", list(MOVING))
@given(text=texts, other=texts)
def test_moving(name: str, text: str, other: str) -> None:
    check(MOVING[name](traced(text), other), MOVING[name](text, other))


@given(text=texts, old=texts.map(lambda text: text[:2]), new=texts, count=st.integers(-1, 3))
def test_replacing(text: str, old: str, new: str, count: int) -> None:
    result = traced(text).replace(old, traced(new), count)
    check(result, text.replace(old, new, count))
    half = as_traced(text).replace(old, traced(new), count)  # into text without marks
    places = text.count(old) if count < 0 else min(count, text.count(old))
    assert half == text.replace(old, new, count)
    assert sum(map(bool, half.marks)) == len(new) * places


@given(parts=st.lists(texts, max_size=4), between=texts)
def test_joining(parts: list[str], between: str) -> None:
    expected = between.join(parts)
    check(traced(between).join(traced(part) for part in parts), expected)
    check(as_traced(joined([traced(part) for part in parts])), "".join(parts))
    mixed = as_traced(between).join([traced(part) for part in parts])
    assert mixed == expected
    assert mixed.marks == bytes(len(between)).join(bytes(map(mark, part)) for part in parts)


@given(text=texts, other=texts)
def test_adding(text: str, other: str) -> None:
    assert (traced(text) + other).marks == bytes(map(mark, text)) + bytes(len(other))
    assert (other + traced(text)).marks == bytes(len(other)) + bytes(map(mark, text))  # type: ignore[attr-defined]
    assert other + traced(text) == other + text
    check(traced(text) + traced(other), text + other)


@pytest.mark.parametrize("name", ["upper", "lower", "casefold", "swapcase", "capitalize", "title"])
@given(text=texts, at=st.integers(0, 12))
def test_changing_letters(name: str, text: str, at: int) -> None:
    """What a letter becomes keeps its mark, also where it becomes two."""
    one = Traced(text, bytes([1 if place == at else 0 for place in range(len(text))]))
    result = getattr(one, name)()
    assert result == getattr(text, name)()
    assert bool(result.marks.count(1)) == (at < len(text))
    assert result.marks.count(1) <= 3 or set(result.marks) == {1}


@given(text=texts)
def test_a_string_in_every_other_way(text: str) -> None:
    one = traced(text)
    assert one == text and hash(one) == hash(text) and {one: 1}[text] == 1 and len(one) == len(text)
    assert (text in one) and one.startswith(text[:2]) and one.find("a") == text.find("a")
    assert json.dumps(one) == json.dumps(text) and repr(one) == repr(text)
    assert type(plain(one)) is str and plain(one) == text
    assert marks_of(text) == bytes(len(text)) and marks_of(one) == one.marks


def test_every_allowed_method_is_ours_or_gives_no_text() -> None:
    """A method of `str` that was not replaced would give text without marks."""
    for name in METHODS:
        if name not in Traced.__dict__:
            arguments = ("a",) if name in ("startswith", "endswith", "find", "rfind", "index", "rindex", "count") else ()
            assert not isinstance(getattr(traced("a"), name)(*arguments), str | list | tuple)


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, st.sampled_from(['"\\\n\x01é', "</s>"])),
    lambda inside: st.one_of(st.lists(inside, max_size=3), st.dictionaries(texts, inside, max_size=3)),
    max_leaves=12,
)


@given(
    value=values,
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 0, 2, "\t"]),
    separators=st.sampled_from([None, (",", ":")]),
    sort=st.booleans(),
)
def test_json(value: Any, ascii_only: bool, indent: Any, separators: Any, sort: bool) -> None:
    text = to_json(from_user(value), ascii_only, indent, separators, sort)
    expected = json.dumps(value, ensure_ascii=ascii_only, indent=indent, separators=separators, sort_keys=sort)
    assert text == expected
    # What JSON itself needs is not the user's; what is inside quotes is.
    marked = "".join(character for character, found in zip(text, marks_of(text)) if found)
    inside = "".join(json.dumps(string, ensure_ascii=ascii_only)[1:-1] for string in _strings(value, sort))
    assert marked == inside


def _strings(value: Any, sort: bool) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key in (sorted(value) if sort else value) for text in (key, *_strings(value[key], sort))]
    return [text for item in value for text in _strings(item, sort)] if isinstance(value, list) else []


def test_json_keys_that_are_no_strings() -> None:
    value = {2: "a", None: "b", True: "c", 1.5: "d"}
    assert to_json(value, False, None, None, False) == json.dumps(value)


@given(value=values)
def test_copies(value: Any) -> None:
    marked = from_user(value)
    assert without_marks(marked) == value or "nan" in repr(value)
    assert repr(without_marks(marked)) == repr(value)
    assert all_marks(marked) == (1 if "".join(_strings(value, False)) else 0)
    text = shown(marked)
    assert text == str(value)
    if not isinstance(value, str) and all_marks(marked):
        assert set(marks_of(text)) == {1}


def test_what_is_no_json() -> None:
    for value in (object(), b"bytes", {1, 2}, [lambda: 0]):
        with pytest.raises(TypeError, match="is no JSON value"):
            from_user(value)
