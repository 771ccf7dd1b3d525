"""The plan of a run that is not going to happen: the real model, timed, beside what the sources hold.

Nothing is learned, and nothing stays on the disk. Running text is read once for its size, and the model timed on random tokens; how many
tokens the text makes is told by the tokenizer that the recipe names, on a sample, or, where one is still to be trained, by a rule of thumb
that says so. Rows are read and checked as for the run itself, and the model is timed on its first batches, the longest rows among them.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn

from .. import hub
from ..data import check, sources
from ..data.ledger import Ledger
from ..errors import DataError
from ..families import ModelFolder, family_for
from ..nn.batch import Batch
from ..nn.config import ModelConfig
from ..nn.heads import token_loss
from ..tasks.task import Task, Term
from ..text.tokenizer import Tokenizer
from . import tuning
from .calibrate import time_steps
from .defaults import SUPERVISED
from .folder import RunFolder
from .meters import Meters
from .parallel import compute
from .plan import Calibration, Plan, Setting, draw_up, loss_chunk, program_memory
from .prepare import Say, settle
from .recipe import TrainRecipe
from .scratch import first_weights, new_config
from .trainer import Trainer

_SAMPLE = 200_000  # characters of text that a tokenizer is tried on


class RandomTokens:
    """Batches of random tokens in the shape of the recipe's."""

    def __init__(self, config: ModelConfig, rows: int, context: int) -> None:
        self.config, self.rows, self.context = config, rows, context
        self.draw = torch.Generator().manual_seed(0)

    @property
    def tokens_per_step(self) -> int:
        return self.rows * self.context

    @property
    def tokens_per_epoch(self) -> int:
        return self.tokens_per_step

    def next(self) -> Batch:
        tokens = torch.randint(self.config.vocab, (self.rows, self.context), generator=self.draw)
        labels = tokens if self.config.encoder is None else tokens.masked_fill(torch.rand(tokens.shape, generator=self.draw) > 0.15, -100)
        source = Batch(tokens) if self.config.kind == "seq2seq" else None
        return Batch(tokens, {"tokens": labels if source is None else tokens}, source=source)

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        pass


class PlainLoss:
    """The part of a task that a timed step needs."""

    name, supervised, splittable, metric = "timing", False, True, "loss"
    better: Literal["lower"] = "lower"

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"tokens": int((batch.labels["tokens"] >= 0).sum())}

    def terms(self, model: nn.Module, batch: Batch, chunk: int = 0) -> dict[str, Term]:
        return {"tokens": token_loss(model.head, model(batch), batch.labels["tokens"], chunk)}


class Later(Ledger):
    """Waits with its refusals until the plan is told."""

    def refuse(self) -> None:
        pass

    def due(self) -> None:
        """Raises what `refuse` would have raised."""
        super().refuse()


def dry_plan(recipe: TrainRecipe, say: Say, on_plan: Callable[[Plan], None] = lambda plan: None) -> Plan:
    """The plan of `recipe`. Raises what the run would raise for a recipe, a model or sources that cannot be; where text or rows are there
    and would be refused, `on_plan` hears the plan before."""
    recipe = settle(recipe)
    if recipe.task.name in SUPERVISED:
        ledger = Later(recipe.data.allow)
        try:
            with tempfile.TemporaryDirectory(prefix="quire-plan-") as place, torch.random.fork_rng():
                plan = _plan_of_rows(RunFolder(place), recipe, say, ledger)
                on_plan(plan)
        except Exception:
            ledger.due()  # of rows that are to be refused no more can be asked
            raise
        ledger.due()
        return plan
    path = recipe.tokenizer.path or (hub.locate(recipe.model.start) if recipe.model.start else "")
    tokenizer = Tokenizer.open(path) if path else None
    vocab = recipe.tokenizer.vocab if tokenizer is None else tokenizer.vocab_size
    if recipe.model.start:
        config = ModelFolder.open(hub.locate(recipe.model.start)).model_config
    else:
        stock = new_config(recipe, vocab, tokenizer)
        config = family_for(stock).build(stock)
    epoch = _tokens_of_an_epoch(recipe, tokenizer, vocab, say)
    settings = compute(recipe.train)
    setting = Setting(settings, loss_chunk(recipe, config.vocab, recipe.model.context), program_memory(settings), recipe.model.context)
    trainer = timed_trainer(recipe, config, setting)
    seconds = time_steps(trainer, warm=1, least=3, budget=1.0)
    part, a_step = recipe.train, trainer.loader.tokens_per_step
    wanted = part.steps * a_step or part.tokens or part.epochs * epoch
    steps = math.ceil(wanted / a_step) if wanted else max(1, int(60 * part.minutes / seconds))
    compiled = part.compile == "on"
    plan = draw_up(recipe, trainer.model, Calibration(seconds, compiled, steps), setting, a_step, epoch)
    on_plan(plan)
    if epoch < a_step:
        raise DataError(
            f"the training text is smaller than one batch: it has about {epoch:,.0f} tokens, and a batch needs {part.batch:,} rows "
            f"({a_step:,} tokens). Add text to data.sources, or lower train.batch or model.context."
        )
    return plan


