"""Tuned runs on the same rows: the difference row by row, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quire.report import compare, paired
from tests.report import fake_tuned
from tests.report.html import assert_self_contained, read

METRICS = {"classify": "accuracy", "several": "exact", "number": "spearman", "tag": "f1", "answer": "f1", "rewrite": "rougeL",
           "chat": "rougeL", "embed": "mrr@10", "rerank": "mrr@10"}  # fmt: skip


@pytest.mark.parametrize("task", METRICS)
def test_a_better_run_is_told_from_a_worse_one(tmp_path: Path, task: str) -> None:
    runs = compare.read(
        [fake_tuned.make(tmp_path / name, task, seed=seed, skill=skill) for name, seed, skill in (("a", 0, 0.4), ("b", 1, 0.95))]
    )
    (found,) = paired.paired(runs)
    assert (found.figure, found.rows, found.split) == (METRICS[task], 120, "test")
    assert found.low < found.difference < found.high
    if task != "number":  # whose order does not depend on the skill
        assert found.settled and found.low > 0


def test_equal_runs_are_not_told_apart(tmp_path: Path) -> None:
    folders = [fake_tuned.make(tmp_path / name, "classify", seed=seed) for seed, name in enumerate("ab")]
    runs = compare.read(folders)
    (found,) = paired.paired(runs)
    assert not found.settled
    said = compare.told(found, ["a", "b"])
    assert said.startswith("b beside a: ") and said.endswith("The interval contains 0: these rows do not tell the two apart")
    page = read(compare.write(folders, tmp_path / "compare.html"))
    assert_self_contained(page)
    assert "On the same rows" in page.words and "do not tell the two apart" in page.words and "paired" in page.ids
    figure = next(figure for figure in compare.figures(runs) if figure.name == "test accuracy")
    assert figure.best() == set() and all("to" in cell and "%" in cell for cell in figure.cells())


def test_the_difference_is_that_of_the_figures(tmp_path: Path) -> None:
    folders = [fake_tuned.make(tmp_path / name, "classify", seed=seed, skill=0.6 + 0.2 * seed) for seed, name in enumerate("ab")]
    runs = compare.read(folders)
    (found,) = paired.paired(runs)
    both = [run.evaluation["test"]["accuracy"] for run in runs]
    assert found.difference == pytest.approx(both[1] - both[0])


def test_other_rows_are_not_compared(tmp_path: Path) -> None:
    one, other = (fake_tuned.make(tmp_path / name, "classify") for name in "ab")
    for split in ("test", "held_out"):
        path = other / f"answers_{split}.jsonl"
        path.write_text(path.read_text().replace(f"data/{split}.jsonl", "data/others.jsonl"))
    runs = compare.read([one, other])
    assert paired.paired(runs) == []
    assert any("b shares 0 of its 120 rows" in said for said in compare.warnings(runs))


def test_rows_without_an_answer_are_left_out(tmp_path: Path) -> None:
    one, other = (fake_tuned.make(tmp_path / name, "chat", seed=seed) for seed, name in enumerate("ab"))
    for folder in (one, other):
        rows = [json.loads(line) for line in (folder / "answers_test.jsonl").read_text().splitlines()]
        for row in rows[50:]:
            del row["answer"]
        (folder / "answers_test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = paired.paired(compare.read([one, other]))
    assert (found.rows, found.figure) == (50, "rougeL")


def test_damaged_answers_and_other_tasks_are_left_out(tmp_path: Path) -> None:
    one, other, third = (fake_tuned.make(tmp_path / name, task) for name, task in (("a", "classify"), ("b", "classify"), ("c", "tag")))
    for split in ("test", "held_out"):
        path = other / f"answers_{split}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row | {"label": None, "wanted": row["wanted"]}) + "\n" for row in rows))
    assert paired.paired(compare.read([one, third])) == []
    (found,) = paired.paired(compare.read([one, other]))
    assert found.difference < 0  # a label that is not there is wrong
