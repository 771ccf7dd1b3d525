"""The one loop. Read `fit` and `learn` from top to bottom; everything else here serves them.

A step takes the rows of one optimizer step, splits them into micro-batches, and divides every loss term by its weight over the whole
window, counted before the first forward: 1 x 8 rows give the gradient of 8 x 1. The gradient is looked at before it may touch a weight.
Three hooks follow a step: evaluation, sampling and saving. All randomness of a step comes from (seed, step), so a checkpoint needs no
generator's state and nothing outside can disturb it.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from .. import machine
from ..errors import CheckpointError, RecipeError, TrainingError
from ..nn.batch import Batch
from ..nn.transformer import Transformer
from ..tasks.task import Objective
from . import state
from .check import Health, NoMemory, Patience, out_of_memory, refuse_untrained, what_would_fit
from .facts import LOOKED_AT, FirstSteps
from .folder import RunFolder
from .meters import Meters, Row
from .optimizer import Optimizer, schedule
from .parallel import Compute, LossScale, global_norm, scale_all
from .parts import Data, Watcher
from .recipe import TrainRecipe

_NEAR_THE_CACHE = 4096  # tokens a forward: many more make no step faster on a CPU, and each keeps its activations


@dataclass(frozen=True)
class Outcome:
    """How a run ended: finished, stopped (and why), at which step, with which best evaluation."""

    state: str
    step: int
    steps: int
    why: str = ""
    signal: int = 0
    best: dict[str, Any] = field(default_factory=dict)


@dataclass
class Every:
    """After how many steps each hook runs; 0: never."""

    eval: int
    sample: int
    save: int


class Trainer:
    """Trains `model` for `recipe.train.steps` steps, from wherever `restore` has put it."""

    def __init__(
        self,
        run: RunFolder,
        recipe: TrainRecipe,
        model: Transformer,
        task: Objective,
        loader: Data,
        compute: Compute,
        meters: Meters,
        watch: Watcher | None = None,
        chunk: int = 0,
        base: str = "",
    ) -> None:
        """base: the binding of the model that training began from; a checkpoint is of it and of no other."""
        part = recipe.train
        self.run, self.task, self.loader, self.compute, self.meters, self.watch = run, task, loader, compute, meters, watch
        self.model = model.to(compute.device)
        self.model.checkpointing = part.checkpointing
        self.micro = part.micro_batch or part.batch
        if (self.micro < part.batch or part.micro_tokens) and not task.splittable:
            key, value = ("micro_batch", self.micro) if self.micro < part.batch else ("micro_tokens", part.micro_tokens)
            raise RecipeError(f"train.{key} = {value}: the loss of task '{task.name}' cannot be split; set it to 0")
        self.chunk, self.base = chunk, base
        unequal = task.supervised and task.splittable and compute.device.type == "cpu"
        self.micro_tokens = part.micro_tokens or (_NEAR_THE_CACHE if unequal else 0)
        self.optimizer = Optimizer(model, recipe.optim)
        self.scale, self.health = LossScale(compute.dtype), Health(part)
        self.patience = Patience(task.metric, task.better, part.patience)
        self.first: FirstSteps | None = None
        self.looked_at = 0  # applied steps that `first` has seen
        self.stop = Stop()
        self.step = self.tokens = 0
        self.seconds = 0.0  # of earlier sittings
        self.began = time.perf_counter()
        self.saved_at = -1
        self.owed: list[str] = []  # of "eval" and "sample": what is due at this step and not done
        self.settle(recipe)

    def settle(self, recipe: TrainRecipe) -> None:
        """Takes over a recipe whose steps are known now (`train.minutes` were measured)."""
        part = recipe.train
        self.recipe, self.steps = recipe, part.steps
        tenth = max(1, -(-self.steps // 10))
        self.every = Every(part.eval_every or tenth, part.sample_every or part.eval_every or tenth, part.save_every or tenth)

    def fit(self, stop_at: int = 0) -> Outcome:
        """Trains to the last step, or to `stop_at`, or until a signal or patience says so. Whatever the reason, the state is saved.

        Raises TrainingError when the run has diverged (its state is saved too) and StorageError when the disk takes no checkpoint.
        """
        end = min(self.steps, stop_at or self.steps)
        devices = [self.compute.device] if self.compute.device.type == "cuda" else []
        self.began = time.perf_counter()
        with self.stop.listening(), torch.random.fork_rng(devices):
            try:
                self.first = self._first_steps()
                if not self.step and self.recipe.model.start:
                    self.on_sample()  # what a model says that is there already, before it learns
                    if self.watch is not None and self.watch.before:
                        self.on_eval(judged=False)
                if self.owed:  # a sitting was stopped while it evaluated
                    self.follow()
                    self.saved_at = -1
                    self.on_save()
                while self.step < end and not self.stop.signal and not self.patience.over:
                    place = self.loader.state()
                    batch = self.loader.next()
                    if self.first is not None and not self.step:
                        self.first.before(batch)
                    self.on_step(self.learn(batch))
                    self.owed = [name for name in ("eval", "sample") if self.due(getattr(self.every, name))]
                    if self.follow() or self.due(self.every.save):
                        self.on_save()
            except Interrupted:
                pass
            except TrainingError as error:  # no skipped step has touched the weights: they are worth keeping
                if isinstance(error, NoMemory):
                    self.loader.load_state(place)  # its rows are still to be learned
                if self.step:
                    self.on_save()
                raise
            self.on_save()
        finished = (self.step >= self.steps or self.patience.over) and not self.owed
        why = f"no better {self.patience.metric} for {self.patience.since} evaluations" if self.patience.over else ""
        return Outcome("finished" if finished else "stopped", self.step, self.steps, why, self.stop.signal, self.patience.best)

    def follow(self) -> bool:
        """Evaluates and samples where that is owed; True when it is the best so far.

        Raises Interrupted on a signal. What it breaks off stays owed, and is made whole before the next step, in whatever sitting.
        """
        better = False
        while self.owed:
            if self.owed[0] == "eval":
                better = self.on_eval()
            else:
                self.on_sample()
            del self.owed[0]
        return better

    def _first_steps(self) -> FirstSteps | None:
        """The facts of a run that begins here, or that an earlier sitting has not seen all of."""
        if self.looked_at >= LOOKED_AT:
            return None
        taken = self.recipe.adapt.positions
        return FirstSteps(self.model, self.optimizer, self.task, self.compute, self.chunk, taken, self.looked_at)

    def due(self, every: int) -> bool:
        return bool(every) and (self.step % every == 0 or self.step == self.steps)

    def learn(self, batch: Batch, share: float | None = None) -> Row:
        """One optimizer step on a whole batch; `share` of the learning rates, or what the schedule says. Returns the step's figures."""
        start = time.perf_counter()
        number = self.step + 1
        share = schedule(self.recipe.optim, self.step, self.steps) if share is None else share
        self.compute.seed(step_seed(self.recipe.seed, number))
        weights = self.task.counts(batch)
        refuse_untrained(number, weights)
        if not self.model.training:
            self.model.train()
        try:
            sums = self._gradients(batch, weights)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            self.optimizer.zero()
            raise NoMemory(what_would_fit(self.recipe, number, min(self.micro, len(batch)), self.task.splittable)) from None
        gradients = self.optimizer.gradients()
        names = list(sums)
        *means, norm = torch.stack([sums[name] for name in names] + [global_norm(gradients).to(self.compute.device)]).tolist()
        loss, norm = sum(means), norm / self.scale.value
        skipped = self.health.judge(number, loss, norm, self.scale)
        if not skipped:
            if self.first is not None:
                self.first.gradients(norm, self.recipe.optim, self.scale.value)
            clip = self.recipe.optim.clip
            scale_all(gradients, (min(1.0, clip / norm) if clip and norm else 1.0) / self.scale.value)
            self.optimizer.rate(share)
            self.optimizer.step()
            self.scale.went_well()
            if self.first is not None:
                self.first.moved(number, share)
                self.looked_at = self.first.applied
                self.first = None if self.first.over else self.first
        del gradients
        self.optimizer.zero()
        self.step, self.tokens = number, self.tokens + self.loader.tokens_per_step
        tokens, took = self.loader.tokens_per_step, time.perf_counter() - start
        return {
            "step": number,
            "tokens": self.tokens,
            "loss": loss,
            **({f"loss_{name}": mean for name, mean in zip(names, means)} if len(names) > 1 else {}),
            "lr": self.recipe.optim.lr * share,
            "grad_norm": norm,
            "tokens_per_s": tokens / took,
            "memory_mb": self.compute.peak_memory() // 2**20,
            "seconds": self.elapsed(),
            **({"skipped": skipped} if skipped else {}),
        }

    def _gradients(self, batch: Batch, weights: dict[str, int]) -> dict[str, Tensor]:
        """Adds up the gradients of the window; returns each term's mean loss on the device, without waiting for it."""
        sums: dict[str, Tensor] = {}
        for micro in batch.split(self._rows(batch)):
            with self.compute.autocast():
                terms = self.task.terms(self.model, micro.to(self.compute.device), self.chunk)
            means = {name: total / weights[name] for name, (total, _) in terms.items() if weights[name]}
            (torch.stack(list(means.values())).sum() * self.scale.value).backward()
            for name, mean in means.items():
                sums[name] = sums[name] + mean.detach().float() if name in sums else mean.detach().float()
        return sums

    def _rows(self, batch: Batch) -> int:
        """Rows of a forward."""
        # an example may have several rows, so a batch of examples may have more than its number
        rows = len(batch) if self.micro >= self.recipe.train.batch else self.micro
        if not self.micro_tokens:
            return rows
        width = batch.tokens.shape[1] + (0 if batch.source is None else batch.source.tokens.shape[1])
        rows = max(1, min(rows, self.micro_tokens // width))
        return -(-len(batch) // -(-len(batch) // rows))  # parts of like size, so of one shape

    def on_step(self, row: Row) -> None:
        if "skipped" in row:
            self.meters.event(self.step, "skipped", row["skipped"])
        self.meters.step(row)

    def on_eval(self, judged: bool = True) -> bool:
        """Evaluates; True when it is the best so far. What is not judged is no candidate."""
        if self.watch is None or not self.watch.measures:
            return False
        self.optimizer.zero()
        with self.meters.pause("evaluating"), self.stop.breaking(self.model), self.compute.autocast():
            figures = self.watch.evaluate(self.model)
            surprise = self.watch.surprise(self.model)
        if not figures:
            return False
        self.meters.eval({"step": self.step, **figures, "seconds": self.elapsed()})
        if surprise:
            self.meters.surprise({"step": self.step, **surprise})
        better = judged and self.patience.see(self.step, figures)
        self.run.status("running", self.step, self.steps, self.patience.best, self.elapsed())
        return better

    def on_sample(self) -> None:
        if self.watch is None or not self.watch.writes:
            return
        with self.meters.pause("writing samples"), self.stop.breaking(self.model):
            rows = self.watch.sample(self.model)
        for row in rows:
            self.meters.sample({"step": self.step, **row})

    def on_save(self) -> None:
        if self.saved_at == self.step:
            return
        self.meters.event(self.step, "saved")
        facts = {
            "tokens": self.tokens,
            "seconds": self.elapsed(),
            "loader": self.loader.state(),
            "scale": self.scale.state(),
            "health": self.health.state(),
            "patience": self.patience.state(),
            "owed": self.owed,
            "environment": machine.environment(),
            "base": self.base,
            "looked_at": self.looked_at,
        }
        state.save(self.run.checkpoints, self.step, state.weights_of(self.model), self.optimizer.tensors(), facts)
        self.saved_at = self.step
        best = self.patience.best.get("step")
        state.prune(self.run.checkpoints, self.recipe.train.keep_last, [] if best is None else [best])
        self.run.status("running", self.step, self.steps, self.patience.best, self.elapsed())

    def restore(self, checkpoint: state.Checkpoint) -> None:
        """Puts everything back to where the checkpoint was made. Raises CheckpointError when it is of another model or other data."""
        facts = checkpoint.facts
        if (base := facts.get("base", self.base)) != self.base:
            raise CheckpointError(
                f"{checkpoint.path} was made on the base {base[:12]}, and {self.recipe.model.start} is {self.base[:12] or 'no base'} now. "
                "It holds only what was trained: restore the base that it belongs to."
            )
        self.loader.load_state(facts["loader"])
        state.load_weights(self.model, checkpoint.weights())
        self.optimizer.load(checkpoint.optimizer())
        self.scale.load_state(facts["scale"])
        self.health.load_state(facts["health"])
        self.patience.load_state(facts["patience"])
        self.looked_at = facts.get("looked_at", LOOKED_AT)  # a checkpoint that does not say is of a run whose first steps are long over
        self.step, self.tokens, self.seconds = checkpoint.step, facts["tokens"], facts["seconds"]
        self.owed = list(facts.get("owed", ()))
        self.saved_at = checkpoint.step

    def elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self.began


def step_seed(seed: int, step: int) -> int:
    """The seed of torch's generators for one step."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}".encode()).digest()[:8], "little") >> 1


class Interrupted(Exception):
    """A signal came, and what was under way is given up: an evaluation, or samples."""


class Stop:
    """Ctrl-C and SIGTERM: the first lets a step, or a batch of an evaluation, end and saves the state; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.signal = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # signals reach the main thread alone
            return
        before = {number: signal.signal(number, self._heard) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def breaking(self, model: Transformer) -> Iterator[None]:
        """Raises Interrupted before the next batch that `model` reads inside, once a signal has come."""

        def check(*_: object) -> None:
            if self.signal:
                raise Interrupted

        check()
        # Where a forward begins. A fused step for one token does not begin there, so a text that is being written by it is ended first.
        hook = model.embed.register_forward_pre_hook(check)
        try:
            yield
        finally:
            hook.remove()

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        with suppress(OSError):  # nobody reads; print is not safe in here
            os.write(
                2,
                b"\nstopping: what is under way (a step, a batch of an evaluation) ends, then everything is saved; Ctrl-C stops at once\n",
            )
