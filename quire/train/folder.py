"""The run folder: every path of it, its lock, and the few files that say what a run is and how far it has come.

recipe.toml      fully resolved; what was measured (steps, compile) is frozen into it before the first step
plan.json        parameters, memory, tokens and time as planned
environment.json what the bits depend on: versions, processor, threads
status.json      running, finished, stopped or failed, at which step
metrics.jsonl samples.jsonl surprise.jsonl evaluation.json data/ tokenizer/ checkpoints/ model/
"""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from .. import durable, machine, recipe
from ..errors import CheckpointError, RecipeError, StorageError
from .recipe import TrainRecipe

# What the last bit of a sum depends on. A resume compares these; another value of one needs --inexact.
EXACT = ("torch", "processor", "torch_instruction_set", "instruction_sets", "threads", "gpu")


class RunFolder:
    """`create` for a new run, `open` for one that is there. Neither takes the lock: hold `lock()` around any writing."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.started = ""

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.toml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @classmethod
    def fresh(cls, path: Path | str) -> RunFolder:
        """A folder for a new run. Raises RecipeError when a run, or anything else, is in it already."""
        run = cls(path)
        if run.recipe.exists():
            raise RecipeError(
                f"{path} holds a run already. Go on with it: quire resume {path}. Or give the new run a folder of its own with --out."
            )
        if run.path.is_dir() and any(inside.name != "LOCK" for inside in run.path.iterdir()):
            raise RecipeError(f"{path} is not empty and holds no run; choose another folder with --out")
        if run.path.exists() and not run.path.is_dir():
            raise StorageError(f"{path} is a file; choose another folder with --out")
        durable.make_folder(run.path)
        return run

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """The folder of a run that was started. Raises CheckpointError when there is none."""
        run = cls(path)
        if not run.recipe.is_file():
            raise CheckpointError(f"{path} holds no run: there is no recipe.toml in it. Give the folder that `quire train` printed.")
        run.started = str(run._json("status.json").get("started", ""))
        return run

    def lock(self) -> AbstractContextManager[None]:
        return durable.lock(self.path)

    def sweep(self) -> None:
        """Clears what a kill left half-written. Call it under the lock."""
        for folder in (self.path, self.checkpoints, self.data, self.tokenizer, self.model, self.adapter):
            if folder.is_dir():
                durable.sweep(folder)

    def forget_unbegun(self) -> None:
        """Empties the folder of a run that failed before its plan was made, so that a mended recipe can take its place."""
        if (self.path / "plan.json").exists():
            return
        for path in (
            self.recipe,
            *(self.path / name for name in ("data.json", "adapt.json", "teacher.json", "tokenizer_report.json", "environment.json")),
        ):
            path.unlink(missing_ok=True)
        for folder in (self.data, self.tokenizer, self.path / "start"):
            shutil.rmtree(folder, ignore_errors=True)

    def leave(self, made: bool) -> None:
        """Removes the lock of a run that never began, and with it the folder where it was `made` for the run and nothing is in it."""
        if any(inside.name != "LOCK" for inside in self.path.iterdir()):
            return
        (self.path / "LOCK").unlink(missing_ok=True)
        if made:
            with contextlib.suppress(OSError):  # somebody put something there
                self.path.rmdir()

    def read_recipe(self) -> TrainRecipe:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", recipe.RecipeWarning)  # was said when the run began
            return recipe.load(TrainRecipe, self.recipe)

    def write_recipe(self, value: TrainRecipe) -> None:
        recipe.save(value, self.recipe)

    def write(self, name: str, value: dict[str, Any]) -> None:
        durable.write_json(self.path / name, value)

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file of the run, {} when it is absent."""
        return self._json(name)

    def _json(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.path / name} cannot be read ({error}). Restore it from a copy, or remove it.") from error
        return value if isinstance(value, dict) else {}

    def status(self, state: str, step: int, steps: int, best: dict[str, Any], seconds: float) -> None:
        if not self.started:
            self.started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        row = {"state": state, "step": step, "steps": steps, "best": best, "started": self.started, "seconds": round(seconds, 3)}
        self.write("status.json", row)


def differences(then: dict[str, Any]) -> list[str]:
    """What of this machine is not as it was when a checkpoint was made, in words; empty when the same bits can be expected."""
    now = machine.environment()
    return [f"{name} was {then.get(name)!r} and is {now.get(name)!r}" for name in EXACT if then.get(name) != now.get(name)]
