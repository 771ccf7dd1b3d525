"""Norms and feed-forward parts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quire.nn.config import FFN, Norm


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich 2019); the division in fp32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def make_norm(norm: Norm, width: int) -> nn.Module:
    return RMSNorm(width, norm.eps) if norm.kind == "rms" else nn.LayerNorm(width, norm.eps)


def activate(name: str, x: Tensor) -> Tensor:
    if name == "silu":
        return F.silu(x)
    if name == "relu":
        return F.relu(x)
    return F.gelu(x, approximate="tanh" if name == "gelu_tanh" else "none")


class FeedForward(nn.Module):
    """down(act(up(x))), or down(act(gate(x)) * up(x)) when gated (Shazeer 2020)."""

    def __init__(self, ffn: FFN, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.act, self.dropout = ffn.act, dropout
        self.gate = nn.Linear(width, ffn.hidden, ffn.bias) if ffn.gated else None
        self.up = nn.Linear(width, ffn.hidden, ffn.bias)
        self.down = nn.Linear(ffn.hidden, width, ffn.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = activate(self.act, self.up(x)) if self.gate is None else activate(self.act, self.gate(x)) * self.up(x)
        if self.dropout and self.training:
            hidden = F.dropout(hidden, self.dropout)
        return self.down(hidden)
