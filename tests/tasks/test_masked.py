"""BERT's two terms: which tokens are hidden and how, and which pairs are made."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quire.errors import DataError, RecipeError
from quire.nn.batch import IGNORE
from quire.tasks.masked import NEXT, RANDOM, Masked
from quire.text.training import train

from .conftest import CONTEXT, small_model


@pytest.fixture(scope="module")
def tokenizer(tokenizers):  # type: ignore[no-untyped-def]
    return tokenizers["masked"]


@pytest.fixture(scope="module")
def shard(shard_of, tokenizer):  # type: ignore[no-untyped-def]
    return shard_of(tokenizer, tokenizer.sep)


def rows_of(task: Masked, shard, count: int, seed: int = 0):  # type: ignore[no-untyped-def]
    rows = task.rows(shard, 1, shard.token_count)
    return rows.read(np.random.default_rng(seed).integers(0, rows.count, count))


@pytest.mark.parametrize("whole", [False, True])
def test_the_share_and_the_fates_of_hidden_tokens(tokenizer, shard, whole: bool) -> None:  # type: ignore[no-untyped-def]
    task = Masked(tokenizer, 64, 0.15, whole)
    batch = task.batch(rows_of(task, shard, 2000), np.random.default_rng(0))
    labels, hidden = batch.labels["mlm"].numpy(), batch.tokens.numpy()
    chosen = labels != IGNORE
    text = ~task.words.special[np.where(chosen, labels, hidden)]
    assert chosen.sum() / np.round(0.15 * text.sum(axis=1)).sum() == pytest.approx(1, abs=0.03 if whole else 0.0)
    assert (hidden[chosen] == task.mask).mean() == pytest.approx(0.8, abs=0.01)
    assert (hidden[chosen] == labels[chosen]).mean() == pytest.approx(0.1 + 0.1 / 508, abs=0.01)
    assert not task.words.special[labels[chosen]].any() and (chosen.sum(axis=1) >= 1).all()
    assert task.counts(batch) == {"mlm": int(chosen.sum())}
    assert (hidden[:, 0] == task.cls).all() and (hidden[:, -1] == task.separator).all()
    if not whole:
        assert (chosen.sum(axis=1) == np.maximum(1, np.round(0.15 * text.sum(axis=1)))).all()


@given(seed=st.integers(0, 1000), rate=st.floats(0.02, 0.9))
def test_words_are_hidden_whole(tokenizer, shard, seed: int, rate: float) -> None:  # type: ignore[no-untyped-def]
    task = Masked(tokenizer, CONTEXT, rate)
    tokens = np.full((6, CONTEXT), tokenizer.sep)
    tokens[:, 0], tokens[:, 1:-1] = tokenizer.cls, rows_of(task, shard, 6, seed)
    chosen = task.choose(tokens, np.random.default_rng(seed))
    assert not chosen[task.words.special[tokens]].any() and chosen.any(axis=1).all()
    joined = ~task.words.starts(tokens)[:, 1:]
    assert (chosen[:, 1:] == chosen[:, :-1])[joined].all()


def test_rows_are_the_text_between_cls_and_sep(tokenizer, shard) -> None:  # type: ignore[no-untyped-def]
    task = Masked(tokenizer, CONTEXT)
    rows = rows_of(task, shard, 5)
    batch = task.batch(rows, np.random.default_rng(0))
    restored = torch.where(batch.labels["mlm"] != IGNORE, batch.labels["mlm"], batch.tokens)
    assert (restored[:, 1:-1].numpy() == rows).all() and batch.types is None and batch.keep is None


def test_pairs(tokenizer, shard) -> None:  # type: ignore[no-untyped-def]
    task = Masked(tokenizer, CONTEXT, next_sentence=True)
    rows = rows_of(task, shard, 400)
    batch = task.batch(rows, np.random.default_rng(0))
    follows = batch.labels["nsp"].numpy()
    assert follows.mean() == pytest.approx(0.5, abs=0.08) and task.counts(batch)["nsp"] == 400
    restored = torch.where(batch.labels["mlm"] != IGNORE, batch.labels["mlm"], batch.tokens).numpy()
    assert batch.keep is not None and batch.types is not None
    for row, found, label, keep, types in zip(rows, restored, follows, batch.keep.numpy(), batch.types.numpy(), strict=True):
        end = int(keep.sum())
        assert keep[:end].all() and (found[end:] == task.pad).all() and found[0] == task.cls and found[end - 1] == task.separator
        middle = int(np.flatnonzero(found[: end - 1] == task.separator)[0])
        assert types[: middle + 1].sum() == 0 and types[middle + 1 : end].all() and not types[end:].any()
        first, second = found[1:middle], found[middle + 1 : end - 1]
        assert len(second) and (first == row[: len(first)]).all()
        if label == NEXT:
            assert (np.concatenate((first, second)) == row).all()
    others = [i for i in range(400) if follows[i] == RANDOM and batch.keep[i].sum() - 3 != len(rows[i])]
    assert len(others) > 20
    assert not (batch.labels["mlm"].numpy()[~batch.keep.numpy()] != IGNORE).any()


def test_terms_and_their_parts(tokenizer, shard) -> None:  # type: ignore[no-untyped-def]
    model, task = small_model("encoder"), Masked(tokenizer, CONTEXT, next_sentence=True)
    batch = task.batch(rows_of(task, shard, 9), np.random.default_rng(0))
    whole, counts = task.terms(model, batch), task.counts(batch)
    assert set(whole) == set(counts) == {"mlm", "nsp"} and {name: term[1] for name, term in whole.items()} == counts
    assert whole["nsp"][0].item() == pytest.approx(9 * np.log(2), rel=0.1)
    parts = [task.terms(model, part) for part in batch.split(2)]
    for name in whole:
        assert whole[name][0].item() == pytest.approx(sum(part[name][0].item() for part in parts), rel=1e-4)


@pytest.mark.parametrize("pairs", [False, True])
def test_evaluation_is_the_same_each_time(tokenizer, shard, pairs: bool) -> None:  # type: ignore[no-untyped-def]
    model, task = small_model("encoder"), Masked(tokenizer, CONTEXT, next_sentence=pairs)
    found = task.evaluate(model, shard, limit=3000)
    torch.manual_seed(5)
    assert found == task.evaluate(model, shard, limit=3000)
    assert found == pytest.approx(task.evaluate(model, shard, limit=3000, rows=5), rel=1e-5)
    assert found["loss"] == pytest.approx(np.log(512), rel=0.05) and 0 <= found["accuracy"] < 0.1
    assert ("nsp_loss" in found) == pairs


def test_impossible_choices_are_refused(tokenizers, tokenizer, documents) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(
        RecipeError, match="the task 'masked' needs the special tokens cls, sep, mask and pad; this tokenizer has no cls, sep, mask"
    ):
        Masked(tokenizers["causal"], CONTEXT)
    with pytest.raises(RecipeError, match=r"task\.mask_rate = 1\.5 is not a share of the tokens"):
        Masked(tokenizer, CONTEXT, 1.5)
    with pytest.raises(RecipeError, match=r"model\.context = 4 is too short to hide words in; give 8 or more"):
        Masked(tokenizer, 4)
    with pytest.raises(DataError, match=r"takes its random second parts from the other rows of a step: set train\.batch to 2 or more"):
        Masked(tokenizer, CONTEXT, next_sentence=True).batch([np.arange(5, 15)], np.random.default_rng(0))


def test_word_pieces_are_hidden_whole_too(documents) -> None:  # type: ignore[no-untyped-def]
    pieces = train("wordpiece", [one.text for one in documents], 300, special="masked")
    task = Masked(pieces, CONTEXT, 0.3)
    ids = np.array([pieces.encode(documents[1].text)[: CONTEXT * 20]]).reshape(20, CONTEXT)
    chosen = task.choose(ids, np.random.default_rng(0))
    inner = np.array([[pieces.token(int(i)).startswith("##") for i in row] for row in ids])
    assert inner[:, 1:].any() and (chosen[:, 1:] == chosen[:, :-1])[inner[:, 1:]].all()
