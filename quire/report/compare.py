"""Two or more runs side by side: what their recipes differ in, their figures, and their curves in one picture.

`differences` and `figures` are plain data for a terminal or a program; `write` makes the page. Figures of runs that were measured on
different text are shown, with the warning that they cannot be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from .. import durable
from ..errors import DataError
from . import folder, paired, supervised
from .chart import Chart, Series, band_note, draw
from .curves import NAMES, STEPS, column
from .facts import flatten
from .folder import Run, number
from .outcome import actual_minutes, corpus_hash, parameters, tokens_seen
from .outcome import figures as measured
from .page import Absent, Page, Part, escape, render, table
from .supervised import Interval

MOST_RUNS = 8
_ALIKE = 0.005  # figures closer than this are called alike: no one of them is marked as the best
_WHERE = {"out", "log.hooks"}  # differ in every run and decide nothing


@dataclass(frozen=True)
class Figure:
    """One row of the table of figures: a value a run (None where it is not known) and which way is better (None: neither)."""

    name: str
    values: tuple[float | None, ...]
    better: str | None = None
    intervals: tuple[Interval | None, ...] = ()
    metric: str = ""  # of a supervised run: decides how the values are written

    def cells(self) -> list[str]:
        """The values as text, with their intervals."""
        if not self.metric:
            return [say(value) for value in self.values]
        return [
            "–"
            if value is None
            else supervised.say(self.metric, value) + (f" [{supervised.between(self.metric, interval)}]" if interval else "")
            for value, interval in zip(self.values, self.intervals, strict=True)
        ]

    def best(self) -> set[int]:
        """The best of the row; none where values are alike, or an interval of another run reaches into that of the best."""
        known = [value for value in self.values if value is not None]
        if self.better is None or len(known) < 2 or max(known) - min(known) < _ALIKE * max(map(abs, known)):
            return set()
        wanted = min(known) if self.better == "lower" else max(known)
        found = {i for i, value in enumerate(self.values) if value == wanted}
        top = next((self.intervals[i] for i in found if self.intervals), None)
        others = [interval for i, interval in enumerate(self.intervals) if i not in found and interval]
        if top and any(other.high >= top.low and other.low <= top.high for other in others):
            return set()
        return found


def read(folders: Sequence[Path | str]) -> list[Run]:
    """The runs, at least two and at most eight. Raises DataError for another number, a folder twice, or one that is no run."""
    if not 2 <= len(folders) <= MOST_RUNS:
        raise DataError(f"{len(folders)} run folders were given; a comparison takes 2 to {MOST_RUNS}, such as: quire compare runs/a runs/b")
    places = [Path(place).resolve() for place in folders]
    for place in places:
        if places.count(place) > 1:
            raise DataError(f"{place} was given twice; a run cannot be compared with itself")
    return [folder.read(place) for place in folders]


def names(runs: Sequence[Run]) -> list[str]:
    """Short names that differ: the folder's, with as many of its parents as it takes."""
    parts = [run.path.resolve().parts for run in runs]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(parts):
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]


def differences(runs: Sequence[Run]) -> list[tuple[str, list[Any]]]:
    """(dotted recipe key, its value in each run) of every key that is not the same in all; None where a recipe does not have it."""
    flat = [flatten(run.recipe) for run in runs]
    keys = dict.fromkeys(key for values in flat for key in values)
    rows = [(key, [values.get(key) for values in flat]) for key in keys if key not in _WHERE]
    return [(key, values) for key, values in rows if any(value != values[0] for value in values)]


def figures(runs: Sequence[Run]) -> list[Figure]:
    """What came out of each run; rows that no run has are left out."""
    best = [run.best() for run in runs]
    metrics = list(dict.fromkeys(found[0] for found in best if found))
    rows = [
        Figure(
            f"best held-out {metric}", tuple(found[1] if found and found[0] == metric else None for found in best), _better(runs, metric)
        )
        for metric in metrics
    ]
    rows = _judged(runs) + rows
    for how, said in (("per_file", "each file alone"), ("one_stream", "as one stream")):
        rows.append(Figure(f"bits per byte, {said}", tuple(measured(run, how).get("model") for run in runs), "lower"))
    rows += [
        Figure("training loss, last steps", tuple(_last_loss(run) for run in runs), "lower"),
        Figure("parameters", tuple(parameters(run) for run in runs)),
        Figure("steps", tuple(number(run.steps[-1].get("step")) if run.steps else None for run in runs)),
        Figure("tokens", tuple(tokens_seen(run) for run in runs)),
        Figure("minutes", tuple(actual_minutes(run) for run in runs)),
        Figure("tokens a second", tuple(_over(run, "tokens_per_s", median) for run in runs), "higher"),
        Figure("peak memory, MB", tuple(_over(run, "memory_mb", max) for run in runs), "lower"),
    ]
    return [row for row in rows if any(value is not None for value in row.values)]


