"""From hidden states to what is predicted, and the loss over the vocabulary.

The logits of a batch, in fp32 with their gradient, are often the largest thing in a training step (8 x 512 tokens over GPT-2's vocabulary:
0.8 GB each). `token_loss` can make them `chunk` rows at a time: the gradient of a softmax needs nothing from the backward pass but one
factor, so it is computed on the spot and the logits are dropped.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from quire.errors import ModelError
from quire.nn.batch import IGNORE
from quire.nn.config import LMHead, MLMHead, ModelConfig
from quire.nn.layers import LayerNorm, activate

# Rows of logits are filled up to a multiple of this where their number changes from step to step: oneDNN keeps the kernels of every shape
# it has seen, and 500 steps of masked tokens in bf16 left 600 MB of them behind.
_ROUND = 64


class LMHeadModule(nn.Module):
    """hidden (.., D) -> logits (.., V). A tied head owns no weights: it reads the embedding's."""

    def __init__(self, head: LMHead, embed: nn.Embedding) -> None:
        super().__init__()
        self.scale = head.scale
        if head.tied:
            self._table = [embed]  # in a list, so that the table is not registered (saved, counted) a second time
        else:
            self.weight = nn.Parameter(torch.empty_like(embed.weight))
            nn.init.normal_(self.weight, std=0.02)

    def table(self) -> tuple[Tensor, Tensor | None]:
        """The matrix (V, D) and the bias of the last product."""
        return (self._table[0].weight if "_table" in self.__dict__ else self.weight), None

    def transform(self, hidden: Tensor) -> Tensor:
        """What happens before the last product."""
        return hidden if self.scale == 1.0 else hidden * self.scale

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(self.transform(hidden), *self.table())


class PoolerModule(nn.Module):
    """BERT's summary of a row: tanh(dense(first token)). hidden (B, T, D) -> (B, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.dense(hidden[:, 0]))


class MLMHeadModule(nn.Module):
    """BERT's masked-token head: dense, activation, norm, the tied table and a bias; and next-sentence's classifier beside it."""

    def __init__(self, head: MLMHead, embed: nn.Embedding) -> None:
        super().__init__()
        width = embed.weight.shape[1]
        self.act = head.act
        self.dense = nn.Linear(width, width)
        self.norm = LayerNorm(width, head.eps)
        self.bias = nn.Parameter(torch.zeros(embed.weight.shape[0]))
        self._table = [embed]
        self.pooler = PoolerModule(width) if head.next_sentence else None
        self.classifier = nn.Linear(width, 2) if head.next_sentence else None

    def table(self) -> tuple[Tensor, Tensor | None]:
        return self._table[0].weight, self.bias

    def transform(self, hidden: Tensor) -> Tensor:
        return self.norm(activate(self.act, self.dense(hidden)))

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden (.., D) -> logits (.., V)."""
        return F.linear(self.transform(hidden), *self.table())

    def next_sentence(self, hidden: Tensor) -> Tensor:
        """hidden (B, T, D) -> logits (B, 2): column 0 says "B follows A", column 1 "B is random"."""
        if self.pooler is None or self.classifier is None:
            raise ModelError("This model has no next-sentence classifier: it was trained on masked tokens alone.")
        return self.classifier(self.pooler(hidden))


def make_head(config: ModelConfig, embed: nn.Embedding) -> nn.Module | None:
    if isinstance(config.head, LMHead):
        return LMHeadModule(config.head, embed)
    if isinstance(config.head, MLMHead):
        return MLMHeadModule(config.head, embed)
    return None if config.head is None else PoolerModule(config.width)


def token_loss(head: Any, hidden: Tensor, labels: Tensor, chunk: int = 0) -> tuple[Tensor, int]:
    """Cross-entropy of hidden (.., D) against labels (..), summed in fp32 over labels that are not IGNORE, and their number.

    chunk > 0 holds logits of at most that many rows at once; gradients are the same. Natural log, so nats.
    """
    hidden, labels = hidden.flatten(0, -2), labels.flatten()  # (N, D), (N,)
    counted = labels != IGNORE
    count = int(counted.sum())
    if count < labels.numel():
        rows = counted.nonzero().squeeze(1)  # logits only where something is learned: a seventh of the rows for masked tokens
        labels = labels[rows]
        if spare := -count % _ROUND if chunk <= 0 or count <= chunk else 0:
            rows, labels = F.pad(rows, (0, spare)), F.pad(labels, (0, spare), value=IGNORE)
        hidden = hidden[rows]
    hidden = head.transform(hidden)
    weight, bias = head.table()
    if chunk <= 0 or count <= chunk:
        logits = F.linear(hidden, weight, bias)
        return F.cross_entropy(logits.float(), labels, reduction="sum", ignore_index=IGNORE), count
    return _ChunkedLoss.apply(hidden, weight, bias, labels, chunk), count


class _ChunkedLoss(torch.autograd.Function):
    """sum(logsumexp(h W' + b) - (h W' + b)[label]), with the gradients made in the forward pass, `chunk` rows at a time."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, chunk: int) -> Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        with torch.autocast(device, enabled=False):
            w = weight.to(dtype)
            b = None if bias is None else bias.to(dtype)
            grad_hidden = torch.empty_like(hidden) if for_hidden else None
            grad_weight = torch.zeros_like(weight, dtype=torch.float32) if for_weight else None
            grad_bias = torch.zeros_like(bias, dtype=torch.float32) if for_bias and bias is not None else None
            total = torch.zeros((), dtype=torch.float32, device=hidden.device)
            for start in range(0, hidden.shape[0], chunk):
                rows = slice(start, start + chunk)
                h, y = hidden[rows].to(dtype), labels[rows, None]
                logits = F.linear(h, w, b).float()  # (chunk, V)
                norm = logits.logsumexp(-1, keepdim=True)
                total += (norm - logits.gather(1, y)).sum()
                if not (for_hidden or for_weight or for_bias):
                    continue
                p = logits.sub_(norm).exp_()  # softmax, in the logits' place
                p.scatter_add_(1, y, torch.full_like(y, -1, dtype=p.dtype))
                g = p.to(dtype)
                if grad_hidden is not None:
                    grad_hidden[rows] = g @ w
                if grad_weight is not None:
                    if dtype == torch.float32:
                        grad_weight.addmm_(g.t(), h)
                    else:
                        grad_weight += g.t() @ h
                if grad_bias is not None:
                    grad_bias += p.sum(0)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        return (
            None if grad_hidden is None else grad_hidden.mul_(factor),
            None if grad_weight is None else grad_weight.mul_(factor).to(ctx.dtypes[0]),
            None if grad_bias is None else grad_bias.mul_(factor).to(ctx.dtypes[1]),
            None,
            None,
        )
