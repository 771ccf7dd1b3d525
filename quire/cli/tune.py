"""Teach a model with rows: quire tune minilm reviews.jsonl --lora

The rows and the model tell the task; the settings are what is usual for that task, way and size, each printed with its reason. Every key
of a recipe is an option too, and stands over what was chosen. What runs is what `quire train` runs, and the run's folder is the same.
--recipe writes the choices as a recipe to edit and trains nothing; --dry-run reads and checks the rows and says what the run would cost.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import durable
from .. import recipe as recipes
from ..errors import DataError, QuireError, RecipeError, nearest
from ..tasks.tuning.schemas import TASKS
from ..train import defaults
from ..train.recipe import TrainRecipe
from .tables import show
from .train import Live, end, show_plan

if TYPE_CHECKING:
    from ..families import ModelFolder

USAGE = """usage: quire tune MODEL DATA... [--task T] [--lora|--qlora|--prompt|--full]
                  [--eval FILE...] [--test FILE...] [--key value ...]
                  [--recipe FILE] [--dry-run] [--json]

  MODEL           a folder, a run, a pulled model's name, or minilm
  DATA            files, folders or globs of rows: JSONL, CSV, CoNLL ...
  --task T        chat, classify, tag, answer, rewrite, embed or rerank
  --full          train all of the model (what happens without a word); or
  --lora --qlora --prompt --prefix --p-tuning    one of these beside it
  --eval, --test  rows to measure on while training, and once at the end
  --recipe FILE   write the recipe to FILE, and train nothing
  --dry-run       read and check the rows, time the model, tell the cost
  --json          the result, or the plan, as JSON on standard output
  --key value     any key of a recipe (below), as in --train.epochs 5
"""
_SMALL = 22_000_000  # parameters of the model whose defaults --help shows where none is named
_METHODS = ("full", "lora", "qlora", "prompt", "prefix", "p-tuning")
_SWITCHES = ("--dry-run", "--json")
_VALUES = ("--task", "--eval", "--test", "--recipe")


@dataclass
class Words:
    """A command line, taken apart."""

    model: str = ""
    data: list[str] = field(default_factory=list)
    method: str = ""
    options: dict[str, list[str]] = field(default_factory=dict)
    switches: set[str] = field(default_factory=set)
    keys: list[str] = field(default_factory=list)  # what is for the recipe


def run(argv: list[str]) -> int:
    if any(word in ("-h", "--help") for word in argv):
        helped([word for word in argv if word not in ("-h", "--help")])
    words = taken_apart(argv)
    recipe, chosen, task_why = settled(words)
    told(recipe, chosen, task_why, sys.stdout if "--recipe" in words.options else sys.stderr)
    if file := words.options.get("--recipe"):
        write(Path(file[0]), recipe, chosen, task_why)
        print(f"\nrecipe  {file[0]}\nTrain it with: quire train {file[0]}")
        return 0
    if "--dry-run" in words.switches:
        return show_plan(recipe, as_json="--json" in words.switches)
    from ..train.run import train

    live = Live(recipe.log.prompts)
    return end(train(recipe, observers=[live], say=live.say, on_plan=live.plan), live, as_json="--json" in words.switches)


def helped(argv: Sequence[str]) -> None:
    """Prints the options with the values that would be used, and leaves: of the run that is named, or else of a small model's."""
    try:
        recipe, _, _ = settled(taken_apart(argv))
        whose = "Defaults are those of this run."
    except QuireError:
        task = next((name for word, name in pairwise(argv) if word == "--task" and name in TASKS), "classify")
        method = next((word[2:] for word in argv if word.startswith("--") and word[2:] in _METHODS), "full")
        case = defaults.Case(task, method, TASKS[task].kinds[0], _SMALL)
        values = {"task.name": task, "adapt.method": method} | {choice.key: choice.value for choice in defaults.choices(case)}
        recipe = recipes.from_dict(TrainRecipe, recipes.above({}, values))
        kind = {"full": "all", "lora": "a LoRA", "qlora": "a QLoRA"}.get(method, f"a {method} adapter")
        whose = f"Defaults are those for {kind} of {_a(case.kind)} of {_SMALL // 10**6} million\nparameters that learns '{task}'."
    print(f"{USAGE}\n{whose}\nThey follow task, way, model and rows: with MODEL and DATA before --help\nthey are those of that run.\n")
    recipes.override(recipe, ["--help"], "quire tune")


def settled(words: Words) -> tuple[TrainRecipe, list[defaults.Choice], str]:
    """(the recipe that is run, what was chosen for it, why this task). Reads the rows; raises what `settle` raises."""
    values = tables(words)
    recipe, task_why, rows = settle(values, words.keys)
    values = recipes.above(values, {"task.name": recipe.task.name})
    chosen = defaults.choices(defaults.case_of(recipe, rows))

    def usual(given: TrainRecipe) -> Mapping[str, Any]:
        return {choice.key: choice.value for choice in defaults.left_open(given, chosen)}

    return recipes.over(TrainRecipe, values, words.keys, "quire tune", usual), chosen, task_why


