"""A batch: what a task decided once, and what the model, the loss and the metric read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

IGNORE = -100  # a label that no loss term counts


@dataclass
class Batch:
    """Rows of tokens with everything that attention and the loss need to know about them.

    tokens (B, T) int64; positions (B, T) where they are not 0..T-1; segments (B, T): attention stays within equal numbers;
    keep (B, T) bool, False on padding; types (B, T) token types; source: the encoder's side of an encoder-decoder.
    labels: one tensor a loss term, (B, T) or (B,), `IGNORE` where nothing is learned.
    """

    tokens: Tensor
    labels: dict[str, Tensor] = field(default_factory=dict)
    positions: Tensor | None = None
    segments: Tensor | None = None
    keep: Tensor | None = None
    types: Tensor | None = None
    source: Batch | None = None

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def _map(self, f) -> Batch:
        tensors = {name: getattr(self, name) for name in ("tokens", "positions", "segments", "keep", "types")}
        return replace(
            self,
            **{name: None if t is None else f(t) for name, t in tensors.items()},
            labels={name: f(t) for name, t in self.labels.items()},
            source=None if self.source is None else self.source._map(f),
        )

    def to(self, device: torch.device | str) -> Batch:
        return self._map(lambda t: t.to(device, non_blocking=True))

    def split(self, rows: int) -> list[Batch]:
        """Micro-batches of at most `rows` rows, in order."""
        return [self._map(lambda t, i=i: t[i : i + rows]) for i in range(0, len(self), rows)]
