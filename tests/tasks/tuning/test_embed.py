"""Tuning a sentence model: rows are read as `embed` reads them, figures are sentence-transformers' own, and it opens what is written."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses, modules
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

import quire
from quire.binding import Contract
from quire.errors import DataError, RecipeError
from quire.tasks.tuning.embed import Embed
from quire.tasks.tuning.schemas import Ranked, Similar
from quire.train.run import resume, train
from tests.tasks.readers import write
from tests.tasks.tuning.conftest import ranked, similar

PROMPTS = {"query": "question: ", "document": "the premise: "}


@pytest.fixture
def folder(tmp_path):
    """A tiny sentence model with prompts that are not pooled and a dense layer, as that library saves it."""
    body = modules.Transformer(str(write(tmp_path / "plain", "MaskedLM", length=64)))
    torch.manual_seed(0)
    parts = [body, modules.Pooling(32, pooling_mode="mean", include_prompt=False), modules.Dense(32, 24), modules.Normalize()]
    SentenceTransformer(modules=parts, device="cpu", prompts=PROMPTS).save(str(tmp_path / "sentence"))
    return tmp_path / "sentence"


def task(folder, rows, **ways):
    return Embed(Contract.open(folder), 64, rows, folder, 32, **ways)


def one(rows, *, at=0, **changes):
    return [*rows[:at], dataclasses.replace(rows[at], **changes), *rows[at + 1 :]]


@pytest.mark.parametrize("loss", ["contrast", "triplet", "margin-mse"])
def test_what_is_trained_is_what_is_served(folder, loss):
    """The loss of a batch with prompts, padding and several negatives is that of sentence-transformers on its own vectors."""
    rows = ranked(6, scores=True)
    mine = task(folder, rows, loss=loss)
    batch = mine.batch(mine.examples(rows))
    assert len(batch) == 6 * 4 and batch.keep is not None
    model = quire.load(folder).model
    total, count = mine.terms(model, batch)[loss]
    assert mine.counts(batch) == {loss: count} and total.requires_grad
    theirs = SentenceTransformer(str(folder), device="cpu")
    texts = [list(column) for column in zip(*(row.reads() for row in rows))]
    columns = [
        torch.from_numpy(theirs.encode_document(column) if place else theirs.encode_query(column)) for place, column in enumerate(texts)
    ]
    if loss == "contrast":
        wanted = losses.MultipleNegativesRankingLoss(theirs).compute_loss_from_embeddings(columns, None)
    elif loss == "triplet":
        made = losses.TripletLoss(theirs, losses.TripletDistanceMetric.COSINE, 0.5)
        wanted = sum(made.compute_loss_from_embeddings([*columns[:2], column], None) for column in columns[2:]) / 2
    else:
        wanted = losses.MarginMSELoss(theirs).compute_loss_from_embeddings(columns, torch.tensor([row.scores for row in rows]))
    assert abs((total / count).item() - wanted.item()) < 1e-5


def test_gradients_reach_the_stack_in_narrow_numbers_too(folder):
    rows = similar(6)
    mine, model = task(folder, rows), quire.load(folder).model
    batch = mine.batch(mine.examples(rows))
    plain = mine.terms(model, batch)["cosent"][0]
    with torch.autocast("cpu", torch.bfloat16):
        narrow = mine.terms(model, batch)["cosent"][0]
    assert narrow.dtype == torch.float32 and abs(narrow.item() / plain.item() - 1) < 0.05
    narrow.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for name, p in model.named_parameters() if name.startswith("encoder.layers"))


def test_the_pool_is_searched_as_they_search_it(folder):
    rows = [*ranked(14), Ranked(ranked(2)[1].anchor, "answer again", (), where="x:1")]
    found = task(folder, rows[:-1]).evaluate(quire.load(folder).model, rows)
    texts = list(dict.fromkeys(text for row in rows for text in row.reads()[1:]))
    asked = list(dict.fromkeys(row.anchor for row in rows))
    right = {str(n): {str(texts.index(row.positive)) for row in rows if row.anchor == text} for n, text in enumerate(asked)}
    queries, corpus = ({str(n): text for n, text in enumerate(part)} for part in (asked, texts))
    theirs = InformationRetrievalEvaluator(queries, corpus, right, mrr_at_k=[10], accuracy_at_k=[1], precision_recall_at_k=[10])
    wanted = theirs(SentenceTransformer(str(folder), device="cpu"))
    assert abs(found.figures["mrr@10"] - wanted["cosine_mrr@10"]) < 1e-6
    assert abs(found.figures["recall@1"] - wanted["cosine_accuracy@1"]) < 1e-6
    assert abs(found.figures["recall@10"] - wanted["cosine_recall@10"]) < 1e-6
    assert found.figures["pool"] == len(texts) and found.intervals["mrr@10"].n == len(asked) == 14
    assert len(found.found) == len(rows) and found.found[0]["first"] in texts


def test_pairs_with_scores_learn_and_open_elsewhere(folder, tuned):
    """More steps order the training pairs better; the written folder gives sentence-transformers the same vectors."""
    rows = similar(24)
    recipe = tuned(
        "embed", folder, rows, **{"train.steps": 30, "train.batch": 24, "optim.lr": 3e-3, "train.keep": "last", "data.held_out": 0.0}
    )
    path = train(recipe).model
    model = quire.load(path)
    mine = task(folder, rows)
    batch = mine.batch(mine.examples(rows))
    before, after = (mine.terms(quire.load(place).model, batch)["cosent"][0].item() / len(rows) for place in (folder, path))
    assert after < before
    texts = [row.first for row in rows]
    theirs = SentenceTransformer(str(path), device="cpu")
    assert np.abs(model.embed(texts, "query") - theirs.encode_query(texts)).max() < 2e-5
    assert np.abs(model.embed(texts) - theirs.encode(texts)).max() < 2e-5 and model.embed(texts).shape == (24, 24)


def test_a_model_that_is_no_sentence_model_becomes_one(tmp_path, tuned):
    start = write(tmp_path / "start", "MaskedLM", "roberta", length=64)
    result = train(tuned("embed", start, similar(24, scores=False)))
    theirs, texts = SentenceTransformer(str(result.model), device="cpu"), ["the quick fox", "a question about it " * 30]
    found = quire.load(result.model).embed(texts, long="cut")
    assert np.abs(found - theirs.encode(texts)).max() < 2e-5 and np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-5
    assert theirs.max_seq_length == 64
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert evaluation["metric"] == "mrr@10" and evaluation["held_out"]["intervals"]["recall@1"]["n"] == evaluation["held_out"]["rows"]
    answers = [json.loads(line) for line in (tmp_path / "run" / "answers_held_out.jsonl").read_text().splitlines()]
    assert len(answers) == evaluation["held_out"]["rows"] and {"where", "wanted", "places", "first"} <= set(answers[0])


def test_a_stopped_run_goes_on_with_the_same_bits(folder, tuned, tmp_path):
    recipe = tuned("embed", folder, ranked(24), **{"task.symmetric": True})
    straight = train(recipe).model
    stopped = tuned("embed", folder, ranked(24), **{"task.symmetric": True, "out": str(tmp_path / "other")})
    assert train(stopped, stop_at=2).model is None
    resumed = resume(tmp_path / "other").model
    one_way, other = (load_file(place / "model.safetensors") for place in (straight, resumed))
    assert all(torch.equal(one_way[name], other[name]) for name in one_way)


def test_an_adapter_is_merged_into_the_folder(folder, tuned, tmp_path):
    recipe = tuned("embed", folder, ranked(24), **{"adapt.method": "lora", "adapt.rank": 4, "optim.lr": 1e-2})
    path, texts = train(recipe).model, ["the quick fox", "near a basin"]
    found = quire.load(path).embed(texts, "document")
    assert np.abs(found - SentenceTransformer(str(path), device="cpu").encode_document(texts)).max() < 2e-5
    assert np.abs(found - quire.load(folder).embed(texts, "document")).max() > 1e-3
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


def test_all_rows_of_one_text_fall_on_one_side():
    one, two = Ranked("a", "b", ("c",)), Ranked("a", "d")
    assert one.side() == two.side() == Similar("a", "x").side() != Similar("b", "a").side()
    assert Similar("a", "x", 0.5).side() != Similar("a", "y", 0.5).side() == Similar("a", "y", 0.1).side()


@pytest.mark.parametrize(
    "rows, ways, error, message",
    [
        (similar(4), {"loss": "contrast"}, RecipeError, "'contrast' does not fit similar rows with scores; they are .* cosent, cosine"),
        (similar(4, scores=False), {"loss": "kl"}, RecipeError, "'kl' does not fit similar rows without scores; they are .* contrast"),
        ([*similar(3), *similar(1, scores=False)], {}, DataError, "1 of 4 rows have no score, first rows.jsonl:1"),
        (one(ranked(4), at=2, negatives=()), {"loss": "triplet"}, DataError, "1 rows have no negatives, first rows.jsonl:3"),
        (one(similar(4), at=1, score=4.5), {"loss": "cosine"}, DataError, "rows.jsonl:2 has the score 4.5, which no cosine can be"),
    ],
)  # fmt: skip
def test_rows_that_a_loss_cannot_use_are_refused(folder, rows, ways, error, message):
    with pytest.raises(error, match=message):
        task(folder, rows, **ways)


def test_scores_in_the_evaluation_alone_are_refused(folder):
    with pytest.raises(DataError, match="rows.jsonl:1 and other rows have scores, and the training rows have not"):
        task(folder, similar(4, scores=False)).evaluate(quire.load(folder).model, similar(4))


def test_micro_batches_would_be_another_loss(folder, tuned):
    with pytest.raises(RecipeError, match="train.micro_batch = 2: the loss of task 'embed' cannot be split"):
        train(tuned("embed", folder, ranked(12), **{"train.micro_batch": 2}))


def test_equal_texts_within_a_batch_do_not_push_each_other_away(folder):
    rows = [Similar("the fox", "the quick fox"), Similar("a lazy dog", "the quick fox"), Similar("the fox", "near a basin")]
    mine, model = task(folder, rows), quire.load(folder).model
    total, _ = mine.terms(model, mine.batch(mine.examples(rows)))["contrast"]
    first, second = (mine.terms(model, mine.batch(mine.examples(part)))["contrast"][0] for part in (rows[1:], rows[:1]))
    assert second.item() == 0, "one pair alone has no negatives"
    assert 0 < total.item() < first.item() - 1e-3, "the fox has two answers, and what it has twice does not count against it"
    both = mine.terms(model, mine.batch(mine.examples([rows[0], Similar("a lazy dog", "the quick fox")])))["contrast"][0]
    assert abs(both.item()) < 1e-6, "two texts with one answer learn nothing from each other"
