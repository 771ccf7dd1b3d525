"""Recipes: what is written reads back equal, and what cannot be meant is refused by name."""

from __future__ import annotations

import tomllib
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire import recipe
from quire.errors import RecipeError
from quire.train.recipe import LogPart, TrainRecipe


def test_written_and_read_back_equal(tmp_path: Path) -> None:
    made = recipe.replace(recipe.replace(TrainRecipe(), "train.steps", 7), "data.sources", ("a b", 'c"d\\', "é\n"))
    recipe.save(made, tmp_path / "r.toml")
    assert recipe.load(TrainRecipe, tmp_path / "r.toml") == made


@given(st.lists(st.text(st.characters(codec="utf-8"))))
def test_any_text_survives_toml(words: list[str]) -> None:
    made = LogPart(prompts=tuple(words))
    assert recipe.from_dict(LogPart, tomllib.loads(recipe.dumps(made))) == made


def test_options_go_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("seed = 3\n[train]\nsteps = 5\nbatch = 8\n")
    made = recipe.load(TrainRecipe, tmp_path / "r.toml", ["--train.steps", "9", "--optim.muon_lr", "0.03", "--data.sources", "x", "y"])
    assert (made.seed, made.train.steps, made.train.batch, made.optim.muon_lr, made.data.sources) == (3, 9, 8, 0.03, ("x", "y"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[train]\nstepz = 5", "recipe.*train: unknown key 'stepz'. Did you mean 'steps'\\?"),
        ("[trian]\nsteps = 5", "unknown key 'trian'. Did you mean 'train'\\?"),
        ("[train]\nsteps = 'many'", "steps = 'many' must be of type int, not str"),
        ("[train]\nsteps = true", "steps = True must be of type int, not bool"),
        ("[optim]\nbetas = [0.9]", "betas = \\[0.9\\] must hold 2 values"),
        ("[optim]\nname = 'adam'", "name = 'adam' is not one of 'adamw', 'muon'. Did you mean 'adamw'\\?"),
        ("train = 3", "train is a table, and 3 is not one; write it as \\[train\\]"),
        ("[train\n", "is not TOML"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(RecipeError, match=said):
        recipe.load(TrainRecipe, tmp_path / "recipe.toml")


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no recipe .*gone.toml"):
        recipe.load(TrainRecipe, tmp_path / "gone.toml")


def test_a_rare_value_is_warned_about_with_its_range() -> None:
    with pytest.warns(recipe.RecipeWarning, match="optim.lr = 5.0 lies outside the usual range 1e-06 to 0.1"):
        recipe.load(TrainRecipe, None, ["--optim.lr", "5"])


def test_a_misspelt_option_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        recipe.load(TrainRecipe, None, ["--train.stepz", "5"])
    assert stopped.value.code == 2
    assert "--train.steps" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--train.batch", "0"], ["--optim.lr", "0"], ["--optim.lr", "-1"]])
def test_what_is_an_error_is_not_warned_of_as_well(words: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recipe.override(TrainRecipe(), words)
