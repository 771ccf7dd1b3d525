"""Rows about the words that the tiny models of `readers` know, and recipes of a few steps on them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire import recipe as recipes
from quire.tasks.tuning.schemas import Question, Ranked, Similar, Tagged
from quire.train.recipe import DataPart, ModelPart, OptimPart, TaskPart, TrainPart, TrainRecipe

_WORDS = "the quick brown fox lives near a lazy dog in south america where basin and question answer premise".split()


def text(number: int) -> str:
    return " ".join(_WORDS[(number * step) % len(_WORDS)] for step in (1, 2, 5, 7))


def ranked(count: int = 24, negatives: int = 2, scores: bool = False) -> list[Ranked]:
    made = []
    for n in range(count):
        others = tuple(text(n + 3 + k) + " dog" for k in range(negatives))
        given = tuple(5.0 - k for k in range(1 + negatives)) if scores else ()
        made.append(Ranked(f"question {n} {text(n)}", f"answer {n} {text(n + 1)}", others, given, where=f"rows.jsonl:{n + 1}"))
    return made


def similar(count: int = 24, scores: bool = True) -> list[Similar]:
    return [
        Similar(f"{n} {text(n)}", f"{text(n + 1)} {n}", n % 6 / 5 if scores else None, where=f"rows.jsonl:{n + 1}") for n in range(count)
    ]


def write_rows(path: Path, rows: list[Any]) -> str:
    """As a file of JSON lines, without what a row does not have."""
    names = {"words": "tokens"} if isinstance(rows[0], Tagged) else {"spans": "answers"} if isinstance(rows[0], Question) else {}
    if isinstance(rows[0], Similar) and rows[0].score is not None:
        names = {"first": "sentence1", "second": "sentence2"}
    lines = []
    for row in rows:
        fields = {field.name: getattr(row, field.name) for field in dataclasses.fields(row) if field.name not in ("where", "group")}
        if isinstance(row, Question):
            fields |= {"id": None, "spans": [{"text": said, "answer_start": start} for said, start in row.spans]}
        lines.append({names.get(name, name): value for name, value in fields.items() if value not in (None, ())})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


@pytest.fixture
def tuned(tmp_path: Path) -> Callable[..., TrainRecipe]:
    """A recipe of 4 steps: tuned("embed", model, rows, **{"train.steps": 2}). Its run folder is tmp_path / "run"."""

    def make(task: str, start: Path, rows: list[Any], **changes: Any) -> TrainRecipe:
        recipe = TrainRecipe(
            out=str(tmp_path / "run"),
            model=ModelPart(start=str(start)),
            data=DataPart(sources=(write_rows(tmp_path / "rows.jsonl", rows),), schema=rows[0].schema, held_out=0.3),
            task=TaskPart(name=task),  # type: ignore[arg-type]
            optim=OptimPart(lr=1e-3, warmup=0.25),
            train=TrainPart(steps=4, batch=4, dtype="fp32", threads=1, compile="off", eval_every=2, save_every=2),
        )
        for key, value in changes.items():
            recipe = recipes.replace(recipe, key, value)
        return recipe

    return make
