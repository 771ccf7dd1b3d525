"""Mixture of experts (Shazeer et al. 2017; Jiang et al. 2024): a router sends each token through the likeliest few of many feed-forward
parts, and adds up what they return, weighted by their probabilities.

Shapes: N tokens of all rows, E experts, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import MoE
from .layers import FeedForward
from .products import Linear


class Experts(nn.Module):
    """The experts are ordinary feed-forward parts, so that what wraps a linear by name (adapters, quantization) finds them."""

    def __init__(self, moe: MoE, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.moe = moe
        self.router = Linear(width, moe.experts, bias=False)
        self.experts = nn.ModuleList(FeedForward(moe.expert, width, dropout) for _ in range(moe.experts))

    def forward(self, x: Tensor, routing: list[Tensor] | None = None) -> Tensor:
        """x (.., D) -> (.., D). `routing` receives the router's logits (N, E), for the balance loss."""
        rows = x.reshape(-1, x.shape[-1])  # (N, D)
        logits = self.router(rows)
        if routing is not None:
            routing.append(logits)
        weights, chosen = logits.softmax(-1, dtype=torch.float32).topk(self.moe.top, -1)  # (N, top)
        if self.moe.normalise:
            weights = weights / weights.sum(-1, keepdim=True)
        weights = weights.to(x.dtype)
        out = torch.zeros_like(rows)
        for expert in chosen.unique().tolist():
            token, place = (chosen == expert).nonzero(as_tuple=True)
            part = self.experts[expert](rows[token]) * weights[token, place, None]
            out.index_add_(0, token, part.to(out.dtype))
        return out.view_as(x)


def balance_loss(routing: list[Tensor], moe: MoE, keep: Tensor | None = None) -> Tensor:
    """How unevenly the experts are used: E times the sum over experts of (share of tokens sent there) x (mean probability), over all layers
    at once; 1 a choice when even (Fedus et al. 2021, equations 4 to 6). keep (B, T): False on padding, which does not count.
    """
    logits = torch.cat(routing) if keep is None else torch.cat([layer[keep.reshape(-1)] for layer in routing])  # (layers * N, E)
    probability = logits.softmax(-1, dtype=torch.float32)
    chosen = probability.topk(moe.top, -1).indices
    share = torch.zeros(moe.experts, device=logits.device).index_add_(0, chosen.reshape(-1), probability.new_ones(chosen.numel()))
    return moe.experts * (share / len(logits) * probability.mean(0)).sum()
