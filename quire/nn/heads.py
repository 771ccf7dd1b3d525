"""From hidden states to what is predicted, and the loss over the vocabulary.

The logits of a batch, in fp32 with their gradient, are often the largest thing in a training step (8 x 512 tokens over GPT-2's vocabulary:
0.8 GB each, and cross-entropy holds three such tables). The gradient of a softmax needs nothing from the backward pass but one factor, so
`token_loss` makes it on the spot, in the logits' place, and drops them: one table, `chunk` rows at a time, and fewer passes over memory.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..errors import ModelError
from .batch import IGNORE
from .config import LabelHead, LMHead, MLMHead, ModelConfig
from .dropout import dropped
from .layers import LayerNorm, make_norm
from .products import Linear, activate, product

# Rows of logits are filled up to a multiple of this where their number changes from step to step: oneDNN keeps the kernels of every shape
# it has seen, and 500 steps of masked tokens in bf16 left 600 MB of them behind.
_ROUND = 64


CACHED = 1 << 18  # logits that are worked on at a time: a megabyte in fp32


class LMHeadModule(nn.Module):
    """hidden (.., D) -> logits (.., V). A tied head owns no weights: it reads the embedding's."""

    def __init__(self, head: LMHead, embed: nn.Embedding) -> None:
        super().__init__()
        self.scale, self.softcap = head.scale, head.softcap
        self.bias = nn.Parameter(torch.zeros(embed.weight.shape[0])) if head.bias else None
        if head.tied:
            self._table = [embed]  # in a list, so that the table is not registered (saved, counted) a second time
        else:
            self.weight = nn.Parameter(torch.empty_like(embed.weight))
            nn.init.normal_(self.weight, std=0.02)

    def table(self) -> tuple[Tensor, Tensor | None]:
        """The matrix (V, D) and the bias of the last product."""
        return (self._table[0].weight if "_table" in self.__dict__ else self.weight), self.bias

    def transform(self, hidden: Tensor) -> Tensor:
        """What happens before the last product."""
        return hidden if self.scale == 1.0 else hidden * self.scale

    def forward(self, hidden: Tensor) -> Tensor:
        logits = product(self.transform(hidden), *self.table())
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


class PoolerModule(nn.Module):
    """BERT's summary of a row: act(dense(first token)). hidden (B, T, D) -> (B, D)."""

    def __init__(self, width: int, act: str = "tanh") -> None:
        super().__init__()
        self.act = act
        self.dense = Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return activate(self.act, self.dense(hidden[:, 0]))


