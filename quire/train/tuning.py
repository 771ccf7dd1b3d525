"""A supervised run: a model that is there already (or a new one), rows of a known kind, a task, and what of the model is trained.

rows (read, checked, split) -> start -> task -> head -> adapter -> examples -> loader;  at the end: figures, answers, adapter, model
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import durable, hub
from ..adapt.surgery import counted
from ..binding import Binding, Contract, bound
from ..data import readings, suspects
from ..data import rows as data
from ..data.grouped import ExampleLoader
from ..data.ledger import Ledger
from ..data.rows import RowSets
from ..errors import RecipeError
from ..families import ModelFolder, heads
from ..nn.config import Pooler
from ..nn.transformer import Transformer
from ..tasks.score import evaluating
from ..tasks.task import Objective
from ..tasks.tuning.answer import Answer
from ..tasks.tuning.embed import Embed
from ..tasks.tuning.example import Evaluation, Example, SupervisedTask, as_used
from ..tasks.tuning.make import make
from ..tasks.tuning.schemas import TASKS, Row, Tagged
from ..text.tokenizer import Tokenizer
from . import scratch, teacher
from .adapting import Adapter
from .facts import new_tokens_frozen
from .folder import RunFolder
from .meters import finite
from .parallel import TORCH, Compute
from .recipe import LogPart, TrainPart, TrainRecipe

_SHOWN = 300  # characters of each text of a row that stand beside its answer


@dataclass
class Tuned:
    """The parts of a supervised run (`run.Parts`). Of the rows to train on the examples alone are kept: no text is read twice."""

    contract: Contract
    opened: ModelFolder
    task: SupervisedTask
    objective: Objective
    held_out: list[Row]
    test: list[Row]
    loader: ExampleLoader
    model: Transformer
    adapter: Adapter

    @property
    def tokenizer(self) -> Tokenizer:
        return self.contract.tokenizer

    @property
    def base(self) -> str:
        return self.adapter.base.id

    @property
    def corpus(self) -> str:
        return str(self.loader.state()["examples"])

    @property
    def row_tokens(self) -> int:
        """Tokens of the longest row of a batch."""
        return self.loader.row_tokens

    def steps(self, part: TrainPart) -> int:
        """Steps of a budget in tokens or epochs; 0 for minutes, which must be measured."""
        if part.tokens:
            return max(1, round(part.tokens / self.loader.tokens_per_epoch * self.loader.steps_per_epoch))
        return self.loader.steps(part.epochs) if part.epochs else 0

    def watch(self, recipe: TrainRecipe) -> RowWatch:
        return RowWatch(self.task, self.held_out, recipe.train, recipe.log, before=not self.opened.fresh)

    def evaluate(self, model: Transformer, run: RunFolder) -> dict[str, Any]:
        """All held-out and test rows; every answer is written beside the figures."""
        found: dict[str, Any] = {"metric": self.task.metric}
        for name, rows in (("held_out", self.held_out), ("test", self.test)):
            if not rows:
                continue
            look = self.task.evaluate_last if isinstance(self.task, Answer) and name == "held_out" else self.task.evaluate
            with evaluating(model):
                evaluation = look(model, rows)
            _write_answers(run.path / f"answers_{name}.jsonl", rows, evaluation)
            figures: dict[str, Any] = dict(evaluation.figures)
            figures["intervals"] = {key: dataclasses.asdict(value) for key, value in evaluation.intervals.items()}
            figures["tables"], figures["rows"] = evaluation.tables, len(rows)
            found |= {name: finite(figures)}
        last = found.get("test", found.get("held_out"))
        return found | ({} if last is None else {self.task.metric: last[self.task.metric]})

    def write(self, path: Path, model: Transformer, lineage: dict[str, Any]) -> Path | None:
        if isinstance(self.task, Answer):  # first, for the adapter's record says it too
            self.opened.tell(self.task.settings(self.opened.config))
        also = self.task.write if isinstance(self.task, Embed) else None
        return self.adapter.leave(path, model, self.contract, lineage, also)


def _write_answers(path: Path, rows: Sequence[Row], evaluation: Evaluation) -> None:
    """reads: the row's texts, cut, so that a report needs no file but the run's own."""
    lines = [{"where": row.where, "reads": _shown(row), "wanted": row.answers(), **found} for row, found in zip(rows, evaluation.found)]
    durable.write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _shown(row: Row) -> list[str]:
    texts = (" ".join(row.words),) if isinstance(row, Tagged) else row.reads()
    return [text if len(text) <= _SHOWN else text[:_SHOWN] + "…" for text in texts[:8]]


def prepare(run: RunFolder, recipe: TrainRecipe, compute: Compute, say: Any, ledger: Ledger | None = None) -> Tuned:
    """Everything of a supervised run. Hold the lock. Raises the errors of the parts, each naming rows or keys; `ledger` refuses rows."""
    part = recipe.data
    named = hub.locate(recipe.model.start) if recipe.model.start else None
    ledger = ledger or Ledger(part.allow)
    sets = load_rows(recipe)
    suspects.look(ledger, sets, given=bool(part.eval))
    for line in sets.lines():
        say(line)
    ledger.refuse()
    folder = scratch.begin(run, recipe, sets.train, say) if named is None else named
    opened, base = ModelFolder.open(folder), bound(folder)
    contract = dataclasses.replace(Contract.open(folder), truncation=None)  # a cut that the model was tuned with is not of this training
    context = row_tokens(recipe, opened)
    check_kind(recipe, opened)
    task = make(recipe.task, part.long, contract, context, sets.train, folder, opened.model_config.width)
    if part.pack and not task.packs:
        raise RecipeError(f"data.pack = true, and rows of task '{task.name}' cannot share one. Leave it out: batches are of like length.")
    over, labels, more = task.head()
    head = heads.fields(opened, over, labels, more)
    # a file may hold a head that its class does not have, and no vector is made by
    spare = over == "base" and not isinstance(opened.model_config.head, Pooler | None)
    if spare or any(opened.config.get(name) != value for name, value in head.items()):
        opened = opened.with_head(head)
    examples = task.examples(sets.train)
    for rows in (sets.held_out, sets.test):
        if rows:  # what cannot be read is told now and not after the last step
            getattr(task, "check", task.examples)(rows)
    look_at_readings(ledger, recipe, sets.train, examples, task, contract, base, model_reads(recipe, opened))
    ledger.refuse()
    adapter = Adapter(recipe.adapt, opened, base)
    model = adapter.build(contract.tokenizer, TORCH[compute.dtype], recipe.seed)
    if isinstance(task, Embed):
        task.freeze(model)
    for line in adapter.said(model):
        say(line)
    given = contract.template is None and getattr(task, "contract", contract).template is not None
    ledger.look("new-tokens-frozen", new_tokens_frozen, model, contract.tokenizer, examples, given)
    notes, cut = _notes(examples), [example.cut for example in examples if example.cut]
    pairs = any(getattr(row, "pair", None) is not None for row in sets.train)
    left_out = {"examples": len(cut), "tokens": sum(cut), "long": task.describe().get("long")}
    told = {"examples": len(examples), "pairs": pairs, "cut": left_out, "notes": notes}
    run.write("data.json", sets.json() | told | {"checks": ledger.json()})
    ledger.refuse()
    ours, every = counted(model)
    run.write("adapt.json", {"method": recipe.adapt.method, "trainable": ours, "parameters": every} | _changed(opened))
    for line in [*ledger.said(), *notes]:
        say(line)
    loader = ExampleLoader(examples, task, recipe.train.batch, recipe.seed, context if part.pack else 0)
    contract = getattr(task, "contract", contract)  # a task may have given a base model its first chat template
    objective = teacher.beside(run, recipe, task, model, contract.tokenizer, compute, loader.row_tokens, labels)
    contract = as_used(contract, part.long != "auto", part.longest > 0, examples)
    return Tuned(contract, opened, task, objective, sets.held_out, sets.test, loader, model, adapter)


def row_tokens(recipe: TrainRecipe, opened: ModelFolder) -> int:
    """Tokens that a row may have. Raises RecipeError where the recipe allows more than the model reads."""
    most, longest = model_reads(recipe, opened), recipe.data.longest
    if longest > most:
        beside = f" beside the {recipe.adapt.positions} positions of adapt.tokens" if recipe.adapt.positions else ""
        raise RecipeError(
            f"data.longest = {longest}, and this model reads {most} tokens at once{beside}: give at most {most}, or leave it out."
        )
    return longest or most


def model_reads(recipe: TrainRecipe, opened: ModelFolder) -> int:
    """Tokens of a row that the model could read, beside what an adapter puts before it."""
    return opened.model_config.context - recipe.adapt.positions


def _changed(opened: ModelFolder) -> dict[str, list[str]]:
    """What the task's head has changed of the model that training begins with."""
    return {"fresh": list(opened.fresh), "left_out": opened.left_out}