def _judged(runs: Sequence[Run]) -> list[Figure]:
    """What supervised runs were measured by at their end, with intervals: a row for each metric and set of rows."""
    found = [supervised.headline(run) if supervised.task(run) else None for run in runs]
    rows = []
    for split, metric in dict.fromkeys((one[0].called, one[1]) for one in found if one):
        mine = [one if one and (one[0].called, one[1]) == (split, metric) else None for one in found]
        values, intervals = tuple(one[2] if one else None for one in mine), tuple(one[3] if one else None for one in mine)
        better = "lower" if folder.lower_is_better(metric) else "higher"
        rows.append(Figure(f"{split} {supervised.called(metric)}", values, better, intervals, metric))
    return rows


def _better(runs: Sequence[Run], metric: str) -> str:
    run = next(run for run in runs if run.metric == metric)
    return "lower" if run.lower_is_better else "higher"


def _last_loss(run: Run) -> float | None:
    """The mean over the last twentieth of the steps: one step's loss is mostly noise."""
    _, losses = column(run.steps, "loss")
    return fmean(losses[-max(1, len(losses) // 20) :]) if losses else None


def _over(run: Run, key: str, take: Any) -> float | None:
    values = column(run.steps, key)[1]
    return float(take(values)) if values else None


def warnings(runs: Sequence[Run]) -> list[str]:
    """What a reader must know before comparing these figures."""
    said = []
    hashes = {corpus_hash(run) for run in runs} - {""}
    if len(hashes) > 1:
        said.append("The runs were measured on different text (their corpus hashes differ): their held-out figures cannot be compared.")
    if len({run.metric for run in runs if run.evals}) > 1:
        said.append("The runs are judged by different figures; each is listed in a row of its own.")
    tuned = [run for run in runs if supervised.task(run) and any(run.answers.values())]
    for (same, rows), run in zip(paired.shared(tuned), tuned[1:], strict=False):
        if same < rows:
            one, other = (names(runs)[runs.index(known)] for known in (tuned[0], run))
            said.append(f"{other} shares {same:,} of its {rows:,} rows of evaluation with {one}: only those can be compared row by row.")
    unfinished = [f"{name} ({run.state})" for name, run in zip(names(runs), runs, strict=True) if run.state not in ("finished", "unknown")]
    if unfinished:
        said.append(f"Not finished: {', '.join(unfinished)}.")
    return said + [f"{name}: {problem}" for name, run in zip(names(runs), runs, strict=True) for problem in run.problems]


def say(value: float | None) -> str:
    """A figure in a table: whole from a thousand on, else four digits."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == round(value) else f"{value:.4g}"


def write(run_folders: Sequence[Path | str], out: Path | str) -> Path:
    """Writes the comparison as one self-contained HTML page to `out` and returns its path.

    Raises DataError when the folders are not two to eight different runs, StorageError when `out` cannot be written.
    """
    path = Path(out)
    durable.make_folder(path.parent)
    durable.write_text(path, html(read(run_folders)))
    return path


def html(runs: Sequence[Run]) -> str:
    called = names(runs)
    pairs = paired.paired(runs)
    page = Page(
        "Comparison of runs", "Quire", _lede(runs, called, pairs), warnings=warnings(runs), key=_key(called), warned="Before you compare"
    )
    page.add(_figures(runs, called))
    if pairs:
        page.add(_beside(pairs, called))
    page.add(_differences(runs, called))
    page.add(_curves(runs, called, "steps", "Learning curves", "step"))
    page.add(_curves(runs, called, "clock", "The same, by the clock", "minute"))
    page.foot = "Written by <code>quire compare</code> from the runs’ own files. This page needs no network and holds no link to one."
    return render(page)


def _lede(runs: Sequence[Run], called: Sequence[str], pairs: Sequence[paired.Paired]) -> str:
    """Which runs, and which of them came out best where that can be said."""
    said = f"{', '.join(map(escape, called[:-1]))} and {escape(called[-1])}, side by side."
    if pairs and len(runs) == 2:
        return f"{said} On the same rows, {escape(told(pairs[0], called))}."
    found = next(iter(figures(runs)), None)
    best = found.best() if found else set()
    if found is None or len(best) != 1 or len({corpus_hash(run) for run in runs} - {""}) > 1:
        return said
    place = next(iter(best))
    others = [value for i, value in enumerate(found.values) if i != place and value is not None]
    if found.better is None or not others:
        return said
    second = min(others) if found.better == "lower" else max(others)
    won = found.values[place]
    figure = escape(found.name.replace("_", " ").removeprefix("best "))
    return f"{said} The best is <strong>{escape(called[place])}</strong> with {figure} {say(won)}; the next has {say(second)}."


def _key(called: Sequence[str]) -> str:
    rows = "".join(
        f'<li class="c{i}"><svg viewBox="0 0 30 10" aria-hidden="true"><path d="M0 5H30"/></svg><b>{escape(name)}</b></li>'
        for i, name in enumerate(called)
    )
    return f'<div class="key-bar"><ul class="key">{rows}</ul></div>\n'


def _figures(runs: Sequence[Run], called: Sequence[str]) -> Part | Absent:
    found = figures(runs)
    if not found:
        return Absent("What came out", "none of the runs has written a step or an evaluation.")
    rows = []
    for figure in found:
        best = figure.best()
        cells = (f"<b>{escape(cell)}</b>" if i in best else escape(cell) for i, cell in enumerate(figure.cells()))
        rows.append((escape(figure.name.replace("_", " ")), *cells))
    head = ("", *(escape(name) for name in called))
    note = '<p class="note">Bold: the best of a row. Two seeds of one recipe differ too; a small difference proves nothing.</p>'
    return Part("figures", "What came out", table(head, rows, numbers=range(1, len(called) + 1)) + note)


def told(found: paired.Paired, called: Sequence[str]) -> str:
    """A paired difference in words: 'b beside a: -2.1 points accuracy, 95 % interval -3.5 to -0.8, on the same 1,821 test rows'."""
    points = supervised.FIGURES[found.figure][1]
    size, low, high = (f"{100 * value:+.1f}" if points else f"{value:+.3f}" for value in (found.difference, found.low, found.high))
    unit = " points" if points else ""
    text = f"{called[found.second]} beside {called[found.first]}: {size}{unit} {supervised.called(found.figure)}, 95 % interval {low} to {high}, "
    text += f"on the same {found.rows:,} {found.split} rows"
    return text if found.settled else f"{text}. The interval contains 0: these rows do not tell the two apart"


def _beside(pairs: Sequence[paired.Paired], called: Sequence[str]) -> Part:
    """Runs on the same rows, row by row."""
    lines = "".join(f"<li>{escape(told(pair, called))}.</li>" for pair in pairs)
    note = "Drawn again together (bootstrap): the same rows for both runs in every draw."
    return Part("paired", "On the same rows", f'<ul class="plain">{lines}</ul><p class="note">{note}</p>')


def _minutes(run: Run) -> dict[int, float]:
    return {int(row["step"]): seconds / 60 for row in run.steps if (seconds := number(row.get("seconds"))) is not None}


def _series(run: Run, name: str, index: int, rows: Sequence[folder.Row], key: str, clock: dict[int, float] | None) -> Series | None:
    x, y = column(rows, key)
    if clock is not None:
        both = [(clock[int(step)], value) for step, value in zip(x, y, strict=True) if int(step) in clock]
        x, y = [a for a, _ in both], [b for _, b in both]
    return Series(name, x, y, index) if x else None


def _curves(runs: Sequence[Run], called: Sequence[str], id: str, title: str, x_unit: str) -> Part | Absent:
    clocks = [_minutes(run) if x_unit == "minute" else None for run in runs]
    metrics = list(dict.fromkeys(run.metric for run in runs if run.evals))
    wanted = [(NAMES.get(key, (f"Held-out {key.replace('_', ' ')}", "")), key, "evals", False, False) for key in metrics]
    wanted += [
        ((title, unit), key, "steps", zero, log) for key, (title, unit, zero, log) in STEPS.items() if x_unit == "step" or key == "loss"
    ]
    drawn: list[tuple[Chart, str, dict[str, Any]]] = []
    for (name, unit), key, rows, from_zero, log in wanted:
        lines = [_series(run, called[i], i, getattr(run, rows), key, clocks[i]) for i, run in enumerate(runs)]
        series = [line for line in lines if line is not None]
        if series:
            spans = [value for line in series for value in line.y]
            chart = Chart(
                f"{id}-{len(drawn)}",
                name,
                unit,
                series,
                x_unit=x_unit,
                height=250,
                from_zero=from_zero,
                log=log and min(spans) > 0,
                points=rows == "evals",
            )
            drawn.append((chart, *draw(chart)))
    if not drawn:
        return Absent(title, f"the runs’ metrics.jsonl hold no step{' with a time' if x_unit == 'minute' else ''}.")
    note = band_note(data for _, _, data in drawn)
    body = f'<div class="grid2">{"".join(figure for _, figure, _ in drawn)}</div>' + (f'<p class="note">{note}</p>' if note else "")
    return Part(id, title, body, {chart.id: data for chart, _, data in drawn})


def _differences(runs: Sequence[Run], called: Sequence[str]) -> Part | Absent:
    if not any(run.recipe for run in runs):
        return Absent("What was different", "none of the runs has a recipe that can be read.")
    found = differences(runs)
    if not found:
        return Part(
            "recipes", "What was different", '<p class="say">Nothing: the recipes are the same in every value that decides a run.</p>'
        )
    rows = [
        (f"<code>{escape(key)}</code>", *("–" if value is None else f"<code>{escape(value)}</code>" for value in values))
        for key, values in found
    ]
    return Part("recipes", "What was different", table(("recipe key", *(escape(name) for name in called)), rows))
