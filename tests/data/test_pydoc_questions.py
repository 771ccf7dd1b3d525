"""Questions about a small library, exactly; about the real one: that nothing leaks, nothing is imported, and pydoc says the same."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from pathlib import Path

import pytest

from quire.data.pydoc_questions import LONGEST, documents, rows, summary
from quire.errors import DataError
from quire.tasks.tuning.schemas import Chat
from quire.types import Message

SHAPES = '''
"""Plane shapes and their sizes. More of them live elsewhere.

A second paragraph.
"""
raise RuntimeError("nobody imports this")

class Shape:
    """What has an area."""

    def __init__(self, name, *, colour="red", **more): ...
    def area(self, unit: str = "cm") -> float:
        """Return the area in a unit."""
    @property
    def corners(self):
        """The number of corners (0 for a circle)."""
    @corners.setter
    def corners(self, value): ...
    @staticmethod
    def known(name): ...
    def _hidden(self):
        """Nobody asks about this one."""

class Square(Shape, object):
    """Like Shape:"""
    class Corner:
        """Where two sides meet."""

if True:
    def spin(first, /, second, *shapes):
        """spin(first, second) -> None"""
        def inner(): ...
else:
    def spin(other): ...
'''


@pytest.fixture
def library(tmp_path: Path) -> Path:
    (tmp_path / "shapes.py").write_text(SHAPES)
    (tmp_path / "_private.py").write_text('def area():\n    """Not public."""\n')
    (tmp_path / "other.py").write_text('def turn(first):\n    """RETURN the area in a unit!"""\ndef area(x): ...\n')
    (tmp_path / "broken.py").write_text("def (")
    return tmp_path


@pytest.fixture(scope="module")
def real() -> list[Chat]:
    return list(rows())


def _answers(found: list[Chat]) -> dict[str, set[str]]:
    told: dict[str, set[str]] = {}
    for row in found:
        told.setdefault(row.where, set()).add(row.messages[1].content)
    return told


def test_a_small_library_exactly(library: Path) -> None:
    assert _answers(list(rows(library))) == {
        "other.area": {"area takes x.", "area(x)", "area is in the module other."},
        "other.turn": {"RETURN the area in a unit!", "turn takes first.", "turn(first)", "turn is in the module other."},
        "shapes": {"Plane shapes and their sizes."},
        "shapes.Shape": {
            "What has an area.",
            "Shape takes name, and optionally colour and further keywords.",
            "Shape(name, *, colour='red', **more)",
            "Shape is in the module shapes.",
        },
        "shapes.Shape.area": {"area optionally takes unit.", "area(unit='cm')", "area is a method of shapes.Shape."},
        "shapes.Shape.corners": {"The number of corners (0 for a circle)."},
        "shapes.Shape.known": {"known takes name.", "known(name)", "known is a method of shapes.Shape."},
        "shapes.Square.Corner": {"Where two sides meet."},
        "shapes.Square": {"Square is in the module shapes.", "Square derives from Shape."},
        "shapes.spin": {
            "spin takes first and second, and optionally further arguments.",
            "spin(first, /, second, *shapes)",
            "spin is in the module shapes.",
        },
    }


def test_the_same_rows_again_and_as_lines_of_a_file(library: Path) -> None:
    first = list(rows(library))
    assert first == list(rows(library)) and [row.where for row in first] == sorted(row.where for row in first)
    for row, line in zip(first, documents(library), strict=True):
        assert [Message(**turn) for turn in json.loads(line.text)["messages"]] == list(row.messages)
        assert (line.name, line.kind, line.source) == (row.where, "jsonl", "pydoc")


def test_one_name_lies_on_one_side_of_a_split(library: Path) -> None:
    sides: dict[str, set[bytes]] = {}
    for row in rows(library):
        sides.setdefault(row.where.rpartition(".")[2], set()).add(row.side())
    assert all(len(found) == 1 for found in sides.values()) and len(set.union(*sides.values())) == len(sides)
    alone = Chat((Message("user", "a"), Message("assistant", "b")), where="f:1")
    assert alone.side() == alone.digest() != Chat(alone.messages, group="a").side()


def test_a_folder_without_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no Python source"):
        list(rows(tmp_path))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Return all of it.  And more.", "Return all of it."),
        ("read all\nof it", "Read all of it."),
        ("Use e.g. this one. Not that.", "Use e.g. this one."),
        ("A :class:`~a.B` of ``x``.", "A a.B of `x`."),
        ('It says "yes." Then it goes.', 'It says "yes."'),
        ("Options are:", ""),
        ("f(x) -> y", ""),
        ("Names:\n - a\n - b and c.", ""),
        ("Half (of it. Another) one.", ""),
        (">>> f(1) is not a sentence", ""),
        ("Return one. two are left.", ""),
        ("Short.", ""),
        ("", ""),
    ],
)
def test_the_first_sentence(text: str, sentence: str) -> None:
    assert summary(text) == sentence


def test_the_real_library_gives_enough_and_no_answer_twice(real: list[Chat]) -> None:
    assert 10_000 < len(real) < 60_000
    asked, told = zip(*((row.messages[0].content, row.messages[1].content) for row in real))
    assert len(set(asked)) == len(real)
    assert len({" ".join(re.findall("[a-z]+", answer.lower())) for answer in told}) == len(real)
    assert all(len(answer.split()) <= LONGEST and answer[-1] in ".!?)\"'" and answer.isascii() for answer in told)


def test_nothing_is_imported(real: list[Chat]) -> None:
    assert real and not {"antigravity", "turtle", "this", "idlelib"} & set(sys.modules)


@pytest.mark.parametrize(
    "name",
    ["textwrap.wrap", "json.dumps", "shutil.copyfile", "bisect.bisect_left", "heapq.merge", "csv.DictReader", "calendar.TextCalendar"],
)
def test_pydoc_says_the_same(real: list[Chat], name: str) -> None:
    told = {row.messages[1].content for row in real if row.where == name}
    module, _, last = name.rpartition(".")
    there = getattr(importlib.import_module(module), last)
    assert not told or any(answer.startswith(last) for answer in told)
    spelled = [answer for answer in told if answer.startswith(f"{last}(")]
    assert spelled in ([], [f"{last}{inspect.signature(there)}"])
    lines = " ".join((there.__doc__ or "").split()).replace("``", "`")
    assert all(answer.rstrip(".") in lines for answer in told if not answer.startswith(last))
