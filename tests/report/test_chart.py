"""Ticks are round, thinning hides nothing, labels keep apart."""

from __future__ import annotations

import itertools
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.report.chart import Chart, Level, Series, draw, label, log_ticks, nice_ticks, spread, thin
from quire.report.page import compact, escape, evenly, grouped, minutes
from tests.report.html import Reader

numbers = st.floats(-1e9, 1e9, allow_nan=False).map(lambda value: float(f"{value:.6g}"))


@given(numbers, numbers, st.integers(2, 8))
def test_ticks_are_round_and_inside(a: float, b: float, about: int) -> None:
    low, high = sorted((a, b))
    ticks = nice_ticks(low, high, about)
    if high <= low:
        assert ticks == [low]
        return
    slack = 1e-6 * (high - low) + 1e-9 * max(abs(low), abs(high))
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    assert len(ticks) <= about + 1
    steps = {float(f"{b - a:.4g}") for a, b in itertools.pairwise(ticks)}
    assert all(re.fullmatch(r"[125]0*", f"{step / 10 ** math.floor(math.log10(step)):.0f}") for step in steps)


def test_ticks_of_ordinary_axes() -> None:
    assert nice_ticks(0, 2400, 4) == [0, 1000, 2000]
    assert nice_ticks(1.4, 3.6, 5) == [1.5, 2.0, 2.5, 3.0, 3.5]
    assert nice_ticks(0, 0.0042, 5) == [0, 0.001, 0.002, 0.003, 0.004]
    assert log_ticks(0.3, 20) == [0.5, 1, 2, 5, 10, 20]
    assert log_ticks(0.01, 200) == [0.01, 0.1, 1, 10, 100]


@pytest.mark.parametrize(
    ("value", "ticks", "said"),
    [(1500, [1500], "1,500"), (2e6, [2e6], "2M"), (20_000, [30_000], "20k"), (0, [30_000], "0"),
     (0.25, [0.25], "0.25"), (3e-5, [3e-5], "3e-5"),
     (0.0004, [0.004], "0.0004"), (2.5e-5, [3e-5], "2.5e-5"), (3.0, [3.5], "3")],
)  # fmt: skip
def test_tick_labels(value: float, ticks: list[float], said: str) -> None:
    assert label(value, ticks) == said


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=900))
def test_thinning_keeps_the_extremes_and_the_mean(y: list[float]) -> None:
    x = [float(i) for i in range(len(y))]
    thinned = thin(x, y, 50)
    assert len(thinned.x) <= 50 and thinned.x[-1] == x[-1]
    assert min(thinned.low) == min(y) and max(thinned.high) == max(y)
    assert all(low - 1e-9 <= mean <= high + 1e-9 for low, mean, high in zip(thinned.low, thinned.y, thinned.high))
    if len(y) <= 50:
        assert thinned.y == y and thinned.each == 1


def test_labels_keep_apart_and_in_order() -> None:
    assert spread([10, 12, 50], 15, 0, 100) == [10, 25, 50]
    assert spread([90, 95, 99], 15, 0, 100) == [70, 85, 100]
    assert spread([], 15, 0, 100) == []


def test_a_drawn_chart_is_whole_html_with_its_data() -> None:
    series = [Series("a <b>", [0, 1, 2], [3.0, 2.0, 1.0]), Series("c", [0, 2], [1.0, 1.5], 1)]
    html, data = draw(Chart("x", "T & U", "bits", series, levels=[Level("gzip", 2.4), Level("xz", 2.39)], points=True))
    reader = Reader(html)
    assert "T & U" in reader.words and "gzip" in reader.words
    assert [line["n"] for line in data["s"]] == ["a <b>", "c"]
    assert data["y"][0] < 1.0 and data["y"][1] > 3.0
    assert "nan" not in html.lower()


@pytest.mark.parametrize("y", [[2.0], [0.0, 0.0], [5.0, 5.0, 5.0], [-1.0, -1.0]])
@pytest.mark.parametrize("from_zero", [True, False])
def test_flat_and_single_points_can_be_drawn(y: list[float], from_zero: bool) -> None:
    html, data = draw(Chart("x", "t", "", [Series("s", list(range(len(y))), y)], from_zero=from_zero))
    Reader(html)
    assert data["y"][0] < data["y"][1] and data["x"][0] < data["x"][1]


@given(st.text())
def test_escaped_text_comes_back_without_markup(text: str) -> None:
    reader = Reader(f"<p>{escape(text)}</p>")
    assert len(reader.attributes) == 0
    assert "\x00" not in escape(text)
    escape(text).encode("utf-8")


def test_how_numbers_are_written() -> None:
    assert [grouped(v) for v in (1234567, 0.12345, 12.0, 1234.5)] == ["1,234,567", "0.1235", "12", "1,234"]
    assert [compact(v) for v in (834_000, 9_830_000, 7e9, 12.0)] == ["834 k", "9.83 M", "7 B", "12"]
    assert [minutes(v) for v in (45, 300, 12_000)] == ["45 s", "5.0 min", "3 h 20 min"]
    assert evenly(10, 3) == [0, 4, 9] and evenly(2, 5) == [0, 1] and evenly(9, 1) == [8]
