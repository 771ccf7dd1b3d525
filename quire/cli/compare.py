"""Two or more runs side by side: what their recipes differ in, their figures, and a page with their curves in one picture.

quire compare runs/a runs/b
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from .lines import parse
from .tables import show


@dataclass(frozen=True)
class Compare:
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN RUN ...")]
    """Two to eight run folders."""
    out: Path = Path("compare.html")
    """Where to write the page."""
    json: bool = False
    """Print the comparison as JSON; the page is written too."""


def run(argv: list[str]) -> int:
    options = parse(Compare, "compare", argv, __doc__)
    from ..report import compare, paired

    runs = compare.read(options.runs)
    names, different, figures, said = compare.names(runs), compare.differences(runs), compare.figures(runs), compare.warnings(runs)
    pairs = paired.paired(runs)
    path = compare.write(options.runs, options.out)
    if options.json:
        found = {figure.name: dict(zip(names, figure.values, strict=True)) for figure in figures}
        recipes = {key: dict(zip(names, values, strict=True)) for key, values in different}
        beside = [asdict(pair) | {"first": names[pair.first], "second": names[pair.second], "settled": pair.settled} for pair in pairs]
        ranges = {
            figure.name: {name: asdict(one) for name, one in zip(names, figure.intervals, strict=True) if one}
            for figure in figures
            if figure.intervals
        }
        whole = {"figures": found, "intervals": ranges, "paired": beside, "recipe": recipes, "warnings": said, "page": str(path)}
        print(json.dumps(whole, ensure_ascii=False, indent=2))
        return 0
    best = {(row, 1 + column) for row, figure in enumerate(figures) for column in figure.best()}
    columns = range(1, 1 + len(names))
    show(("", *names), [(f.name.replace("_", " "), *f.cells()) for f in figures], numbers=columns, strong=best)
    print()
    for pair in pairs:
        print(compare.told(pair, names))
    if pairs:
        print()
    if different:
        show(("recipe", *names), [(key, *("" if value is None else str(value) for value in values)) for key, values in different])
    else:
        print("The recipes are the same in every value that decides a run.")
    for warning in said:
        print(f"note: {warning}", file=sys.stderr)
    print(f"\n{path}")
    return 0
