"""The first batch in other layouts, task by task: losses over texts together, over a question's candidates, and beside a teacher."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import quire
from quire.binding import Contract
from quire.errors import TrainingError
from quire.nn.transformer import Transformer
from quire.tasks.tuning import embed, nearness
from quire.tasks.tuning.classify import Classify
from quire.tasks.tuning.distil import Distil
from quire.tasks.tuning.embed import Embed
from quire.tasks.tuning.rerank import Rerank
from quire.tasks.tuning.schemas import Labelled
from quire.train.facts import FirstSteps
from quire.train.parallel import Compute
from tests.tasks.readers import write
from tests.tasks.tuning.conftest import ranked, similar, text


def first(task: Any, model: Transformer, rows: list[Any]) -> FirstSteps:
    """What the first batch of these rows shows; raises TrainingError for what it should not."""
    planned: Any = SimpleNamespace(named=dict(model.named_parameters()), groups=[])
    steps = FirstSteps(model.train(), planned, task, Compute(torch.device("cpu"), "fp32", 1), 0)
    steps.before(getattr(task, "task", task).batch(getattr(task, "task", task).examples(rows)))
    return steps


def embedding(path: Path, rows: list[Any], loss: str = "auto") -> tuple[Embed, Transformer]:
    folder = write(path / "start", "MaskedLM", length=64)
    return Embed(Contract.open(folder), 64, rows, folder, 32, loss=loss), quire.load(folder).model


def ranking(path: Path, rows: list[Any], loss: str) -> tuple[Rerank, Transformer]:
    folder = write(path / "start", "SequenceClassification", length=64, labels=["score"])
    return Rerank(Contract.open(folder), 64, rows, loss=loss), quire.load(folder).model


def taught(path: Path) -> tuple[Distil, Transformer, list[Any]]:
    rows = [Labelled(text(n) + " dog" * (n % 3), (("yes", "no")[n % 2],), where=f"rows.jsonl:{n + 1}") for n in range(6)]
    folders = [write(path / name, "SequenceClassification", length=64, labels=["no", "yes"]) for name in ("start", "teacher")]
    student, teacher = (quire.load(folder).model for folder in folders)
    with torch.no_grad():
        for weight in teacher.parameters():
            weight.mul_(1.3)
    return Distil(Classify(Contract.open(folders[0]), 64, rows), student, teacher, 1.0, 1.0), student, rows


@pytest.mark.parametrize("loss", ["contrast", "triplet", "margin-mse", "kl"])
def test_sound_losses_of_candidates_are_let_through(tmp_path: Path, loss: str) -> None:
    rows = ranked(6, scores=True)
    first(*embedding(tmp_path, rows, loss), rows)


@pytest.mark.parametrize("loss", ["cosent", "cosine"])
def test_sound_losses_of_pairs_are_let_through(tmp_path: Path, loss: str) -> None:
    rows = similar(6)
    first(*embedding(tmp_path, rows, loss), rows)


@pytest.mark.parametrize("loss", ["binary", "list", "mse"])
def test_sound_losses_of_cross_encoders_are_let_through(tmp_path: Path, loss: str) -> None:
    rows = ranked(6, scores=True)
    first(*ranking(tmp_path, rows, loss), rows)


def test_a_sound_teacher_is_let_through(tmp_path: Path) -> None:
    first(*taught(tmp_path))


def test_vectors_with_padding_in_them_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean over all places of a row, padding among them: the fault of many a pooling."""
    monkeypatch.setattr(embed, "pooled", lambda model, batch, how, skip: model(batch).mean(1))
    rows = [*similar(5), *[similar(6)[5].__class__("dog", "fox " * 20, 0.5, where="rows.jsonl:6")]]
    with pytest.raises(
        TrainingError, match="the vector of text .* it depends on (padding|what stands beside it). The fault is in task 'embed'"
    ):
        first(*embedding(tmp_path, rows), rows[::-1])


def test_equally_long_texts_show_padding_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "pooled", lambda model, batch, how, skip: model(batch).mean(1))
    rows = [similar(6)[0].__class__("dog fox", "fox dog", 0.5 + n / 10, where=f"rows.jsonl:{n + 1}") for n in range(4)]
    with pytest.raises(TrainingError, match="is another one beside a longer one .* it depends on padding"):
        first(*embedding(tmp_path, rows), rows)


def test_a_contrast_that_favours_the_first_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = nearness.contrast

    def favouring(near: torch.Tensor, *more: Any) -> torch.Tensor:
        return plain(near, *more) + 1e4 * (near[0, 0] - near[0, 1])  # random vectors are nearly parallel

    monkeypatch.setattr(nearness, "contrast", favouring)
    rows = ranked(6)
    with pytest.raises(TrainingError, match="the loss 'contrast' .* for the same examples in reverse: it depends on their order"):
        first(*embedding(tmp_path, rows), rows)


@pytest.mark.parametrize("loss", ["binary", "list"])
def test_a_cross_encoder_whose_loss_is_a_mean_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str) -> None:
    rows = ranked(6, scores=True)
    task, model = ranking(tmp_path, rows, loss)
    terms = task.terms
    wrong = {"terms": lambda *given: {name: (total / count, count) for name, (total, count) in terms(*given).items()}}
    monkeypatch.setattr(task, "terms", wrong["terms"])
    with pytest.raises(TrainingError, match=f"the loss '{loss}' .* one by one: it depends on accumulation.*task 'rerank'"):
        first(task, model, rows)


@pytest.mark.parametrize("term", ["kd", "hidden"])
def test_a_teacher_whose_term_is_a_mean_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    task, student, rows = taught(tmp_path)
    name = {"kd": "_said", "hidden": "_thought"}[term]
    plain = getattr(task, name)
    monkeypatch.setattr(task, name, lambda *given: plain(*given) / len(next(one for one in given if hasattr(one, "tokens"))))
    with pytest.raises(TrainingError, match=f"the loss '{term}' .* it depends on accumulation"):
        first(task, student, rows)


def test_a_teacher_compared_on_padding_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, student, rows = taught(tmp_path)
    plain = task._thought

    def everywhere(model: Any, mine: Any, theirs: Any, batch: Any) -> torch.Tensor:
        return plain(model, mine, theirs, type(batch)(batch.tokens))

    monkeypatch.setattr(task, "_thought", everywhere)
    with pytest.raises(TrainingError, match="the loss 'hidden' .* it depends on (padding|accumulation)"):
        first(task, student, rows)


def test_a_teacher_that_learns_is_refused(tmp_path: Path) -> None:
    task, student, rows = taught(tmp_path)
    steps = first(task, student, rows)
    with torch.no_grad():
        next(task.teacher.parameters()).add_(1.0)
    with pytest.raises(TrainingError, match=r"teacher\.\S+ is frozen and has moved"):
        steps.moved(1, 1.0)
