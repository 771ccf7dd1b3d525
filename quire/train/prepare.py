"""From a recipe to what a run needs: a tokenizer, shards, a task, a loader, a model. Whatever a killed run left whole is used again.

sources -> check -> tokenizer (trained on the training side alone, or opened) -> shards -> task -> loader -> model
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import durable, hub
from ..binding import Contract, bound
from ..data import check, shards, sources
from ..data.batches import Loader
from ..data.shards import Shard
from ..data.sources import Document
from ..errors import ModelError, RecipeError
from ..families import ModelFolder, family_for
from ..families.family import FAMILIES
from ..nn.config import ModelConfig
from ..nn.transformer import Transformer
from ..tasks.task import Objective, Task, make
from ..text import training
from ..text.report import report_stream
from ..text.tokenizer import Tokenizer
from . import adapting, conflicts, teacher, tuning
from .adapting import Adapter
from .defaults import BUDGETS, SUPERVISED
from .finish import evaluate, new_contract, write_model
from .folder import RunFolder
from .parallel import TORCH, Compute
from .parts import Parts
from .recipe import TrainPart, TrainRecipe
from .scratch import first_weights, new_config
from .watch import Watch

Say = Callable[[str], None]
_KIND = {"causal": "decoder", "masked": "encoder", "denoise": "seq2seq"}
_PLURAL = {"decoder": "decoders", "encoder": "encoders", "seq2seq": "encoder-decoders"}


@dataclass(frozen=True)
class Prepared:
    """Everything that a run reads, and its model with the first weights (or those of `model.start`)."""

    tokenizer: Tokenizer
    train: Shard
    held_out: Shard | None
    task: Task
    objective: Objective
    loader: Loader
    config: dict[str, Any]  # the model's config.json
    model: Transformer
    adapter: Adapter | None = None  # of `model.start`
    contract: Contract | None = None  # that of `model.start`, where its tokenizer stays

    @property
    def base(self) -> str:
        return "" if self.adapter is None else self.adapter.base.id

    @property
    def corpus(self) -> str:
        return self.train.corpus

    @property
    def row_tokens(self) -> int:
        return self.task.context

    def steps(self, part: TrainPart) -> int:
        wanted = part.tokens or part.epochs * self.loader.tokens_per_epoch
        return max(1, math.ceil(wanted / self.loader.tokens_per_step)) if wanted else 0

    def watch(self, recipe: TrainRecipe) -> Watch:
        return Watch(self.task, self.tokenizer, self.held_out, recipe.train, recipe.log)

    def evaluate(self, model: Transformer, run: RunFolder) -> dict[str, Any]:
        return evaluate(self.task, self.tokenizer, self.held_out, model)

    def write(self, path: Path, model: Transformer, lineage: dict[str, Any]) -> Path | None:
        if self.adapter is None:
            write_model(path, self.tokenizer, model, self.config, lineage)
            return path
        return self.adapter.leave(path, model, self.contract or new_contract(self.tokenizer, model), lineage)


def settle(recipe: TrainRecipe) -> TrainRecipe:
    """The recipe with its run folder named. Raises RecipeError for a combination that cannot be meant."""
    part = recipe.train
    given = [name for name in BUDGETS if getattr(part, name)]
    if len(given) != 1:
        what = "none is given" if not given else f"given are {', '.join(f'{name} = {getattr(part, name)}' for name in given)}"
        raise RecipeError(f"how long to train must be said by exactly one of train.{', train.'.join(BUDGETS)}; {what}")
    for key in dataclasses.fields(part):
        value = getattr(part, key.name)
        if isinstance(value, int | float) and value < 0:
            raise RecipeError(f"train.{key.name} = {value} must not be negative")
    if part.batch < 1:
        raise RecipeError(f"train.batch = {part.batch} must be 1 or more rows a step")
    if part.micro_batch > part.batch:
        raise RecipeError(f"train.micro_batch = {part.micro_batch} is more than train.batch = {part.batch}, which is split into it")
    conflicts.refuse(recipe)
    recipe = teacher.settle(recipe)
    adapting.settle(recipe)
    if recipe.task.name in SUPERVISED:
        tuning.settle(recipe)
    if recipe.optim.lr <= 0:
        raise RecipeError(f"optim.lr = {recipe.optim.lr} must be above 0")
    for name, value in (("warmup", recipe.optim.warmup), ("decay", recipe.optim.decay)):
        if not 0 <= value <= 1:
            raise RecipeError(f"optim.{name} = {value} must be a share of the steps, from 0 to 1")
    if part.steps:
        conflicts.refuse_no_rate(recipe.optim, part.steps)
    if not recipe.model.start and recipe.task.name not in SUPERVISED:
        _agree(recipe, recipe.model.family)
        # Sizes that no model can have are refused before a corpus is read; the vocabulary's true size comes with the tokenizer.
        FAMILIES[recipe.model.family].build(new_config(recipe, max(1, recipe.tokenizer.vocab)))
    recipe = recipe if recipe.out else dataclasses.replace(recipe, out=f"runs/{time.strftime('%Y%m%d-%H%M%S')}")
    for source in map(sources.Source.parse, recipe.data.sources):
        place = Path(source.spec).expanduser()
        if place.is_dir() and Path(recipe.out).resolve().is_relative_to(place.resolve()):
            raise RecipeError(
                f"the run folder {recipe.out} lies inside the source {source.spec}, so the run would train on its own files. "
                "Choose another folder with --out, or name the folders with text one by one."
            )
    return recipe


def _agree(recipe: TrainRecipe, family: str) -> None:
    kind, wanted = FAMILIES[family].kind, _KIND[recipe.task.name]
    if kind != wanted:
        usual = {"decoder": "llama", "encoder": "bert", "seq2seq": "t5"}[wanted]
        others = ", ".join(sorted({found.names[0] for found in FAMILIES.values() if found.kind == wanted} - {usual}))
        raise RecipeError(
            f"task.name = '{recipe.task.name}' trains {_PLURAL[wanted]}, and family '{family}' makes {_PLURAL[kind]}. "
            f"Use model.family = {usual} (or {others})."
        )


def prepare(run: RunFolder, recipe: TrainRecipe, settings: Compute, say: Say) -> Parts:
    """Builds everything in the run folder, or opens and verifies what is there already. Hold the lock."""
    if recipe.task.name in SUPERVISED:
        return tuning.prepare(run, recipe, settings, say)
    have = (run.data / "train.json").is_file() and run.tokenizer.is_dir()
    if have:
        tokenizer = Tokenizer.open(run.tokenizer)
        task = _task(recipe, tokenizer)
        found = {name: Shard.open(run.data, name, verify=True) for name in ("train", "held_out") if (run.data / f"{name}.json").is_file()}
    else:
        report = check.check(recipe.data.sources, recipe.data.field, recipe.data.held_out)
        for line in report.lines():
            say(line)
        run.write("data.json", report.json())
        tokenizer = _tokenizer(run, recipe, report.cut, say)
        task = _task(recipe, tokenizer)
        sample = Sample(report.cut)
        documents = sample.taken_from(sources.read(recipe.data.sources, recipe.data.field))
        found = shards.build(run.data, documents, tokenizer, task.separator, report.cut)
        made = report_stream(tokenizer, sample.texts)
        run.write("tokenizer_report.json", made.as_json())
        for line in made.table().splitlines():
            say(line)
    shard = found["train"]
    loader = Loader([shard], None, task, recipe.train.batch, recipe.model.context, recipe.seed)
    say(f"training text: {shard.token_count:,} tokens, {shard.text_bytes / max(1, shard.token_count):.2f} bytes a token")
    held_out = found.get("held_out")
    if recipe.model.start:
        adapter, contract, model = started(recipe, tokenizer, settings)
        for line in adapter.said(model):
            say(line)
        config = adapter.opened.config
    else:
        adapter, contract = None, None
        config, model = build_model(recipe, tokenizer)
    objective = teacher.beside(run, recipe, task, model, tokenizer, settings, task.context)
    return Prepared(tokenizer, shard, held_out, task, objective, loader, config, model, adapter, contract)


class Sample:
    """The first held-out texts of a pass over the corpus (any texts, where nothing is held out), for the tokenizer's report."""

    def __init__(self, cut: int, characters: int = 2_000_000) -> None:
        self.cut, self.left = cut, characters
        self.texts: list[tuple[str, str]] = []

    def taken_from(self, documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            if self.left > 0 and (not self.cut or sources.split(document, self.cut) == "held_out"):
                self.texts.append((document.kind, document.text[: self.left]))
                self.left -= len(document.text)
            yield document


def _task(recipe: TrainRecipe, tokenizer: Tokenizer) -> Task:
    return make(recipe.task, tokenizer, recipe.model.context, recipe.data.boundaries)


def _tokenizer(run: RunFolder, recipe: TrainRecipe, cut: int, say: Say) -> Tokenizer:
    """Opened from the recipe's path, the start model's folder or the teacher's, else trained on the training side of the split."""
    part = recipe.tokenizer
    path = part.path or (hub.locate(recipe.model.start) if recipe.model.start else recipe.task.teacher)
    if path:
        tokenizer = Tokenizer.open(path)
    else:

        def texts() -> Iterator[str]:
            for document in sources.read(recipe.data.sources, recipe.data.field):
                if sources.split(document, cut) == "train":
                    yield document.text

        start = time.perf_counter()
        tokenizer = training.train(part.kind, texts(), part.vocab, lowercase=part.lowercase, special=recipe.task.name)
        say(f"tokenizer: {part.kind}, {tokenizer.vocab_size:,} tokens, trained in {time.perf_counter() - start:.1f} s")
    with durable.building(run.tokenizer) as partial:
        tokenizer.save(partial)
    return Tokenizer.open(run.tokenizer)


def build_model(recipe: TrainRecipe, tokenizer: Tokenizer) -> tuple[dict[str, Any], Transformer]:
    """(config.json, the model with first weights from the recipe's seed)."""
    config = new_config(recipe, tokenizer.vocab_size, tokenizer)
    return config, first_weights(family_for(config).build(config), recipe.seed)


def started(recipe: TrainRecipe, tokenizer: Tokenizer, settings: Compute) -> tuple[Adapter, Contract | None, Transformer]:
    """What `model.start` is: what of it is trained, its contract (None where the recipe gives another tokenizer), the model."""
    folder = hub.locate(recipe.model.start)
    opened = ModelFolder.open(folder)
    _agree(recipe, opened.family.names[0])
    _fits(opened.model_config, recipe, tokenizer)
    adapter = Adapter(recipe.adapt, opened, bound(folder))
    model = adapter.build(tokenizer, TORCH[settings.dtype], recipe.seed)
    _fits(model.config, recipe, tokenizer)  # a soft prompt takes some of the positions
    contract = dataclasses.replace(Contract.open(folder), truncation=None)  # a cut that the model was tuned with is not of this training
    return adapter, None if recipe.tokenizer.path else contract, model


def _fits(config: ModelConfig, recipe: TrainRecipe, tokenizer: Tokenizer) -> None:
    if tokenizer.vocab_size > config.vocab:
        raise ModelError(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens and the model {recipe.model.start} an embedding for {config.vocab:,}. "
            "Use the tokenizer that belongs to the model."
        )
    if recipe.model.context > config.context:
        raise RecipeError(
            f"model.context = {recipe.model.context} is more than the {config.context} positions of {recipe.model.start}; give at most that"
        )
