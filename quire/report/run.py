"""A run's report: one self-contained HTML page, from the run folder's files alone.

`write` works at any moment: while the run goes on, after it was killed, without its model. A part whose data is absent is absent from the
page, and a list at the end says which and why; files that are damaged are named at the top.
"""

from __future__ import annotations

from pathlib import Path

from .. import durable
from . import (
    attention,
    checked,
    confusion,
    curves,
    facts,
    folder,
    measured,
    mistakes,
    outcome,
    plan,
    samples,
    scatter,
    supervised,
    surprise,
    written,
)
from .folder import Run, number
from .page import Absent, Page, Part, compact, escape, minutes, render

REPORT = "report.html"


def write(run_folder: Path | str) -> Path:
    """Writes `report.html` into the run folder and returns its path.

    Raises DataError when the folder is not a run, StorageError when it cannot be written.
    """
    run = folder.read(run_folder)
    path = run.path / REPORT
    durable.write_text(path, html(run))
    return path


def html(run: Run) -> str:
    if supervised.task(run):
        page = Page(run.name, "Quire run report", supervised.sentence(run), supervised.facts(run), run.problems)
        parts = _supervised(run)
    else:
        page = Page(run.name, "Quire run report", outcome.sentence(run), _facts(run), run.problems)
        parts = _pretrained(run)
    for part in parts:
        page.add(part)
    page.foot = _foot(run)
    return render(page)


def _supervised(run: Run) -> list[Part | Absent]:
    """What a run on rows is about; what its task does not have is no gap."""
    found = (
        measured.part(run),
        curves.part(run),
        confusion.part(run),
        mistakes.part(run),
        scatter.part(run),
        written.part(run),
        mistakes.worst(run),
        checked.part(run),
        plan.part(run),
        facts.events(run),
        facts.certificate(run),
        facts.environment(run),
        facts.recipe(run),
    )
    return [part for part in found if part is not None]


def _pretrained(run: Run) -> list[Part | Absent]:
    return [
        curves.part(run),
        outcome.part(run),
        samples.part(run),
        surprise.part(run),
        attention.part(run),
        plan.part(run),
        facts.events(run),
        facts.text(run),
        facts.tokenizer(run),
        facts.certificate(run),
        facts.environment(run),
        facts.recipe(run),
    ]


def _facts(run: Run) -> list[tuple[str, str, str]]:
    facts: list[tuple[str, str, str]] = []
    final = outcome.final_metric(run)
    if final:
        name = "held-out bits per byte" if final[0] == "bits_per_byte" else f"held-out {final[0].replace('_', ' ')}"
        facts.append((f"{final[1]:.3f}", "", name))
    for value, what in ((outcome.parameters(run), "parameters"), (outcome.tokens_seen(run), "tokens read")):
        if value:
            figure, _, unit = compact(value).partition(" ")
            facts.append((figure, unit, what))
    spent = outcome.actual_minutes(run)
    if spent:
        figure, _, unit = minutes(60 * spent).partition(" ")
        facts.append((figure, unit, "of training"))
    share = _last_share(run)
    if share is not None:
        facts.append((f"{100 * share:.0f}", "%", "of the last samples parse"))
    return facts


def _last_share(run: Run) -> float | None:
    """The accepted share at the last step that has one."""
    scored = [(int(row["step"]), value) for row in run.samples if (value := number(row.get("parses"))) is not None]
    if not scored:
        return None
    last = [value for step, value in scored if step == scored[-1][0]]
    return sum(last) / len(last)


def _foot(run: Run) -> str:
    started = run.status.get("started")
    when = f" The run was started {escape(started)}." if started else ""
    return f"Written by <code>quire report</code> from the run’s own files.{when} This page needs no network and holds no link to one."
