"""Trains a tiny run again and again, killing it at random moments; prints what came of it as JSON. `test_killed.py` starts it.

    python tests/train/killed.py RECIPE.toml FOLDER KILLS SEED

torch is imported once: each sitting is a fork of this process, which itself computes nothing.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

from quire import recipe as recipes
from quire.durable import sha256_file
from quire.train.recipe import TrainRecipe
from quire.train.run import resume, train


def sitting(recipe: TrainRecipe, folder: Path) -> None:
    """Begins the run, or goes on with it."""
    if (folder / "recipe.toml").exists():
        resume(folder)
    else:
        train(recipes.replace(recipe, "out", str(folder)))


def fork(recipe: TrainRecipe, folder: Path) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            warnings.simplefilter("error")
            sitting(recipe, folder)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def ended(child: int, seconds: float) -> int | None:
    """The exit code, or None when it still runs after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def hashes(folder: Path) -> dict[str, str]:
    last = sorted((folder / "checkpoints").glob("step-*"))[-1]
    files = [last / "weights.safetensors", last / "optimizer.safetensors", folder / "model" / "model.safetensors"]
    return {str(path.relative_to(folder)): sha256_file(path) for path in files}


def series(folder: Path) -> list[tuple[str, int, float]]:
    """Losses of steps and evaluations, in the order of the file."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["kind"], row["step"], row["loss"]) for row in rows if row["kind"] != "event"]


def main(recipe_file: str, place: str, kills: int, seed: int) -> dict[str, object]:
    recipe, folder, draw = recipes.load(TrainRecipe, recipe_file), Path(place), random.Random(seed)
    straight = fork(recipe, folder / "straight")
    start = time.monotonic()
    assert ended(straight, 60) == 0, "the straight run failed"
    whole = time.monotonic() - start
    done, runs, sittings, wrong = 0, 0, 0, []
    while done < kills:
        runs += 1
        target = folder / f"killed{runs}"
        while True:
            sittings += 1
            child = fork(recipe, target)
            # Half of the kills fall anywhere in a sitting, half early, where folders are made and data is written.
            code = ended(child, draw.uniform(0, whole * draw.choice((0.25, 1.0))) if done < kills else 60)
            if code is None:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                done += 1
            elif code == 0:
                break
            else:
                return {"error": f"sitting {sittings} of {target.name} ended with {code}"}
        if hashes(target) != hashes(folder / "straight") or series(target) != series(folder / "straight"):
            wrong.append(target.name)
    return {"kills": done, "runs": runs, "sittings": sittings, "wrong": wrong, "seconds": round(whole, 2)}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
