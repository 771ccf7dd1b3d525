"""A batch: what a task decided once, and what the model, the loss and the metric read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

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

    def _map(self, f: Callable[[Tensor], Tensor]) -> Batch:
        def maybe(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else f(tensor)

        return Batch(
            f(self.tokens),
            positions=maybe(self.positions),
            segments=maybe(self.segments),
            keep=maybe(self.keep),
            types=maybe(self.types),
            labels={name: f(t) for name, t in self.labels.items()},
            source=None if self.source is None else self.source._map(f),
        )

    def to(self, device: torch.device | str) -> Batch:
        return self._map(lambda t: t.to(device, non_blocking=True))

    def split(self, rows: int) -> list[Batch]:
        """Micro-batches of at most `rows` rows, in order."""

        def part(start: int) -> Batch:
            return self._map(lambda tensor: tensor[start : start + rows])

        return [part(start) for start in range(0, len(self), rows)]
