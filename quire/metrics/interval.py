"""Bootstrap confidence intervals (Efron 1979): how much a figure would move if other documents had been drawn.

The unit that is drawn again is the document (or example), never the token: tokens of one document are far from independent, and an interval
over tokens would be much too narrow. Percentile method; every draw comes from a generator of its own, so a figure's interval is the same
each time it is computed.

Where every document is right, or none is, all draws are alike and would claim certainty: there the exact interval of a share stands
(Clopper and Pearson 1934).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import DataError

_AT_ONCE = 2_000_000  # drawn places held in memory at a time


@dataclass(frozen=True)
class Interval:
    """A figure and the range in which it lies with confidence `level`; `n` documents were drawn from."""

    value: float
    low: float
    high: float
    level: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def mean_interval(values: Sequence[float], *, level: float = 0.95, draws: int = 2000, seed: int = 0) -> Interval:
    """The mean of `values` (accuracies, scores: one a document) with its interval."""
    return ratio_interval(values, [1.0] * len(values), level=level, draws=draws, seed=seed)


def ratio_interval(totals: Sequence[float], weights: Sequence[float], *, level: float = 0.95, draws: int = 2000, seed: int = 0) -> Interval:
    """sum(totals) / sum(weights) with its interval, drawing documents: bits and bytes of each file give bits per byte.

    Long documents count by their weight, as in the figure itself. Raises ValueError for unequal lengths, no documents, a weight that is not
    above zero, or a level outside (0, 1).
    """
    top, bottom = np.asarray(totals, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if top.shape != bottom.shape or top.ndim != 1 or not top.size:
        raise ValueError(f"{top.size} totals and {bottom.size} weights do not make an interval; give one of each for every document")
    if not (bottom > 0).all() or not np.isfinite(top).all():
        raise ValueError("every weight must be above zero and every total finite; leave empty documents out")
    if not 0 < level < 1 or draws < 1:
        raise ValueError(f"level {level} with {draws} draws is not possible; use a level between 0 and 1 (0.95) and 1000 draws or more")
    generator = np.random.default_rng(seed)
    n, drawn = top.size, np.empty(draws)
    step = max(1, _AT_ONCE // n)
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        places = generator.integers(0, n, size=(rows, n))
        drawn[start : start + rows] = top[places].sum(axis=1) / bottom[places].sum(axis=1)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    least = ((1 - level) / 2) ** (1 / n)  # the share at which n right of n are just not too lucky
    if not top.any():
        high = 1.0 - least
    elif (top == bottom).all():
        low = least
    return Interval(float(top.sum() / bottom.sum()), float(low), float(high), level, n)


def drawn_interval(
    figure: Callable[[npt.NDArray[np.int64]], float], n: int, *, level: float = 0.95, draws: int = 1000, seed: int = 0
) -> Interval:
    """A figure of any kind with its interval: `figure` is given the numbers of `n` documents that were drawn, some several times.

    A draw of which the figure says nothing (DataError: all the same number) is left out. Raises DataError where all of them say nothing.
    """
    value = figure(np.arange(n))
    generator, found = np.random.default_rng(seed), []
    for _ in range(draws):
        try:
            found.append(figure(generator.integers(0, n, size=n)))
        except DataError:
            continue
    if not found:
        raise DataError(f"{n} documents are too few to say how far their figure may be off.")
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level, n)
