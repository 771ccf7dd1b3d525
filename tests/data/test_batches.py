"""The loader: an order without repetition, shares that hold at every step, and a place that can be saved and found again."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.data import shards
from quire.data.batches import Loader, permuted
from quire.data.shards import Shard
from quire.errors import CheckpointError, DataError
from quire.nn.batch import Batch
from quire.tasks.causal import Causal
from quire.tasks.masked import Masked
from quire.tasks.task import Task
from quire.text.tokenizer import Tokenizer
from quire.text.training import train

from .conftest import some_documents

CONTEXT = 16


@pytest.fixture(scope="module")
def task(tokenizer: Tokenizer) -> Causal:
    return Causal(tokenizer, CONTEXT)


@pytest.fixture(scope="module")
def mixed(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Shard:
    """Two sources, the second wanted three times as often as its size says."""
    documents = some_documents(40, 1, "a") + some_documents(25, 2, "b", 3.0)
    return shards.write(tmp_path_factory.mktemp("mixed"), "train", documents, tokenizer, 0)


@pytest.fixture(scope="module")
def plain(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Shard:
    return shards.write(tmp_path_factory.mktemp("plain"), "train", some_documents(40), tokenizer, 0)


def loader(shard: Shard, task: Task, rows: int = 4, seed: int = 7) -> Loader:
    return Loader([shard], None, task, rows, CONTEXT, seed)


def same(a: Batch, b: Batch) -> bool:
    parts = zip([a.tokens, *a.labels.values()], [b.tokens, *b.labels.values()], strict=True)
    return all(torch.equal(x, y) for x, y in parts) and ((a.source is None and b.source is None) or same(a.source, b.source))  # type: ignore[arg-type]


@given(st.integers(1, 5000), st.integers(0, 2**63 - 1))
def test_the_order_is_a_permutation(count: int, key: int) -> None:
    keys = np.random.default_rng(key).integers(0, 2**63, size=4, dtype=np.uint64)
    found = permuted(np.arange(count), count, keys)
    assert (np.sort(found) == np.arange(count)).all()
    assert (permuted(np.arange(count // 2, count), count, keys) == found[count // 2 :]).all()


def test_the_order_looks_random() -> None:
    keys = np.random.default_rng(0).integers(0, 2**63, size=4, dtype=np.uint64)
    found = permuted(np.arange(10_000), 10_000, keys)
    assert abs(np.corrcoef(np.arange(10_000), found)[0, 1]) < 0.04 and abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.04
    assert np.count_nonzero(found == np.arange(10_000)) < 8


def test_an_epoch_shows_every_row_once_and_the_next_ones_in_other_orders_and_cuts(plain: Shard, task: Causal) -> None:
    rows = (len(plain.tokens) - 1) // CONTEXT
    feed = loader(plain, task, rows=1)
    epochs = [Counter(tuple(feed.next().tokens[0].tolist()) for _ in range(rows)) for _ in range(3)]
    stream = plain.tokens[1 : 1 + rows * CONTEXT].astype(int).reshape(rows, CONTEXT)
    assert epochs[0] == Counter(map(tuple, stream.tolist()))
    assert epochs[1] != epochs[0] and epochs[2] != epochs[1]
    for epoch in epochs:
        assert sum(epoch.values()) == rows == feed.steps_per_epoch
    assert feed.epoch == 3.0


def test_labels_are_the_next_tokens_also_over_the_seam(plain: Shard, task: Causal) -> None:
    circle = plain.tokens[1:].astype(int)
    after = {tuple(np.roll(circle, -i)[: CONTEXT + 1].tolist()) for i in range(len(circle))}
    feed = loader(plain, task)
    for _ in range(3 * int(feed.steps_per_epoch)):
        batch = feed.next()
        assert all(
            (*x, y[-1]) in after and x[1:] == y[:-1] for x, y in zip(batch.tokens.tolist(), batch.labels["lm"].tolist(), strict=True)
        )


@settings(max_examples=25)
@given(cut=st.integers(0, 60), more=st.integers(1, 12), rows=st.sampled_from([1, 3, 8]), seed=st.integers(0, 2**40), which=st.booleans())
def test_a_loader_that_finds_its_place_gives_the_same_batches(
    plain: Shard, mixed: Shard, task: Causal, cut: int, more: int, rows: int, seed: int, which: bool
) -> None:
    straight = loader(mixed if which else plain, task, rows, seed)
    for _ in range(cut):
        straight.next()
    saved = json.dumps(straight.state())
    resumed = loader(mixed if which else plain, task, rows, seed)
    resumed.load_state(json.loads(saved))
    assert resumed.state() == straight.state()
    for _ in range(more):
        assert same(straight.next(), resumed.next())


@pytest.mark.parametrize("next_sentence", [False, True])
def test_masks_and_pairs_come_back_too(next_sentence: bool) -> None:
    tokenizer = train("bpe", [one.text for one in some_documents(50)], 320, special="masked")
    task = Masked(tokenizer, CONTEXT, next_sentence=next_sentence)
    with tempfile.TemporaryDirectory() as folder:
        shard = shards.write(folder, "train", some_documents(50), tokenizer, task.separator)
        straight, resumed = loader(shard, task), loader(shard, task)
        for _ in range(9):
            straight.next()
        resumed.load_state(json.loads(json.dumps(straight.state())))
        assert all(same(straight.next(), resumed.next()) for _ in range(5))


def test_nothing_outside_moves_the_order_and_another_seed_does(plain: Shard, task: Causal) -> None:
    one, two, other = loader(plain, task), loader(plain, task), loader(plain, task, seed=8)
    first = [one.next() for _ in range(5)]
    np.random.seed(3)
    torch.manual_seed(3)
    assert all(same(a, two.next()) for a in first)
    assert not all(same(a, other.next()) for a in first)


def test_weights_hold_at_every_step(mixed: Shard, task: Causal) -> None:
    a, b = mixed.sources
    rows_a, rows_b = (a.stop - a.start) // CONTEXT, (b.stop - b.start) // CONTEXT
    share = 3 * rows_b / (rows_a + 3 * rows_b)
    feed = loader(mixed, task, rows=5)
    for step in range(1, 80):
        feed.next()
        taken = feed.state()["taken"]
        assert sum(taken) == 5 * step and abs(taken[1] - share * 5 * step) <= 1
    assert feed.tokens_per_epoch == (rows_a + 3 * rows_b) * CONTEXT
    even = Loader([mixed], [1.0], task, 5, CONTEXT, 0)
    for _ in range(40):
        even.next()
    assert abs(even.state()["taken"][1] - 200 * rows_b / (rows_a + rows_b)) <= 1


def test_a_corpus_smaller_than_a_batch_is_refused_with_numbers(tmp_path: Path, tokenizer: Tokenizer, task: Causal) -> None:
    shard = shards.write(tmp_path, "train", some_documents(2), tokenizer, 0)
    have = shard.token_count
    with pytest.raises(
        DataError,
        match=rf"it has {have} tokens, which make {have // CONTEXT} rows of 16, and a batch needs 64 rows \(1,024 tokens\)\. "
        rf"Add text to data\.sources, lower train\.batch to {have // CONTEXT} or less, or lower model\.context",
    ):
        loader(shard, task, rows=64)
    long = Causal(tokenizer, 2048)
    with pytest.raises(
        DataError,
        match=r"which make 0 rows of 2,048, and a batch needs 1 rows \(2,048 tokens\)\. Add text to data\.sources, or lower model\.context",
    ):
        Loader([shard], None, long, 1, 2048, 0)


def test_changed_data_is_refused_by_hash(tmp_path: Path, tokenizer: Tokenizer, task: Causal) -> None:
    before = loader(shards.write(tmp_path, "train", some_documents(30), tokenizer, 0), task)
    before.next()
    state = before.state()
    after = loader(shards.write(tmp_path, "train", some_documents(31), tokenizer, 0), task)
    with pytest.raises(
        CheckpointError, match=r"the training data changed since this run stopped: train had SHA-256 [0-9a-f]{16}… and now has"
    ):
        after.load_state(state)


def test_another_recipe_is_refused_by_name(plain: Shard, mixed: Shard, tokenizer: Tokenizer, task: Causal) -> None:
    state = loader(plain, task).state()
    with pytest.raises(CheckpointError, match=r"is for seed = 7, and the loader was made with 8\. Resume with the recipe of the run"):
        loader(plain, task, seed=8).load_state(state)
    with pytest.raises(CheckpointError, match="is for rows = 4, and the loader was made with 5"):
        loader(plain, task, rows=5).load_state(state)
    with pytest.raises(CheckpointError, match=r"is for task = .*'attend'.* made with .*'mask'"):
        loader(plain, Causal(tokenizer, CONTEXT, "mask")).load_state(state)
    with pytest.raises(CheckpointError, match="is for shards = "):
        Loader([plain, plain], None, task, 4, CONTEXT, 7).load_state(state)
