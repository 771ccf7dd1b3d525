"""Try a few values of a recipe: quire sweep RECIPE.toml --try optim.lr=1e-4,3e-4 --try adapt.rank=4,16

Every combination is a run of its own in one folder. A sweep that was stopped or killed goes on where it was when the same line is given
again. At the end one table, the best first, by the held-out figure and never by the test rows, and the best recipe as a file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import durable
from .. import recipe as recipes
from ..errors import RecipeError, TrainingError
from ..progress import duration
from ..train import defaults
from ..train.recipe import TrainRecipe
from .tables import show
from .train import Live, document

USAGE = """usage: quire sweep RECIPE.toml --try key=value,value [--try ...]
                   [--seeds N] [--key value ...] [--json]

  RECIPE.toml          what all runs share; --out is the folder of the sweep
  --try key=a,b,c      values of one key; several --try: every combination
  --try 'key=[1],[2]'  values that are lists, as in TOML
  --seeds N            every combination with N seeds, judged by their mean
  --json               the table as JSON on standard output
  --key value          any key of a recipe (below), for all runs
"""
_MOST = 200  # runs: more is no sweep over a few values


@dataclass
class Entry:
    """One combination: the values that were tried, its runs, and what came of them."""

    values: dict[str, Any]
    recipes: list[TrainRecipe]
    figures: list[float] = field(default_factory=list)
    interval: tuple[float, float] | None = None
    metric: str = ""
    better: str = "higher"
    seconds: float = 0.0
    failed: str = ""

    @property
    def figure(self) -> float | None:
        return statistics.fmean(self.figures) if self.figures and not self.failed else None

    def name(self) -> str:
        return ", ".join(f"{key}={_text(value)}" for key, value in self.values.items())

    def json(self) -> dict[str, Any]:
        return {
            "values": self.values,
            "runs": [recipe.out for recipe in self.recipes],
            "metric": self.metric,
            "figure": self.figure,
            "figures": self.figures,
            "interval": self.interval,
            "seconds": round(self.seconds, 1),
            **({"failed": self.failed} if self.failed else {}),
        }


def run(argv: list[str]) -> int:
    if any(word in ("-h", "--help") for word in argv) or not argv:
        print(USAGE)
        defaults.load(None, ["--help"], prog="quire sweep")
    file, tries, seeds, words = taken_apart([word for word in argv if word != "--json"])
    entries = combinations(file, tries, seeds, words)
    folder = Path(entries[0].recipes[0].out).parent
    begin(folder, file, entries)
    code = go(entries)
    ranked = sorted(entries, key=_rank)
    if not code:
        best = write_best(folder, ranked)
    if "--json" in argv:
        print(json.dumps({"folder": str(folder), "best": None if code else best, "entries": [entry.json() for entry in ranked]}))
    elif code:
        print(f"stopped; every run is saved. Go on with the same line:\n  quire sweep {' '.join(word for word in argv)}")
    else:
        table(ranked)
        print(f"best    {best}" if best else "no run came to its end with a held-out figure")
    return code


# -- what is tried -------------------------------------------------------------------------------------------------------------------


def taken_apart(argv: Sequence[str]) -> tuple[Path, dict[str, list[Any]], int, list[str]]:
    """(the recipe file, {key: values}, seeds, options for all runs). Raises RecipeError."""
    words, tries, seeds = list(argv), {}, 1
    if words[0].startswith("-") or not words[0].endswith(".toml"):
        raise RecipeError(f"the recipe comes first, and {words[0]!r} is none: quire sweep RECIPE.toml --try optim.lr=1e-4,3e-4")
    file, rest = Path(words.pop(0)), []
    while words:
        word, sep, value = words.pop(0).partition("=")
        if word not in ("--try", "--seeds"):
            rest.append(word + sep + value)
            continue
        value = value if sep else words.pop(0) if words else ""
        if word == "--seeds":
            if not value.isdecimal() or not 1 <= int(value) <= _MOST:
                raise RecipeError(f"--seeds {value}: give how many, from 1 to {_MOST}.")
            seeds = int(value)
            continue
        key, sep, listed = value.partition("=")
        if not sep or not listed:
            raise RecipeError(f"--try {value}: give a key and its values, as in --try optim.lr=1e-4,3e-4")
        if key in tries:
            raise RecipeError(f"--try {key} stands there twice; give all of its values at once.")
        tries[key] = values_of(key, listed)
    if not tries and seeds == 1:
        raise RecipeError("nothing is tried: give --try KEY=VALUE,VALUE (several combine), or --seeds N")
    return file, tries, seeds, rest


def values_of(key: str, text: str) -> list[Any]:
    """The values that a --try names, as the types of the recipe. Raises RecipeError for an unknown key or a value of another type."""
    import tomllib

    if key in ("out", "seed") or key.startswith("log."):
        raise RecipeError(f"--try {key}: this does not change what is learned" + ("; use --seeds N." if key == "seed" else "."))
    try:
        usual = recipes.get(TrainRecipe(), key)
    except AttributeError:
        recipes.from_dict(TrainRecipe, recipes.above({}, {key: 0}), "--try")  # names the nearest key
        raise
    if dataclasses.is_dataclass(usual):
        raise RecipeError(f"--try {key}: this is a table; name one of its keys ({', '.join(vars(usual))}).")
    words = text if not isinstance(usual, str) or text.startswith('"') else ", ".join(json.dumps(word.strip()) for word in text.split(","))
    try:
        found = tomllib.loads(f"values = [{words}]")["values"]
    except tomllib.TOMLDecodeError:
        raise RecipeError(f"--try {key}={text}: these are no values of TOML. Lists are written [1, 2], texts as they are.") from None
    for value in found:
        recipes.from_dict(TrainRecipe, recipes.above({}, {key: value}), "--try")
    if len(set(map(repr, found))) != len(found):
        raise RecipeError(f"--try {key}={text}: a value stands there twice.")
    return list(found)


def combinations(file: Path, tries: dict[str, list[Any]], seeds: int, words: Sequence[str]) -> list[Entry]:
    """Every combination with its recipes, each held against what a recipe may say before the first of them is run."""
    grid = [dict(zip(tries, values, strict=True)) for values in itertools.product(*tries.values())]
    if len(grid) * seeds > _MOST:
        raise RecipeError(
            f"{len(grid)} combinations with {seeds} seeds are {len(grid) * seeds:,} runs; at most {_MOST} are run in one sweep."
        )
    written = defaults.replaced(recipes.read(file), [*words, *(f"--{key}={values[0]}" for key, values in tries.items())])
    entries = []
    for values in grid:
        tried = recipes.above({}, values)
        merged = {key: {**written.get(key, {}), **part} if isinstance(part, dict) else part for key, part in tried.items()}
        recipe = recipes.over(TrainRecipe, {**written, **merged}, words, "quire sweep", defaults.usual, str(file))
        lost = [key for key, value in values.items() if _plain(recipes.get(recipe, key)) != _plain(value)]
        if lost:
            raise RecipeError(f"--{lost[0]} and --try {lost[0]} both say a value. Take one of them out.")
        folder = recipe.out or f"runs/{file.stem}-sweep"
        names = [_folder(values, recipe.seed + number, seeds) for number in range(seeds)]
        runs = [dataclasses.replace(recipe, seed=recipe.seed + number, out=str(Path(folder, name))) for number, name in enumerate(names)]
        entries.append(Entry(values, runs))
    return entries


def _folder(values: dict[str, Any], seed: int, seeds: int) -> str:
    parts = [f"{key.rpartition('.')[2]}={_text(value)}" for key, value in values.items()]
    name = ",".join([*parts, *([f"seed={seed}"] if seeds > 1 or not values else [])])
    if all(char.isalnum() or char in "=,.-_+" for char in name) and len(name) <= 100:
        return name
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12] + (f",seed={seed}" if seeds > 1 else "")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# -- the runs ------------------------------------------------------------------------------------------------------------------------


def begin(folder: Path, file: Path, entries: Sequence[Entry]) -> None:
    """Writes what the sweep is, or finds that it is this one. Raises RecipeError where another is in the folder."""
    from ..train.prepare import settle

    for entry in entries:
        settle(entry.recipes[0])
    runs = {Path(run.out).name: recipes.dumps(run) for entry in entries for run in entry.recipes}
    place = folder / "sweep.json"
    if place.is_file():
        was = json.loads(place.read_text(encoding="utf-8"))
        both = was["runs"].keys() & runs.keys()
        changed = sorted(name for name in both if was["runs"][name] != runs[name])
        if changed:
            raise RecipeError(
                f"{folder} holds a sweep whose run '{changed[0]}' had another recipe. Give this one a folder of its own with --out."
            )
        runs = was["runs"] | runs  # further values may join those that were tried
    elif folder.is_dir() and any(folder.iterdir()):
        raise RecipeError(f"{folder} is not empty and holds no sweep; choose another folder with --out")
    durable.make_folder(folder)
    durable.write_json(place, {"recipe": str(file), "runs": runs})


def go(entries: Sequence[Entry]) -> int:
    """Runs what is left, and fills in what came of each. Returns 0, or 128 + the signal that stopped it."""
    total, done, took, began = sum(len(entry.recipes) for entry in entries), 0, 0, time.monotonic()
    for entry in entries:
        for recipe in entry.recipes:
            done += 1
            left = ""
            if took:
                left = f", about {duration((time.monotonic() - began) / took * (total - done + 1))} left"
            seed = f", seed={recipe.seed}" if len(entry.recipes) > 1 else ""
            print(f"run {done} of {total}: {entry.name()}{seed}{left}", file=sys.stderr, flush=True)
            fresh = not _finished(Path(recipe.out))
            try:
                code = one(recipe, entry)
            except TrainingError as error:
                entry.failed = str(error)
                print(f"  failed: {error}", file=sys.stderr)
                continue
            if code:
                return code
            took += fresh
    return 0


def _finished(folder: Path) -> bool:
    from ..train.folder import RunFolder

    return RunFolder(folder).read("status.json").get("state") == "finished"


def one(recipe: TrainRecipe, entry: Entry) -> int:
    """A run from its beginning or from where it was; its figures go into `entry`. 0, or 128 + a signal."""
    from ..train.folder import RunFolder
    from ..train.run import resume, train

    run, fresh = RunFolder(recipe.out), not _finished(Path(recipe.out))
    live = Live(recipe.log.prompts, "  ")
    watch = {"observers": [live], "say": live.say, "on_plan": live.plan}
    try:
        result = resume(run.path, **watch) if run.recipe.exists() else train(recipe, **watch)  # type: ignore[arg-type]
    finally:
        live.close()
    if result.outcome.state != "finished":
        return 128 + result.outcome.signal
    if fresh and result.model is not None:
        document(result)
    fill(entry, result.evaluation, {**result.outcome.best, **run.read("status.json").get("best", {})})
    entry.seconds += float(run.read("status.json").get("seconds", 0.0))
    return 0


def fill(entry: Entry, evaluation: dict[str, Any], best: dict[str, Any]) -> None:
    """The held-out figure of a finished run, and its interval; test rows decide nothing."""
    held = evaluation.get("held_out", {})
    metric = str(evaluation.get("metric") or best.get("metric") or "")
    value = held.get(metric) if isinstance(held, dict) else None
    if value is None and "test" not in evaluation:
        value = evaluation.get(metric)
    if isinstance(value, dict):  # bits per byte, file by file and as one stream
        value = value.get("per_file")
    if value is None:
        value = best.get("value", best.get(metric))
    if not isinstance(value, int | float):
        return
    entry.metric, entry.better = metric, str(best.get("direction") or ("lower" if metric in ("loss", "bits_per_byte") else "higher"))
    entry.figures.append(float(value))
    interval = held.get("intervals", {}).get(metric) if isinstance(held, dict) else None
    if len(entry.recipes) == 1 and interval:
        entry.interval = float(interval["low"]), float(interval["high"])
    if len(entry.figures) > 1:  # of the mean over seeds: 2 standard errors to each side
        error = 2 * statistics.stdev(entry.figures) / math.sqrt(len(entry.figures))
        entry.interval = statistics.fmean(entry.figures) - error, statistics.fmean(entry.figures) + error


# -- what came of them ---------------------------------------------------------------------------------------------------------------


def _rank(entry: Entry) -> float:
    if entry.figure is None:
        return math.inf
    return entry.figure if entry.better == "lower" else -entry.figure


def table(ranked: Sequence[Entry]) -> None:
    keys = list(ranked[0].values)
    metric = next((entry.metric for entry in ranked if entry.metric), "figure").replace("_", " ")
    rows = []
    for entry in ranked:
        interval = "" if entry.interval is None else f"{entry.interval[0]:.4f} to {entry.interval[1]:.4f}"
        figure = "failed" if entry.failed else "" if entry.figure is None else f"{entry.figure:.4f}"
        runs = entry.recipes[0].out if len(entry.recipes) == 1 else f"{len(entry.recipes)} seeds"
        rows.append((*(_text(entry.values[key]) for key in keys), figure, interval, duration(entry.seconds), runs))
    head = (*keys, f"held-out {metric}", "95 % interval" if len(ranked[0].recipes) == 1 else "mean ± 2 s.e.", "time", "run")
    strong = {(0, len(keys))} if ranked[0].figure is not None else set()
    show(head, rows, numbers={len(keys), len(keys) + 2}, strong=strong)
    first, *others = ranked
    alike = [entry for entry in others if first.interval and entry.interval and _meet(first.interval, entry.interval)]
    if alike:
        print(f"{len(alike)} of the others lie within the interval of the first: these rows do not tell them apart.")


def _meet(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def write_best(folder: Path, ranked: Sequence[Entry]) -> str:
    """best.toml: the recipe that did best, to be run anew; "" where no run has a figure."""
    first = ranked[0]
    if first.figure is None:
        return ""
    path = folder / "best.toml"
    recipes.save(dataclasses.replace(first.recipes[0], out=""), path)
    return str(path)
