"""Disentangled attention (He et al. 2020, 2021): a score is the sum of what two tokens hold for each other and of what each holds for the
distance between them.

    score(q, k) = (q . k + q . K(distance) + Q(distance) . k) * scale

K and Q are projections of one learned table of distances that all layers share. The two added parts become a bias of the fused kernel.
Only the rows of the table that occur between the tokens of a forward are projected: for short texts those are few.

Shapes: R rows of the table that occur, otherwise as in `attention`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import Attention, Frame
from .config import Attn, Conv, Distances, Norm
from .dropout import dropped
from .layers import make_norm
from .products import Linear, activate


class DistanceTable(nn.Module):
    """Vectors of distances, normed where the model says so."""

    def __init__(self, distances: Distances, width: int) -> None:
        super().__init__()
        self.distances = distances
        self.weight = nn.Parameter(torch.empty(2 * distances.span, width))
        nn.init.normal_(self.weight, std=0.02)
        self.norm = make_norm(distances.norm, width) if distances.norm else None

    def rows(self, distance: Tensor) -> Tensor:
        """The table's row for each distance = query position - key position, any shape."""
        span, furthest = self.distances.span, self.distances.furthest
        if furthest:
            # as the reference computes it, in fp32: rounding decides to which bucket a distance belongs that lies between two
            middle = span // 2
            far = distance.abs().clamp(min=max(1, middle - 1)).float() / middle
            log = torch.ceil(torch.log(far) / torch.log(torch.tensor((furthest - 1) / middle)) * (middle - 1)) + middle
            distance = torch.where(distance.abs() <= middle, distance, (log * distance.sign()).long())
        return (distance + span).clamp(0, 2 * span - 1)

    def forward(self, tokens: int) -> tuple[Tensor, Tensor]:
        """(vectors (R, D), index (T, S)) between `tokens` queries and as many keys: index[t, s] is the row of distance t - s."""
        rows = self.rows(torch.arange(-(tokens - 1), tokens))  # (2T - 1,), rising; on the CPU, so that nobody waits for a device
        low, high = int(rows[0]), int(rows[-1])
        vectors = self.weight[low : high + 1]
        line = (rows - low).flip(0).to(self.weight.device)  # distances T-1 .. -(T-1): query t reads T of them from place T-1-t
        return vectors if self.norm is None else self.norm(vectors), line.unfold(0, tokens, 1).flip(0)


class DisentangledAttention(Attention):
    """Attention whose scores also depend on distance; see the file's docstring."""

    def __init__(self, attn: Attn, width: int, dropout: float, vector_dropout: float) -> None:
        super().__init__(attn, width, dropout)
        kind, inner = attn.disentangled, attn.heads * attn.head_dim
        self.kind, self.vector_dropout = kind, vector_dropout
        self.pos_k = Linear(width, inner) if kind.key and not kind.shared else None
        self.pos_q = Linear(width, inner) if kind.query and not kind.shared else None

    def _mask(self, q: Tensor, k: Tensor, frame: Frame) -> Tensor | None:
        assert frame.distances is not None
        mask, (vectors, index) = super()._mask(q, k, frame), frame.distances
        vectors = vectors.unsqueeze(0)  # (1, R, D)
        if self.vector_dropout and self.training:
            vectors = dropped(vectors, self.vector_dropout)
        size = (*q.shape[:3], k.shape[2])  # (B, H, T, S)
        bias = q.new_zeros(())
        if self.kind.key:
            keys = self._heads((self.k if self.pos_k is None else self.pos_k)(vectors))  # (1, H, R, C)
            bias = bias + (q @ keys.transpose(-1, -2)).gather(-1, index.expand(size))
        if self.kind.query:
            queries = self._heads((self.q if self.pos_q is None else self.pos_q)(vectors))
            back = (k @ queries.transpose(-1, -2)).gather(-1, index.t().expand(*k.shape[:3], q.shape[2]))  # (B, H, S, T)
            bias = bias + back.transpose(-1, -2)
        bias = bias * self.scale
        return bias if mask is None else bias.masked_fill(~mask, float("-inf"))


class Convolution(nn.Module):
    """norm(x + act(conv(first))), where padding counts as zeros."""

    def __init__(self, conv: Conv, norm: Norm, width: int, dropout: float) -> None:
        super().__init__()
        self.act, self.dropout = conv.act, dropout
        self.mix = nn.Conv1d(width, width, conv.kernel, padding=conv.kernel // 2, groups=conv.groups)
        self.norm = make_norm(norm, width)

    def forward(self, first: Tensor, x: Tensor, keep: Tensor | None) -> Tensor:
        """first, x (B, T, D): what the first layer read and wrote -> (B, T, D). keep (B, T) is False on padding."""
        if keep is not None:
            first = first.masked_fill(~keep.unsqueeze(-1), 0.0)
        y = self.mix(first.transpose(1, 2)).transpose(1, 2)
        if self.dropout and self.training:
            y = dropped(y, self.dropout)
        return self.norm(x + activate(self.act, y))
