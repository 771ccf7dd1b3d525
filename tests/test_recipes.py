"""Every recipe in recipes/ is whole, says what it means, and trains: two steps each, through evaluation, saving and the model folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

import quire
from quire.recipe import load, replace
from quire.tasks.task import NAMES
from quire.train.recipe import TrainRecipe

FOLDER = Path(__file__).resolve().parent.parent / "recipes"
EVERY = sorted(FOLDER.glob("*.toml"))
RECIPES = [path for path in EVERY if load(TrainRecipe, path).task.name in NAMES]  # on running text
TUNED = [path for path in EVERY if path not in RECIPES]  # on rows


def test_there_is_a_recipe_for_each_task() -> None:
    assert {load(TrainRecipe, path).task.name for path in RECIPES} == set(NAMES)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_is(path: Path) -> None:
    first, second = path.read_text(encoding="utf-8").splitlines()[:2]
    assert first.startswith("# ") and second == f"#   quire train recipes/{path.name}"
    recipe = load(TrainRecipe, path)
    assert recipe.out == f"runs/{path.stem}" and recipe.data.sources == ("stdlib",)
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
    from tests.small import write_model

    out, recipe = tmp_path / "run", load(TrainRecipe, path)
    if recipe.task.teacher:
        recipe = replace(recipe, "task.teacher", str(write_model(tmp_path / "teacher", context=256)))
    result = train(small(recipe, texts, out))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "step"] == [1, 2]
    assert any(line["kind"] == "eval" for line in lines)
    assert result.model is not None
    model = quire.load(result.model)
    assert {"causal": quire.Decoder, "masked": quire.Encoder, "denoise": quire.Seq2Seq}[recipe.task.name] is type(model)


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


@pytest.mark.parametrize("path", TUNED, ids=lambda path: path.stem)
def test_a_recipe_on_rows_says_what_it_is(path: Path) -> None:
    first, second = path.read_text(encoding="utf-8").splitlines()[:2]
    assert first.startswith("# ") and second.startswith(f"#   quire train recipes/{path.name}")
    recipe = load(TrainRecipe, path)
    assert recipe.out == f"runs/{path.stem}" and recipe.data.sources
    assert sum(map(bool, (recipe.train.steps, recipe.train.tokens, recipe.train.epochs, recipe.train.minutes))) == 1


def rows_of(name: str, first: int) -> list[dict[str, object]]:
    """Six rows that read differently from those of another `first`."""
    numbers = range(first, first + 6)
    if name == "tag":
        words, tags = ["Angela", "met", "Barack", "in", "São", "Paulo"], ["B-PER", "O", "B-PER", "O", "B-LOC", "I-LOC"]
        return [{"tokens": [*words, str(n)], "tags": [*tags, "O"]} for n in numbers]
    found: list[list[str]] = [["Barack"], ["Barack in Berlin"], []]
    answers = [{"text": found[n % 3], "answer_start": [11] * len(found[n % 3])} for n in numbers]
    return [{"question": f"Who came {n}?", "context": "Angela met Barack in Berlin.", "answers": one} for n, one in zip(numbers, answers)]


@pytest.mark.parametrize("name", ["tag", "answer"])
def test_a_recipe_for_words_or_answers_tunes_two_steps(name: str, tmp_path: Path) -> None:
    from quire.train.run import train
    from tests.small import write_model

    base = write_model(tmp_path / "base", "bert", context=512)
    files = {}
    for number, key in enumerate(("data.sources", "data.eval", "data.test")):
        files[key] = tmp_path / f"{key}.jsonl"
        files[key].write_text("".join(json.dumps(row) + "\n" for row in rows_of(name, 10 * number)), encoding="utf-8")
    recipe = load(TrainRecipe, FOLDER / f"{name}.toml")
    for key, value in {"train.epochs": 0.0, "train.steps": 2, "train.threads": 1, "train.batch": 2, "model.start": str(base)}.items():
        recipe = replace(recipe, key, value)
    for key, path in files.items():
        recipe = replace(recipe, key, (str(path),))
    result = train(dataclasses.replace(recipe, out=str(tmp_path / "run")))
    assert result.model is not None and {"f1", "loss", "intervals", "tables"} <= result.evaluation["test"].keys()
    found = [json.loads(line) for line in (tmp_path / "run/answers_test.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(found) == 6 and found[0]["where"] == f"{files['data.test']}:1"
    model = quire.load(result.model)
    if name == "tag":
        assert len(found[0]["tags"]) == 7 and list(model.labels.values()) == ["B-LOC", "B-PER", "I-LOC", "O"]
        model.tag(["Angela met Barack"], "first")
    else:
        said = model.answer([(str(row["question"]), str(row["context"])) for row in rows_of(name, 20)], no_answer=True)
        assert [one[0].text for one in said] == [line["answer"] for line in found]


@pytest.mark.parametrize("name", ["embed", "rerank"])
def test_a_recipe_for_vectors_or_reranking_tunes_two_steps(name: str, tmp_path: Path) -> None:
    from quire.train.run import train
    from tests.small import write_model

    rows = [{"sentence1": f"the fox {n}", "sentence2": f"a dog {n} jumps", "score": n % 6} for n in range(20)]
    if name == "rerank":
        rows = [{"query": f"who came {n}", "positive": f"a fox {n}", "negatives": [f"no dog {n}"]} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = replace(load(TrainRecipe, FOLDER / f"{name}.toml"), "data.sources", (str(tmp_path / "rows.jsonl"),))
    base = write_model(tmp_path / "base", "bert")
    for key, value in {"train.epochs": 0.0, "train.steps": 2, "train.threads": 1, "train.batch": 4, "model.start": str(base)}.items():
        recipe = replace(recipe, key, value)
    result = train(dataclasses.replace(replace(recipe, "data.held_out", 0.3), out=str(tmp_path / "run")))
    assert result.model is not None and result.evaluation["metric"] in result.evaluation["held_out"]["intervals"]
    found = quire.load(result.model).rerank("who came", ["a fox", "a dog", "nobody"])
    assert sorted(number for number, _ in found) == [0, 1, 2]
