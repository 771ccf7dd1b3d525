"""Two tuned models on the same rows: how much better one is, with an interval that knows that the rows are the same.

Intervals of two runs may overlap although one is better on nearly every row; what counts is the difference row by row (Koehn 2004). Rows are
drawn again (bootstrap), the same ones for both runs, and the difference is looked at in each draw. A row is the same when its file, its line
and what was wanted of it are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..metrics.interval import drawn_interval
from ..metrics.rank import spearman
from ..metrics.rouge import rouge
from ..metrics.spans import answer_f1, from_tags
from .folder import Row, Run, number
from .supervised import SPLITS, task

_DRAWS = 1000
Drawn = npt.NDArray[np.int64]
Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Paired:
    """`difference` of the second run to the first (by number), of one figure on `rows` rows that both answered; which rows: test or held-out.

    lower_is_better is never needed: every figure compared here is better when it is higher.
    """

    first: int
    second: int
    figure: str
    split: str
    rows: int
    difference: float
    low: float
    high: float

    @property
    def settled(self) -> bool:
        """Does the interval leave out 0?"""
        return self.low > 0 or self.high < 0


def paired(runs: Sequence[Run]) -> list[Paired]:
    """Every run beside the first, on the test rows, else the held-out ones, that both have; pairs that share no rows are left out."""
    found = (_pair(runs, 0, other) for other in range(1, len(runs)))
    return [pair for pair in found if pair is not None]


def shared(runs: Sequence[Run]) -> list[tuple[int, int]]:
    """(rows that a run shares with the first, its rows) of every run but the first, on the rows that would be compared."""
    counts = []
    for run in runs[1:]:
        name = next((name for name in SPLITS if runs[0].answers.get(name) and run.answers.get(name)), "test")
        theirs = _keyed(run.answers.get(name, []))
        counts.append((len(theirs.keys() & _keyed(runs[0].answers.get(name, [])).keys()), len(theirs)))
    return counts


def _pair(runs: Sequence[Run], first: int, second: int) -> Paired | None:
    one, other = runs[first], runs[second]
    if not task(one) or task(one) != task(other):
        return None
    for name, said in SPLITS.items():
        mine, theirs = (_keyed(run.answers.get(name, [])) for run in (one, other))
        keys = [key for key in mine if key in theirs]
        if len(keys) < 2:
            continue
        a, b = _figure(task(one), [mine[key] for key in keys]), _figure(task(one), [theirs[key] for key in keys])
        if a is None or b is None or a[0] != b[0]:
            continue
        try:
            found = drawn_interval(lambda drawn: b[1](drawn) - a[1](drawn), len(keys), draws=_DRAWS)
        except DataError:
            continue
        return Paired(first, second, a[0], said, len(keys), found.value, found.low, found.high)
    return None


def _keyed(rows: Sequence[Row]) -> dict[tuple[str, str], Row]:
    return {(Path(str(row.get("where", ""))).name, json.dumps(row.get("wanted"), sort_keys=True)): row for row in rows}


def _figure(name: str, rows: Sequence[Row]) -> tuple[str, Callable[[Drawn], float]] | None:
    """(the figure's name, the figure of drawn rows); None for answers that are damaged or of another kind."""
    try:
        made = _made(name, rows)
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    return None if made is None else made


def _made(name: str, rows: Sequence[Row]) -> tuple[str, Callable[[Drawn], float]] | None:
    first = rows[0]
    if "label" in first:
        return "accuracy", _mean([float(row["label"] == row["wanted"][0]) for row in rows])
    if "labels" in first:
        return "exact", _mean([float(set(row["labels"]) == set(row["wanted"])) for row in rows])
    if "tags" in first:
        sides = [(set(from_tags(row["tags"])), set(from_tags(row["wanted"]))) for row in rows]
        return "f1", _ratio([2.0 * len(a & b) for a, b in sides], [float(len(a) + len(b)) for a, b in sides])
    if name == "answer":
        return "f1", _mean([answer_f1([row["answer"]], [row["wanted"]]) for row in rows])
    if "places" in first:
        return "mrr@10", _mean([1 / row["places"][0] if row["places"] and row["places"][0] <= 10 else 0.0 for row in rows])
    if "number" in first or "score" in first:
        found, wanted = _numbers(rows)
        return "spearman", lambda drawn: float(spearman(found[drawn].tolist(), wanted[drawn].tolist()))
    texts = [row.get("text", row.get("answer")) for row in rows]
    if not all(isinstance(text, str) for text in texts):
        return None
    return "rougeL", _mean([score.longest for score in rouge([str(text) for text in texts], [" ".join(row["wanted"]) for row in rows])])


def _numbers(rows: Sequence[Row]) -> tuple[Points, Points]:
    found: list[Any] = [number(row.get("number", row.get("score"))) for row in rows]
    return np.array(found, dtype=np.float64), np.array([float(row["wanted"][0]) for row in rows])


def _mean(values: Sequence[float]) -> Callable[[Drawn], float]:
    return _ratio(values, [1.0] * len(values))


def _ratio(tops: Sequence[float], bottoms: Sequence[float]) -> Callable[[Drawn], float]:
    top, bottom = np.array(tops), np.array(bottoms)
    return lambda drawn: float(top[drawn].sum() / (bottom[drawn].sum() or 1.0))
