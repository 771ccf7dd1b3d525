"""T5's span corruption: lengths as in its own code, and nothing of the text lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.errors import RecipeError
from quire.tasks.denoise import Denoise, lengths_of, noise, row_length, spans_of
from quire.text.training import SpecialTokens, train

from .conftest import CONTEXT, small_model


@pytest.fixture(scope="module")
def task(tokenizers) -> Denoise:  # type: ignore[no-untyped-def]
    return Denoise(tokenizers["denoise"], CONTEXT)


def test_lengths_are_those_of_the_paper() -> None:
    # T5's pre-training: inputs of 512 tokens come from 568, and give targets of 114 (Raffel et al. 2020, random_spans_helper).
    assert row_length(512, 0.15, 3.0) == 568 and lengths_of(568, 0.15, 3.0) == (512, 114)
    assert spans_of(568, 0.15, 3.0) == (85, 28)


@given(tokens=st.integers(8, 300), rate=st.floats(0.05, 0.6), mean=st.floats(1, 8), seed=st.integers(0, 99))
def test_noise_hides_the_number_it_says_in_that_many_spans(tokens: int, rate: float, mean: float, seed: int) -> None:
    hidden, count = spans_of(tokens, rate, mean)
    mask, number = noise(5, tokens, hidden, count, np.random.default_rng(seed))
    assert (mask.sum(axis=1) == hidden).all() and (number.max(axis=1) == 2 * count - 1).all()
    assert not mask[:, 0].any() and mask[:, -1].all()
    assert ((np.diff(mask.astype(int), axis=1) == 1).sum(axis=1) == count).all()


def test_spans_fall_everywhere_alike() -> None:
    mask, _ = noise(20_000, 57, *spans_of(57, 0.15, 3.0), np.random.default_rng(0))
    share = mask.mean(axis=0)[5:-8]
    assert share.max() < 0.25 and share.min() > 0.1


@given(seed=st.integers(0, 10_000))
def test_source_and_target_together_are_the_text(task: Denoise, seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows = draw.integers(110, 500, (4, task.tokens_per_row))
    batch = task.batch(rows, draw)
    assert batch.source is not None
    sentinels = set(task.sentinels.tolist())
    for row, source, target, inputs in zip(
        rows.tolist(), batch.source.tokens.tolist(), batch.labels["lm"].tolist(), batch.tokens.tolist(), strict=True
    ):
        assert source.pop() == target.pop() == task.separator and inputs == [task.start, *target]
        spans: dict[int, list[int]] = {}
        for token in target:
            if token in sentinels:
                spans[token] = []
                last = token
            else:
                spans[last].append(token)
        assert list(spans) == task.sentinels.tolist() and all(spans.values())
        assert [t for token in source for t in (spans[token] if token in sentinels else [token])] == row


def test_sources_fill_the_context_and_nothing_is_padded(task: Denoise) -> None:
    batch = task.batch(np.full((3, task.tokens_per_row), 200), np.random.default_rng(0))
    assert batch.source is not None and batch.source.keep is None
    assert batch.source.tokens.shape[1] == CONTEXT == lengths_of(task.tokens_per_row, 0.15, 3.0)[0]
    assert batch.labels["lm"].shape[1] == lengths_of(task.tokens_per_row, 0.15, 3.0)[1]
    assert task.counts(batch) == {"lm": batch.labels["lm"].numel()}


def test_terms_split_over_micro_batches_add_up(task: Denoise) -> None:
    model = small_model("seq2seq")
    batch = task.batch(np.random.default_rng(0).integers(110, 500, (6, task.tokens_per_row)), np.random.default_rng(0))
    loss, weight = task.terms(model, batch)["lm"]
    parts = [task.terms(model, part)["lm"] for part in batch.split(4)]
    assert weight == sum(part[1] for part in parts) == task.counts(batch)["lm"]
    assert loss.item() == pytest.approx(sum(part[0].item() for part in parts), rel=1e-5)


def test_evaluation_is_the_same_each_time_and_counts_hidden_bytes(task: Denoise, shard_of, tokenizers) -> None:  # type: ignore[no-untyped-def]
    model, shard = small_model("seq2seq"), shard_of(tokenizers["denoise"], task.separator)
    found = task.evaluate(model, shard, limit=3000)
    assert found == task.evaluate(model, shard, limit=3000)
    assert found == pytest.approx(task.evaluate(model, shard, limit=3000, rows=3), rel=1e-5)
    per_token = shard.text_bytes / shard.token_count
    hidden = task.hidden / lengths_of(task.tokens_per_row, 0.15, 3.0)[1]  # of the target's tokens, those that are text
    assert found["bits_per_byte"] == pytest.approx(found["loss"] / np.log(2) / (per_token * hidden), rel=0.1)


def test_impossible_choices_are_refused(tokenizers) -> None:  # type: ignore[no-untyped-def]
    tokenizer = tokenizers["denoise"]
    with pytest.raises(
        RecipeError, match=r"a row of 4550 tokens hides 227 spans, and this tokenizer has 100 sentinels .*Shorten model\.context"
    ):
        Denoise(tokenizer, 4096)
    with pytest.raises(RecipeError, match=r"task\.mask_rate = 0 with task\.mean_span = 3\.0 cannot be"):
        Denoise(tokenizer, CONTEXT, 0)
    with pytest.raises(RecipeError, match=r"task\.mask_rate = 0\.15 with task\.mean_span = 0\.5 cannot be"):
        Denoise(tokenizer, CONTEXT, 0.15, 0.5)
    with pytest.raises(RecipeError, match=r"model\.context = 4 is too short to hide spans in"):
        Denoise(tokenizer, 4)
    with pytest.raises(RecipeError, match="needs an end token and a padding token"):
        Denoise(train("bpe", ["text"], 300, special=SpecialTokens({"eos": "<end>"})), CONTEXT)
    with pytest.raises(RecipeError, match="this tokenizer has 0 sentinels"):
        Denoise(tokenizers["causal"], CONTEXT)
