"""What a decoder thinks of text: nats a token, for a whole stream, for files alone, for a list of ids.

Text longer than the context is read in windows that overlap, so no token is judged with less than `context - stride` tokens before it
(but for those near the start); every token is scored exactly once. A file alone begins after one separator, as in training, and its own
closing separator is scored too: bits per byte here count all bytes of the text and all tokens, the ends of documents included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DataError
from ..metrics.bits import bits_per_byte
from ..nn.batch import IGNORE, Batch
from ..nn.config import ModelConfig
from ..text.tokenizer import Tokenizer
from .task import Array, TokenView

_LOGITS = 1 << 22  # numbers of logits at once (16 MB in fp32): they stay near the cache
_TOKENS = 4096  # tokens a forward


@dataclass(frozen=True)
class Scored:
    """The cost of some text: `nats` over `tokens` predictions that stand for `text_bytes` bytes."""

    nats: float
    tokens: int
    text_bytes: int

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        return bits_per_byte(self.nats, self.text_bytes)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[torch.device]:
    """No gradients and no dropout inside; the mode is as before afterwards. Gives the model's device."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield next(model.parameters()).device
    finally:
        model.train(training)


def byte_lengths(tokenizer: Tokenizer) -> Array:
    """(V,) int64: the bytes of text that each token stands for; 0 for special tokens."""
    lengths = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for id in tokenizer.definition.spellings:
        if not tokenizer.is_special(id):
            lengths[id] = len(tokenizer.token_bytes(id))
    return lengths


def bytes_of(counts: Array, view: TokenView, lengths: Array) -> int:
    """Bytes of text behind `counts` (V,) tokens of a shard, from the tokens' own lengths, scaled so that the whole shard comes out exact.

    For a byte-level vocabulary the scale is 1. One that normalises text (lower case, unknown words) is spread evenly.
    """
    whole = np.zeros(len(lengths), dtype=np.int64)
    for start in range(0, len(view.tokens), 1 << 22):
        whole += np.bincount(view.tokens[start : start + (1 << 22)], minlength=len(lengths))[: len(lengths)]
    known = int(whole @ lengths)
    return round(int(counts @ lengths) * view.text_bytes / known) if known else 0


@dataclass(frozen=True)
class Spans:
    """Windows over a token array: tokens[first:end] are scored, having read tokens[begin:end - 1]. Three (N,) int64 arrays."""

    begin: Array
    end: Array
    first: Array

    def __len__(self) -> int:
        return len(self.begin)

    def take(self, numbers: Array) -> Spans:
        return Spans(self.begin[numbers], self.end[numbers], self.first[numbers])


def spans(start: int, stop: int, context: int, stride: int) -> Spans:
    """Windows of at most `context` inputs that score each of tokens[start + 1:stop] once, `stride` at a time after the first window."""
    if not 1 <= stride <= context:
        raise DataError(f"a stride of {stride} tokens is not possible with a context of {context}; it must lie between 1 and the context.")
    end = np.minimum(np.arange(start + context + 1, max(stop, start + context + 1) + stride, stride), stop)
    end = end[: int(np.searchsorted(end, stop)) + 1]
    first = np.concatenate(([start + 1], end[:-1]))
    return Spans(np.maximum(end - context - 1, start), end, first)


def segment(tokens: Array, separator: int) -> tuple[Array, Array]:
    """Which document each token of packed rows (B, T) is in, and its position within it: two (B, T) int64 arrays.

    A separator opens the document after it (it is what the first token is predicted from); as the end of the one before, it is a label.
    """
    opens = tokens == separator
    opening = np.maximum.accumulate(np.where(opens, np.arange(tokens.shape[1]), 0), axis=1)
    return opens.cumsum(axis=1), np.arange(tokens.shape[1]) - opening


