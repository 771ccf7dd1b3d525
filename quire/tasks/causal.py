"""Language modelling: predict each next token of packed rows.

Rows are windows of context + 1 tokens of the joined stream; tokens 0..T-1 are read, 1..T are the labels, and rows begin T apart, so an
epoch learns every token once. What a token may see of the documents before its own is `boundaries`:

attend  everything in its row. SDPA runs its own causal kernel, without a mask. The separator tells the model that a document ended.
mask    its own document alone: `segments` number the documents of a row and `positions` start again in each, and SDPA is given a boolean
        mask (B, 1, T, T) made once a forward. It costs 1 to 4 % of a step at width 128 and context 256 (benchmarks/data.py).
        A call for each document of each row is not done: it would save work in fp32 and none in bf16 (docs/packing.md).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import RecipeError
from ..nn.attention import AttnContext
from ..nn.batch import IGNORE, Batch
from ..nn.heads import token_loss
from ..nn.moe import balance_loss
from ..nn.transformer import Transformer
from ..text.tokenizer import Tokenizer
from .rows import Windows
from .score import byte_lengths, score_stream, segment
from .task import Array, RowArrays, Term, TokenView


class Causal:
    """`batch` reads rows (B, T + 1); labels {"lm": (B, T)}."""

    name = "causal"
    model_kind: Literal["decoder"] = "decoder"
    splittable, supervised = True, False
    metric = "bits_per_byte"
    better: Literal["lower"] = "lower"

    def __init__(self, tokenizer: Tokenizer, context: int, boundaries: Literal["attend", "mask"] = "attend") -> None:
        if tokenizer.eos is None:
            raise RecipeError(
                "the task 'causal' ends documents with an end-of-text token, and this tokenizer has none. Train one, or give its 'eos'."
            )
        if boundaries not in ("attend", "mask"):
            raise RecipeError(f"data.boundaries = '{boundaries}' is not known. It is 'attend' or 'mask'.")
        self.tokenizer, self.context, self.boundaries, self.separator = tokenizer, context, boundaries, tokenizer.eos
        self.tokens_per_row = context
        self._lengths: Array | None = None

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "context": self.context, "separator": self.separator, "boundaries": self.boundaries}

    def rows(self, view: TokenView, start: int, stop: int) -> Windows:
        return Windows(view.tokens, start, stop, self.context + 1, self.context)

    def batch(self, rows: RowArrays, draw: np.random.Generator) -> Batch:
        tokens = np.asarray(rows)
        batch = Batch(torch.from_numpy(tokens[:, :-1]), {"lm": torch.from_numpy(tokens[:, 1:])})
        if self.boundaries == "mask":
            batch.segments, batch.positions = map(torch.from_numpy, segment(tokens[:, :-1], self.separator))
        return batch

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"lm": int((batch.labels["lm"] != IGNORE).sum())}

    def terms(self, model: nn.Module, batch: Batch, chunk: int = 0) -> dict[str, Term]:
        return {"lm": next_token_loss(model, batch, chunk)}

    @property
    def lengths(self) -> Array:
        """Bytes of text of each token (V,)."""
        if self._lengths is None:
            self._lengths = byte_lengths(self.tokenizer)
        return self._lengths

    def evaluate(self, model: nn.Module, view: TokenView, limit: int = 0, rows: int = 0) -> dict[str, float]:
        """bits_per_byte of the shard as one stream, and the loss in nats a token."""
        separator = self.separator if self.boundaries == "mask" else None
        scored = score_stream(model, view, self.context, self.lengths, limit=limit, rows=rows, separator=separator)
        return {"bits_per_byte": scored.bits_per_byte, "loss": scored.loss, "tokens": float(scored.tokens)}


def next_token_loss(model: nn.Module, batch: Batch, chunk: int = 0) -> Term:
    """The summed loss of labels["lm"], with what keeps experts evenly used where a model that learns has some.

    Padding, if any, stands to the right, where no token of the text looks: without a mask the causal kernel runs.
    """
    rows = replace(batch, keep=None)
    moe = model.config.moe if isinstance(model, Transformer) and model.training else None
    if moe is None or not moe.balance:
        return token_loss(model.head, model(rows), batch.labels["lm"], chunk)
    routing: list[Tensor] = []
    loss, count = token_loss(model.head, model(rows, AttnContext(routing=routing)), batch.labels["lm"], chunk)
    # As a mean over the tokens: the figure of training includes it, held-out figures do not.
    return loss + moe.balance * count * balance_loss(routing, moe, batch.keep), count