# -- the command line ----------------------------------------------------------------------------------------------------------------


def taken_apart(argv: Sequence[str]) -> Words:
    """Raises RecipeError for options that cannot be meant, and without a model or rows."""
    found, places = Words(), []
    for option, values in _groups(argv):
        name = option.removeprefix("--")
        if option in _SWITCHES or name in _METHODS:
            if name in _METHODS and found.method not in ("", name):
                raise RecipeError(f"--{found.method} and --{name}: give one way to adapt the model.")
            found.method = name if name in _METHODS else found.method
            found.switches |= {option} & set(_SWITCHES)
            places += values
        elif option in _VALUES:
            if not values or (option in ("--task", "--recipe") and len(values) != 1):
                raise RecipeError(f"{option} takes {'one value' if option in ('--task', '--recipe') else 'files'}; it has {len(values)}.")
            found.options.setdefault(option, []).extend(values)
        elif option:
            _known(option)
            found.keys += [option, *values]
        else:
            places += values
    if len(places) < 2:
        what = "there is neither a model nor rows" if not places else f"there are no rows for {places[0]}"
        raise RecipeError(f"{what}. Name the model and then files of rows, both before the options: quire tune minilm reviews.jsonl --lora")
    found.model, found.data = places[0], places[1:]
    return found


