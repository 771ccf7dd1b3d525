"""A signal during an evaluation ends it after the batch under way; the run that goes on makes it again: the same bits, the same lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from quire import recipe as recipes
from quire.train import meters, state
from quire.train.recipe import TrainRecipe
from tests.train.killed import hashes, series

_BATCH = 3.0  # seconds of a batch of the slowed evaluation, which has several


def sitting(recipe: Path, seconds: float, stop: int = 0) -> tuple[int, str, float]:
    """(exit code, what was printed, seconds from the signal to the end). stop: the signal that is sent once an evaluation has begun."""
    root = Path(__file__).parent.parent.parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, str(Path(__file__).with_name("stopped.py")), str(recipe), str(seconds)]
    errors = recipe.with_suffix(".log")
    with errors.open("w") as log, subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as child:
        assert child.stdout is not None
        said, sent = "", time.monotonic()
        for line in child.stdout:
            if stop and not said:
                child.send_signal(stop)
                sent = time.monotonic()
            said += line
        code = child.wait()
    assert code in (0, 3), errors.read_text()
    return code, said, time.monotonic() - sent


@pytest.mark.timeout(240)
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_evaluation_is_broken_off_and_made_again(tiny: Callable[..., TrainRecipe], tmp_path: Path, stop: int) -> None:
    """eval_every 3 of 8 steps, so that the step which is evaluated is no step that is saved."""
    made = tiny(**{"train.steps": 6, "train.eval_every": 3, "train.save_every": 4, "train.eval_tokens": 0, "train.keep_last": 9})
    made = recipes.replace(made, "log.prompts", ("def f",))
    recipes.save(recipes.replace(made, "out", str(tmp_path / "straight")), tmp_path / "straight.toml")
    recipes.save(recipes.replace(made, "out", str(tmp_path / "stopped")), tmp_path / "stopped.toml")
    assert sitting(tmp_path / "straight.toml", 0.0)[0] == 0
    code, said, _ = sitting(tmp_path / "stopped.toml", _BATCH, stop)
    assert code == 3 and said == "evaluating\nstopped 3\n", said  # one batch of several, and not one more
    folder = tmp_path / "stopped"
    saved = state.open_at(folder / "checkpoints", 3)
    assert saved.facts["owed"] == ["eval", "sample"] and json.loads((folder / "status.json").read_text())["state"] == "stopped"
    assert not any(kind == "eval" for kind, _, _ in series(folder))

    assert sitting(tmp_path / "stopped.toml", 0.0)[:2] == (0, "finished 6\n")
    assert hashes(folder) == hashes(tmp_path / "straight") and series(folder) == series(tmp_path / "straight")
    for file in ("samples.jsonl", "surprise.jsonl"):
        assert (folder / file).read_text() == (tmp_path / "straight" / file).read_text()
    assert state.open_at(folder / "checkpoints", 6).facts["owed"] == []


@pytest.mark.timeout(240)
def test_the_last_evaluation_of_all_is_broken_off_too(tiny: Callable[..., TrainRecipe], tmp_path: Path) -> None:
    """Nothing is due but the evaluation of what is kept, which comes after the last step."""
    made = tiny(**{"train.steps": 2, "train.eval_every": 0, "train.eval_tokens": 0, "out": str(tmp_path / "run")})
    recipes.save(recipes.replace(recipes.replace(made, "train.eval_every", 9), "train.sample_every", 9), tmp_path / "run.toml")
    code, said, _ = sitting(tmp_path / "run.toml", _BATCH, signal.SIGINT)
    assert (code, said.splitlines()[-1]) == (3, "stopped 2") and not (tmp_path / "run" / "model").exists()
    assert sitting(tmp_path / "run.toml", 0.0)[:2] == (0, "finished 2\n")


def test_lines_that_will_be_made_again_are_dropped(tmp_path: Path) -> None:
    rows = [{"kind": "step", "step": 2}, {"kind": "step", "step": 3}, {"kind": "eval", "step": 3}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "samples.jsonl").write_text('{"step": 3}\n')
    meters.rewind(tmp_path, 3, ["eval"])
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2 and (tmp_path / "samples.jsonl").read_text()
    meters.rewind(tmp_path, 3, ["eval", "sample"])
    assert not (tmp_path / "samples.jsonl").read_text()
