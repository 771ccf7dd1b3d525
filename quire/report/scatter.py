"""Numbers that were found over numbers that were wanted: a regression, or pairs with a score."""

from __future__ import annotations

from .chart import label, nice_ticks
from .folder import Row, Run, number
from .page import Absent, Part, escape, evenly, grouped
from .supervised import judged, task

_POINTS = 1500
_SIDE = 1000.0


def part(run: Run) -> Part | Absent | None:
    split = judged(run)
    pairs = [pair for row in split.answers if (pair := _pair(row)) is not None] if split else []
    if split is None or len(pairs) < 3:
        return None
    shown = [pairs[place] for place in evenly(len(pairs), _POINTS)]
    same = task(run) == "classify"  # both are the same quantity; a similarity and the score that people gave are not
    left_out = f" {grouped(len(shown))} of {grouped(len(pairs))} rows are drawn, evenly spaced." if len(shown) < len(pairs) else ""
    line = " On the line, both are the same." if same else ""
    said = f'<p class="say">Every point is one of the {split.called} rows.{line}{left_out}</p>'
    return Part("scatter", "Found and wanted", said + _figure(shown, same))


def _pair(row: Row) -> tuple[float, float] | None:
    """(wanted, found)."""
    wanted = row.get("wanted")
    try:
        given = number(float(wanted[0])) if isinstance(wanted, list) and wanted else None
    except (TypeError, ValueError):
        return None
    found = number(row.get("number", row.get("score")))
    return None if given is None or found is None or "label" in row else (given, found)


def _domain(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = 0.05 * (high - low) or 1.0
    return low - pad, high + pad


def _figure(pairs: list[tuple[float, float]], same: bool) -> str:
    across, up = [x for x, _ in pairs], [y for _, y in pairs]
    x = _domain(across + up) if same else _domain(across)
    y = x if same else _domain(up)

    def at(value: float, ends: tuple[float, float]) -> float:
        return (value - ends[0]) / (ends[1] - ends[0])

    dots = "".join(f'<circle cx="{_SIDE * at(a, x):.1f}" cy="{_SIDE * (1 - at(b, y)):.1f}" r="7"></circle>' for a, b in pairs)
    rule = f'<path class="level" d="M0 {_SIDE:g}L{_SIDE:g} 0"/>' if same else ""
    names = [f'<span class="yt" style="top:{100 * (1 - at(t, y)):.2f}%">{label(t, nice_ticks(*y))}</span>' for t in nice_ticks(*y)]
    names += [f'<span class="xt" style="left:{100 * at(t, x):.2f}%">{label(t, nice_ticks(*x))}</span>' for t in nice_ticks(*x)]
    said = escape(f"{len(pairs)} points: number found over number wanted")
    return (
        '<figure class="scatter"><figcaption><span class="title">Number found</span><span class="unit">over the number wanted</span></figcaption>'
        f'<div class="plot" role="img" aria-label="{said}"><svg viewBox="0 0 {_SIDE:g} {_SIDE:g}" preserveAspectRatio="none" '
        f'aria-hidden="true">{rule}{dots}</svg>{"".join(names)}</div></figure>'
    )
