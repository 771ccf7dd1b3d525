"""Trains a tiny run whose evaluations take long; prints a line when one has begun. `test_stopped.py` starts it and sends the signal.

    python tests/train/stopped.py RECIPE.toml SECONDS

SECONDS: how long every batch of a held-out evaluation lasts, so that a signal surely falls into one. Exit code: 0 finished, 3 stopped.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from quire import recipe as recipes
from quire.nn.transformer import Transformer
from quire.train.recipe import TrainRecipe
from quire.train.run import resume, train


def main(recipe_file: str, seconds: float) -> int:
    recipe = recipes.load(TrainRecipe, recipe_file)
    forward = Transformer.forward

    def slow(self: Transformer, *args: object, **ways: object) -> object:
        if torch.is_inference_mode_enabled() and seconds:  # the checks of the first steps are no evaluation
            print("evaluating", flush=True)
            time.sleep(seconds)
        return forward(self, *args, **ways)  # type: ignore[arg-type]

    Transformer.forward = slow  # type: ignore[method-assign, assignment]
    result = resume(recipe.out) if (Path(recipe.out) / "recipe.toml").exists() else train(recipe)
    print(result.outcome.state, result.outcome.step, flush=True)
    return 0 if result.outcome.state == "finished" else 3


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], float(sys.argv[2])))
