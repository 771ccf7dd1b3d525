"""Losses of vectors: those of sentence-transformers on the same vectors, values and gradients; equal texts are no negatives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.util import pairwise_cos_sim

from quire.tasks.tuning import nearness

TEXTS, NEGATIVES, WIDTH = 5, 3, 8


@pytest.fixture
def columns():
    """A text, its positive and its negatives, one tensor (TEXTS, WIDTH) a column."""
    draw = torch.Generator().manual_seed(3)
    return [torch.randn(TEXTS, WIDTH, generator=draw, dtype=torch.float64).requires_grad_() for _ in range(2 + NEGATIVES)]


def laid_out(columns):
    """(texts, candidates, owner, positive) as a batch has them: the candidates of a text one after the other."""
    texts, *others = (F.normalize(column, dim=-1) for column in columns)
    candidates = torch.stack(others, 1).flatten(0, 1)
    owner = torch.arange(TEXTS).repeat_interleave(len(others))
    return texts, candidates, owner, (torch.arange(len(owner)) % len(others)) == 0


def same(ours, theirs, columns):
    assert torch.allclose(ours, theirs, atol=1e-9)
    mine, wanted = (torch.autograd.grad(loss, columns, retain_graph=True, allow_unused=True) for loss in (ours, theirs))
    for a, b in zip(mine, wanted, strict=True):
        assert (a is None) == (b is None) and (a is None or torch.allclose(a, b, atol=1e-9))


@pytest.mark.parametrize("negatives", [0, NEGATIVES])
@pytest.mark.parametrize("symmetric", [False, True])
def test_contrast_is_multiple_negatives_ranking(columns, negatives, symmetric):
    columns = columns[: 2 + negatives]
    texts, candidates, owner, positive = laid_out(columns)
    nothing = torch.zeros(TEXTS, len(owner), dtype=torch.bool)
    ours = nearness.contrast(texts @ candidates.T, positive, nothing, 0.05, symmetric) / TEXTS
    ways = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"} if symmetric else {}
    same(ours, losses.MultipleNegativesRankingLoss(torch.nn.Identity(), **ways).compute_loss_from_embeddings(columns, None), columns)


def test_pairs_with_scores(columns):
    columns = columns[:2]
    score = torch.tensor([0.1, 0.9, 0.5, 0.5, 0.0], dtype=torch.float64)
    texts, candidates, _, _ = laid_out(columns)
    near = (texts * candidates).sum(-1)
    theirs = losses.CoSENTLoss(torch.nn.Identity()).compute_loss_from_embeddings(columns, score)
    same(nearness.cosent(near, score, 0.05), theirs, columns)
    assert nearness.cosent(near, torch.ones(TEXTS), 0.05) == 0, "equal scores say nothing"
    model = torch.nn.Identity()
    theirs = losses.CosineSimilarityLoss(model).double().compute_loss_from_embeddings([column.float() for column in columns], score)
    assert torch.allclose((nearness.cosine(near, score) / TEXTS).float(), theirs.float(), atol=1e-6)


def test_triplets(columns):
    texts, candidates, owner, positive = laid_out(columns)
    near = (texts[owner] * candidates).sum(-1)
    loss = losses.TripletLoss(torch.nn.Identity(), losses.TripletDistanceMetric.COSINE, triplet_margin=0.5)
    theirs = sum(loss.compute_loss_from_embeddings([columns[0], columns[1], column], None) for column in columns[2:]) / NEGATIVES
    same(nearness.triplet(near, owner, positive, 0.5) / (TEXTS * NEGATIVES), theirs, columns)


def test_a_teachers_scores(columns):
    score = torch.randn(TEXTS, 1 + NEGATIVES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    texts, candidates, owner, positive = laid_out(columns)
    near = (texts[owner] * candidates).sum(-1)
    theirs = losses.MarginMSELoss(torch.nn.Identity(), pairwise_cos_sim).compute_loss_from_embeddings(columns, score)
    same(nearness.margin_mse(near, score.flatten(), owner, positive) / (TEXTS * NEGATIVES), theirs, columns)
    theirs = losses.DistillKLDivLoss(torch.nn.Identity(), pairwise_cos_sim, temperature=2.0).compute_loss_from_embeddings(columns, score)
    same(nearness.kl(near, score.flatten(), owner, 2.0) / TEXTS, theirs, columns)


def test_rows_may_have_different_numbers_of_negatives(columns):
    texts, candidates, owner, _ = laid_out(columns)
    keep = torch.ones(len(owner), dtype=torch.bool)
    keep[[3, 6, 7]] = False  # one negative less of the first, two less of the second
    near, score = (texts[owner] * candidates).sum(-1)[keep], torch.arange(len(owner), dtype=torch.float64)[keep]
    wanted = 0.0
    for text in range(TEXTS):
        mine = owner[keep] == text
        wanted += F.kl_div(near[mine].log_softmax(0), score[mine].softmax(0), reduction="sum").item()
    assert abs(nearness.kl(near, score, owner[keep], 1.0).item() - wanted) < 1e-9


def test_equal_texts_are_no_negatives():
    """Texts a, b, a, c with candidates x; y; z; x, c: what is right for an equal text, or is the text itself, is left out."""
    text = torch.tensor([1, 2, 1, 3])
    candidate, owner = torch.tensor([10, 11, 12, 10, 3]), torch.tensor([0, 1, 2, 3, 3])
    positive = torch.tensor([True, True, True, True, False])
    found = nearness.confusable(text, candidate, owner, positive)
    assert found.tolist() == [
        [False, False, True, True, False],  # z belongs to an equal text; the fourth's x is its own x
        [False, False, False, False, False],
        [True, False, False, True, False],  # x belongs to an equal text, whoever brought it
        [True, False, False, False, True],  # the first's x; c is the text itself
    ]
    near = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    nearness.contrast(near, positive, found, 0.05, symmetric=True).backward()
    assert near.grad is not None and near.grad[0, 3] == 0 and near.grad[3, 4] == 0 and near.grad.isfinite().all()
