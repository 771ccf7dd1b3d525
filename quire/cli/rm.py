"""Remove a model or a data set from the hub's cache: all of it, or one revision. Files that another revision uses stay.

quire rm HuggingFaceTB/SmolLM2-135M-Instruct

quire rm ORG/NAME@1d2e3f4 --yes

quire rm ORG/ROWS --dataset
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from ..errors import RecipeError
from ..progress import count
from .lines import parse


@dataclass(frozen=True)
class Rm:
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """ORG/NAME, or ORG/NAME@REVISION for one revision of it."""
    dataset: bool = False
    """It is a data set."""
    yes: bool = False
    """Do not ask."""


def run(argv: list[str]) -> int:
    options = parse(Rm, "rm", argv, __doc__)
    from .. import hub
    from ..hub.cache import chosen

    name = hub.Name.parse(options.name, "dataset" if options.dataset else "model")
    for entry in chosen(name):
        print(f"  {entry.spelled if entry.commit else entry.name}  {entry.commit[:12] or 'not whole'}  {count(entry.bytes)}B")
    if not options.yes:
        if not sys.stdin.isatty():
            raise RecipeError(f"to remove {name} without being asked, add --yes")
        if input("Remove it? [y/N] ").strip().lower() not in ("y", "yes"):
            print("Nothing was removed.")
            return 0
    print(f"{count(hub.remove(name))}B freed")
    return 0
