"""What a sitting needs of a run, whatever it learns from: running text (`prepare`) or rows (`tuning`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from ..nn.batch import Batch
from ..nn.transformer import Transformer
from ..tasks.task import Objective
from .folder import RunFolder
from .meters import Row
from .recipe import TrainPart, TrainRecipe


class Data(Protocol):
    """Where a run's batches come from (`data.batches.Loader` and `data.grouped.ExampleLoader` are)."""

    @property
    def tokens_per_step(self) -> int:
        """Of the batch that was given last, or of a usual one."""

    @property
    def tokens_per_epoch(self) -> int: ...
    def next(self) -> Batch: ...
    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: dict[str, Any]) -> None: ...


class Watcher(Protocol):
    """What is looked at while a model learns, besides its loss."""

    @property
    def before(self) -> bool:
        """Do the figures of the model that training begins with mean something?"""

    @property
    def measures(self) -> bool:
        """Is anything held out?"""

    @property
    def writes(self) -> bool:
        """Are there samples to be written?"""

    def evaluate(self, model: Transformer) -> dict[str, Any]:
        """Held-out figures with "metric" and "direction"; {} when nothing was held out."""

    def surprise(self, model: Transformer) -> Row | None: ...
    def sample(self, model: Transformer) -> list[Row]: ...
    def told(self) -> None: ...


class Parts(Protocol):
    """Everything that a run reads, its model with the first weights, and how it ends."""

    @property
    def task(self) -> Objective: ...
    @property
    def objective(self) -> Objective:
        """What is minimised: the task's own loss, or that and a teacher's (`tasks.tuning.distil`)."""

    @property
    def loader(self) -> Data: ...
    @property
    def model(self) -> Transformer: ...
    @property
    def corpus(self) -> str:
        """A hash of what is learned from."""

    @property
    def row_tokens(self) -> int:
        """Tokens of the longest row of a batch."""

    @property
    def base(self) -> str:
        """The id of the binding of the model that training begins from; "" for first weights of a seed."""

    def steps(self, part: TrainPart) -> int:
        """Steps of a budget in tokens or epochs; 0 for minutes, which must be measured."""

    def watch(self, recipe: TrainRecipe) -> Watcher: ...
    def evaluate(self, model: Transformer, run: RunFolder) -> dict[str, Any]:
        """The held-out figures that are quoted."""

    def write(self, path: Path, model: Transformer, lineage: dict[str, Any]) -> Path | None:
        """Writes the model folder that leaves the house, with its contract and binding, and returns it; None where there is an adapter
        alone."""
