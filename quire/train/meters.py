"""What a run reports of itself: `metrics.jsonl` first, and anything that listens beside it.

The run folder's own lines are the record; TensorBoard, MLflow and W&B hang on one small protocol and get the same numbers. A resumed run
drops the lines that lie beyond its checkpoint before it goes on, so that the series is that of a run which was never stopped.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from .. import durable
from ..errors import ExtraError, RecipeError

Row = dict[str, Any]
LINES = ("metrics.jsonl", "samples.jsonl", "surprise.jsonl")


class Observer(Protocol):
    """Whatever wants to see a run while it happens. The dictionaries are the lines of the run folder.

    One that has `on_pause(doing: str)` is told what is done while no step is taken ("evaluating"), and "" when that is over.
    """

    def on_step(self, row: Row) -> None: ...
    def on_eval(self, row: Row) -> None: ...
    def on_sample(self, row: Row) -> None: ...


class Tracker(Protocol):
    """A service or program that keeps experiments."""

    def start(self, folder: Path, recipe: Row, step: int) -> None: ...
    def log(self, step: int, numbers: dict[str, float]) -> None: ...
    def finish(self) -> None: ...


class Meters:
    """Writes the run's lines and hands them on to observers and trackers."""

    def __init__(self, folder: Path, observers: Sequence[Observer] = (), trackers: Sequence[Tracker] = ()) -> None:
        self.folder, self.observers, self.trackers = folder, list(observers), list(trackers)

    def start(self, recipe: Row, step: int) -> None:
        for tracker in self.trackers:
            tracker.start(self.folder, recipe, step)

    def step(self, row: Row) -> None:
        self._write("metrics.jsonl", {"kind": "step", **row})
        for observer in self.observers:
            observer.on_step(row)
        self._track("train", row)

    def eval(self, row: Row) -> None:
        self._write("metrics.jsonl", {"kind": "eval", **row})
        for observer in self.observers:
            observer.on_eval(row)
        self._track("eval", row)

    @contextmanager
    def pause(self, doing: str) -> Iterator[None]:
        """Around work during which no step is taken."""
        told = [observer.on_pause for observer in self.observers if hasattr(observer, "on_pause")]
        for tell in told:
            tell(doing)
        try:
            yield
        finally:
            for tell in told:
                tell("")

    def sample(self, row: Row) -> None:
        self._write("samples.jsonl", row)
        for observer in self.observers:
            observer.on_sample(row)

    def surprise(self, row: Row) -> None:
        self._write("surprise.jsonl", row)

    def event(self, step: int, what: str, detail: str = "") -> None:
        self._write("metrics.jsonl", {"kind": "event", "step": step, "what": what, "detail": detail})

    def finish(self) -> None:
        for tracker in self.trackers:
            tracker.finish()

    def _write(self, name: str, row: Row) -> None:
        durable.append_line(self.folder / name, finite(row))

    def _track(self, group: str, row: Row) -> None:
        numbers = {f"{group}/{key}": float(value) for key, value in row.items() if key != "step" and isinstance(value, int | float)}
        for tracker in self.trackers:
            tracker.log(int(row["step"]), numbers)


def finite(value: Any) -> Any:
    """`value` with what JSON has no word for (infinities, not-a-number) as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value


def rewind(folder: Path, step: int, owed: Sequence[str] = ()) -> None:
    """Drops every line of the run that was written after `step`, and a last line that a kill left unfinished; at 0 it begins anew.

    owed: kinds of lines ("eval", "sample") of `step` itself that will be made again.
    """
    for name in LINES:
        path = folder / name
        if path.exists():
            import json

            kind = {"samples.jsonl": "sample", "surprise.jsonl": "eval"}.get(name)
            rows = [
                row
                for row in durable.read_lines(path)
                if step and (row["step"] < step or (row["step"] == step and (kind or row["kind"]) not in owed))
            ]
            durable.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


class TensorBoard:
    """Event files under RUN/tensorboard."""

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ExtraError("tensorboard", "tensorboard", "log.hooks = ['tensorboard']") from None
        self._kind, self._writer = SummaryWriter, None

    def start(self, folder: Path, recipe: Row, step: int) -> None:
        self._writer = self._kind(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, step: int, numbers: dict[str, float]) -> None:
        assert self._writer is not None
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def finish(self) -> None:
        if self._writer is not None:
            self._writer.close()


class MLflow:
    """An MLflow run: at MLFLOW_TRACKING_URI where that is set, else in files under RUN/mlflow."""

    def __init__(self) -> None:
        try:
            import mlflow
        except ImportError:
            raise ExtraError("mlflow", "mlflow", "log.hooks = ['mlflow']") from None
        self._mlflow = mlflow

    def start(self, folder: Path, recipe: Row, step: int) -> None:
        if "MLFLOW_TRACKING_URI" not in os.environ:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # its database store is not part of mlflow-skinny
            self._mlflow.set_tracking_uri((folder / "mlflow").absolute().as_uri())
        self._mlflow.start_run(run_name=folder.name)
        self._mlflow.log_params(flat(recipe))

    def log(self, step: int, numbers: dict[str, float]) -> None:
        self._mlflow.log_metrics({name: value for name, value in numbers.items() if math.isfinite(value)}, step=step)

    def finish(self) -> None:
        self._mlflow.end_run()


class WandB:
    """A Weights & Biases run. Offline (in the run folder) unless WANDB_MODE says otherwise: training opens no connection by itself."""

    def __init__(self) -> None:
        try:
            import wandb
        except ImportError:
            raise ExtraError("wandb", "wandb", "log.hooks = ['wandb']") from None
        self._wandb, self._run = wandb, None

    def start(self, folder: Path, recipe: Row, step: int) -> None:
        mode = os.environ.get("WANDB_MODE", "offline")
        self._run = self._wandb.init(project="quire", name=folder.name, dir=str(folder), mode=mode, config=flat(recipe))

    def log(self, step: int, numbers: dict[str, float]) -> None:
        assert self._run is not None
        self._run.log(numbers, step=step)

    def finish(self) -> None:
        if self._run is not None:
            self._run.finish()


TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}


def trackers(names: Sequence[str]) -> list[Tracker]:
    """The trackers that a recipe names. Raises ExtraError with the install command for one whose package is missing."""
    unknown = [name for name in names if name not in TRACKERS]
    if unknown:
        raise RecipeError(f"log.hooks = {list(names)}: {unknown[0]!r} is not one of {', '.join(TRACKERS)}")
    return [TRACKERS[name]() for name in names]


def flat(recipe: Row, prefix: str = "") -> dict[str, Any]:
    """{'train': {'steps': 5}} -> {'train.steps': 5}."""
    out: dict[str, Any] = {}
    for key, value in recipe.items():
        if isinstance(value, dict):
            out.update(flat(value, f"{prefix}{key}."))
        else:
            out[prefix + key] = list(value) if isinstance(value, tuple) else value
    return out
