"""Every recipe in recipes/ is whole, says what it means, and trains: two steps each, through evaluation, saving and the model folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

import quire
from quire.recipe import load, replace
from quire.train.recipe import TrainRecipe

FOLDER = Path(__file__).resolve().parent.parent / "recipes"
EVERY = sorted(FOLDER.glob("*.toml"))
TEXT = {"causal", "masked", "denoise"}  # tasks on running text, each with a recipe that every machine can run
RECIPES = [path for path in EVERY if load(TrainRecipe, path).task.name in TEXT]


def test_there_is_a_recipe_for_each_task() -> None:
    assert {load(TrainRecipe, path).task.name for path in RECIPES} == TEXT


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_a_recipe_begins_with_its_command(path: Path) -> None:
    first, second = path.read_text(encoding="utf-8").splitlines()[:2]
    assert first.startswith("# ") and second == f"#   quire train recipes/{path.name}"
    assert load(TrainRecipe, path).out == f"runs/{path.stem}"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_of_text_needs_no_files(path: Path) -> None:
    recipe = load(TrainRecipe, path)
    assert recipe.data.sources == ("stdlib",)
    assert 0 < recipe.train.minutes <= 5, "a recipe here takes a few minutes"


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


def test_the_recipe_for_conversations_tunes_two_steps(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quire.data import pydoc_questions
    from quire.train.run import train
    from tests.small import write_model

    rows = list(pydoc_questions.rows(texts))
    monkeypatch.setattr(pydoc_questions, "rows", lambda: iter(rows))
    recipe = replace(load(TrainRecipe, FOLDER / "chat.toml"), "train.epochs", 0.0)
    recipe = replace(replace(recipe, "train.steps", 2), "train.threads", 1)
    recipe = replace(replace(recipe, "train.batch", 4), "task.generate_rows", 2)
    recipe = replace(recipe, "model.start", str(write_model(tmp_path / "base", template=True, context=256)))
    result = train(dataclasses.replace(recipe, out=str(tmp_path / "run")))
    assert result.model is not None and {"loss", "rouge_l", "ended"} <= result.evaluation["held_out"].keys()
    model = quire.load(result.model)
    assert isinstance(model, quire.Decoder) and model.chats
