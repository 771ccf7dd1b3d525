"""The figures of a supervised run with their intervals, on the test rows and those held out, and where guessing would have stood."""

from __future__ import annotations

from .folder import Run
from .outcome import part_of
from .page import Absent, Part, escape, grouped, table
from .supervised import FIGURES, Split, base, between, called, commonest, metric, say, splits, task

_FROM_ZERO_TO_ONE = {"mrr@10", "ndcg@10", "spearman", "pearson"}


def part(run: Run) -> Part | Absent:
    title = "What came out"
    found = splits(run)
    if not found:
        return Absent(title, "evaluation.json was not written, or the run measured on no rows.")
    first = metric(run)
    names = list(dict.fromkeys([*(name for split in found for name in split.figures if name == first), *FIGURES]))
    names += [name for split in found for name in split.figures if name not in names]
    names = [name for name in dict.fromkeys(names) if any(name in split.figures for split in found)]
    before = {name: value for name in names if (value := base(run, name)) is not None}
    head = [
        "",
        '<span class="ends"><i>0</i><i>1</i></span>',
        *(f"{split.called}, {grouped(split.rows)} rows" for split in found),
        *(["held-out, before"] if before else []),
    ]
    rows = []
    for name in names:
        said = f"<b>{escape(called(name, task(run)))}</b>" if name == first else escape(called(name, task(run)))
        cells = [_cell(split, name) for split in found]
        rows.append((said, _strip(found, name), *cells, *([say(name, before[name]) if name in before else "–"] if before else [])))
    return Part("measured", title, f'<div class="measured">{table(head, rows, numbers=range(2, len(head)))}</div>{_notes(run, found)}')


def _cell(split: Split, name: str) -> str:
    if name not in split.figures:
        return "–"
    interval = split.intervals.get(name)
    return say(name, split.figures[name]) + (f"<small>{between(name, interval)}</small>" if interval else "")


def _strip(found: list[Split], name: str) -> str:
    """A strip from 0 to 1 (or 100) with a mark and a whisker for every set of rows; nothing for a figure without such ends."""
    unit = 100.0 if name == "bleu" else 1.0
    if not (FIGURES.get(name, ("", False))[1] or name in _FROM_ZERO_TO_ONE or name == "bleu"):
        return ""

    def at(value: float) -> float:
        return 100 * min(max(value / unit, 0.0), 1.0)

    marks = []
    for split in reversed(found):
        if name not in split.figures:
            continue
        kind = "c0" if split is found[0] else "c1"
        interval = split.intervals.get(name)
        if interval:
            left, right = at(interval.low), at(interval.high)
            marks.append(f'<i class="{kind}" style="left:{left:.2f}%;width:{right - left:.2f}%"></i>')
        marks.append(f'<b class="{kind}" style="left:{at(split.figures[name]):.2f}%"></b>')
    guess = commonest(found[0]) if name == "accuracy" else None
    if guess:
        marks.append(f'<u style="left:{at(guess[1]):.2f}%" title="always saying {escape(guess[0])}"></u>')
    return f'<span class="strip" aria-hidden="true">{"".join(marks)}</span>'


def _notes(run: Run, found: list[Split]) -> str:
    level = next((interval.level for split in found for interval in split.intervals.values()), None)
    said = []
    if level is not None:
        said.append(
            f"Small figures and bars: the {100 * level:.0f} % interval, by drawing the rows again (bootstrap). It says how far the figure "
            "would move with other rows of the same kind, and nothing of rows of another kind."
        )
    if len(found) > 1 and part_of(run, "train", "keep") == "best":
        said.append("The held-out rows decided which weights were kept, so the test rows are the ones to quote.")
    guess = commonest(found[0])
    if guess:
        said.append(f"The thin line: always saying <code>{escape(guess[0])}</code>, {say('accuracy', guess[1])}.")
    return f'<p class="note">{" ".join(said)}</p>' if said else ""
