"""`quire train`, `resume` and `plan` as a user meets them: exit codes, what is printed, what is refused."""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire import recipe as recipes
from quire.cli import train as verb
from quire.cli.main import main
from quire.errors import QuireError
from quire.train.recipe import DataPart, LogPart, ModelPart, TokenizerPart, TrainPart, TrainRecipe


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe file of a tiny run."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for i in range(20):
        lines = [f"def function_{i}_{j}(value):\n    return value + {i * j}\n" for j in range(12)]
        (corpus / f"file{i}.py").write_text("".join(lines))
    made = TrainRecipe(
        out=str(tmp_path / "run"),
        model=ModelPart(width=32, layers=2, heads=2, context=32),
        tokenizer=TokenizerPart(vocab=300),
        data=DataPart(sources=(str(corpus),), held_out=0.2),
        train=TrainPart(steps=6, batch=4, dtype="fp32", threads=1, compile="off", eval_every=3, save_every=6),
        log=LogPart(prompts=("def f",), samples=1, sample_tokens=4),
    )
    recipes.save(made, tmp_path / "recipe.toml")
    return tmp_path / "recipe.toml"


def run(*words: str) -> int:
    return main([*words])


def test_train_says_what_it_did_and_leaves_a_report(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", str(recipe)) == 0
    out, err = capsys.readouterr()
    folder = recipe.parent / "run"
    assert "finished at step 6" in out and "held-out bits per byte, file by file:" in out and str(folder / "model") in out
    assert "parameters  36," in err and "training  100%" in err and "held-out" in err
    assert "<html" in (folder / "report.html").read_text() and (folder / "MODEL_CARD.md").is_file()
    attention = json.loads((folder / "attention.json").read_text())
    assert attention["heads"] == 2 and len(attention["tokens"]) == 32 and attention["tokens"][0] == "<|endoftext|>"


def test_json_is_all_of_standard_output(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", str(recipe), "--train.steps", "3", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["state"] == "finished" and found["step"] == 3 and found["plan"]["steps"] == 3
    assert found["evaluation"]["bits_per_byte"]["per_file"] > 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    on_step: Callable[..., None] = verb.Live.on_step

    def interrupt(self: verb.Live, row: dict[str, Any]) -> None:
        on_step(self, row)
        if row["step"] == 2:
            os.kill(os.getpid(), number)

    folder = recipe.parent / "run"
    with monkeypatch.context() as patch:
        patch.setattr(verb.Live, "on_step", interrupt)
        assert run("train", str(recipe)) == code
    assert f"stopped at step 2 of 6; everything is saved. Go on with:\n  quire resume {folder}" in capsys.readouterr().out
    assert run("resume", str(folder)) == 0
    assert "finished at step 6" in capsys.readouterr().out


def test_plans_train_nothing(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(recipe.parent.rglob("*"))
    assert run("train", str(recipe), "--dry-run") == 0
    assert run("plan", str(recipe), "--model.width", "48") == 0
    out = capsys.readouterr().out
    assert out.count("parameters  ") == 2 and "6 steps of 4 x 32 tokens: 768 tokens" in out
    assert run("plan", str(recipe), "--json") == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 6
    assert sorted(recipe.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "nowhere.toml"], "there is no recipe nowhere.toml"),
        (["train", "{recipe}", "--train.threads", "-1"], "train.threads = -1 must not be negative"),
        (["train", "{recipe}", "--train.tokens", "9", "--train.epochs=1"], "exactly one of"),
        (["train", "{recipe}", "--data.sources", "/nowhere/at/all"], "/nowhere/at/all"),
        (["resume", "nowhere"], "nowhere holds no run"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(recipe: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert run(*(word.format(recipe=recipe) for word in words)) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err and not (recipe.parent / "run").exists()


def test_a_misspelt_key_names_the_nearest(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe.write_text(recipe.read_text().replace("batch = 4", "bach = 4"))
    assert run("train", str(recipe)) == 2
    assert "unknown key 'bach'. Did you mean 'batch'?" in capsys.readouterr().err


def test_help_is_that_of_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run("train", "--help")
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert "--dry-run" in out and "--train.minutes" in out


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--model.heads=5", "A width of 32 cannot be cut into 5 heads"),
        ("--model.kv-heads=3", "4 query heads cannot share 3 key/value heads"),
        ("--model.context=0", "context is 0; allowed is 1 and more|model.context = 0 must be 1 or more"),
    ],
)
def test_impossible_sizes_are_refused_before_a_corpus_is_read(tmp_path: Path, option: str, said: str) -> None:
    words = ["--data.sources", str(tmp_path / "not there"), "--model.width=32", "--model.heads=4", "--train.steps=1", option]
    with pytest.raises(QuireError, match=said), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        verb.run([*words, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
