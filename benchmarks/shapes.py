"""Which model learns most in a few minutes? The quickstart's run with one thing changed at a time, by held-out bits per byte.

    python -m benchmarks.shapes --minutes 2 "model.width=160" "optim.muon_lr=0.03 train.batch=16"

Every argument is one run: changes to the quickstart's recipe, separated by spaces; an empty one is the recipe as it is. Each trains for the
same minutes on the whole machine, one after the other, so wall time is what is compared. One seed each: differences under 0.01 mean little.
"""

from __future__ import annotations

import argparse
import datetime
import shutil
import sys
import tempfile
import time
from pathlib import Path

from quire import machine, recipe
from quire.cli.quickstart import Quickstart, recipe_for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0, help="of training, each")
    parser.add_argument("changes", nargs="*", default=[""])
    options = parser.parse_args(sys.argv[1:] if sys.argv[0].endswith("shapes.py") else [])
    from quire.train.run import train

    print(f"{datetime.date.today()}, {machine.processor()}, {machine.threads()} threads, {options.minutes:g} minutes of training each")
    print(f"{'bits/byte':>9} {'one stream':>10} {'parameters':>10} {'tokens':>11} {'tokens/s':>8} {'minutes':>7}  changed", flush=True)
    for change in options.changes:
        folder = Path(tempfile.mkdtemp())
        chosen = recipe_for(Quickstart(), folder / "run")
        chosen = recipe.replace(chosen, "train.minutes", options.minutes)
        for assignment in change.split():
            key, _, text = assignment.partition("=")
            old = recipe.get(chosen, key)
            chosen = recipe.replace(chosen, key, type(old)(text))
        began = time.monotonic()
        result = train(chosen)
        minutes = (time.monotonic() - began) / 60
        figures, plan = result.evaluation["bits_per_byte"], result.plan
        print(
            f"{figures['per_file']:9.4f} {figures['one_stream']:10.4f} {plan.parameters:10,} {plan.tokens:11,} "
            f"{plan.tokens_per_s or 0:8,.0f} {minutes:7.1f}  {change or 'nothing'}",
            flush=True,
        )
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