def score_spans(model: nn.Module, tokens: Array, windows: Spans, *, rows: int = 0, separator: int | None = None) -> Iterator[list[Array]]:
    """Nats of the scored tokens of each window, in order, a batch of windows at a time; each a float32 array.

    `separator`: attend within documents only, as `boundaries="mask"` trains. Enter `evaluating` first.
    """
    device = next(model.parameters()).device
    width = int((windows.end - windows.begin).max(initial=1)) - 1
    rows = rows or max(1, _TOKENS // max(width, 1))
    for at in range(0, len(windows), rows):
        now = windows.take(np.arange(at, min(at + rows, len(windows))))
        width = int((now.end - now.begin).max()) - 1
        inputs = np.zeros((len(now), width), dtype=np.int64)  # padding stands to the right, where no causal query looks
        labels = np.full((len(now), width), IGNORE, dtype=np.int64)
        for i, (begin, end, first) in enumerate(zip(now.begin.tolist(), now.end.tolist(), now.first.tolist(), strict=True)):
            row = tokens[begin:end]
            inputs[i, : end - begin - 1] = row[:-1]
            labels[i, first - begin - 1 : end - begin - 1] = row[first - begin :]
        batch = Batch(torch.from_numpy(inputs))
        if separator is not None:
            batch.segments, batch.positions = (torch.from_numpy(part) for part in segment(inputs, separator))
        hidden = model(batch.to(device))
        nats = token_nats(model, hidden, torch.from_numpy(labels).to(device)).cpu().numpy()
        yield np.split(nats, np.cumsum(now.end - now.first)[:-1])


def token_nats(model: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
    """-log p of every label that is not IGNORE, row by row: hidden (B, T, D), labels (B, T) -> (N,) float32."""
    counted = labels != IGNORE
    chosen, wanted = hidden[counted], labels[counted]  # (N, D), (N,)
    head, config = model.head, model.config
    assert isinstance(head, nn.Module) and isinstance(config, ModelConfig)
    step = max(1, _LOGITS // config.vocab)
    out = [
        F.cross_entropy(head(chosen[at : at + step]).float(), wanted[at : at + step], reduction="none")
        for at in range(0, len(chosen), step)
    ]
    return torch.cat(out) if out else hidden.new_zeros(0, dtype=torch.float32)


def score_tokens(
    model: nn.Module, ids: Sequence[int] | Array, context: int, *, before: int | None = None, stride: int = 0, rows: int = 0
) -> Array:
    """Nats of every token of `ids` given those before it: (N,) float32.

    `before`: the token that stands before the first (the separator, for a document); without one the first has no probability and comes
    out as not-a-number. `stride`: tokens scored a window (0: half the context); smaller is slower and a little better.
    """
    tokens = np.asarray(ids, dtype=np.int64)
    if not len(tokens):
        return np.zeros(0, dtype=np.float32)
    if before is not None:
        tokens = np.concatenate(([before], tokens))
    windows = spans(0, len(tokens), context, stride or max(1, context // 2))
    with evaluating(model):
        nats = [row for batch in score_spans(model, tokens, windows, rows=rows) for row in batch]
    return np.concatenate(nats if before is not None else [np.full(1, np.nan, dtype=np.float32), *nats])


def score_stream(
    model: nn.Module,
    view: TokenView,
    context: int,
    lengths: Array,
    *,
    limit: int = 0,
    stride: int = 0,
    rows: int = 0,
    separator: int | None = None,
) -> Scored:
    """A whole shard as one stream: its documents joined, read in windows that overlap.

    `limit`: score about that many tokens, in windows spread evenly over the shard (0: all). `lengths` as from `byte_lengths`.
    """
    stride = stride or max(1, context // 2)
    windows = spans(0, len(view.tokens), context, stride)
    want = -(-limit // stride)
    part = 0 < want < len(windows)
    if part:
        windows = windows.take(np.linspace(0, len(windows) - 1, want).round().astype(np.int64))
    nats, counts = 0.0, np.zeros(len(lengths), dtype=np.int64)
    with evaluating(model):
        for batch in score_spans(model, view.tokens, windows, rows=rows, separator=separator):
            nats += sum(float(row.sum(dtype=np.float64)) for row in batch)
    if not part:
        return Scored(nats, len(view.tokens) - 1, view.text_bytes)
    for first, end in zip(windows.first.tolist(), windows.end.tolist(), strict=True):
        counts += np.bincount(view.tokens[first:end], minlength=len(lengths))
    return Scored(nats, int((windows.end - windows.first).sum()), bytes_of(counts, view, lengths))


def score_files(model: nn.Module, view: TokenView, context: int, *, stride: int = 0, rows: int = 0) -> list[Scored]:
    """Every document of a shard alone, begun after one separator and scored with its closing one, in the shard's order."""
    parts = [
        spans(int(begin) - 1, int(end), context, stride or max(1, context // 2))
        for begin, end in zip(view.offsets[:-1], view.offsets[1:], strict=True)
    ]
    windows = Spans(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("begin", "end", "first")))
    owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    order = np.argsort(windows.begin - windows.end, kind="stable")  # long ones together: little padding, and the largest batch comes first
    nats = np.zeros(len(parts))
    done = 0
    with evaluating(model):
        for batch in score_spans(model, view.tokens, windows.take(order), rows=rows):
            np.add.at(nats, owner[order[done : done + len(batch)]], [float(row.sum(dtype=np.float64)) for row in batch])
            done += len(batch)
    sizes, tokens = np.diff(view.byte_offsets), np.diff(view.offsets)
    return [Scored(float(n), int(t), int(b)) for n, t, b in zip(nats, tokens, sizes, strict=True)]


def total(parts: Sequence[Scored]) -> Scored:
    """All of them together: nats, tokens and bytes are sums."""
    return Scored(sum(p.nats for p in parts), sum(p.tokens for p in parts), sum(p.text_bytes for p in parts))
