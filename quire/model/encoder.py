"""An opened encoder: it reads a text both ways."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..decode.loop import room
from ..decode.sampler import logprobs
from ..errors import DataError
from ..nn.attention import AttnContext
from ..types import TokenLogprob
from .local import TOKENS_A_FORWARD, Local, split_blanks


class Encoder(Local):
    """A model that reads a text both ways (BERT ...)."""

    def hidden(self, texts: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """The last hidden states of each text, (T, D) with what the tokenizer puts around it. Raises ContextError for one too long."""
        rows = [self.contract.whole(text) for text in texts]
        for ids in rows:
            room(len(ids), self.config.context, "text", spare=0)
        found: list[npt.NDArray[np.float32]] = [np.empty((0, self.config.width), dtype=np.float32)] * len(rows)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        while order:
            count = max(1, min(len(order), TOKENS_A_FORWARD // len(rows[order[-1]])))
            chosen, order = order[-count:], order[:-count]
            states = self._forward([rows[i] for i in chosen]).float().cpu().numpy()
            for i, state in zip(chosen, states):
                found[i] = state[: len(rows[i])].copy()
        return found

    @torch.inference_mode()
    def _forward(self, rows: list[list[int]]) -> Tensor:
        tokens, keep = self.tensor(rows)
        return self.model.encode(tokens, AttnContext(keep=keep))

    def fill(self, text: str, blank: str = "___", top: int = 5) -> list[tuple[TokenLogprob, ...]]:
        """The `top` likeliest tokens for each `blank` of a text, best first. Raises DataError when there is no blank or no mask token."""
        tokenizer = self.contract.tokenizer
        if tokenizer.mask is None or not hasattr(self.model.head, "table"):
            raise DataError(f"{self.folder} has no mask token or no head that predicts words, so it cannot fill blanks.")
        parts = split_blanks(text, blank)
        inside: list[str | int] = [parts[0]]
        for part in parts[1:]:
            inside += [tokenizer.mask, part]
        ids = [*self.contract.before, *tokenizer.encode_parts(inside).ids, *self.contract.after]
        room(len(ids), self.config.context, "text", spare=0)
        hidden = self._forward([ids])
        places = [i for i, token in enumerate(ids) if token == tokenizer.mask]
        with torch.inference_mode():
            assert self.model.head is not None
            rows = self.model.head(hidden[0, places]).float().cpu().numpy()  # (N, V)
        top = min(top, tokenizer.vocab_size)
        return [tuple(TokenLogprob(i, tokenizer.decode([i]), value) for i, value in logprobs(row, 0, top)[1]) for row in rows]