class LabelHeadModule(nn.Module):
    """Labels of a row (B, labels) or of every token (B, T, labels), from hidden (B, T, D).

    before: so many hidden states of a soft prompt stand before those of each row (`adapt.soft_prompt` says so). They are looked at where
    one state stands for a row, as in PEFT, and get no labels of their own.
    """

    def __init__(self, head: LabelHead, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.before = 0
        self.head, self.dropout = head, dropout
        self.dense = Linear(width, width, head.dense_bias) if head.dense else None
        self.norm = make_norm(head.norm, width) if head.norm else None
        self.classifier = Linear(width, head.labels, head.bias)

    def _drop(self, x: Tensor) -> Tensor:
        return dropped(x, self.dropout) if self.dropout and self.training else x

    def pool(self, hidden: Tensor, keep: Tensor | None) -> Tensor:
        """The state (B, D) that stands for each row; keep (B, T) is False on padding."""
        if self.head.pool == "first":
            return hidden[:, 0]
        if self.head.pool == "mean":
            if keep is None:
                return hidden.mean(1)
            weight = keep.unsqueeze(-1).to(hidden.dtype)
            return (hidden * weight).sum(1) / weight.sum(1)
        if keep is None:
            return hidden[:, -1]
        last = (keep * torch.arange(keep.shape[1], device=keep.device)).argmax(1)
        return hidden[torch.arange(len(hidden), device=hidden.device), last]

    def forward(self, hidden: Tensor, keep: Tensor | None = None) -> Tensor:
        """keep (B, T): of the row's own tokens."""
        if self.head.over in ("row", "next"):
            x = self.pool(hidden, None if keep is None else F.pad(keep, (self.before, 0), value=True))
        else:
            x = hidden[:, self.before :]
        if self.dense is not None:
            x = activate(self.head.act, self.dense(self._drop(x) if self.head.twice else x))
            x = x if self.norm is None else self.norm(x)
        return self.classifier(x if self.head.over == "span" else self._drop(x))

    def next_sentence(self, hidden: Tensor) -> Tensor:
        """hidden (B, T, D) -> logits (B, 2) as MLMHeadModule's, of a model that does nothing else."""
        if self.head.over != "next":
            raise ModelError("This model has no next-sentence classifier: its labels are others.")
        return self(hidden)


class MLMHeadModule(nn.Module):
    """BERT's masked-token head: dense, activation, norm, the tied table and a bias; and next-sentence's classifier beside it."""

    def __init__(self, head: MLMHead, embed: nn.Embedding, width: int) -> None:
        super().__init__()
        narrow = embed.weight.shape[1]
        self.act = head.act
        self.dense = Linear(width, narrow, head.bias)
        self.norm = LayerNorm(narrow, head.eps, bias=head.bias)
        self.bias = nn.Parameter(torch.zeros(embed.weight.shape[0]))
        self._table = [embed]
        self.pooler = PoolerModule(width) if head.next_sentence else None
        self.classifier = Linear(width, 2) if head.next_sentence else None

    def table(self) -> tuple[Tensor, Tensor | None]:
        return self._table[0].weight, self.bias

    def transform(self, hidden: Tensor) -> Tensor:
        return self.norm(activate(self.act, self.dense(hidden)))

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden (.., D) -> logits (.., V)."""
        return product(self.transform(hidden), *self.table())

    def next_sentence(self, hidden: Tensor) -> Tensor:
        """hidden (B, T, D) -> logits (B, 2): column 0 says "B follows A", column 1 "B is random"."""
        if self.pooler is None or self.classifier is None:
            raise ModelError("This model has no next-sentence classifier: it was trained on masked tokens alone.")
        return self.classifier(self.pooler(hidden))


def make_head(config: ModelConfig, embed: nn.Embedding) -> nn.Module | None:
    if isinstance(config.head, LMHead):
        return LMHeadModule(config.head, embed)
    if isinstance(config.head, MLMHead):
        return MLMHeadModule(config.head, embed, config.width)
    if isinstance(config.head, LabelHead):
        return LabelHeadModule(config.head, config.width, config.dropout)
    return None if config.head is None else PoolerModule(config.width, config.head.act)


def token_loss(head: Any, hidden: Tensor, labels: Tensor, chunk: int = 0, smoothing: float = 0.0) -> tuple[Tensor, int]:
    """Cross-entropy of hidden (.., D) against labels (..), summed in fp32 over labels that are not IGNORE, and their number.

    chunk: make the logits of at most that many rows at once; 0: of all. The result is the same. Natural log, so nats.
    smoothing: so much of a label's weight is spread evenly over the vocabulary (Szegedy et al. 2016).
    """
    hidden, labels = hidden.flatten(0, -2), labels.flatten()  # (N, D), (N,)
    counted = labels != IGNORE
    count = int(counted.sum())
    if count < labels.numel():
        rows = counted.nonzero().squeeze(1)  # logits only where something is learned: a seventh of the rows for masked tokens
        labels = labels[rows]
        hidden = hidden[F.pad(rows, (0, -count % _ROUND))]  # the rows that fill up have no label
    hidden = head.transform(hidden)
    weight, bias = head.table()
    cap = getattr(head, "softcap", None)
    if torch.compiler.is_compiling():  # the compiler fuses the plain form, and would unroll the loop
        logits = F.linear(hidden[:count], weight, bias).float()
        capped = logits if cap is None else cap * torch.tanh(logits / cap)
        return F.cross_entropy(capped, labels, reduction="sum", label_smoothing=smoothing), count
    chunk = chunk if chunk > 0 else max(1, len(hidden))
    return _TokenLoss.apply(hidden, weight, bias, labels, chunk, torch.is_grad_enabled(), cap, smoothing), count


class _TokenLoss(torch.autograd.Function):
    """sum(logsumexp(z) - z[label]) of z = h W' + b, `chunk` rows of z at a time; its gradient, softmax(z) - 1[label], takes z's place.

    With a cap, z is cap * tanh((h W' + b) / cap), and the gradient gets the factor 1 - (z / cap)^2. Smoothed, 1[label] is
    (1 - smoothing) 1[label] + smoothing / V.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        chunk: int,
        training: bool,
        cap: float | None,
        smoothing: float,
    ) -> Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        for_hidden, for_weight, for_bias = (wanted and training for wanted in ctx.needs_input_grad[:3])
        grad_hidden = torch.empty_like(hidden) if for_hidden else None
        grad_weight: Tensor | None = None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and for_bias else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        with torch.autocast(device, enabled=False):
            w, b = weight.to(dtype), None if bias is None else bias.to(dtype)
            for start in range(0, hidden.shape[0], chunk):
                rows = slice(start, start + chunk)
                h = hidden[rows].to(dtype)
                z = F.linear(h, w, b)  # (chunk, V)
                y = labels[rows]
                slope = None
                if cap is not None:
                    z = torch.tanh(z / cap)
                    slope, z = 1 - z * z, z * cap
                total += _to_gradient(z[: len(y)], y, training, smoothing)
                if slope is not None:
                    z *= slope
                z[len(y) :] = 0
                if grad_hidden is not None:
                    grad_hidden[rows] = z @ w
                if for_weight:
                    grad_weight = _added(grad_weight, z, h)
                if grad_bias is not None:
                    grad_bias += z.sum(0, dtype=torch.float32)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, weight, bias)]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        grads = (None if g is None else g.mul_(factor).to(dtype) for g, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True))
        return (*grads, None, None, None, None, None)


def _to_gradient(logits: Tensor, labels: Tensor, training: bool, smoothing: float) -> Tensor:
    """The summed loss of logits (N, V), which become softmax - 1[label]. In fp32; on a CPU as few rows at a time as stay in its cache."""
    even = smoothing / logits.shape[1]
    total = torch.zeros((), dtype=torch.float32, device=logits.device)
    step = max(1, CACHED // logits.shape[1]) if logits.device.type == "cpu" else logits.shape[0]
    for part, label in zip(logits.split(step), labels.split(step), strict=True):
        p = part.log_softmax(-1, dtype=torch.float32)
        label = label.unsqueeze(1)
        total -= (1 - smoothing) * p.gather(1, label).sum()
        if smoothing:
            total -= even * p.sum()
        if not training:
            continue
        p.exp_().scatter_add_(1, label, torch.full_like(label, smoothing - 1, dtype=p.dtype))
        if smoothing:
            p -= even
        part.copy_(p)
    return total


def _added(total: Tensor | None, grad: Tensor, hidden: Tensor) -> Tensor:
    """total (V, D) + grad (N, V)' @ hidden (N, D), summed over chunks in fp32."""
    if total is None:
        return (grad.t() @ hidden).float()
    return total.addmm_(grad.t(), hidden) if grad.dtype == torch.float32 else total.add_(grad.t() @ hidden)