def _plan_of_rows(run: RunFolder, recipe: TrainRecipe, say: Say, ledger: Ledger) -> Plan:
    """The plan of a supervised recipe: its rows are read and checked, and its model learns nothing from a few of them."""
    settings, part = compute(recipe.train), recipe.train
    parts = tuning.prepare(run, recipe, settings, say, ledger)
    weights = 4 * sum(parameter.numel() for parameter in parts.model.parameters())
    chunk = loss_chunk(recipe, parts.model.config.vocab, parts.row_tokens)
    setting = Setting(settings, chunk, program_memory(settings, weights), parts.row_tokens)
    trainer = Trainer(run, recipe, parts.model, parts.objective, parts.loader, settings, Meters(run.path), None, chunk, parts.base)
    seconds_a_token = _time_tokens(trainer)
    loader = parts.loader
    a_step = max(1, round(loader.tokens_per_epoch / loader.steps_per_epoch))
    seconds = seconds_a_token * a_step
    steps = part.steps or parts.steps(part) or max(1, int(60 * part.minutes / seconds))
    note = f"measured    {settings.peak_memory() // 2**20:,} MB at the fullest with the longest rows; evaluations take their time besides"
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(part, micro_tokens=trainer.micro_tokens))
    return draw_up(recipe, parts.model, Calibration(seconds, part.compile == "on", steps, note), setting, a_step, loader.tokens_per_epoch)


def _time_tokens(trainer: Trainer, least: int = 3, budget: float = 1.0) -> float:
    """The median seconds a token of steps on the run's own batches; the first, with the longest rows, is not timed."""
    times: list[float] = []
    spent = 0.0
    trainer.learn(trainer.loader.next(), share=0.0)
    while len(times) < least or spent < budget:
        start = time.perf_counter()
        batch = trainer.loader.next()
        trainer.learn(batch, share=0.0)
        took = time.perf_counter() - start
        times.append(took / trainer.loader.tokens_per_step)
        spent += took
    return statistics.median(times)


def timed_trainer(recipe: TrainRecipe, config: ModelConfig, setting: Setting) -> Trainer:
    """A trainer of the recipe's model on random tokens. It writes nothing as long as only `learn` is called."""
    model = first_weights(config, recipe.seed)
    loader, nowhere = RandomTokens(config, recipe.train.batch, recipe.model.context), Path(recipe.out)
    task = cast(Task, PlainLoss())
    return Trainer(RunFolder(nowhere), recipe, model, task, loader, setting.compute, Meters(nowhere), None, setting.chunk)


def _tokens_of_an_epoch(recipe: TrainRecipe, tokenizer: Tokenizer | None, vocab: int, say: Say) -> float:
    report = check.check(recipe.data.sources, recipe.data.field, recipe.data.held_out)
    for line in report.lines():
        say(line)
    size = report.bytes - report.held_out_bytes
    if tokenizer is not None:
        texts, taken = [], 0
        for document in itertools.islice(sources.read(recipe.data.sources, recipe.data.field), 1000):
            texts.append(document.text[: _SAMPLE - taken])
            taken += len(texts[-1])
            if taken >= _SAMPLE:
                break
        bytes_a_token = sum(len(text.encode()) for text in texts) / max(1, sum(map(len, tokenizer.encode_batch(texts))))
    else:
        bytes_a_token = 1.0 if recipe.tokenizer.kind == "char" else max(1.0, 0.35 * math.log2(vocab) - 1.2)
        say(f"the tokenizer is still to be trained: about {bytes_a_token:.1f} bytes a token are assumed")
    return size / bytes_a_token
