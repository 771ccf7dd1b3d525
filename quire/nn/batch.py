"""A batch: what a task decided once, and what the model, the loss and the metric read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

IGNORE = -100  # a label that no loss term counts


def rounded(width: int) -> int:
    """The width that a batch whose longest row has `width` tokens is filled up to: at most an eighth more, beyond 64 tokens.

    oneDNN makes kernels for every shape that it meets and keeps them: few widths cost a little padding and save memory and time.
    """
    step = max(8, 1 << max(0, width.bit_length() - 4))
    return -(-width // step) * step


def of_tokens(label: Tensor, tokens: Tensor) -> bool:
    """Has a label (..) a place for each of tokens (B, T)? Fractions never do: as many classes as tokens, a number each, are of a row."""
    return label.shape == tokens.shape and not label.is_floating_point()


@dataclass
class Batch:
    """Rows of tokens with everything that attention and the loss need to know about them.

    tokens (B, T) int64; positions (B, T) where they are not 0..T-1; segments (B, T): attention stays within equal numbers;
    keep (B, T) bool, False on padding; types (B, T) token types; source: the encoder's side of an encoder-decoder.
    labels: one tensor a loss term, (B, T) or (B,), `IGNORE` where nothing is learned, or a fraction for each of L classes, (B, L).
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
        """Micro-batches of at most `rows` rows, in order, each without the columns that are padding in all of its rows."""

        def part(start: int) -> Batch:
            return self._map(lambda tensor: tensor[start : start + rows]).trimmed()

        return [part(start) for start in range(0, len(self), rows)]

    def take(self, rows: Tensor) -> Batch:
        """Some of the rows, by number or as a mask (B,)."""
        return self._map(lambda tensor: tensor[rows])

    def trimmed(self) -> Batch:
        """The same without the last columns that no row keeps, as far as `rounded` allows."""
        source = None if self.source is None else self.source.trimmed()
        if self.keep is None:
            return self if source is self.source else replace(self, source=source)
        whole = self.tokens.shape[1]
        width = min(whole, rounded(int(self.keep.any(0).nonzero()[-1]) + 1))
        if width == whole:
            return replace(self, source=source)

        def cut(tensor: Tensor | None) -> Tensor | None:
            return tensor if tensor is None or tensor.ndim < 2 or tensor.shape[1] != whole else tensor[:, :width]

        keep = None if bool(self.keep[:, :width].all()) else self.keep[:, :width]
        labels = {name: label[:, :width] if of_tokens(label, self.tokens) else label for name, label in self.labels.items()}
        return Batch(self.tokens[:, :width], labels, cut(self.positions), cut(self.segments), keep, cut(self.types), source)
