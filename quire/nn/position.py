"""Where a token stands: rotary tables (Su et al. 2021), fixed sines (Vaswani et al. 2017), slopes (ALiBi, Press et al. 2022) and T5's
relative buckets (Raffel et al. 2020).

Tables are computed once in fp32 and grown on demand; one forward slices or gathers them once, whatever the number of layers.
None is part of a checkpoint: rotary tables follow from theta, buckets from distances.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .config import Relative, Rope
from .scaling import frequencies, regime


class Rotary:
    """cos and sin for one (rope, head_dim), in the half-split layout: channel c turns with channel c + C/2 of those that turn.

    Where scaling depends on the length of the text, keys that a cache already holds stay turned as they were. `sin` is kept with its first
    half negated, so that turning is `x * cos + swap(x) * sin` where swap exchanges the halves.
    """

    def __init__(self, rope: Rope, head_dim: int) -> None:
        self.rope, self.head_dim = rope, head_dim
        self.channels = rope.channels or head_dim
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[int, Tensor, Tensor]] = {}

    def _table(self, length: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        known = regime(self.rope, length)
        stored, cos, sin = self._tables.get((device, dtype), (-1, None, None))
        if cos is None or sin is None or stored != known or cos.shape[0] < length:
            rows = max(length, 2 * cos.shape[0] if cos is not None and stored == known else 256)
            with torch.inference_mode(False):  # an evaluation may be the first to come here, and a backward pass the second
                frequency, factor = frequencies(self.rope, self.channels, length, device)  # (C/2,)
                angle = torch.arange(rows, dtype=torch.float32, device=device)[:, None] * frequency  # (T, C/2)
                half_cos, half_sin = angle.cos() * factor, angle.sin() * factor
                cos, sin = torch.cat((half_cos, half_cos), -1).to(dtype), torch.cat((-half_sin, half_sin), -1).to(dtype)
            self._tables[(device, dtype)] = known, cos, sin
        return cos, sin

    def __call__(
        self, start: int, length: int, positions: Tensor | None, device: torch.device, dtype: torch.dtype, top: int = 0
    ) -> tuple[Tensor, Tensor]:
        """(cos, sin), each (T, C), or (B, 1, T, C) where `positions` (B, T) are given; `top` is one past the largest of those."""
        if positions is None:
            cos, sin = self._table(start + length, device, dtype)
            return cos[start : start + length], sin[start : start + length]
        cos, sin = self._table(top, device, dtype)
        return cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x (B, H, T, C) by its positions; channels beyond the tables' stay."""
    turned = cos.shape[-1]
    if turned < x.shape[-1]:
        return torch.cat((turn(x[..., :turned], cos, sin), x[..., turned:]), -1)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


class Sinusoid:
    """Rows of sines, then of cosines, of falling frequency (Vaswani et al. 2017, in the order of Marian's checkpoints)."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._table: Tensor | None = None

    def table(self, rows: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """(rows, D)."""
        table = self._table
        if table is None or table.shape[0] < rows or table.device != device or table.dtype != dtype:
            with torch.inference_mode(False):
                frequency = 10_000.0 ** (-torch.arange(0, self.width, 2, dtype=torch.float64, device=device) / self.width)
                angle = torch.arange(rows, dtype=torch.float64, device=device)[:, None] * frequency
                table = self._table = torch.cat((angle.sin(), angle.cos()[:, : self.width // 2]), -1).to(dtype)
        return table[:rows]


def alibi(slopes: tuple[float, ...], start: int, queries: int, keys: int, device: torch.device) -> Tensor:
    """Bias (1, H, T, S): minus slope times distance, for queries at start..start+T-1 over keys at 0..S-1."""
    distance = torch.arange(keys, device=device) - torch.arange(start, start + queries, device=device)[:, None]  # (T, S)
    return (torch.tensor(slopes, device=device)[:, None, None] * distance).unsqueeze(0)


class RelativeBias(nn.Module):
    """One learned number per head and bucket of distance, added to the scores of every layer of a stack.

    Half of the buckets are exact distances, the rest grow logarithmically up to `max_distance`. A stack that looks both ways spends half
    of them on each side.
    """

    def __init__(self, relative: Relative, heads: int, both_ways: bool) -> None:
        super().__init__()
        self.relative, self.both_ways = relative, both_ways
        self.weight = nn.Parameter(torch.empty(relative.buckets, heads))
        self._buckets: Tensor | None = None

    def bucket(self, distance: Tensor) -> Tensor:
        """Bucket numbers of `distance` = key position - query position, any shape."""
        buckets, offset = self.relative.buckets, torch.zeros_like(distance)
        if self.both_ways:
            buckets //= 2
            offset = (distance > 0) * buckets
            distance = distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        exact = buckets // 2
        ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(self.relative.max_distance / exact)
        far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
        return offset + torch.where(distance < exact, distance, far)

    def behind(self, distance: Tensor) -> Tensor:
        """Bias (R, H, T, S) of keys so far behind their queries (R, T, S); those ahead get that of distance 0."""
        reach = torch.arange(int(distance.max()) + 1, device=distance.device)
        row = self.weight.t()[:, self.bucket(-reach)]  # (H, reach)
        return row[:, distance.clamp(min=0)].transpose(0, 1)

    def forward(self, start: int, queries: int, keys: int) -> Tensor:
        """Bias (1, H, T, S) of queries at start..start+T-1 over keys at 0..S-1."""
        reach = start + queries
        table = self._buckets
        if table is None or table.device != self.weight.device or table.shape[0] < 2 * max(reach, keys):
            # one row of buckets for every distance; a (T, S) square is a strided view into it
            half = max(reach, keys, 256)
            with torch.inference_mode(False):  # kept: a backward pass may need it after an evaluation made it
                table = self._buckets = self.bucket(torch.arange(-half, half, device=self.weight.device))
        zero = table.shape[0] // 2
        row = self.weight.t()[:, table[zero - reach + 1 : zero + keys]]  # (H, reach - 1 + S): distances -(reach-1) .. S-1
        # query t (from the top) starts its keys at distance -(start + t): unfold gives every window, newest query first
        return row.unfold(1, keys, 1)[:, :queries].flip(1).unsqueeze(0)
