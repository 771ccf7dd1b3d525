"""How often the label is right: accuracy, and F1 where classes are of unequal size or a text has several labels."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Literal

from ..errors import DataError

Average = Literal["macro", "micro", "weighted"]


def accuracy(found: Sequence[Hashable], wanted: Sequence[Hashable]) -> float:
    """The share of texts whose label is right. Raises DataError for lists of unequal length, or empty ones."""
    check(found, wanted)
    return sum(a == b for a, b in zip(found, wanted)) / len(wanted)


def f1(found: Sequence[Hashable], wanted: Sequence[Hashable], average: Average = "macro") -> float:
    """F1 of one label a text: `macro` counts every class alike, `weighted` by how often it is wanted, `micro` is the accuracy."""
    check(found, wanted)
    return several([{label} for label in found], [{label} for label in wanted], average)


def several(found: Sequence[Iterable[Hashable]], wanted: Sequence[Iterable[Hashable]], average: Average = "micro") -> float:
    """F1 of any number of labels a text; a class that is nowhere found nor wanted does not count. 0 where there is none at all."""
    check(found, wanted)
    counts: dict[Hashable, list[int]] = {}  # class -> right, found, wanted
    for mine, theirs in zip(map(set, found), map(set, wanted)):
        for label in mine | theirs:
            count = counts.setdefault(label, [0, 0, 0])
            for place, true in enumerate((label in mine and label in theirs, label in mine, label in theirs)):
                count[place] += true
    if average == "micro":
        return harmonic(*(sum(column) for column in zip(*counts.values()))) if counts else 0.0
    weights = [count[2] if average == "weighted" else 1 for count in counts.values()]
    total = sum(weight * harmonic(*count) for weight, count in zip(weights, counts.values()))
    return total / sum(weights) if sum(weights) else 0.0


def harmonic(right: int, found: int, wanted: int) -> float:
    """F1, the harmonic mean of right / found and right / wanted; 0 where nothing is right."""
    return 2 * right / (found + wanted) if right else 0.0


def check(found: Sequence[object], wanted: Sequence[object]) -> None:
    if len(found) != len(wanted) or not len(wanted):
        raise DataError(f"{len(found)} were found and {len(wanted)} are wanted; a figure compares equally many, one or more.")
