"""Span corruption (T5, Raffel et al. 2020, section 3.1.4): hide spans of text behind sentinels, and write what was hidden.

    text     Thank you for inviting me to your party last week </s>
    source   Thank you <extra_id_0> me to your party <extra_id_1> week </s>
    target   <extra_id_0> for inviting <extra_id_1> last </s>

Lengths follow T5's own code (`random_spans_helper`, `random_spans_noise_mask`): every row hides the same number of tokens in the same
number of spans, only their places are drawn, so sources and targets of a batch are all of one length and nothing is padded. A row reads as
many tokens as make its source fill the context. It begins with kept text and ends with a hidden span; where spans begin, and how long they
are, comes from cutting the hidden and the kept tokens each at random into that many parts.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ..errors import RecipeError
from ..metrics.bits import bits_per_byte
from ..nn.batch import Batch
from ..nn.heads import token_loss
from ..text.tokenizer import Tokenizer
from .rows import Windows
from .score import byte_lengths, bytes_of, evaluating
from .task import Array, RowArrays, Term, TokenView

_EVALUATION_ROWS = 16  # part of the figure's definition: masks are drawn batch by batch


def spans_of(tokens: int, rate: float, mean_span: float) -> tuple[int, int]:
    """How many tokens of a row are hidden, in how many spans."""
    hidden = min(max(round(tokens * rate), 1), tokens - 1)
    return hidden, min(max(round(hidden / mean_span), 1), hidden, tokens - hidden)


def lengths_of(tokens: int, rate: float, mean_span: float) -> tuple[int, int]:
    """Source and target length of a row of `tokens`: each has one sentinel a span, and an end."""
    hidden, count = spans_of(tokens, rate, mean_span)
    return tokens - hidden + count + 1, hidden + count + 1


def row_length(context: int, rate: float, mean_span: float) -> int:
    """The most tokens whose source and target both fit the context."""
    tokens = 2
    while max(lengths_of(tokens + 1, rate, mean_span)) <= context:
        tokens += 1
    return tokens


def _parts(rows: int, items: int, parts: int, draw: np.random.Generator) -> Array:
    """`items` things cut at random into `parts` parts of at least one, for each row: (rows, parts) int64, every way equally likely."""
    cuts = np.argsort(draw.random((rows, items - 1)), axis=1)[:, : parts - 1] + 1
    edges = np.concatenate((np.zeros((rows, 1), int), np.sort(cuts, axis=1), np.full((rows, 1), items)), axis=1)
    return np.diff(edges, axis=1)


def noise(rows: int, tokens: int, hidden: int, count: int, draw: np.random.Generator) -> tuple[Array, Array]:
    """(rows, tokens) twice: which tokens are hidden, and the number of the span (kept or hidden, alternating) that each is in."""
    lengths = np.stack((_parts(rows, tokens - hidden, count, draw), _parts(rows, hidden, count, draw)), axis=2).reshape(rows, 2 * count)
    begins = np.zeros((rows, tokens), dtype=np.int64)
    np.put_along_axis(begins, lengths.cumsum(axis=1)[:, :-1], 1, axis=1)
    number = begins.cumsum(axis=1)
    return number % 2 == 1, number


class Denoise:
    """`batch` reads rows (B, tokens_per_row); source (B, S), tokens and labels {"lm"} (B, T): the target, and it shifted right."""

    name = "denoise"
    model_kind: Literal["seq2seq"] = "seq2seq"
    splittable, supervised = True, False
    metric = "bits_per_byte"
    better: Literal["lower"] = "lower"

    def __init__(self, tokenizer: Tokenizer, context: int, rate: float = 0.15, mean_span: float = 3.0) -> None:
        if not 0 < rate < 1 or mean_span < 1:
            raise RecipeError(
                f"task.mask_rate = {rate} with task.mean_span = {mean_span} cannot be: a share between 0 and 1, and spans of 1 or more."
            )
        if context < 8:
            raise RecipeError(f"model.context = {context} is too short to hide spans in; give 8 or more.")
        if tokenizer.eos is None or tokenizer.pad is None:
            raise RecipeError(
                "the task 'denoise' needs an end token and a padding token (the decoder's first input); this tokenizer lacks one."
            )
        self.tokenizer, self.context, self.rate, self.mean_span = tokenizer, context, rate, mean_span
        self.separator, self.start = tokenizer.eos, tokenizer.pad
        self.tokens_per_row = row_length(context, rate, mean_span)
        self.hidden, self.spans = spans_of(self.tokens_per_row, rate, mean_span)
        self.sentinels = self._sentinels()
        self._lengths: Array | None = None

    def _sentinels(self) -> Array:
        ids: list[int] = []
        for i in range(self.spans):
            found = self.tokenizer.token_id(f"<extra_id_{i}>")
            if found is None:
                raise RecipeError(
                    f"a row of {self.tokens_per_row} tokens hides {self.spans} spans, and this tokenizer has {i} sentinels "
                    f"(<extra_id_0> …). Shorten model.context, raise task.mean_span, or train the tokenizer for this task."
                )
            ids.append(found)
        return np.array(ids, dtype=np.int64)

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "context": self.context,
            "separator": self.separator,
            "mask_rate": self.rate,
            "mean_span": self.mean_span,
        }

    def rows(self, view: TokenView, start: int, stop: int) -> Windows:
        return Windows(view.tokens, start, stop, self.tokens_per_row, self.tokens_per_row)

    def batch(self, rows: RowArrays, draw: np.random.Generator) -> Batch:
        tokens = np.asarray(rows)  # (B, N)
        count, ends = len(tokens), np.full((len(tokens), 1), self.separator, dtype=np.int64)
        hidden, number = noise(count, tokens.shape[1], self.hidden, self.spans, draw)
        first = np.diff(number, axis=1, prepend=-1) > 0  # of a span, kept or hidden
        sentinel = self.sentinels[number // 2]  # spans alternate, so a kept span and the hidden one after it share a number
        # Every row keeps the same number of places, so a boolean pick over all rows folds back into rows.
        source = np.where(hidden & first, sentinel, tokens)[~hidden | first].reshape(count, -1)
        target = np.where(~hidden & first, sentinel, tokens)[hidden | first].reshape(count, -1)
        source, target = np.concatenate((source, ends), axis=1), np.concatenate((target, ends), axis=1)
        shifted = np.concatenate((np.full((count, 1), self.start), target[:, :-1]), axis=1)
        return Batch(torch.from_numpy(shifted), {"lm": torch.from_numpy(target)}, source=Batch(torch.from_numpy(source)))

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"lm": batch.labels["lm"].numel()}

    def terms(self, model: nn.Module, batch: Batch, chunk: int = 0) -> dict[str, Term]:
        return {"lm": token_loss(model.head, model(batch), batch.labels["lm"], chunk)}

    def evaluate(self, model: nn.Module, view: TokenView, limit: int = 0, rows: int = 0) -> dict[str, float]:
        """loss in nats a target token, and bits_per_byte: bits to restore one byte of hidden text, sentinels and ends included.

        It is not the causal figure: here both sides of a gap are known. Rows and masks are the same at every call.
        """
        if self._lengths is None:
            self._lengths = byte_lengths(self.tokenizer)
        found = self.rows(view, 1, len(view.tokens))
        numbers = np.arange(found.count)
        if 0 < limit < found.count * self.tokens_per_row:
            numbers = np.linspace(0, found.count - 1, max(1, limit // self.tokens_per_row)).round().astype(np.int64)
        draw = np.random.default_rng([3, 0])
        nats, tokens, counts = 0.0, 0, np.zeros(len(self._lengths), dtype=np.int64)
        with evaluating(model) as device:
            for at in range(0, len(numbers), _EVALUATION_ROWS):
                batch = self.batch(found.read(numbers[at : at + _EVALUATION_ROWS]), draw)
                counts += np.bincount(batch.labels["lm"].numpy().ravel(), minlength=len(counts))
                for part in batch.split(rows or _EVALUATION_ROWS):
                    loss, weight = self.terms(model, part.to(device))["lm"]
                    nats, tokens = nats + float(loss), tokens + weight
        hidden_bytes = bytes_of(counts, view, self._lengths)
        return {"bits_per_byte": bits_per_byte(nats, hidden_bytes), "loss": nats / tokens, "tokens": float(tokens)}
