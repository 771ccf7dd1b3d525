"""The page of a supervised run: figures with intervals, what was mistaken for what, samples, rows; safe, self-contained, never stopped."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from quire.report import card, confusion, supervised
from quire.report import folder as folders
from quire.report.outcome import actual_minutes
from quire.report.run import write
from tests.report import fake_tuned
from tests.report.fake_run import HOSTILE
from tests.report.html import assert_self_contained, read
from tests.report.test_run_report import _damage

SHARED = ["measured", "curves", "rows", "plan", "events", "certificate", "recipe"]
OWN = {
    "classify": {"confusion", "worst"},
    "several": {"worst"},
    "number": {"scatter", "worst"},
    "tag": {"mistakes"},
    "answer": {"mistakes", "worst"},
    "rewrite": {"written", "worst"},
    "chat": {"written", "worst"},
    "embed": {"worst"},
    "rerank": {"worst"},
}
SAYS = {
    "classify": ("always saying", "taken for", "sure", "The largest confusions"),
    "several": ("Most labels too many or too few",),
    "number": ("On the line, both are the same", "0.830 Spearman correlation"),
    "tag": ("invented", "wrong boundary", "person: Ada Lovelace", "the joined text of 49 of 50 rows", "F1 of whole stretches"),
    "answer": ("found where there is none", "When did she write it?", "exact match"),
    "rewrite": ("31.2 BLEU", "Before training", "After step 60", "Wanted"),
    "chat": ("1.210 loss", "52.0 % ROUGE-L", "98.0 % ended by themselves", "before the first step the held-out rows had 2.420"),
    "embed": ("recall@10", "held-out, before", "first instead"),
    "rerank": ("NDCG@10", "stands at place"),
}


@pytest.mark.parametrize("task", OWN)
def test_every_task_has_the_parts_that_belong_to_it(tmp_path: Path, task: str) -> None:
    path = write(fake_tuned.make(tmp_path / "run", task))
    page = read(path)
    assert_self_contained(page)
    parts = {part for part in page.ids if not part.startswith(("c-", "h-")) and part not in ("tip", "data", "absent")}
    assert parts == {*SHARED, *OWN[task]}
    for said in (
        *SAYS[task],
        "120 test rows",
        "LoRA of rank 4: 150,000 of 22,860,000 numbers learned, 0.6562 %",
        "3 repeated training rows",
    ):
        assert said in page.words.replace("\xa0", " "), said
    assert "surprise" not in page.words and "attention.json" not in page.words


def test_what_rows_and_answers_hold_stays_text(tmp_path: Path) -> None:
    for task in ("classify", "chat"):
        folder = fake_tuned.make(tmp_path / task, task, hostile=True)
        labels = folder / "evaluation.json"
        labels.write_text(labels.read_text().replace('"negative"', json.dumps(HOSTILE)))
        answers = folder / "answers_test.jsonl"
        answers.write_text(answers.read_text().replace('"negative"', json.dumps(HOSTILE)))
        page = read(write(folder))
        assert_self_contained(page)
        assert not [1 for tag, name, _ in page.attributes if tag == "img" or name == "onerror"]
        assert "</script><script>alert(1)" in page.words


def test_two_labels_are_a_matrix_and_many_are_the_worst_of_them(tmp_path: Path) -> None:
    two = read(write(fake_tuned.make(tmp_path / "two", "classify", labels=2)))
    assert "Label by label" not in two.words and "of 2 labels" not in two.words
    folder = fake_tuned.make(tmp_path / "many", "classify", labels=77, rows=1500)
    many = read(write(folder))
    assert_self_contained(many)
    for said in (
        "The 15 of 77 labels with the most errors",
        "others",
        "65 more labels, with fewer errors",
        "smaller confusions are not listed",
    ):
        assert said in many.words
    split = supervised.judged(folders.read(folder))
    assert split is not None
    found = confusion.matrix(split)
    assert found is not None
    order = found.worst()
    assert [found.errors(label) for label in order] == sorted((found.errors(label) for label in order), reverse=True)
    assert sum(map(sum, found.counts)) == 1500


def test_a_confusion_names_rows_with_their_place_the_surest_first(tmp_path: Path) -> None:
    folder = fake_tuned.make(tmp_path / "run", "classify")
    rows = [json.loads(line) for line in (folder / "answers_test.jsonl").read_text().splitlines()]
    wrong = sorted((row for row in rows if row["wanted"] != [row["label"]]), key=lambda row: -row["score"])
    page = read(write(folder))
    first = page.words.index("The surest wrong answers", page.words.index("The largest confusions"))
    assert page.words.index(wrong[0]["where"], first) < page.words.index(wrong[5]["where"], first)
    assert wrong[0]["reads"][0] in page.words


def test_answers_without_their_texts_are_named_by_their_place(tmp_path: Path) -> None:
    folder = fake_tuned.make(tmp_path / "run", "classify")
    path = folder / "answers_test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({key: value for key, value in row.items() if key != "reads"}) + "\n" for row in rows))
    page = read(write(folder))
    assert_self_contained(page)
    assert "data/test.jsonl:" in page.words


def test_the_time_of_training_ends_with_the_last_step(tmp_path: Path) -> None:
    folder = fake_tuned.make(tmp_path / "run", "classify")
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps(status | {"seconds": 3600.0}))  # a long evaluation at the end
    assert actual_minutes(folders.read(folder)) == pytest.approx(0.7)


def test_an_unfinished_run_says_what_is_not_there_yet(tmp_path: Path) -> None:
    folder = fake_tuned.make(tmp_path / "run", "classify")
    for name in ("evaluation.json", "answers_test.jsonl", "answers_held_out.jsonl", "data.json"):
        (folder / name).unlink()
    (folder / "status.json").write_text('{"state": "stopped", "step": 30, "steps": 60}')
    page = read(write(folder))
    assert_self_contained(page)
    assert "The run was stopped at step 30 of 60" in page.words
    assert "What came out: evaluation.json was not written" in page.words and "data.json was not written" in page.words
    assert "confusion" not in page.ids and "worst" not in page.ids


@pytest.mark.parametrize("task", ["classify", "number", "tag", "answer", "chat", "embed"])
def test_values_of_the_wrong_kind_never_stop_a_report(tmp_path: Path, task: str) -> None:
    draw = random.Random(task)
    whole = fake_tuned.make(tmp_path / "whole", task, rows=20)
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    for round_ in range(5):
        for file in ("evaluation.json", "data.json", "adapt.json", "model/config.json", "model/binding.json"):
            (folder / file).write_text(json.dumps(_damage(json.loads((whole / file).read_text()), draw)))
        for file in ("answers_test.jsonl", "samples.jsonl"):
            if (whole / file).exists():
                rows = [json.loads(line) for line in (whole / file).read_text().splitlines()]
                (folder / file).write_text("".join(json.dumps(_damage(row, draw) if draw.random() < 0.4 else row) + "\n" for row in rows))
        try:
            assert_self_contained(read(write(folder)))
            assert "## Licence" in card.markdown(folders.read(folder))
            card.write(folder)
        except Exception as error:
            raise AssertionError(f"round {round_} of {task}") from error