def _groups(argv: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """("", the words before the first option), then each option with the words after it."""
    option = ""
    values: list[str] = []
    for word in argv:
        if word.startswith("--"):
            yield option, values
            option, values = word, []
            if word.partition("=")[0] in _VALUES and "=" in word:
                option, _, value = word.partition("=")
                values = [value]
        else:
            values.append(word)
    yield option, values


def _known(option: str) -> None:
    """An option without a dot is one of ours, or a key that stands in no table."""
    name = option[2:].partition("=")[0]
    if "." not in name and name not in ("out", "seed"):
        known = [*(f"--{method}" for method in _METHODS), *_SWITCHES, *_VALUES, "--out", "--seed"]
        raise RecipeError(f"there is no option --{name}.{nearest('--' + name, known)} Keys of a recipe have a dot: --train.epochs 5.")


def tables(words: Words) -> dict[str, Any]:
    """What the command line says outside `--key value`, as the tables of a recipe."""
    values: dict[str, Any] = {"model": {"start": words.model}, "data": {"sources": words.data}}
    for option in ("--eval", "--test"):
        if option in words.options:
            values["data"][option[2:]] = words.options[option]
    if "--task" in words.options:
        name = words.options["--task"][0]
        if name not in TASKS:
            raise RecipeError(f"--task {name} is no task on rows; these are: {', '.join(TASKS)}.{nearest(name, list(TASKS))}")
        values["task"] = {"name": name}
        if len(TASKS[name].schemas) == 1:
            values["data"]["schema"] = TASKS[name].schemas[0]
    if words.method:
        values["adapt"] = {"method": words.method}
    return values


# -- what is chosen ------------------------------------------------------------------------------------------------------------------


def settle(values: dict[str, Any], keys: Sequence[str]) -> tuple[TrainRecipe, str, int]:
    """(the recipe with its task, why that task, rows to train on). Reads all rows, strictly.

    Raises RecipeError where two tasks are possible or none is, DataError for rows that cannot be read, ModelError without a model.
    """
    import warnings

    def split(given: TrainRecipe) -> Mapping[str, Any]:  # as the run splits them: how many rows train decides about settings
        return {choice.key: choice.value for choice in defaults.left_open(given, defaults.of_data(given.task.name))}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", recipes.RecipeWarning)  # said once, of the recipe that is run
        recipe = recipes.over(TrainRecipe, values, keys, "quire tune", split)
    from .. import hub
    from ..data.columns import AmbiguousRows
    from ..families import ModelFolder
    from ..train.tuning import load_rows

    folder = hub.locate(recipe.model.start)
    opened = ModelFolder.open(folder)
    asked = recipe.task.name in TASKS
    if asked:
        _fits(recipe.task.name, opened, recipe)
    try:
        sets = load_rows(recipe)
    except AmbiguousRows as error:
        ways = _tasks_of(error.schemas, opened)
        if asked or not ways:
            raise
        raise DataError(f"{error} Or name the task: {' or '.join(ways)}.") from error
    row = sets.train[0]
    name: str = recipe.task.name
    why = "as asked"
    if not asked:
        name, why = task_of(row.schema, row.where, opened, folder, recipe)
    return recipes.replace(recipe, "task.name", name), why, len(sets.train)


def _tasks_of(schemas: Sequence[str], opened: ModelFolder) -> list[str]:
    """The options that decide between kinds of rows, of the tasks that this model can learn."""
    kind = opened.model_config.kind
    fit = [f"--task {name}" for schema in schemas for name, learns in TASKS.items() if schema in learns.schemas and kind in learns.kinds]
    return list(dict.fromkeys(fit))


def _fits(task: str, opened: ModelFolder, recipe: TrainRecipe) -> None:
    kind = opened.model_config.kind
    if kind not in TASKS[task].kinds:
        others = [name for name, learns in TASKS.items() if kind in learns.kinds]
        raise RecipeError(
            f"task '{task}' is learned by {_plural(TASKS[task].kinds)}, and {recipe.model.start} is {_a(kind)}. Take such a model; "
            f"{_a(kind)} learns: {', '.join(others)}."
        )


def task_of(schema: str, where: str, opened: ModelFolder, folder: Path, recipe: TrainRecipe) -> tuple[str, str]:
    """(the one task for these rows and this model, why). Raises RecipeError when there is none, or more than one."""
    kind = opened.model_config.kind
    by_rows = [name for name, learns in TASKS.items() if schema in learns.schemas]
    fit = [name for name in by_rows if kind in TASKS[name].kinds]
    if not fit:
        wanted = _plural(tuple(dict.fromkeys(one for name in by_rows for one in TASKS[name].kinds)))
        other = ""
        if schema == "rewrite" and kind == "decoder":
            other = " A decoder learns the same rows as prompts: --data.columns prompt=SOURCE completion=TARGET (your columns' names)."
        raise RecipeError(
            f"{where}: these are {schema} rows (task {' or '.join(by_rows)}), which {wanted} learn, and {recipe.model.start} is "
            f"{_a(kind)}.{other}"
        )
    if len(fit) > 1:
        fit = _by_head(fit, opened, folder) or fit
    if len(fit) > 1:
        ways = {"embed": "vectors that can be compared (--task embed)", "rerank": "a score for a question and a text (--task rerank)"}
        raise RecipeError(f"{where}: {schema} rows teach {' or '.join(ways[name] for name in fit)}. Say which is meant.")
    return fit[0], f"{schema} rows ({where} first) and {_a(kind)}"


def _by_head(fit: Sequence[str], opened: ModelFolder, folder: Path) -> list[str]:
    """What the model is already: one that makes vectors says how beside its weights, a reranker has a head with one score."""
    from ..nn.config import LabelHead
    from ..tasks import sentence

    if "embed" in fit and sentence.beside(folder):
        return ["embed"]
    head = opened.model_config.head
    return ["rerank"] if "rerank" in fit and isinstance(head, LabelHead) and head.over == "row" and head.labels == 1 else []


def _a(kind: str) -> str:
    return {"encoder": "an encoder", "decoder": "a decoder", "seq2seq": "an encoder-decoder"}[kind]


def _plural(kinds: Sequence[str]) -> str:
    return " and ".join({"encoder": "encoders", "decoder": "decoders", "seq2seq": "encoder-decoders"}[kind] for kind in kinds)


# -- what is said and written ----------------------------------------------------------------------------------------------------------


def lines(recipe: TrainRecipe, chosen: Sequence[defaults.Choice], task_why: str) -> list[tuple[str, str, str]]:
    """(key, value, why) of what was chosen, and of what was asked for instead."""
    method = {"full": "all of the model"}.get(recipe.adapt.method, f"a {recipe.adapt.method} adapter; the model itself stays as it is")
    found: list[tuple[str, str, str]] = [("task.name", recipe.task.name, task_why), ("adapt.method", recipe.adapt.method, method)]
    for choice in defaults.left_open(recipes.replace(recipe, "train.epochs", 0.0), chosen):
        now = recipes.get(recipe, choice.key)
        found.append((choice.key, _short(now), choice.why if now == choice.value else f"as asked; usual is {_short(choice.value)}"))
    return found


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_short, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def told(recipe: TrainRecipe, chosen: Sequence[defaults.Choice], task_why: str, out: Any) -> None:
    from contextlib import redirect_stdout

    with redirect_stdout(out):
        show(("key", "value", "why"), lines(recipe, chosen, task_why))


def write(path: Path, recipe: TrainRecipe, chosen: Sequence[defaults.Choice], task_why: str) -> None:
    """A recipe with every key that is not a recipe's own default, each chosen one with its reason. Raises RecipeError where a file is."""
    if path.exists():
        raise RecipeError(f"--recipe {path} is there already; choose another name.")
    why = {key: reason for key, _, reason in lines(recipe, chosen, task_why)}
    plain, text = TrainRecipe(), [f"# {recipe.task.name} rows, learned by {recipe.model.start}\n#   quire train {path}\n"]
    for part in ("", "model", "tokenizer", "data", "task", "adapt", "optim", "train", "log"):
        prefix = f"{part}." if part else ""
        here = recipes.get(recipe, part) if part else recipe
        every = ("out", "seed") if not part else tuple(vars(here))
        names = [name for name in every if prefix + name in why or _changed(recipe, plain, prefix + name)]
        if names:
            text.append(f"\n[{part}]\n" if part else "\n")
            text += [f"{recipes.line(name, getattr(here, name))}{_because(why.get(prefix + name, ''))}\n" for name in names]
    durable.write_text(path, "".join(text))


def _changed(recipe: TrainRecipe, plain: TrainRecipe, key: str) -> bool:
    return bool(recipes.get(recipe, key) != recipes.get(plain, key))


def _because(reason: str) -> str:
    return f"  # {reason}" if reason else ""