def load_rows(recipe: TrainRecipe) -> RowSets:
    """The rows that a recipe names, split. Raises DataError for what cannot be read."""
    part = recipe.data
    return data.load(
        part.sources,
        part.eval,
        part.test,
        share=part.held_out,
        schema=part.schema,
        columns=part.columns,
        names=part.names,
        number=True if recipe.task.labels == "number" else None,
        label_names=part.label_names,
        among=TASKS[recipe.task.name].schemas if recipe.task.name in TASKS else (),
        keep_repeated=part.duplicates == "keep",
        drop_overlap=part.overlap == "drop",
    )


def look_at_readings(
    ledger: Ledger,
    recipe: TrainRecipe,
    rows: Sequence[Row],
    examples: Sequence[Example],
    task: SupervisedTask,
    contract: Contract,
    base: Binding,
    reads: int,
) -> None:
    """The checks of rows as the model reads them. reads: see `model_reads`."""
    contract = getattr(task, "contract", contract)
    ledger.look("template-differs", readings.template_differs, contract.facts, base.contract)
    readings.look(ledger, readings.Reader.of(contract), rows, examples, task, recipe.data.most_cut, reads)


def _notes(examples: Sequence[Example]) -> list[str]:
    """What the examples say of how their rows are learned, each once."""
    places: dict[str, list[str]] = {}
    for example in examples:
        for note in example.notes:
            places.setdefault(note, []).append(example.where)
    return [f"{len(where):,} {'row' if len(where) == 1 else 'rows'} ({where[0]} first): {note}" for note, where in places.items()]


