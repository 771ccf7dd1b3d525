"""What is usual for a supervised run, by task, method and size, each value with its reason and source. No torch here.

The defaults of `TrainRecipe` are those of pretraining: a learning rate of 1e-3 or a weight decay of 0.1 undoes in a few steps what a model
has learned. `quire tune`, `train`, `plan` and `sweep` take these instead, wherever neither the recipe file nor an option says more; what
was taken is written into the run's own recipe. A recipe that is built in Python has what it was built with.

Sources: Devlin et al. 2018 (BERT), Liu et al. 2019 (RoBERTa), Turc et al. 2019 (compact BERTs), Sun et al. 2019 (long texts), Mosbach
et al. 2020 (few rows), Raffel et al. 2020 (T5), Vaswani et al. 2017, Karpukhin et al. 2020 (DPR), Hu et al. 2021 (LoRA), Lester et al. 2021
(prompt tuning), Dettmers et al. 2023 (QLoRA), Taori et al. 2023 (Alpaca), Biderman et al. 2024 (LoRA learns less and forgets less).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import recipe as recipes
from ..tasks.tuning.schemas import TASKS
from .recipe import TrainRecipe

SUPERVISED = tuple(TASKS)
BUDGETS = ("steps", "tokens", "epochs", "minutes")


@dataclass(frozen=True)
class Case:
    """What decides. kind, parameters: of the start model; parameters 0: a new one. rows: to train on; 0: not known yet."""

    task: str
    method: str
    kind: str
    parameters: int
    rows: int = 0

    @property
    def new(self) -> bool:
        return not self.parameters


@dataclass(frozen=True)
class Choice:
    """A key of the recipe, its usual value here, and why."""

    key: str
    value: Any
    why: str


# kind of model: (parameters below this, learning rate when all of it is trained, why), the first that fits
_RATES: dict[str, tuple[tuple[float, float, str], ...]] = {
    "encoder": (
        (50e6, 1e-4, "compact encoders take more: Turc et al. 2019 searched 3e-5 to 3e-4"),
        (200e6, 3e-5, "Devlin et al. 2018 searched 2e-5 to 5e-5"),
        (math.inf, 1e-5, "Liu et al. 2019 for large encoders"),
    ),
    "decoder": (
        (50e6, 5e-4, "half of what models of this size are trained with here"),
        (1e9, 5e-5, "between Taori et al. 2023 (2e-5 at 7 billion parameters) and smaller models, which take more"),
        (math.inf, 2e-5, "Taori et al. 2023"),
    ),
    "seq2seq": ((math.inf, 1e-4, "T5 with AdamW: 1e-4 to 3e-4 (its page in transformers); Raffel et al. 2020 use 1e-3 with Adafactor"),),
}
_TIMES_LORA = 10  # Biderman et al. 2024, "LoRA learns less and forgets less"
_PROMPT_RATES = {
    "prompt": (3e-2, "PEFT's examples; Lester et al. 2021 use 0.3 with Adafactor: a few vectors must go far"),
    "prefix": (1e-3, "keys and values come out of a network; at 1e-2, which PEFT's examples use without one, they drown what is read"),
    "p-tuning": (3e-3, "the vectors come out of a network; PEFT's examples use 1e-3, which needs many more steps"),
}
_BATCHES = {
    "chat": (16, "few rows give many steps; Taori et al. 2023 use 128 on 52,000 rows"),
    "rewrite": (32, "16 to 32 for a model that is there"),
    "embed": (64, "every other row of a batch is a negative, so more teach more (Karpukhin et al. 2020)"),
}
_FEW, _LEAST_STEPS, _MOST_EPOCHS = 1000, 200, 20


def choices(case: Case) -> list[Choice]:
    """Every setting that is usual for `case`, in the order of the recipe's tables."""
    return [*of_data(case.task), *_task(case), *_optim(case), *_train(case)]


def of_data(task: str) -> list[Choice]:
    """What decides how rows are split and read, which `quire check` does without training; task: '' where it is not known yet."""
    found = [Choice("data.held_out", 0.1, "a tenth of the rows tells which weights are best; give rows of your own with data.eval")]
    if task == "classify":
        found.append(Choice("data.long", "auto", "of a long text its beginning and its end are read (Sun et al. 2019)"))
    return found


def _task(case: Case) -> list[Choice]:
    if case.task == "rewrite" and case.new:
        return [
            Choice("model.dropout", 0.1, "Vaswani et al. 2017"),
            Choice("task.smoothing", 0.1, "Vaswani et al. 2017"),
        ]
    return []


