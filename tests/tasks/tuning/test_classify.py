"""Labels: examples are what `quire classify` reads, losses are the reference's, rare labels can count alike, figures are the verb's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import quire
from quire.binding import Contract
from quire.data.readings import padding_labels
from quire.errors import DataError, RecipeError
from quire.families import ModelFolder, heads
from quire.nn.batch import Batch
from quire.tasks.reading import read
from quire.tasks.tuning.classify import Classify
from quire.tasks.tuning.schemas import Labelled
from quire.train.facts import padded
from quire.train.recipe import TrainRecipe
from quire.train.run import resume, train
from tests.small import write_model
from tests.tasks.tuning.conftest import text, write_rows

ROWS = [Labelled(text(n), (("good", "bad", "so so")[n % 3],), where=f"rows.jsonl:{n + 1}") for n in range(24)]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_model(tmp_path / "base", "bert")


def made(base: Path, rows: list[Labelled], **how: Any) -> tuple[Classify, Any, ModelFolder]:
    task, opened = Classify(Contract.open(base), 64, rows, **how), ModelFolder.open(base)
    over, labels, more = task.head()
    tuned = opened.with_head(heads.fields(opened, over, labels, more))
    return task, tuned.build(), tuned


def test_what_is_trained_is_what_is_read(base: Path) -> None:
    task, _, _ = made(base, ROWS)
    texts = [row.text for row in ROWS]
    assert [example.ids.tolist() for example in task.examples(ROWS)] == [list(row.ids) for row in read(task.contract, texts, 64)]
    assert task.labels == ("bad", "good", "so so")
    assert [int(example.labels["label"]) for example in task.examples(ROWS)[:3]] == [1, 0, 2]


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        [Labelled(row.text, pair=text(n + 5), labels=row.labels) for n, row in enumerate(ROWS)],
        [Labelled(row.text, ("a", "b")[: n % 3]) for n, row in enumerate(ROWS)],
        [Labelled(row.text, number=n / 7) for n, row in enumerate(ROWS)],
    ],
    ids=["single", "pairs", "several", "number"],
)
def test_the_loss_is_that_of_transformers(rows: list[Labelled], base: Path, tmp_path: Path) -> None:
    task, model, tuned = made(base, rows)
    ModelFolder.save(tmp_path / "tuned", model, tuned.config)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "tuned").eval()
    batch = task.batch(task.examples(rows))
    with torch.no_grad():
        total, count = task.terms(model, batch)["label"]
    types = torch.zeros_like(batch.tokens) if batch.types is None else batch.types
    keep = torch.ones_like(batch.tokens) if batch.keep is None else batch.keep.long()
    with torch.no_grad():
        loss = theirs(batch.tokens, attention_mask=keep, token_type_ids=types, labels=batch.labels["label"]).loss
    assert float(total) / count == pytest.approx(float(loss), abs=1e-5)
    assert task.evaluate(model, rows).figures["loss"] == pytest.approx(float(loss), abs=1e-5)


def test_rare_labels_count_alike(base: Path) -> None:
    rows = [Labelled(text(n), ("rare" if n < 3 else "usual",)) for n in range(24)]
    task, _, _ = made(base, rows, balanced=True)
    weights = [float(example.labels["weight"]) for example in task.examples(rows)]
    assert sum(weights[:3]) == pytest.approx(sum(weights[3:])) and np.mean(weights) == pytest.approx(1.0)


def test_long_rows(base: Path) -> None:
    long = [*ROWS, Labelled("fox " * 200, ("good",), where="rows.jsonl:25")]
    task, _, _ = made(base, long, long="head-tail")
    last = task.examples(long)[-1]
    assert len(last.ids) == 64 and last.cut > 100
    with pytest.raises(DataError, match=r"1 row has more than 64 tokens \(rows.jsonl:25: \d+ tokens too many"):
        made(base, long, long="error")[0].examples(long)


def test_labels_that_cannot_be(base: Path) -> None:
    task, model, _ = made(base, ROWS)
    with pytest.raises(DataError, match=r"1 labels are none of the 3.*e\.jsonl:1: 'goood' Did you mean 'good'"):
        task.evaluate(model, [Labelled("x", ("goood",), where="e.jsonl:1")])
    with pytest.raises(DataError, match="every row has the label 'good'"):
        Classify(task.contract, 64, [Labelled("x", ("good",))] * 3)
    with pytest.raises(DataError, match="has 2 labels"):
        made(base, [Labelled("x", ("a", "b")), Labelled("y", ("b",))], problem="single")[0].examples([Labelled("x", ("a", "b"))])


def test_rows_to_measure_on_are_read_before_the_first_step(base: Path, tmp_path: Path, tuned: Callable[..., TrainRecipe]) -> None:
    long = write_rows(tmp_path / "test.jsonl", [Labelled("fox " * 200, ("good",)), Labelled("a fox", ("bad",))])
    recipe = tuned("classify", base, ROWS, **{"data.test": (long,), "data.long": "error"})
    with pytest.raises(DataError, match=r"1 row has more than 64 tokens \(.*test.jsonl:1: \d+ tokens too many"):
        train(recipe)


def test_longer_rows_than_the_model_reads_are_no_setting(base: Path, tuned: Callable[..., TrainRecipe]) -> None:
    with pytest.raises(RecipeError, match=r"data.longest = 600, and this model reads 64 tokens at once: give at most 64"):
        train(tuned("classify", base, ROWS, **{"data.longest": 600}))


def test_a_run_learns_resumes_to_the_same_bits_and_is_used_by_its_labels(base: Path, tuned: Callable[..., TrainRecipe]) -> None:
    rows = [Labelled(f"{word} {text(n)}", (word,), where="") for n in range(20) for word in ("fox", "dog")]
    recipe = tuned("classify", base, rows, **{"train.steps": 50, "optim.lr": 5e-3})
    whole = train(recipe)
    assert whole.evaluation["held_out"]["accuracy"] == 1.0
    assert sum(map(sum, whole.evaluation["held_out"]["tables"]["confusion"]["counts"])) == whole.evaluation["held_out"]["rows"]
    assert quire.load(whole.model).classify(["a fox lives near", "a dog lives near"])[0].keys() == {"fox", "dog"}
    other = dataclasses.replace(recipe, out=recipe.out + "2")
    train(other, stop_at=13)
    again = resume(other.out)
    first, second = (ModelFolder.open(result.model).build().state_dict() for result in (whole, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_as_many_labels_as_tokens_are_no_labels_of_tokens(base: Path) -> None:
    names = tuple("abcdefghijklmnopqrst")
    rows = [Labelled("fox " * n, names[: 1 + n % 5] if n % 5 else names, where=f"m:{n}") for n in range(1, 22)]
    task, model, _ = made(base, rows, problem="several")
    examples = task.examples(rows)
    length = sorted(examples, key=lambda example: abs(len(example.ids) - len(task.labels)))[0]
    assert len(length.ids) == len(task.labels)  # a row with as many tokens as there are labels
    batch = task.batch([length, examples[0]])
    assert batch.labels["label"].shape == (2, 20) and batch.labels["label"].is_floating_point()
    with torch.no_grad():
        total, count = task.terms(model, batch)["label"]
        apart = sum(float(task.terms(model, task.batch([one]))["label"][0]) for one in (length, examples[0]))
    assert count == 2 and abs(float(total) - apart) < 1e-4
    wide = Batch(torch.zeros(2, 24, dtype=torch.long), {"label": torch.ones(2, 24)}, keep=torch.arange(24) < torch.tensor([[5], [9]]))
    assert [part.labels["label"].shape for part in wide.split(1)] == [(1, 24), (1, 24)] and padding_labels(wide) == 0
    assert padded(wide, 8).labels["label"].shape == (2, 24)


def test_numbers_that_do_not_differ_end_no_run(base: Path) -> None:
    rows = [Labelled(f"fox {text(n)}", (), None, float(n % 3), where=f"n:{n}") for n in range(9)]
    task, model, _ = made(base, rows)
    found = task.evaluate(model, rows[:1])  # of one number nothing can be said
    assert np.isnan(found.figures["spearman"]) and np.isfinite(found.figures["loss"])
    figures = task.evaluate(model, rows).figures
    assert np.isfinite(figures["spearman"]) and 0 < figures["mae"] <= figures["rmse"] == pytest.approx(figures["loss"] ** 0.5, rel=1e-4)