def check_kind(recipe: TrainRecipe, opened: ModelFolder) -> None:
    """Raises RecipeError for a kind of model that cannot learn the task."""
    kind, kinds = opened.model_config.kind, TASKS[recipe.task.name].kinds
    if kind not in kinds:
        raise RecipeError(f"task.name = '{recipe.task.name}' is for models of kind {' or '.join(kinds)}; {opened.path} is of kind {kind}.")


def settle(recipe: TrainRecipe) -> None:
    """Raises RecipeError for a combination that cannot be meant."""
    if not recipe.model.start:
        scratch.agree(recipe)
    if not recipe.data.sources:
        raise RecipeError("there are no rows: give files with data.sources.")


class RowWatch:
    """The held-out figures of a supervised run, as the trainer asks for them: of `train.eval_rows` rows, those with the lowest hashes (a
    file may be sorted by label). before: is there something to compare with, or is the head new?"""

    def __init__(self, task: SupervisedTask, rows: Sequence[Row], part: TrainPart, log: LogPart, before: bool) -> None:
        self.task, self.rows, self.part, self.log, self.before = task, rows, part, log, before
        self.measures, self.writes = bool(rows), bool(rows) and hasattr(task, "samples")
        few = len(rows) > part.eval_rows > 0
        self.few = sorted(rows, key=lambda row: row.digest(whole=True))[: part.eval_rows] if few else rows

    def evaluate(self, model: Transformer) -> dict[str, Any]:
        rows = self.few
        if not rows:
            return {}
        with evaluating(model):
            look = getattr(self.task, "glance", self.task.evaluate)  # a task whose answers take long to write has a quicker look
            figures = look(model, rows).figures
        return {"metric": self.task.metric, "direction": self.task.better, **figures}

    def surprise(self, model: Transformer) -> None:
        return None

    def sample(self, model: Transformer) -> list[dict[str, Any]]:
        """What tasks that write show: a few held-out rows with the model's text."""
        show = getattr(self.task, "samples", None)
        if show is None or not self.rows:
            return []
        with evaluating(model):
            return list(show(model, self.rows))

    def told(self) -> None:
        pass