def _optim(case: Case) -> list[Choice]:
    seq2seq, decoder = case.kind == "seq2seq", case.kind == "decoder"
    rate, why = _rate(case)
    betas = (0.9, 0.98) if case.new and seq2seq else (0.9, 0.999)
    decay, reason = (0.01, "Devlin et al. 2018")
    if case.method != "full":
        decay, reason = 0.0, "an adapter is small already (Dettmers et al. 2023)"
    elif decoder:
        decay, reason = 0.0, "Taori et al. 2023"
    warmup = (0.03, "Taori et al. 2023") if decoder else (0.1, "Devlin et al. 2018")
    schedule = ("cosine", "Taori et al. 2023") if decoder else ("linear", "Devlin et al. 2018")
    return [
        Choice("optim.lr", rate, why),
        Choice("optim.betas", betas, "Vaswani et al. 2017" if betas[1] == 0.98 else "Devlin et al. 2018"),
        Choice("optim.weight_decay", decay, reason),
        Choice("optim.schedule", *schedule),
        Choice("optim.warmup", *warmup),
        Choice("optim.final", 0.0, "the last steps settle"),
    ]


def _rate(case: Case) -> tuple[float, str]:
    if case.new:
        return 1e-3, "a new model learns from nothing"
    if case.method in _PROMPT_RATES:
        return _PROMPT_RATES[case.method]
    rate, why = next((rate, why) for below, rate, why in _RATES[case.kind] if case.parameters < below)
    if case.method == "full":
        return rate, why
    return float(
        f"{_TIMES_LORA * rate:.3g}"
    ), f"{_TIMES_LORA} times that of training all of it, {rate:g} (Biderman et al. 2024; Hu et al. 2021)"


def _train(case: Case) -> list[Choice]:
    batch, why = _BATCHES.get(case.task, (32, "Devlin et al. 2018: 16 or 32"))
    if case.new and case.task == "rewrite":
        batch, why = 128, "a new model's gradients are noisy"
    elif 0 < case.rows < _FEW and batch == 32:
        batch, why = 16, f"few rows: {case.rows:,} (Devlin et al. 2018: 16 or 32)"
    epochs, reason = 3.0, "Devlin et al. 2018: 2 to 4"
    if case.new:
        epochs, reason = 10.0, "a new model learns from nothing"
    elif case.method in _PROMPT_RATES:
        epochs, reason = 10.0, "a few vectors learn slowly (Lester et al. 2021)"
    if case.rows and epochs * case.rows < _LEAST_STEPS * batch:
        epochs = float(min(_MOST_EPOCHS, max(epochs, math.ceil(_LEAST_STEPS * batch / case.rows))))
        reason = f"few rows: about {_LEAST_STEPS} steps, at most {_MOST_EPOCHS} epochs (Mosbach et al. 2020)"
    return [Choice("train.epochs", epochs, reason), Choice("train.batch", batch, why)]


def case_of(recipe: TrainRecipe, rows: int = 0) -> Case:
    """What decides for a supervised recipe. Opens the config of its start model, no weights; raises ModelError where there is none."""
    from .. import hub
    from ..families import ModelFolder
    from ..families.family import FAMILIES

    kind, parameters = FAMILIES[recipe.model.family].kind, 0
    if recipe.model.start:
        config = ModelFolder.open(hub.locate(recipe.model.start)).model_config
        kind, parameters = config.kind, config.parameters()
    return Case(recipe.task.name, recipe.adapt.method, kind, parameters, rows)


def left_open(recipe: TrainRecipe, found: Sequence[Choice]) -> list[Choice]:
    """The choices that do not clash with what `recipe` says in other words: a budget, rows to measure on."""
    part = recipe.train
    clashes = {
        "train.epochs": any(getattr(part, name) for name in BUDGETS),
        "data.held_out": recipe.data.eval,
    }
    return [choice for choice in found if not clashes.get(choice.key)]


def usual(recipe: TrainRecipe) -> dict[str, Any]:
    """{key: value} of what is usual for `recipe`; {} for one on running text, whose defaults are the recipe's own."""
    if recipe.task.name not in SUPERVISED:
        return {}
    return {choice.key: choice.value for choice in left_open(recipe, choices(case_of(recipe)))}


def load(path: Path | str | None, words: Sequence[str], prog: str) -> TrainRecipe:
    """A recipe file with `--key value` options over it, and below both what is usual for such a run."""
    return recipes.over(TrainRecipe, replaced(recipes.read(path), words) if path else {}, words, prog, usual, str(path))


def replaced(values: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """The tables of a recipe file without its budget where an option gives another. Two that stand in the file stay, to be refused."""
    part = values.get("train")
    if not isinstance(part, Mapping) or not _budgets(words):
        return dict(values)
    given = [name for name in BUDGETS if part.get(name)]
    return {**values, "train": {name: value for name, value in part.items() if [name] != given}}


def _budgets(words: Sequence[str]) -> list[str]:
    """The budgets that options give; 0 gives none."""
    found = []
    for word, after in zip(words, [*words[1:], ""]):
        key, equals, value = word.partition("=")
        if key.startswith("--train.") and key.removeprefix("--train.") in BUDGETS and (value if equals else after).strip("0."):
            found.append(key)
    return found
