"""Thirty SIGKILLs at random moments: every run that was killed and resumed comes to the bits of the one that was not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from quire import recipe as recipes
from quire.train.recipe import TrainRecipe


@pytest.mark.timeout(180)
def test_thirty_kills_and_the_same_bits(tiny: Callable[..., TrainRecipe], tmp_path: Path) -> None:
    recipe = tiny(**{"train.steps": 24, "train.save_every": 3, "train.eval_every": 8, "train.micro_batch": 2})
    recipe = recipes.replace(recipes.replace(recipe, "optim.name", "muon"), "model.dropout", 0.1)
    recipes.save(recipe, tmp_path / "recipe.toml")
    program = Path(__file__).with_name("killed.py")
    root = program.parent.parent.parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, str(program), str(tmp_path / "recipe.toml"), str(tmp_path), "30", "7"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert "error" not in found, (found, done.stderr)
    assert found["kills"] == 30 and found["wrong"] == [], found
