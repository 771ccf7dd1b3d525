"""Keys and values of what was already read, contiguous: one block per layer, written at `length`, never grown.

Rows advance together (they are padded on the left when their lengths differ). A cross-attention's keys and values are computed from the
encoder's output once and stay.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ContextError
from .config import ModelConfig


class Cache:
    """`capacity` positions for `rows` rows of a decoder. `length` positions are filled."""

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if config.decoder is None:
            raise ContextError("An encoder alone has no cache: it reads every token at once.")
        self.rows, self.capacity, self.length = rows, capacity, 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        for layer in config.decoder.layers:
            shape = (rows, layer.attn.kv_heads, capacity, layer.attn.head_dim)  # (B, K, S, C)
            self.keys.append(torch.zeros(shape, dtype=dtype, device=device))
            self.values.append(torch.zeros(shape, dtype=dtype, device=device))
        self.cross: list[tuple[Tensor, Tensor] | None] = [None] * len(self.keys)

    def room(self, tokens: int) -> None:
        """Raise ContextError when `tokens` more do not fit."""
        if self.length + tokens > self.capacity:
            raise ContextError(
                f"The cache holds {self.capacity} positions; {self.length} are filled and {tokens} more were given. "
                "Make it larger (up to the model's context) or cut the text."
            )

    def widen(self, positions: int) -> None:
        """Room for so many more positions, in a cache that holds nothing yet."""
        self.capacity += positions
        for part in (self.keys, self.values):
            part[:] = [old.new_zeros((*old.shape[:2], self.capacity, old.shape[3])) for old in part]

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k, v (B, K, T, C) of this layer at `length` and return all keys and values so far (B, K, S, C).

        `length` itself moves once, after the last layer (`advance`).
        """
        end = self.length + k.shape[2]
        keys, values = self.keys[layer], self.values[layer]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, tokens: int) -> None:
        self.length += tokens

    def cut(self, length: int) -> None:
        """Forget everything from position `length` on."""
        if not 0 <= length <= self.length:
            raise ContextError(f"The cache holds {self.length} positions; it cannot be cut to {length}. Allowed: 0 to {self.length}.")
        self.length = length
