"""Timing two or more ways of doing the same work: interleaved rounds, medians, and the spread of the ratios.

One after the other in each round, so that whatever else the machine does falls on all of them alike; what is reported is the median over
the rounds and the middle half of the ratios to the first one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    seconds: float  # median of the rounds
    ratio: float  # to the first one, median of the rounds
    low: float  # a quarter of the rounds' ratios lie below
    high: float  # a quarter lie above


def interleaved(ways: Mapping[str, Callable[[], object]], rounds: int = 9, warm: int = 2) -> dict[str, Timing]:
    """Runs each of `ways` once a round, in turn. The first way is what the ratios compare with; at least 7 rounds."""
    if rounds < 7:
        raise ValueError(f"{rounds} rounds tell little; take 7 or more")
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(warm + rounds):
        for name, work in ways.items():
            began = time.perf_counter()
            work()
            if turn >= warm:
                taken[name].append(time.perf_counter() - began)
    first = taken[next(iter(ways))]
    found = {}
    for name, seconds in taken.items():
        ratios = [mine / base for mine, base in zip(seconds, first, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        found[name] = Timing(statistics.median(seconds), middle, low, high)
    return found


def table(found: Mapping[str, Timing], unit: str = "ms") -> str:
    scale = {"s": 1.0, "ms": 1e3}[unit]
    lines = [f"{'':28}{unit:>10}{'ratio':>8}   middle half"]
    for name, timing in found.items():
        lines.append(f"{name:28}{timing.seconds * scale:10.1f}{timing.ratio:8.2f}   {timing.low:.2f} to {timing.high:.2f}")
    return "\n".join(lines)
