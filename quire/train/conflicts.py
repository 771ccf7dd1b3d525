"""Options that stand in a recipe and would have no effect, or contradict each other: refused, with both keys named.

A key counts as given when its value is not the one that it has by itself. Which option is of which task, method, schedule or optimizer
stands in the tables here; a test holds them against the recipe's fields, so that a new option finds its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .. import recipe as recipes
from ..errors import RecipeError
from .defaults import SUPERVISED
from .optimizer import schedule
from .recipe import OptimPart, TrainRecipe

TEXT = ("causal", "masked", "denoise")
_LOW_RANK, _VIRTUAL = ("lora", "qlora"), ("prompt", "prefix", "p-tuning")
# option of [task]: the tasks that read it
OF_TASK: dict[str, tuple[str, ...]] = {
    "mask_rate": ("masked", "denoise"),
    "whole_words": ("masked",),
    "next_sentence": ("masked",),
    "mean_span": ("denoise",),
    "labels": ("classify",),
    "class_weights": ("classify", "tag"),
    "stride": ("tag", "answer"),
    **dict.fromkeys(("verb", "prefix", "smoothing", "best", "beams", "length_penalty"), ("rewrite",)),
    "loss": ("embed", "rerank"),
    **dict.fromkeys(("symmetric", "margin"), ("embed",)),
    "generate_rows": ("chat",),
}
# option of [adapt]: the methods that read it
OF_METHOD: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("rank", "alpha", "dropout", "targets", "stabilised", "dora"), _LOW_RANK),
    "tokens": _VIRTUAL,
    "text": ("prompt",),
    "hidden": ("prefix", "p-tuning"),
}
# option of [data]: the tasks that read it, where that is not all of them
OF_DATA: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("field", "boundaries"), TEXT),
    **dict.fromkeys(("eval", "test", "schema", "columns", "names", "label_names", "longest", "long", "most_cut"), SUPERVISED),
    **dict.fromkeys(("duplicates", "overlap", "allow"), SUPERVISED),
    "pack": ("chat",),
}
# key: the key that decides whether it is read, and the values with which it is
_ELSE: dict[str, tuple[str, tuple[str, ...]]] = {
    "optim.muon_lr": ("optim.name", ("muon",)),
    "optim.decay": ("optim.schedule", ("wsd",)),
}
_SIZES = ("family", "width", "layers", "heads", "kv_heads", "hidden", "tied", "dropout", "context")


def refuse(recipe: TrainRecipe) -> None:
    """Raises RecipeError naming an option that nothing reads here, and the key that decides so."""
    if not recipe.task.teacher and recipe.task.name != "embed" and _given(recipe, "task.temperature"):
        raise RecipeError(
            f"task.temperature = {recipe.task.temperature} has no effect with task.name = {recipe.task.name!r}: it is for 'embed', or for "
            "a teacher (task.teacher). Take task.temperature out."
        )
    for key, decides, values in _readers():
        is_now = recipes.get(recipe, decides)
        if is_now not in values and _given(recipe, key):
            raise RecipeError(
                f"{key} = {recipes.get(recipe, key)!r} has no effect with {decides} = {is_now!r}: it is for {_listed(values)}. "
                f"Take {key} out, or set {decides}."
            )
    task = recipe.task.name
    if task in SUPERVISED and recipe.model.start:
        for name in _SIZES:
            if _given(recipe, f"model.{name}"):
                raise RecipeError(
                    f"model.{name} = {getattr(recipe.model, name)!r} is for a new model, and model.start = {recipe.model.start!r} has its "
                    "own. " + ("Rows are shortened with data.longest." if name == "context" else f"Take model.{name} out.")
                )


def refuse_no_rate(part: OptimPart, steps: int) -> None:
    """Raises RecipeError when no step of the schedule has a learning rate: a curve that falls to zero is there at its only step."""
    rates = [part.lr] + ([part.muon_lr] if part.name == "muon" else [])
    if any(rate > 0 for rate in rates) and any(schedule(part, step, steps) > 0 for step in range(min(steps, 1000))):
        return
    where = "the only step" if steps == 1 else f"all {steps:,} steps"
    raise RecipeError(
        f"the learning rate is zero at {where} (optim.lr = {part.lr:g}, optim.schedule = '{part.schedule}', optim.final = "
        f"{part.final:g}): nothing would be learned. Train for more steps, set optim.schedule = 'constant', or give optim.lr a value "
        "above 0 (1e-5 to 1e-3 are usual)."
    )


def _readers() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(key, the key that decides, the values with which it is read)."""
    for part, decides, table in (("task", "task.name", OF_TASK), ("adapt", "adapt.method", OF_METHOD), ("data", "task.name", OF_DATA)):
        for name, values in table.items():
            yield f"{part}.{name}", decides, values
    for key, (decides, values) in _ELSE.items():
        yield key, decides, values


def _given(recipe: TrainRecipe, key: str) -> bool:
    value: Any = recipes.get(recipe, key)
    return bool(value != recipes.get(TrainRecipe(), key))


def _listed(values: tuple[str, ...]) -> str:
    if values == SUPERVISED:
        return f"tasks on rows ({', '.join(values)})"
    return " or ".join(map(repr, values))
