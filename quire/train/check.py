"""May this gradient touch the weights? The facts of every step are looked at before it does.

A loss or gradient that is not a number, or a gradient norm far outside what the run has seen, skips the update: the rows are used up, the
weights and moments stay as they were, and it is counted. Too many in a row stop the run with the weights still whole.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from ..errors import TrainingError
from .parallel import LossScale
from .recipe import TrainPart, TrainRecipe

_SETTLED = 20  # good steps before a norm can be called unusual
_MEMORY = 0.95  # of the running norm


class Health:
    """`judge` says why a step must not be applied, or '' when it may."""

    def __init__(self, part: TrainPart) -> None:
        self.max_bad, self.spike = part.max_bad, part.spike
        self.norm = 0.0  # running mean of the gradient norm of applied steps
        self.applied = self.in_a_row = self.skipped = 0

    def judge(self, step: int, loss: float, norm: float, scale: LossScale) -> str:
        """Raises TrainingError after more than `max_bad` skipped steps in a row."""
        if math.isfinite(loss) and math.isfinite(norm):
            if not (self.spike and self.applied >= _SETTLED and norm > self.spike * self.norm):
                self.norm = norm if not self.applied else _MEMORY * self.norm + (1 - _MEMORY) * norm
                self.applied, self.in_a_row = self.applied + 1, 0
                return ""
            reason = f"the gradient norm {norm:.3g} is over {self.spike:g} times its running mean of {self.norm:.3g}"
        else:
            reason = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient norm is {norm}"
            if math.isfinite(loss) and scale.overflowed():
                self.skipped += 1
                return f"fp16 overflow: the loss scale is now {scale.value:g}"
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        if self.in_a_row > self.max_bad:
            raise TrainingError(
                f"training has diverged at step {step}: {reason}, and so on for {self.in_a_row} steps in a row (train.max_bad allows "
                f"{self.max_bad}). None of them touched the weights. Lower optim.lr, raise optim.warmup, or look at the data."
            )
        return reason

    def state(self) -> dict[str, Any]:
        return {"norm": self.norm, "applied": self.applied, "in_a_row": self.in_a_row, "skipped": self.skipped}

    def load_state(self, state: dict[str, Any]) -> None:
        self.norm, self.applied = float(state["norm"]), int(state["applied"])
        self.in_a_row, self.skipped = int(state["in_a_row"]), int(state["skipped"])


class NoMemory(TrainingError):
    """A step did not fit into memory. The weights are those of the step before it."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's own, a GPU's, or that of torch's allocator, which has no type of its own."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def what_would_fit(recipe: TrainRecipe, step: int, rows: int, splittable: bool) -> str:
    """For a step that did not fit with `rows` rows a forward: what takes less memory, the cheapest first."""
    ways = []
    if rows > 1 and splittable:
        ways.append(f"train.micro_batch = {rows // 2} (the same step in more parts)")
    if not recipe.train.checkpointing:
        ways.append("train.checkpointing = true (about a third slower)")
    here = f" Set one in {recipe.out}/recipe.toml and go on: quire resume {recipe.out}." if ways else ""
    smaller = {"full": "adapt.method = 'lora' or 'qlora'", "lora": "adapt.method = 'qlora'"}.get(recipe.adapt.method, "a smaller model")
    smaller = smaller if recipe.model.start else "a smaller model"
    return (
        f"memory ran out in step {step}, with {rows} rows at a time; all before it is saved. Less is needed with "
        f"{' or '.join(ways) or 'shorter rows'}.{here} A new run can take less with {smaller}, or shorter rows."
    )


def refuse_untrained(step: int, weights: dict[str, int]) -> None:
    """Raises TrainingError when a step has nothing to learn from; its loss would read 0.0 and mean nothing."""
    if not any(weights.values()):
        counted = ", ".join(f"{name}: 0" for name in weights) or "no loss term at all"
        raise TrainingError(
            f"step {step} has no trained token ({counted}): every label is masked. Check the task's mask rate, the data, and the loss mask."
        )


class Patience:
    """Early stopping and the best evaluation so far.

    Of evaluations with equal figures (an F1 of 0 at first, an accuracy of few rows) the one with the lower held-out loss is the best: it
    has learned more. Patience waits for a better figure all the same.
    """

    def __init__(self, metric: str, better: str, patience: int) -> None:
        self.metric, self.lower, self.patience = metric, better == "lower", patience
        self.best: dict[str, Any] = {}
        self.since = 0

    def see(self, step: int, figures: dict[str, float]) -> bool:
        """Takes an evaluation; True when it is the best so far."""
        value, loss = figures.get(self.metric, math.nan), figures.get("loss", math.nan)
        better = math.isfinite(value) and (not self.best or (value < self.best["value"] if self.lower else value > self.best["value"]))
        level = bool(self.best) and value == self.best["value"] and loss < self.best.get("loss", math.inf)
        self.since = 0 if better else self.since + 1
        if better or level:
            self.best = {"metric": self.metric, "value": value, "step": step} | ({"loss": loss} if math.isfinite(loss) else {})
        return better or level

    @property
    def over(self) -> bool:
        return bool(self.patience) and self.since >= self.patience

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "since": self.since}

    def load_state(self, state: dict[str, Any]) -> None:
        self.best, self.since = dict(state["best"]), int(state["since"])
