"""The learning curves of a run: what was reached on held-out text, and how the steps went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .chart import Chart, Level, Mark, Series, band_note, draw
from .folder import Row, Run, number
from .page import Absent, Part, escape

NAMES = {
    "bits_per_byte": ("Held-out bits per byte", "bits a byte"),
    "loss": ("Held-out loss", "nats a token"),
    "accuracy": ("Held-out accuracy", "share"),
    "perplexity": ("Held-out perplexity", "tokens"),
}
# key of a step row: (title, unit, from zero, log when it spans more than 30 times)
STEPS = {
    "loss": ("Training loss", "nats a token", False, False),
    "lr": ("Learning rate", "", True, False),
    "grad_norm": ("Gradient norm", "before clipping", True, True),
    "tokens_per_s": ("Throughput", "tokens a second", True, False),
    "memory_mb": ("Memory", "MB", True, False),
}
_NOT_METRICS = {"kind", "step", "tokens", "seconds", "metric", "direction", "lower_is_better"}


def column(rows: Sequence[Row], key: str) -> tuple[list[float], list[float]]:
    """(steps, values) of the rows that hold a finite number under `key`."""
    pairs = [(float(row["step"]), value) for row in rows if (value := number(row.get(key))) is not None]
    return [x for x, _ in pairs], [y for _, y in pairs]


def compressor_levels(run: Run, how: str = "per_file") -> list[Level]:
    """gzip, bzip2 and xz as lines to compare a curve of bits per byte with."""
    found = run.evaluation.get("compressors")
    levels = []
    for name, figures in found.items() if isinstance(found, dict) else ():
        value = number(figures.get(how)) if isinstance(figures, dict) else None
        if value is not None:
            levels.append(Level(f"{name} {value:.2f}", value))
    return levels


def _marks(run: Run) -> list[Mark]:
    wanted = [
        event for event in run.events if event.get("what") in ("resumed", "skipped", "stopped") and number(event.get("step")) is not None
    ]
    return [Mark(float(event["step"]), f"step {event['step']}: {event['what']} {event.get('detail', '')}".strip()) for event in wanted[:60]]


def eval_charts(run: Run, height: int = 250) -> list[Chart]:
    """One chart for each held-out figure, the one that the run is judged by first."""
    keys = list(dict.fromkeys([run.metric, *(key for row in run.evals for key in row)]))
    charts: list[Chart] = []
    for key in keys:
        x, y = column(run.evals, key)
        # Loss is bits per byte in another unit for the same tokenizer; one of the two is enough.
        if key in _NOT_METRICS or not x or (key == "loss" and run.metric == "bits_per_byte"):
            continue
        title, unit = NAMES.get(key, (f"Held-out {key.replace('_', ' ')}", ""))
        better = ("lower" if run.lower_is_better else "higher") if key == run.metric else ""
        levels = compressor_levels(run) if key == "bits_per_byte" else []
        note = "Dashed: compressors at their best level, each held-out file alone." if levels else ""
        line = [Series(title, x, y)]
        charts.append(
            Chart(
                f"eval-{len(charts)}",
                title,
                unit,
                line,
                levels=levels,
                marks=_marks(run),
                height=height,
                points=True,
                note=note,
                better=better,
            )
        )
    return charts


def step_charts(run: Run) -> list[Chart]:
    charts = []
    for key, (title, unit, from_zero, may_log) in STEPS.items():
        x, y = column(run.steps, key)
        if not x or (key == "memory_mb" and not any(y)):
            continue
        log = may_log and min(y) > 0 and max(y) / min(y) > 30
        note = "Logarithmic scale." if log else ""
        tall = 250 if key == "loss" else 140
        marks = _marks(run) if key == "loss" else []
        charts.append(Chart(key, title, unit, [Series(title, x, y)], height=tall, from_zero=from_zero, log=log, note=note, marks=marks))
    return charts


def part(run: Run) -> Part | Absent:
    big = eval_charts(run)
    small = step_charts(run)
    if not big and not small:
        return Absent("Learning curves", "metrics.jsonl holds no step and no evaluation.")
    if small and small[0].id == "loss":
        big, small = [*big[:1], small[0], *big[1:]], small[1:]
    # The same steps under every curve, so that a crosshair means the same place in all of them.
    ends = [x for chart in (*big, *small) for series in chart.series for x in series.x]
    domain = (min(0.0, min(ends)), max(ends))
    drawn = [draw(replace(chart, x_domain=domain)) for chart in (*big, *small)]
    figures = [html for html, _ in drawn]
    html = f'<div class="grid2">{"".join(figures[: len(big)])}</div><div class="grid4">{"".join(figures[len(big) :])}</div>'
    note = band_note(data for _, data in drawn)
    if _marks(run):
        kinds = ", ".join(
            sorted({escape(event.get("what")) for event in run.events if event.get("what") in ("resumed", "skipped", "stopped")})
        )
        note = f'<i class="mark inline"></i> on the axis: {kinds}. {note}'
    html += f'<p class="note">{note}</p>' if note else ""
    return Part("curves", "Learning curves", html, {chart.id: data for chart, (_, data) in zip((*big, *small), drawn, strict=True)})
