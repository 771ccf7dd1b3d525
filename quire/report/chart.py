"""Line charts as HTML and inline SVG, drawn here so that a page needs no library and no script to show its figures.

Only the curves are SVG, stretched to the width at hand; titles, ticks and labels are HTML placed in per cent, so that text keeps its size
on a phone. A long curve is drawn as means of equal stretches of steps over a band from the least to the greatest value, which is said
under it: no spike is lost and no point invented. The script only adds a crosshair with the values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .page import escape

_POINTS = 240  # of a curve on paper; more cannot be told apart
_W, _H = 1000.0, 400.0  # of the viewBox; the page stretches it


@dataclass(frozen=True)
class Series:
    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0


@dataclass(frozen=True)
class Level:
    """A horizontal line to compare with."""

    name: str
    y: float


@dataclass(frozen=True)
class Mark:
    """A moment on the x axis: a resume, a skipped step."""

    x: float
    name: str


@dataclass(frozen=True)
class Chart:
    id: str
    title: str
    unit: str
    series: Sequence[Series]
    x_unit: str = "step"
    levels: Sequence[Level] = ()
    marks: Sequence[Mark] = ()
    height: int = 190  # px of the plot
    from_zero: bool = False
    log: bool = False
    points: bool = False  # draw the measured points: few, and far apart
    note: str = ""
    better: str = ""  # "lower" or "higher", said beside the title
    x_domain: tuple[float, float] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Thinned:
    """A curve for paper: means `y` at `x`, the band `low` to `high` where a mean stands for `each` > 1 values."""

    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]
    each: int


def thin(x: Sequence[float], y: Sequence[float], most: int = _POINTS) -> Thinned:
    """At most `most` points: means of equal stretches, each at the x where its stretch ends."""
    each = max(1, math.ceil(len(x) / most))
    parts = [(x[i : i + each], y[i : i + each]) for i in range(0, len(x), each)]
    return Thinned(
        [a[-1] for a, _ in parts], [sum(b) / len(b) for _, b in parts], [min(b) for _, b in parts], [max(b) for _, b in parts], each
    )


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) that lie within [low, high], about `about` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [float(f"{(first + i) * step:.12g}") for i in range(count)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within [low, high]; with 2 and 5 times them where there are fewer than three powers."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    tens = [10.0**p for p in powers if low <= 10.0**p <= high]
    if len(tens) >= 3:
        return tens
    return [tick for p in powers for f in (1, 2, 5) if low * 0.999 <= (tick := float(f"{f * 10.0**p:.12g}")) <= high * 1.001]


def label(value: float, ticks: Sequence[float] = ()) -> str:
    """A tick as people write it: 1,500; 2M; 0.25; 3e-5. Decimals as the distance between the ticks asks for."""
    size = max((abs(tick) for tick in ticks), default=abs(value))
    if value == 0:
        return "0"
    if size >= 1e6:
        return f"{value / 1e6:g}M"
    if size >= 20_000:
        return f"{value / 1e3:g}k"
    if size < 1e-4:
        text = f"{value:.0e}"
        return (text if float(text) == value else f"{value:.1e}").replace("e-0", "e-")
    return f"{value:,.10g}" if value == round(value) else f"{value:g}"


class _Axis:
    """A domain widened to hold what it must, its ticks, and the place of a value in it, from 0 to 1."""

    def __init__(self, values: Sequence[float], *, from_zero: bool = False, log: bool = False, about: int = 5) -> None:
        low, high = min(values), max(values)
        self.log = log and low > 0
        if self.log:
            self.low, self.high = low / 1.1, high * 1.1
            self.ticks = log_ticks(self.low, self.high)
            return
        if from_zero:
            low, high = min(low, 0.0), max(high, 0.0)
        pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        self.low = low if from_zero and low == 0 else low - pad
        self.high = high + pad
        self.ticks = nice_ticks(self.low, self.high, about)

    def __call__(self, value: float) -> float:
        if self.log:
            value = max(value, self.low)
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def draw(chart: Chart) -> tuple[str, dict[str, Any]]:
    """(the figure's HTML, what the script needs for its crosshair). Every series must hold at least one finite point."""
    curves = [thin(series.x, series.y) for series in chart.series]
    values = [v for curve in curves for v in (*curve.low, *curve.high)] + [level.y for level in chart.levels]
    y_axis = _Axis(values, from_zero=chart.from_zero, log=chart.log, about=max(3, chart.height // 45))
    all_x = [x for curve in curves for x in curve.x]
    x_low, x_high = chart.x_domain or (min(0.0, min(all_x)), max(all_x))
    x_high = x_high if x_high > x_low else x_low + 1

    def at(x: float) -> float:
        return (x - x_low) / (x_high - x_low)

    inside = [_rules(chart, y_axis)]
    for series, curve in zip(chart.series, curves, strict=True):
        inside.append(_curve(series, curve, at, y_axis, chart.points))
    svg = f'<svg viewBox="0 0 {_W:g} {_H:g}" preserveAspectRatio="none" aria-hidden="true">{"".join(inside)}</svg>'
    dots = _dots(chart, curves, at, y_axis) if chart.points else ""
    html = _figure(chart, curves, svg + dots + _labels(chart, at, y_axis, (x_low, x_high)))
    data = {
        "x": [x_low, x_high],
        "y": [y_axis.low, y_axis.high],
        "log": y_axis.log,
        "xu": chart.x_unit,
        "each": max(curve.each for curve in curves),
        "s": [
            {"n": s.name, "c": s.colour, "x": [_short(v) for v in c.x], "y": [_short(v) for v in c.y]}
            for s, c in zip(chart.series, curves, strict=True)
        ],
    }
    return html, data


def _short(value: float) -> float:
    return float(f"{value:.5g}") if abs(value) < 1e5 else round(value)


def _rules(chart: Chart, y_axis: _Axis) -> str:
    lines = [f'<path class="grid" d="{"".join(f"M0 {_H * (1 - y_axis(t)):.1f}H{_W:g}" for t in y_axis.ticks)}"/>']
    lines += [f'<path class="level" d="M0 {_H * (1 - y_axis(level.y)):.1f}H{_W:g}"/>' for level in chart.levels]
    return "".join(lines)


def _curve(series: Series, curve: Thinned, at: Any, y_axis: _Axis, points: bool) -> str:
    def place(x: float, y: float) -> str:
        return f"{_W * at(x):.1f} {_H * (1 - y_axis(y)):.1f}"

    band = ""
    if curve.each > 1:
        edge = [place(x, y) for x, y in zip(curve.x, curve.high)] + [place(x, y) for x, y in zip(reversed(curve.x), reversed(curve.low))]
        band = f'<path class="band c{series.colour}" d="M{"L".join(edge)}Z"/>'
    line = "L".join(place(x, y) for x, y in zip(curve.x, curve.y))
    return f'{band}<path class="line c{series.colour}" d="M{line}"/>'


def _dots(chart: Chart, curves: Sequence[Thinned], at: Any, y_axis: _Axis) -> str:
    return "".join(
        f'<i class="dot c{series.colour}" style="left:{100 * at(x):.2f}%;top:{100 * (1 - y_axis(y)):.2f}%"></i>'
        for series, curve in zip(chart.series, curves, strict=True)
        for x, y in zip(curve.x, curve.y, strict=True)
    )


def _labels(chart: Chart, at: Any, y_axis: _Axis, x_range: tuple[float, float]) -> str:
    parts = [f'<span class="yt" style="top:{100 * (1 - y_axis(t)):.2f}%">{label(t, y_axis.ticks)}</span>' for t in y_axis.ticks]
    x_ticks = nice_ticks(*x_range, 4 if chart.height > 160 else 2)
    for tick in x_ticks:
        edge = " first" if at(tick) < 0.03 else " last" if at(tick) > 0.97 else ""
        name = f"{escape(chart.x_unit)} " if edge == " first" else ""
        parts.append(f'<span class="xt{edge}" style="left:{100 * at(tick):.2f}%">{name}{label(tick, x_ticks)}</span>')
    names = sorted(chart.levels, key=lambda level: level.y)
    places = spread([chart.height * (1 - y_axis(level.y)) for level in names], 14.0, 6.0, chart.height - 6.0)
    for level, top in zip(names, places, strict=True):
        parts.append(f'<span class="lt" style="top:{top:.1f}px">{escape(level.name)}</span>')
    for mark in chart.marks:
        parts.append(f'<i class="mark" style="left:{100 * min(max(at(mark.x), 0), 1):.2f}%" title="{escape(mark.name)}"></i>')
    return "".join(parts)


def band_note(data: Iterable[dict[str, Any]], what: str = "steps") -> str:
    """What the bands of several drawn charts are, once for all of them; nothing when every value was drawn."""
    each = sorted({int(drawn["each"]) for drawn in data} - {1})
    numbers = " or ".join(map(str, each))
    return (
        f"Where a curve has a band, the line is the mean of {numbers} {what} and the band goes from the least to the greatest."
        if each
        else ""
    )


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places at least `gap` apart, within [low, high] where they fit, each near where it wants to be. Falling order is kept falling."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    floor = low
    for i in order:
        moved[i] = max(places[i], floor)
        floor = moved[i] + gap
    ceiling = high
    for i in reversed(order):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - gap
    return moved


def _figure(chart: Chart, curves: Sequence[Thinned], inside: str) -> str:
    last = ", ".join(f"{series.name} {curve.y[-1]:.4g}" for series, curve in zip(chart.series, curves, strict=True))
    better = f'<span class="better">{chart.better} is better</span>' if chart.better else ""
    return (
        f'<figure class="chart" id="c-{chart.id}" data-chart="{chart.id}"><figcaption><span class="title">{escape(chart.title)}</span>'
        f'<span class="sub"><span class="unit">{escape(chart.unit) or "&nbsp;"}</span>{better}</span><output></output></figcaption>'
        f'<div class="plot{" wide" if chart.levels else ""}" style="--h:{chart.height}px" tabindex="0" role="img" '
        f'aria-label="{escape(f"{chart.title}, {chart.unit}, by {chart.x_unit}. Last: {last}. Arrow keys read values.")}">{inside}</div>'
        + (f'<p class="note">{escape(chart.note)}</p>' if chart.note else "")
        + "</figure>"
    )
