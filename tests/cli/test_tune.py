"""`quire tune`: the task and the settings that are chosen, what is refused, the recipe that is written, a plan, a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire import recipe as recipes
from quire.cli import tune
from quire.cli.main import main
from quire.errors import DataError, RecipeError
from quire.train import conflicts, defaults
from quire.train.conflicts import OF_DATA, OF_METHOD, OF_TASK
from quire.train.defaults import Case, choices
from quire.train.recipe import AdaptPart, DataPart, OptimPart, TaskPart, TrainRecipe
from tests.small import write_model
from tests.tasks.readers import write

Rows = Callable[..., str]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    made = {"encoder": write_model(folder / "bert", "bert"), "decoder": write_model(folder / "llama", template=True)}
    made["seq2seq"] = write_model(folder / "t5", "t5")
    made["reranker"] = write(folder / "reranker", "SequenceClassification", labels=["score"])
    return {name: str(path) for name, path in made.items()}


@pytest.fixture
def file(tmp_path: Path) -> Rows:
    """Writes rows, each `count` times with a number in its {}."""

    def make(row: dict[str, Any], count: int = 1, name: str = "rows.jsonl") -> str:
        lines = [json.dumps(row).replace("{}", str(number)) + "\n" for number in range(count)]
        (tmp_path / name).write_text("".join(lines), encoding="utf-8")
        return str(tmp_path / name)

    return make


LABELLED = {"text": "The dog {} is quick", "label": "quick"}
RANKED = {"query": "quick {}?", "positive": "The dog {} is quick", "negatives": ["lazy {}"]}
CASES = [
    ("decoder", {"messages": [{"role": "user", "content": "Hi {}"}, {"role": "assistant", "content": "Ho"}]}, "chat"),
    ("decoder", {"prompt": "Hi {}", "completion": "Ho"}, "chat"),
    ("encoder", LABELLED, "classify"),
    ("decoder", LABELLED, "classify"),
    ("encoder", {"tokens": ["Ada", "{}"], "tags": ["B-PER", "O"]}, "tag"),
    ("encoder", {"question": "Who {}?", "context": "Ada", "answers": [{"text": "Ada", "answer_start": 0}]}, "answer"),
    ("seq2seq", {"source": "a {}", "target": "b"}, "rewrite"),
    ("reranker", RANKED, "rerank"),
]


@pytest.mark.parametrize(("model", "row", "task"), CASES, ids=[f"{model}-{task}" for model, _, task in CASES])
def test_rows_and_model_tell_the_task(models: dict[str, str], file: Rows, model: str, row: dict[str, Any], task: str) -> None:
    recipe, why, count = tune.settle(tune.tables(tune.Words(models[model], [file(row, 4)])), ["--data.held_out", "0"])
    assert recipe.task.name == task and count == 4 and f"{tune._a(recipe and {'reranker': 'encoder'}.get(model, model))}" in why


def refused(models: dict[str, str], argv: list[str], error: type[Exception] = RecipeError) -> str:
    with pytest.raises(error) as caught:
        tune.run(argv)
    return str(caught.value)


def test_two_tasks_are_refused_with_both_readings(models: dict[str, str], file: Rows, tmp_path: Path) -> None:
    rows = file(RANKED, 4)
    said = refused(models, [models["encoder"], rows])
    assert "vectors that can be compared (--task embed) or a score for a question and a text (--task rerank)" in said
    (recipe, why, _) = tune.settle(tune.tables(tune.taken_apart([models["encoder"], rows, "--task", "embed"])), [])
    assert recipe.task.name == "embed" and why == "as asked"


def test_rows_of_two_readings_are_decided_by_naming_the_task(models: dict[str, str], file: Rows) -> None:
    rows = file({"sentence1": "a dog {}", "sentence2": "a hound {}", "score": 3.5}, 4)
    said = refused(models, [models["encoder"], rows], DataError)
    assert "Or name the task: " in said and "--task classify" in said and "--task embed" in said
    for task in ("classify", "embed"):
        assert tune.settle(tune.tables(tune.taken_apart([models["encoder"], rows, "--task", task])), [])[0].task.name == task


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "neither a model nor rows"),
        (["{encoder}"], "there are no rows for"),
        (["{encoder}", "{rows}", "--lora", "--full"], "--lora and --full: give one way"),
        (["{encoder}", "{rows}", "--lroa"], "no option --lroa. Did you mean '--lora'?"),
        (["{encoder}", "{rows}", "--task", "clasify"], "Did you mean 'classify'?"),
        (["{encoder}", "{rows}", "--task"], "--task takes one value"),
        (["{seq2seq}", "{rows}", "--task", "tag"], "learned by encoders, and"),
        (["{encoder}", "{rewrites}"], "which encoder-decoders learn, and"),
        (["{decoder}", "{rewrites}"], "prompt=SOURCE completion=TARGET"),
        (
            ["{encoder}", "{rows}", "--adapt.rank", "4"],
            "adapt.rank = 4 has no effect with adapt.method = 'full': it is for 'lora' or 'qlora'",
        ),
        (["{encoder}", "{rows}", "--train.steps", "3", "--train.epochs", "2"], "exactly one of"),
    ],
)
def test_what_cannot_be_meant(models: dict[str, str], file: Rows, tmp_path: Path, words: list[str], said: str) -> None:
    names = {**models, "rows": file(LABELLED, 4), "rewrites": file({"source": "a {}", "target": "b"}, 4, "rewrites.jsonl")}
    assert said in refused(models, [*(word.format(**names) for word in words), *(["--out", str(tmp_path / "run")] if words else [])])
    assert not (tmp_path / "run").exists()


def test_rows_of_another_kind_than_the_task_asked_for(models: dict[str, str], file: Rows) -> None:
    assert "labelled" in refused(models, [models["encoder"], file({"source": "a {}", "target": "b"}, 4), "--task", "classify"], DataError)


# -- settings ------------------------------------------------------------------------------------------------------------------------


def value(case: Case, key: str) -> Any:
    return {choice.key: choice.value for choice in choices(case)}[key]


def test_settings_follow_size_method_and_task() -> None:
    base = Case("classify", "full", "encoder", 110_000_000)
    assert value(base, "optim.lr") == 3e-5 and value(base, "optim.betas") == (0.9, 0.999) and value(base, "optim.weight_decay") == 0.01
    assert value(Case("classify", "full", "encoder", 22_000_000), "optim.lr") > value(base, "optim.lr")
    lora = Case("classify", "lora", "encoder", 110_000_000)
    assert value(lora, "optim.lr") == pytest.approx(10 * value(base, "optim.lr")) and value(lora, "optim.weight_decay") == 0
    assert value(Case("chat", "full", "decoder", 7_000_000_000), "optim.lr") == 2e-5
    assert value(Case("rewrite", "full", "seq2seq", 0), "optim.betas") == (0.9, 0.98)
    few = Case("classify", "full", "encoder", 110_000_000, rows=64)
    assert value(few, "train.epochs") == 20 and value(few, "train.batch") == 16
    assert value(Case("classify", "full", "encoder", 110_000_000, rows=50_000), "train.epochs") == 3


@pytest.mark.parametrize("task", defaults.SUPERVISED)
@pytest.mark.parametrize("method", tune._METHODS)
def test_every_choice_is_a_key_with_a_reason(task: str, method: str) -> None:
    for kind, size in (("encoder", 22e6), ("decoder", 1e6), ("seq2seq", 60e6), ("encoder", 0)):
        for choice in choices(Case(task, method, kind, int(size))):
            assert choice.why
            recipes.check_usual(recipes.replace(TrainRecipe(), choice.key, choice.value))  # none warns
            recipes.from_dict(TrainRecipe, recipes.above({}, {choice.key: choice.value}))


def test_a_recipe_file_and_options_stand_over_what_is_usual(models: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(f'[model]\nstart = "{models["encoder"]}"\n[task]\nname = "classify"\n[optim]\nwarmup = 0.5\n[train]\nsteps = 7\n')
    found = defaults.load(path, ["--optim.final", "0.3"], "quire train")
    assert (found.optim.lr, found.optim.warmup, found.optim.final) == (1e-4, 0.5, 0.3)
    assert (found.train.steps, found.train.epochs, found.data.held_out) == (7, 0.0, 0.1)
    assert defaults.load(path, ["--adapt.method", "lora"], "quire train").optim.lr == 1e-3
    for words, budget in (
        (["--train.epochs", "3"], (0, 3.0)),
        (["--train.epochs=0"], (7, 0.0)),
        (["--train.epochs", "0", "--train.steps=9"], (9, 0.0)),
        (["--train.steps=9", "--train.epochs", "3"], (9, 3.0)),  # two at one place are refused later
    ):
        found = defaults.load(path, words, "quire train")
        assert (found.train.steps, found.train.epochs) == budget
    both = {"train": {"steps": 7, "epochs": 2.0}}
    assert defaults.replaced(both, ["--train.minutes", "3"]) == both
    path.write_text("[train]\nsteps = 7\n")
    assert defaults.load(path, [], "quire train") == recipes.load(TrainRecipe, path)  # running text has its own


# -- conflicts -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "both"),
    [
        ({"task.name": "classify", "task.stride": 64}, ("task.stride", "task.name")),
        ({"task.name": "tag", "task.labels": "number"}, ("task.labels", "task.name")),
        ({"data.eval": ("x",)}, ("data.eval", "task.name")),
        ({"task.name": "tag", "data.field": "body"}, ("data.field", "task.name")),
        ({"task.name": "classify", "data.pack": True}, ("data.pack", "task.name")),
        ({"optim.muon_lr": 0.1}, ("optim.muon_lr", "optim.name")),
        ({"optim.decay": 0.1}, ("optim.decay", "optim.schedule")),
        ({"task.name": "chat", "adapt.method": "lora", "adapt.text": "x"}, ("adapt.text", "adapt.method")),
        ({"task.name": "classify", "task.temperature": 1.0}, ("task.temperature", "task.name")),
        ({"task.name": "classify", "model.start": "m", "model.width": 64}, ("model.width", "model.start")),
    ],
)
def test_options_without_an_effect_are_refused(changes: dict[str, Any], both: tuple[str, str]) -> None:
    recipe = TrainRecipe()
    conflicts.refuse(recipe)
    for key, changed in changes.items():
        recipe = recipes.replace(recipe, key, changed)
    with pytest.raises(RecipeError) as caught:
        conflicts.refuse(recipe)
    assert all(key in str(caught.value) for key in both)


def test_every_option_has_its_readers() -> None:
    elsewhere = {"name", "temperature", "teacher", "distil_weight", "hidden_weight"}  # of any task; conflicts.refuse and teacher.settle
    assert set(vars(TaskPart())) - elsewhere == set(OF_TASK)
    assert set(vars(AdaptPart())) - {"method", "frozen"} == set(OF_METHOD)  # adapting.settle looks at frozen
    assert set(vars(DataPart())) - {"sources", "held_out"} == set(OF_DATA)


# -- what comes of it ----------------------------------------------------------------------------------------------------------------


def both_labels(file: Rows) -> str:
    path = Path(file(LABELLED, 30))
    path.write_text(path.read_text() + path.read_text().replace("quick", "lazy"))
    return str(path)


def test_a_written_recipe_is_what_runs(
    models: dict[str, str], file: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["tune", models["encoder"], both_labels(file), "--lora", "--train.threads", "1", "--optim.warmup", "0.2"]
    assert main([*words, "--recipe", "mine.toml"]) == 0
    out = capsys.readouterr().out
    assert "as asked; usual is 0.1" in out and "labelled rows" in out and "recipe  mine.toml" in out
    text = (tmp_path / "mine.toml").read_text()
    assert text.startswith("# classify rows") and "lr = 0.001  # 10 times" in text and "dropout" not in text
    found = defaults.load("mine.toml", [], "quire train")
    assert found.adapt.method == "lora" and found.optim.warmup == 0.2 and found.train.epochs == 20 and found.task.name == "classify"
    assert main([*words, "--recipe", "mine.toml"]) == 2 and "is there already" in capsys.readouterr().err

    before = sorted(tmp_path.rglob("*"))
    assert main([*words, "--dry-run", "--json"]) == 0
    told = capsys.readouterr()
    plan = json.loads(told.out)
    assert "few rows: 54 (" in told.err and "54 rows to train on, 6 held out" in told.err
    assert "columns: text = text, label = label\n" in told.err
    assert plan["steps"] == 20 * 4 and plan["minutes"] > 0 and any("at the fullest" in note for note in plan["notes"])
    assert main(["plan", "mine.toml"]) == 0 and "80 steps of 16 rows of at most" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before

    assert main([*words, "--train.steps", "3", "--out", "run", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["step"] == 3 and 0 <= result["evaluation"]["accuracy"] <= 1
    assert recipes.load(TrainRecipe, tmp_path / "run" / "recipe.toml").optim.lr == 1e-3


def test_a_dry_run_tells_the_plan_and_then_refuses(models: dict[str, str], file: Rows, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(both_labels(file))
    path.write_text(path.read_text() + '{"text": "one more", "label": "Quick"}\n')
    assert main(["tune", models["encoder"], str(path), "--train.threads", "1", "--dry-run", "--json"]) == 2
    told = capsys.readouterr()
    assert json.loads(told.out)["minutes"] > 0 and "label-spellings: 1 label looks like another" in told.err


def test_a_schedule_without_a_rate() -> None:
    with pytest.raises(RecipeError, match="the learning rate is zero at the only step"):
        conflicts.refuse_no_rate(OptimPart(schedule="linear", final=0.0, warmup=0.0), 1)
    conflicts.refuse_no_rate(OptimPart(schedule="linear", final=0.0, warmup=0.0), 2)
    conflicts.refuse_no_rate(OptimPart(schedule="constant", warmup=0.0), 1)


@pytest.mark.parametrize(
    "budget", [("--train.steps", "1"), ("--train.steps", "1", "--dry-run"), ("--train.epochs", "1", "--train.batch", "64")]
)
def test_a_run_without_a_rate_is_refused_before_it_leaves_anything(
    models: dict[str, str], file: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str], budget: tuple[str, ...]
) -> None:
    words = ["tune", models["encoder"], both_labels(file), "--out", str(tmp_path / "run"), "--train.threads", "1", "--optim.warmup", "0"]
    assert main([*words, *budget]) == 2 and not (tmp_path / "run").exists()
    assert "the learning rate is zero at the only step (optim.lr = " in (said := capsys.readouterr().err)
    assert "Train for more steps, set optim.schedule = 'constant'" in said


def test_help_names_our_options_and_the_keys(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["tune", "--help"])
    out = capsys.readouterr().out
    assert "--lora" in out and "--recipe FILE" in out and "--optim.lr" in out


def shown_default(out: str, key: str) -> str:
    return " ".join(out[out.index(f"--{key} ") :].split()).partition("(default: ")[2].partition(")")[0]


def test_help_shows_the_defaults_that_are_used(models: dict[str, str], file: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of the run that is named; without one those of a small model, and whose they are is said."""
    for words, whose in (
        (["tune", "--help"], "those for all of an encoder of 22 million\nparameters that learns 'classify'"),
        (["tune", "--task", "chat", "--lora", "--help"], "those for a LoRA of a decoder of 22 million\nparameters that learns 'chat'"),
        (["tune", models["encoder"], both_labels(file), "--train.batch", "7", "--help"], "those of this run"),
    ):
        with pytest.raises(SystemExit):
            main(words)
        out = capsys.readouterr().out
        assert f"Defaults are {whose}." in out
        lora = "chat" in words
        assert float(shown_default(out, "optim.lr")) == (5e-3 if lora else 1e-4)
        assert shown_default(out, "optim.weight-decay") == ("0.0" if lora else "0.01")
    assert shown_default(out, "train.batch") == "7"
