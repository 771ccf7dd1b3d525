"""An opened encoder: it reads a text both ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..decode.loop import room
from ..decode.sampler import logprobs
from ..errors import DataError, ModelError
from ..nn.attention import AttnContext
from ..nn.config import LabelHead, MLMHead
from ..tasks.lengths import by_length
from ..tasks.pairs import follows
from ..tasks.reading import Long
from ..types import TokenLogprob
from .local import TOKENS_A_FORWARD, Local, Progress, split_blanks

Fills = list[tuple[TokenLogprob, ...]]


class Encoder(Local):
    """A model that reads a text both ways (BERT ...)."""

    def hidden(self, texts: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """The last hidden states of each text, (T, D) with what the tokenizer puts around it. Raises ContextError for one too long."""
        rows = [self.contract.whole(text) for text in texts]
        for ids in rows:
            room(len(ids), self.config.context, "text", spare=0)

        def forward(part: list[list[int]]) -> list[npt.NDArray[np.float32]]:
            states = self._forward(part).float().cpu().numpy()
            return [state[: len(row)].copy() for row, state in zip(part, states)]

        return by_length(rows, forward, TOKENS_A_FORWARD)

    @torch.inference_mode()
    def _forward(self, rows: list[list[int]]) -> Tensor:
        tokens, keep = self.tensor(rows)
        return self.model.encode(tokens, AttnContext(keep=keep))[:, -tokens.shape[1] :]  # without those of a soft prompt

    @overload
    def fill(self, texts: str, blank: str = "___", top: int = 5, *, progress: Progress = None) -> Fills: ...  # type: ignore[overload-overlap]
    @overload
    def fill(self, texts: Sequence[str], blank: str = "___", top: int = 5, *, progress: Progress = None) -> list[Fills]: ...
    def fill(self, texts: str | Sequence[str], blank: str = "___", top: int = 5, *, progress: Progress = None) -> Fills | list[Fills]:
        """The `top` likeliest tokens for each `blank` of a text, best first; of one text, or of each of several.

        Raises DataError when there is no blank or no mask token, ContextError for a text that is too long, all before any work.
        """
        mask = self.contract.tokenizer.mask
        if mask is None or not hasattr(self.model.head, "table"):
            raise DataError(f"{self.called} has no mask token or no head that predicts words, so it cannot fill blanks.")
        rows = [self._with_masks(split_blanks(text, blank), mask) for text in ([texts] if isinstance(texts, str) else texts)]
        found = by_length(rows, lambda part: self._fill(part, mask, top), TOKENS_A_FORWARD, progress)
        return found[0] if isinstance(texts, str) else found

    def _with_masks(self, parts: Sequence[str], mask: int) -> list[int]:
        inside: list[str | int] = [parts[0]]
        for part in parts[1:]:
            inside += [mask, part]
        ids = [*self.contract.before, *self.contract.tokenizer.encode_parts(inside).ids, *self.contract.after]
        room(len(ids), self.config.context, "text", spare=0)
        return ids

    @torch.inference_mode()
    def _fill(self, rows: list[list[int]], mask: int, top: int) -> list[Fills]:
        tokenizer, hidden = self.contract.tokenizer, self._forward(rows)
        assert self.model.head is not None
        found = []
        for row, states in zip(rows, hidden):
            places = [place for place, token in enumerate(row) if token == mask]
            scores = self.model.head(states[places]).float().cpu().numpy()  # (N, V)
            best = [logprobs(each, 0, min(top, tokenizer.vocab_size))[1] for each in scores]
            found.append([tuple(TokenLogprob(i, tokenizer.decode([i]), value) for i, value in each) for each in best])
        return found

    def next_sentence(
        self, pairs: Sequence[tuple[str, str]], *, long: Long | None = None, cut: list[int] | None = None, progress: Progress = None
    ) -> list[float]:
        """How likely the second text of each pair follows the first, 0 to 1. Raises ModelError for a model without such a head (BERT's).

        long, cut: as in `embed`.
        """
        head = self.config.head
        if not (isinstance(head, LabelHead) and head.over == "next") and not (isinstance(head, MLMHead) and head.next_sentence):
            raise ModelError(f"{self.called} was not trained to say whether a sentence follows another: it has no head for it (BERT has).")
        return follows(self.model, self.contract, pairs, long, cut, progress)
