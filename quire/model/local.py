"""What the three kinds of opened models share: their folder, contract, binding, defaults; rows as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..binding import Binding, Contract
from ..errors import DataError
from ..nn.config import ModelConfig
from ..nn.transformer import Transformer
from ..types import Sampling

TOKENS_A_FORWARD = 8192  # of scoring and hidden states, padding included


class Local:
    """What the three kinds share."""

    def __init__(self, folder: Path, model: Transformer, contract: Contract, binding: Binding) -> None:
        self.folder = folder
        self.model = model
        self.contract = contract
        self.binding = binding
        self.identity: str = binding.id

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def defaults(self) -> Sampling:
        """How to sample when nothing is said: what the folder's generation_config.json recommends, else `Sampling()`."""
        given = self.contract.defaults
        if given.get("do_sample") is False:
            return Sampling(temperature=0.0)
        same = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")
        chosen: dict[str, Any] = {name: given[name] for name in same if given.get("do_sample") and isinstance(given.get(name), int | float)}
        if isinstance(given.get("max_new_tokens"), int):
            chosen["max_tokens"] = given["max_new_tokens"]
        return Sampling(**chosen)

    def __repr__(self) -> str:
        size = f"{self.config.parameters():,} parameters, context {self.config.context}"
        return f"{type(self).__name__}({str(self.folder)!r}, {size}, {self.identity[:12]})"

    def tensor(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
        """Rows padded on the right: tokens (B, T), keep (B, T) or None where all are of one length."""
        device, longest = self.model.embed.weight.device, max(map(len, rows))
        tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
        if all(len(row) == longest for row in rows):
            return tokens, None
        return tokens, torch.tensor([[place < len(row) for place in range(longest)] for row in rows], device=device)


def split_blanks(text: str, blank: str) -> list[str]:
    parts = text.split(blank) if blank else [text]
    if len(parts) == 1:
        raise DataError(f"the text has no blank: write {blank or '___'} where a word is to be filled in.")
    return parts
