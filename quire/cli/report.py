"""Write a run's report as one HTML page, and its model card; works while the run goes on, and after it was killed.

quire report runs/quickstart
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from .lines import parse


@dataclass(frozen=True)
class Report:
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder."""
    card: bool = True
    """Also write MODEL_CARD.md, and README.md into the model folder."""
    json: bool = False
    """Print the paths as JSON."""


def run(argv: list[str]) -> int:
    options = parse(Report, "report", argv, __doc__)
    from ..report import card
    from ..report import run as report

    written = [report.write(options.run)]
    if options.card:
        kept = [path for path in card.paths(options.run) if card.edited(path)]
        card.write(options.run)
        written += [path for path in card.paths(options.run) if path not in kept]
        for path in kept:
            print(f"{path} was edited and stays as it is; remove it to have it written again", file=sys.stderr)
    print(json.dumps([str(path) for path in written]) if options.json else "\n".join(map(str, written)))
    return 0
