"""Every recipe in recipes/ is whole, says what it means, and trains: two steps each, through evaluation, saving and the model folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

import quire
from quire.recipe import load, replace
from quire.train.recipe import TrainRecipe
from quire.train.tuning import SUPERVISED

FOUND = sorted((Path(__file__).resolve().parent.parent / "recipes").glob("*.toml"))
RECIPES = [path for path in FOUND if load(TrainRecipe, path).task.name not in SUPERVISED]
TUNING = [path for path in FOUND if path not in RECIPES]  # they read rows that are not here: their tasks' tests train them on others


def test_there_is_a_recipe_for_each_task() -> None:
    assert {load(TrainRecipe, path).task.name for path in RECIPES} == {"causal", "masked", "denoise"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_is(path: Path) -> None:
    first, second = path.read_text(encoding="utf-8").splitlines()[:2]
    assert first.startswith("# ") and second == f"#   quire train recipes/{path.name}"
    recipe = load(TrainRecipe, path)
    assert recipe.out == f"runs/{path.stem}" and recipe.data.sources == ("stdlib",)
    assert 0 < recipe.train.minutes <= 5, "a recipe here takes a few minutes"


@pytest.mark.parametrize("path", TUNING, ids=lambda path: path.stem)
def test_a_recipe_for_rows_says_what_it_is(path: Path) -> None:
    first, second = path.read_text(encoding="utf-8").splitlines()[:2]
    assert first.startswith("# ") and second.startswith(f"#   quire train recipes/{path.name}")
    recipe = load(TrainRecipe, path)
    assert recipe.out == f"runs/{path.stem}" and recipe.data.sources


def small(recipe: TrainRecipe, texts: Path, out: Path) -> TrainRecipe:
    """The same recipe on less: fewer rows and a smaller vocabulary, two steps, a folder of text. The model's shape stays."""
    recipe = replace(recipe, "train.minutes", 0.0)
    recipe = replace(recipe, "train.steps", 2)
    recipe = replace(recipe, "train.batch", 2)
    recipe = replace(recipe, "train.threads", 1)
    recipe = replace(recipe, "tokenizer.vocab", 600)
    recipe = replace(recipe, "data.held_out", 0.15)
    recipe = replace(recipe, "data.sources", (str(texts),))
    return dataclasses.replace(recipe, out=str(out))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains_two_steps(path: Path, texts: Path, tmp_path: Path) -> None:
    from quire.train.run import train

    out = tmp_path / "run"
    result = train(small(load(TrainRecipe, path), texts, out))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "step"] == [1, 2]
    assert any(line["kind"] == "eval" for line in lines)
    assert result.model is not None
    model = quire.load(result.model)
    assert {"causal": quire.Decoder, "masked": quire.Encoder, "denoise": quire.Seq2Seq}[path.stem] is type(model)
