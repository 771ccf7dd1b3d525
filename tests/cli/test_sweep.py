"""`quire sweep`: what is tried, the runs in their folder, going on after a stop, the table and the best recipe."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire import recipe as recipes
from quire.cli import sweep
from quire.cli import train as verb
from quire.cli.main import main
from quire.errors import RecipeError, TrainingError
from quire.train.recipe import TrainRecipe
from tests.small import write_model

FEW = ["--train.steps", "3", "--train.batch", "4", "--train.threads", "1", "--train.eval_every", "3"]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe file of a tiny classifier, in a folder of its own that is the current one."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "bert", "bert")
    rows = [{"text": f"The dog {number} is {label}", "label": label} for number in range(20) for label in ("quick", "lazy")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.toml").write_text(
        '[model]\nstart = "bert"\n[data]\nsources = ["rows.jsonl"]\nheld_out = 0.3\n[task]\nname = "classify"\n'
    )
    return tmp_path / "r.toml"


def test_every_combination_is_a_run_and_the_best_is_written(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", "r.toml", "--try", "optim.lr=1e-4,1e-2", "--try", "adapt.method=full,lora", *FEW]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "held-out accuracy" in out and "95 % interval" in out and "best    runs/r-sweep/best.toml" in out
    assert "run 2 of 4: optim.lr=0.0001, adapt.method=lora, about" in err and " left" in err
    folder = Path("runs/r-sweep")
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == [
        f"lr={rate},method={way}" for rate in ("0.0001", "0.01") for way in ("full", "lora")
    ]
    assert main([*words, "--json"]) == 0  # again: nothing is run anew
    out, err = capsys.readouterr()
    found = json.loads(out)
    figures = [entry["figure"] for entry in found["entries"]]
    assert figures == sorted(figures, reverse=True) and len(figures) == 4 and "tokens/s" not in err
    best = recipes.load(TrainRecipe, folder / "best.toml")
    assert best.optim.lr == found["entries"][0]["values"]["optim.lr"] and best.out == "" and best.train.steps == 3


def test_seeds_are_judged_by_their_mean(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "r.toml", "--seeds", "2", "--out", "s", *FEW, "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["entries"]
    assert entry["runs"] == ["s/seed=0", "s/seed=1"] and entry["figure"] == pytest.approx(sum(entry["figures"]) / 2)
    assert entry["interval"][0] <= entry["figure"] <= entry["interval"][1]


def test_a_stopped_sweep_goes_on_where_it_was(recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    on_step: Callable[..., None] = verb.Live.on_step
    seen: list[int] = []

    def interrupt(self: verb.Live, row: dict[str, Any]) -> None:
        on_step(self, row)
        seen.append(row["step"])
        if len(seen) == 5:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(verb.Live, "on_step", interrupt)
    words = ["sweep", "r.toml", "--try", "optim.warmup=0.1,0.2", "--out", "s", *FEW]
    assert main(words) == 130
    assert "Go on with the same line:\n  quire sweep r.toml --try" in capsys.readouterr().out
    assert main(words) == 0
    assert seen == [1, 2, 3, 1, 2, 3]  # the second run went on at its third step
    assert "best    s/best.toml" in capsys.readouterr().out


def test_a_run_that_fails_leaves_the_others(recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from quire.train import run as runs

    train = runs.train

    def fail(recipe: TrainRecipe, **more: Any) -> Any:
        if recipe.optim.lr > 0.05:
            raise TrainingError("it diverged")
        return train(recipe, **more)

    monkeypatch.setattr(runs, "train", fail)
    assert main(["sweep", "r.toml", "--try", "optim.lr=0.09,1e-3", "--out", "s", *FEW]) == 0
    out, err = capsys.readouterr()
    assert "failed: it diverged" in err and [line.split()[0] for line in out.splitlines()[1:3]] == ["0.001", "0.09"] and "failed" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--try", "optim.lr=1,2"], "the recipe comes first"),
        (["r.toml"], "nothing is tried"),
        (["r.toml", "--try", "optim.lr"], "give a key and its values"),
        (["r.toml", "--try", "optim.warmpu=1,2"], "Did you mean 'warmup'?"),
        (["r.toml", "--try", "optim.lr=a,b"], "these are no values of TOML"),
        (["r.toml", "--try", "train.batch=1.5"], "must be of type int"),
        (["r.toml", "--try", "optim=1"], "this is a table"),
        (["r.toml", "--try", "seed=1,2"], "use --seeds N"),
        (["r.toml", "--try", "optim.lr=1e-3,1e-3"], "stands there twice"),
        (["r.toml", "--try", "optim.lr=1e-3,1e-4", "--optim.lr", "1e-5"], "--optim.lr and --try optim.lr both say"),
        (["r.toml", "--try", "adapt.rank=4,16"], "adapt.rank = 4 has no effect with adapt.method = 'full'"),
        (["r.toml", "--seeds", "0"], "--seeds 0"),
        (["r.toml", "--seeds", "201"], "--seeds 201"),
        (["nowhere.toml", "--seeds", "2"], "there is no recipe nowhere.toml"),
    ],
)
def test_what_cannot_be_meant(recipe: Path, words: list[str], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        sweep.run(words)
    assert said in str(caught.value) and not Path("runs").exists()


def test_a_folder_with_another_sweep_is_refused(recipe: Path) -> None:
    entries = sweep.combinations(recipe, {"optim.lr": [1e-4]}, 1, ["--out", "s", *FEW])
    sweep.begin(Path("s"), recipe, entries)
    sweep.begin(Path("s"), recipe, sweep.combinations(recipe, {"optim.lr": [1e-4, 1e-3]}, 1, ["--out", "s", *FEW]))  # further values join
    with pytest.raises(RecipeError, match="had another recipe"):
        sweep.begin(Path("s"), recipe, sweep.combinations(recipe, {"optim.lr": [1e-4]}, 1, ["--out", "s", *FEW, "--train.batch", "5"]))
    Path("full").mkdir()
    Path("full/file").touch()
    with pytest.raises(RecipeError, match="holds no sweep"):
        sweep.begin(Path("full"), recipe, entries)


def test_lists_and_texts_are_values(recipe: Path) -> None:
    assert sweep.values_of("adapt.targets", '["q"], ["q", "v"]') == [["q"], ["q", "v"]]
    assert sweep.values_of("optim.schedule", "linear,cosine") == ["linear", "cosine"]
    assert sweep.values_of("train.epochs", "1,2.5") == [1, 2.5]
    (entry,) = sweep.combinations(recipe, {"adapt.targets": [["q", "v"]], "adapt.method": ["lora"]}, 1, FEW)
    assert entry.recipes[0].adapt.targets == ("q", "v") and "[" not in Path(entry.recipes[0].out).name
