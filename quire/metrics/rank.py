"""Do two lists of numbers rise together? Pearson by their values, Spearman by their order (for sentence similarity and regression)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .labels import check


def pearson(found: Sequence[float], wanted: Sequence[float]) -> float:
    """-1 to 1. Raises DataError where one side is the same number throughout: nothing can be said then."""
    check(found, wanted)
    a, b = (np.asarray(side, dtype=np.float64) for side in (found, wanted))
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a @ a) * (b @ b))
    if not size > 0:
        raise DataError("one side is the same number throughout (or not a number), so it has no order to compare.")
    return float(np.clip(a @ b / size, -1.0, 1.0))


def spearman(found: Sequence[float], wanted: Sequence[float]) -> float:
    """Pearson of the ranks; equal numbers share the mean of their ranks."""
    check(found, wanted)
    return pearson(ranks(found).tolist(), ranks(wanted).tolist())


def likeness(found: Sequence[float], wanted: Sequence[float]) -> dict[str, float]:
    """Both by name, while a model learns: not-a-number where one side is the same number throughout, which is no reason to end a run."""
    try:
        return {"spearman": spearman(found, wanted), "pearson": pearson(found, wanted)}
    except DataError:
        return {"spearman": math.nan, "pearson": math.nan}


def ranks(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """The place of each number in the order from the smallest, from 1."""
    _, number, count = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    last = count.cumsum()
    return np.asarray((last - (count - 1) / 2)[number])
