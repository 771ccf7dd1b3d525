"""List the runs in a folder, the latest first.

quire runs

quire runs experiments --json
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ..progress import count
from .lines import parse
from .tables import show

if TYPE_CHECKING:
    from ..report.listing import Entry


@dataclass(frozen=True)
class Runs:
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="[FOLDER]", help_behavior_hint="")] = Path("runs")
    """Where the runs are."""
    json: bool = False
    """One JSON line a run."""


def run(argv: list[str]) -> int:
    options = parse(Runs, "runs", argv, __doc__)
    from ..report import listing

    found = listing.find(options.folder)
    if options.json:
        for entry in found:
            print(json.dumps(entry.json(), ensure_ascii=False))
        return 0
    if not found:
        print(f"There is no run in {options.folder}. Start one: quire quickstart")
        return 0
    show(("run", "state", "step", "parameters", "best", "minutes", "started"), [_row(entry) for entry in found], numbers={2, 3, 4, 5})
    damaged = [entry for entry in found if entry.damaged]
    for entry in damaged:
        print(f"{entry.name}: {entry.damaged}")
    return 0


def _row(entry: Entry) -> tuple[str, ...]:
    step = "" if entry.step is None else f"{entry.step:,}" + (f" of {entry.steps:,}" if entry.steps and entry.steps != entry.step else "")
    best = "" if entry.value is None else f"{entry.value:.3f} {(entry.metric or '').replace('_', ' ')}"
    return (
        entry.name,
        entry.state,
        step,
        "" if entry.parameters is None else count(entry.parameters),
        best,
        "" if entry.minutes is None else f"{entry.minutes:.1f}",
        (entry.started or "")[:16].replace("T", " "),
    )
