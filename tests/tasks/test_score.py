"""Scoring: every token once, with the context it was promised, the same alone and in a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quire.errors import DataError
from quire.nn.batch import Batch
from quire.nn.transformer import Transformer
from quire.tasks import score
from quire.tasks.score import byte_lengths, score_files, score_stream, score_tokens, spans, total

from .conftest import CONTEXT, small_model


@pytest.fixture(scope="module")
def model() -> Transformer:
    return small_model("decoder")


@pytest.fixture(scope="module")
def shard(shard_of, tokenizers):  # type: ignore[no-untyped-def]
    return shard_of(tokenizers["causal"], tokenizers["causal"].eos)


def plain(model: Transformer, tokens: np.ndarray) -> np.ndarray:
    """Nats of tokens[1:] from one forward over all of them."""
    with torch.no_grad():
        logits = model.head(model(Batch(torch.from_numpy(tokens[None, :-1].astype(np.int64)))))[0]
    return -logits.log_softmax(-1).numpy()[np.arange(len(tokens) - 1), tokens[1:]]


@given(start=st.integers(0, 9), length=st.integers(1, 300), context=st.integers(1, 40), data=st.data())
def test_windows_score_every_token_once_with_enough_before_it(start: int, length: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context))
    windows = spans(start, start + length, context, stride)
    scored = np.concatenate([np.arange(f, e) for f, e in zip(windows.first, windows.end, strict=True)])
    assert (scored == np.arange(start + 1, start + length)).all()
    assert ((windows.end - windows.begin) <= context + 1).all() and (windows.begin >= start).all()
    assert all(f - b >= min(context + 1 - stride, f - start) for b, f in zip(windows.begin, windows.first, strict=True))


def test_a_stride_that_cannot_be_is_refused() -> None:
    with pytest.raises(
        DataError, match="a stride of 40 tokens is not possible with a context of 32; it must lie between 1 and the context"
    ):
        spans(0, 100, 32, 40)


def test_scores_are_those_of_one_forward(model: Transformer) -> None:
    ids = np.random.default_rng(0).integers(0, 512, 30)
    expected = plain(model, np.concatenate(([0], ids)))
    assert score_tokens(model, ids, CONTEXT, before=0) == pytest.approx(expected, abs=2e-5)
    without = score_tokens(model, ids.tolist(), CONTEXT)
    assert np.isnan(without[0]) and without[1:] == pytest.approx(plain(model, ids), abs=2e-5)
    assert len(score_tokens(model, [], CONTEXT)) == 0


def test_a_long_text_is_scored_with_the_window_before_each_token(model: Transformer) -> None:
    ids = np.random.default_rng(1).integers(0, 512, 150)
    found = score_tokens(model, ids, CONTEXT, stride=8)
    for i in (1, 31, 33, 40, 41, 100, 149):
        windows = spans(0, 150, CONTEXT, 8)
        w = int(np.flatnonzero((windows.first <= i) & (i < windows.end))[0])
        expected = plain(model, ids[windows.begin[w] : i + 1])[-1]
        assert found[i] == pytest.approx(expected, abs=2e-5)
    assert found[1:] == pytest.approx(score_tokens(model, ids, CONTEXT, stride=8, rows=1)[1:], abs=2e-5)


def test_logits_in_parts_are_the_same(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.random.default_rng(2).integers(0, 512, 70)
    whole = score_tokens(model, ids, CONTEXT, before=0)
    monkeypatch.setattr(score, "_LOGITS", 1000)
    assert score_tokens(model, ids, CONTEXT, before=0) == pytest.approx(whole, abs=1e-5)


def test_files_alone_and_the_stream_count_all_tokens_and_bytes(model: Transformer, shard, tokenizers, documents) -> None:  # type: ignore[no-untyped-def]
    files = score_files(model, shard, CONTEXT)
    for i in range(len(documents)):
        ids = np.append(shard.document(i), 0)
        assert files[i].nats == pytest.approx(score_tokens(model, ids, CONTEXT, before=0).sum(dtype=np.float64), rel=1e-5)
        assert (files[i].tokens, files[i].text_bytes) == (len(ids), documents[i].size)
    whole = score_stream(model, shard, CONTEXT, byte_lengths(tokenizers["causal"]))
    assert (whole.tokens, whole.text_bytes) == (shard.token_count - 1, shard.text_bytes)
    assert (total(files).tokens, total(files).text_bytes) == (whole.tokens, whole.text_bytes)
    assert whole.nats == pytest.approx(np.nansum(score_tokens(model, shard.tokens, CONTEXT), dtype=np.float64), rel=1e-5)
    # an untrained model knows its vocabulary and nothing else
    assert whole.bits_per_byte == pytest.approx(np.log2(512) * whole.tokens / whole.text_bytes, rel=0.01)
    assert whole.loss == pytest.approx(whole.nats / whole.tokens)


def test_a_limit_scores_part_of_the_stream_with_its_own_bytes(model: Transformer, shard, tokenizers) -> None:  # type: ignore[no-untyped-def]
    lengths = byte_lengths(tokenizers["causal"])
    assert int(np.bincount(shard.tokens, minlength=512) @ lengths) == shard.text_bytes  # byte-level: exact
    whole = score_stream(model, shard, CONTEXT, lengths)
    part = score_stream(model, shard, CONTEXT, lengths, limit=3000)
    assert 2900 < part.tokens < 3100 and part.text_bytes < whole.text_bytes / 5
    assert part.bits_per_byte == pytest.approx(whole.bits_per_byte, rel=0.1)
    assert part == score_stream(model, shard, CONTEXT, lengths, limit=3000)
    assert score_stream(model, shard, CONTEXT, lengths, limit=10**9) == whole


def test_dropout_and_gradients_are_off_and_the_mode_comes_back(model: Transformer) -> None:
    model.train()
    with score.evaluating(model) as device:
        assert not model.training and device.type == "cpu" and not torch.is_grad_enabled()
    assert model.training
    with pytest.raises(RuntimeError), score.evaluating(model):
        raise RuntimeError
    assert model.training


def test_evaluation_leaves_the_model_able_to_learn() -> None:
    fresh = small_model("decoder")
    score_tokens(fresh, list(range(60)), 64, before=0)
    hidden = fresh(Batch(torch.arange(40)[None]))
    fresh.head(hidden).sum().backward()
    assert fresh.embed.weight.grad is not None
