"""Tuning a cross-encoder: sentence-transformers opens what is written and says the same; losses and figures are its own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

import quire
from quire.binding import Contract
from quire.errors import DataError, RecipeError
from quire.tasks.tuning.rerank import Rerank
from quire.train.run import train
from tests.tasks.readers import write
from tests.tasks.tuning.conftest import ranked, similar
from tests.tasks.tuning.test_embed import one


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "start", "SequenceClassification", length=64, labels=["score"])


def logits_of(folder, rows):
    """(rows, candidates) as that library computes them."""
    theirs = CrossEncoder(str(folder), device="cpu", activation_fn=torch.nn.Identity())
    return torch.tensor(np.stack([theirs.predict([(row.anchor, text) for text in row.reads()[1:]]) for row in rows]))


def test_losses_are_those_of_its_logits(folder):
    rows = ranked(6, scores=True)
    logits = logits_of(folder, rows)
    score = torch.tensor([row.scores for row in rows])
    right = torch.tensor([[1.0, 0.0, 0.0]] * len(rows))
    wanted = {
        "binary": torch.nn.functional.binary_cross_entropy_with_logits(logits, right),
        "list": torch.nn.functional.cross_entropy(logits, torch.zeros(len(rows), dtype=torch.long)),
        "mse": torch.nn.functional.mse_loss(logits, score),
    }
    model = quire.load(folder).model
    for loss, value in wanted.items():
        mine = Rerank(Contract.open(folder), 64, rows, loss=loss)
        batch = mine.batch(mine.examples(rows))
        assert len(batch) == 18 and batch.types is not None
        total, count = mine.terms(model, batch)[loss]
        assert mine.counts(batch) == {loss: count} and abs((total / count).item() - value.item()) < 1e-5


def test_a_batch_in_parts_has_the_same_gradient(folder):
    """A micro-batch may divide a question's candidates: each pair counts for itself."""
    rows, model = ranked(4), quire.load(folder).model
    mine = Rerank(Contract.open(folder), 64, rows)
    assert mine.splittable and not Rerank(Contract.open(folder), 64, rows, loss="list").splittable
    batch = mine.batch(mine.examples(rows))
    weight = mine.counts(batch)["binary"]
    gradients = []
    for size in (len(batch), 5):
        model.zero_grad()
        for part in batch.split(size):
            (mine.terms(model, part)["binary"][0] / weight).backward()
        gradients.append(model.head.classifier.weight.grad.clone())
    assert torch.allclose(*gradients, atol=1e-6)


def test_the_order_is_judged_as_they_judge_it(folder):
    rows = ranked(12, negatives=4)
    found = Rerank(Contract.open(folder), 64, rows).evaluate(quire.load(folder).model, rows)
    samples = [{"query": row.anchor, "positive": [row.positive], "negative": list(row.negatives)} for row in rows]
    wanted = CrossEncoderRerankingEvaluator(samples, at_k=10)(CrossEncoder(str(folder), device="cpu"))
    assert abs(found.figures["mrr@10"] - wanted["mrr@10"]) < 1e-6 and abs(found.figures["ndcg@10"] - wanted["ndcg@10"]) < 1e-6
    assert found.intervals["ndcg@10"].n == 12 and len(found.found) == 12


@pytest.mark.parametrize("loss, scores", [("auto", False), ("list", False), ("auto", True)])
def test_a_plain_encoder_becomes_a_reranker(tmp_path, tuned, loss, scores):
    start, rows = write(tmp_path / "encoder", "MaskedLM", length=64), ranked(24, scores=scores)
    recipe = tuned(
        "rerank", start, rows, **{"task.loss": loss, "train.steps": 40, "train.batch": 12, "data.held_out": 0.0, "train.keep": "last"}
    )
    path = train(recipe).model
    model, row = quire.load(path), rows[0]
    found = dict(model.rerank(row.anchor, row.reads()[1:]))
    theirs = CrossEncoder(str(path), device="cpu").predict([(row.anchor, text) for text in row.reads()[1:]])
    assert np.abs(np.array([found[n] for n in range(3)]) - theirs).max() < 1e-5
    assert model.labels == {0: "score"} and json.loads((path / "config.json").read_text())["architectures"] == [
        "BertForSequenceClassification"
    ]
    task = Rerank(Contract.open(path), 64, rows)
    if not scores:
        assert task.evaluate(model.model, rows).figures["mrr@10"] > 0.7, "it learned which texts begin with 'answer'"


def test_pairs_with_scores_are_reranked_by_number(folder, tuned, tmp_path):
    train(tuned("rerank", folder, similar(24)))
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert evaluation["metric"] == "spearman" and "spearman" in evaluation["held_out"]["intervals"]


@pytest.mark.parametrize(
    "rows, ways, error, message",
    [
        (similar(4, scores=False), {}, DataError, "rows.jsonl:1: pairs without scores say what belongs together and never what does not"),
        (ranked(4, negatives=0), {}, DataError, "4 of 4 rows have no negatives, first rows.jsonl:1"),
        (one(ranked(4), at=2, negatives=()), {"loss": "list"}, DataError, "1 of 4 rows have no negatives, first rows.jsonl:3"),
        (one(similar(4), at=1, score=4.5), {}, DataError, "rows.jsonl:2 has the score 4.5; task.loss = binary needs 0 to 1"),
        (ranked(4), {"loss": "mse"}, RecipeError, "'mse' does not fit ranked rows without scores; they are learned by binary, list"),
    ],
)  # fmt: skip
def test_rows_that_a_loss_cannot_use_are_refused(folder, rows, ways, error, message):
    with pytest.raises(error, match=message):
        Rerank(Contract.open(folder), 64, rows, **ways)
