"""The learning curves of a run: what was reached on held-out text, and how the steps went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .chart import Chart, Level, Mark, Series, band_note, draw
from .folder import Row, Run, number
from .page import Absent, Part, escape
from .supervised import FIGURES, called, task

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
_UNITS = {"classify": "nats a row", "tag": "nats a word", "answer": "nats an end", "chat": "nats a token", "rewrite": "nats a token"}
_RANGES = {"bleu": "0 to 100", "mrr@10": "0 to 1", "ndcg@10": "0 to 1", "spearman": "−1 to 1", "pearson": "−1 to 1"}
_NOT_METRICS = {"kind", "step", "tokens", "seconds", "metric", "direction", "lower_is_better", "pool", "no_answer_f1"}


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
    marks = [
        Mark(float(event["step"]), f"step {event['step']}: {event['what']} {event.get('detail', '')}".strip()) for event in wanted[:60]
    ]
    return [*marks, *_kept(run)]


def _kept(run: Run) -> list[Mark]:
    """The step whose weights a supervised run kept, where that is not the last."""
    best = run.status.get("best")
    step = number(best.get("step")) if isinstance(best, dict) else None
    kept = isinstance(run.recipe.get("train"), dict) and run.recipe["train"].get("keep") == "best" and run.state == "finished"
    if not task(run) or step is None or not kept or step == number(run.status.get("step")):
        return []
    return [Mark(step, f"step {step:,.0f}: the best, its weights were kept")]


def eval_charts(run: Run, height: int = 250) -> list[Chart]:
    """One chart for each held-out figure, the one that the run is judged by first."""
    keys = list(dict.fromkeys([run.metric, *(key for row in run.evals for key in row)]))
    charts: list[Chart] = []
    for key in keys:
        x, y = column(run.evals, key)
        # Loss is bits per byte in another unit for the same tokenizer; one of the two is enough.
        if key in _NOT_METRICS or not x or (key == "loss" and run.metric == "bits_per_byte"):
            continue
        title, unit = _named(run, key)
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


def _named(run: Run, key: str) -> tuple[str, str]:
    """(title, unit) of a held-out figure."""
    if task(run) and key != "loss":
        share = "share" if FIGURES.get(key, ("", False))[1] else ""
        return f"Held-out {called(key, task(run))}", _RANGES.get(key, share)
    return NAMES.get(key, (f"Held-out {key.replace('_', ' ')}", ""))


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


def _supervised(run: Run, evals: list[Chart], steps: list[Chart]) -> tuple[list[Chart], list[Chart]]:
    """The metric beside both losses, and everything else small below them."""
    held = next((chart for chart in evals if chart.title == NAMES["loss"][0]), None)
    losses = next((chart for chart in steps if chart.id == "loss"), None)
    evals, steps = [chart for chart in evals if chart is not held], [chart for chart in steps if chart is not losses]
    if losses is not None and held is not None:
        lines = [replace(losses.series[0], name="training"), replace(held.series[0], name="held out", colour=1)]
        losses = replace(losses, title="Loss", series=lines, note="Solid: training, each step; dashed: the held-out rows.")
    if losses is not None:
        number_learned = task(run) == "classify" and run.metric == "spearman"
        losses = replace(losses, unit="squared error a row" if number_learned else _UNITS.get(task(run), ""))
    # A perplexity is the loss in another unit; beside a loss that is the metric, the likeness of what was written says more than any other.
    evals = [chart for chart in evals if chart.title != _named(run, "perplexity")[0]]
    if run.metric == "loss":
        like = [_named(run, key)[0] for key in ("rouge_l", "rougeL", "bleu")]
        evals.sort(key=lambda chart: chart.title not in like)
    big = [chart for chart in (*evals[:1], losses or held) if chart is not None]
    if run.metric == "loss":
        big.reverse()
    return big, [replace(chart, height=140) for chart in evals[1:]] + steps


def part(run: Run) -> Part | Absent:
    big = eval_charts(run)
    small = step_charts(run)
    if not big and not small:
        return Absent("Learning curves", "metrics.jsonl holds no step and no evaluation.")
    if task(run):
        big, small = _supervised(run, big, small)
    elif small and small[0].id == "loss":
        big, small = [*big[:1], small[0], *big[1:]], small[1:]
    # The same steps under every curve, so that a crosshair means the same place in all of them.
    ends = [x for chart in (*big, *small) for series in chart.series for x in series.x]
    domain = (min(0.0, min(ends)), max(ends))
    drawn = [draw(replace(chart, x_domain=domain)) for chart in (*big, *small)]
    figures = [html for html, _ in drawn]
    html = f'<div class="grid2">{"".join(figures[: len(big)])}</div><div class="grid4">{"".join(figures[len(big) :])}</div>'
    note = band_note(data for _, data in drawn)
    if _marks(run):
        said = {escape(event.get("what")) for event in run.events if event.get("what") in ("resumed", "skipped", "stopped")}
        kinds = ", ".join([*sorted(said), *(["the step whose weights were kept"] if _kept(run) else [])])
        note = f'<i class="mark inline"></i> on the axis: {kinds}. {note}'
    html += f'<p class="note">{note}</p>' if note else ""
    return Part("curves", "Learning curves", html, {chart.id: data for chart, (_, data) in zip((*big, *small), drawn, strict=True)})
