"""Attention in bf16 on a CPU, for training and long prompts: the fused kernel's mathematics in matrix products that a CPU is fast at.

torch's fused CPU kernel is written for fp32; in bf16 its backward pass takes most of attention's time. Here a block of queries meets its
keys in one batched product, which runs on the machine's bf16 units, and blocks are small enough for the scores to stay in the cache:

- Keys to the right of a causal block are never multiplied, and only the block on the diagonal is masked.
- What dropout takes of the weights is drawn anew in the backward pass from the same seed, and never kept either.
- Scores are rounded to bf16, so what all keys have in common is taken out first: it adds the same number to every score of a query,
  which a softmax does not see, and the rounding is of smaller numbers. The weights are made again in the backward pass (Rabe & Staats
  2021, Dao et al. 2022): nothing of size queries x keys is kept.

Shapes: B batch, T queries, S keys, H query heads, K key/value heads, G = H / K heads of a group, C head channels.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .dropout import keep_, kept, kept_scale, new_seed

BLOCK = 128  # queries at a time
SCORES = 3 << 18  # scores at a time and thread: 1.5 MB in bf16, about a core's second-level cache
FEWEST = 16  # queries from which on the products are large enough to win
LONG = 256  # the same without a backward pass, where half of the keys need not be looked at


def suits(q: Tensor, causal: bool = False) -> bool:
    """Whether `blocked` is the faster way for these queries (B, H, T, C): in training, and for long prompts."""
    training = q.requires_grad and torch.is_grad_enabled()
    return (
        q.dtype == torch.bfloat16
        and q.shape[2] >= (FEWEST if training else LONG)
        and (training or causal)
        and q.device.type == "cpu"
        and not torch.compiler.is_compiling()
    )


def blocked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None, dropout: float = 0.0) -> Tensor:
    """q (B, H, T, C) over k, v (B, K, S, C) -> (B, H, T, C). mask: bool or to be added, (B or 1, H or 1, T or 1, S).

    causal: nothing after a query's own position is looked at; the last query stands at the last key. A mask may say so too.
    dropout: share of the weights that is dropped, drawn from torch's generator.
    """
    return _Blocked.apply(q, k, v, mask, causal, q.shape[-1] ** -0.5 if scale is None else scale, dropout)


def _groups(rows: int, heads: int, queries: int, keys: int) -> Iterator[slice]:
    """Rows of the batch that are worked on together."""
    step = max(1, SCORES * torch.get_num_threads() // (heads * min(BLOCK, queries) * keys))
    for row in range(0, rows, step):
        yield slice(row, min(row + step, rows))


def _blocks(queries: int, keys: int, causal: bool) -> Iterator[tuple[slice, int]]:
    """(queries, how many keys they may look at), the last queries first: those look at all."""
    for start in reversed(range(0, queries, BLOCK)):
        stop = min(start + BLOCK, queries)
        yield slice(start, stop), stop + keys - queries if causal else keys


def _part(mask: Tensor, rows: slice, queries: slice, keys: int) -> Tensor:
    mask = mask if mask.shape[0] == 1 else mask[rows]
    return (mask if mask.shape[2] == 1 else mask[:, :, queries])[..., :keys]


def _weights(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool, rows: slice, queries: slice, keys: int) -> tuple[Tensor, Tensor]:
    """Queries (rows * K, G * t, C) of one piece and their weights (rows * K, G * t, keys). q (B, K, G, T, C), k (B, K, S, C)."""
    part = q[rows, :, :, queries].flatten(0, 1).flatten(1, 2)
    scores = torch.bmm(part, k[rows, :, :keys].flatten(0, 1).transpose(1, 2))
    count = queries.stop - queries.start
    square = scores.view(-1, q.shape[1] * q.shape[2], count, keys)  # (rows, H, t, keys)
    if mask is not None:
        limit = _part(mask, rows, queries, keys)
        if limit.dtype == torch.bool:
            square.masked_fill_(limit.logical_not(), float("-inf"))
        else:
            square.add_(limit)
    if causal:
        square[..., keys - count :].add_(_later(count, scores.dtype))
    return part, scores.softmax(-1)


@functools.lru_cache(maxsize=8)
def _later(count: int, dtype: torch.dtype) -> Tensor:
    """(count, count): -inf to the right of the diagonal."""
    return torch.full((count, count), float("-inf"), dtype=dtype).triu_(1)


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float, dropout: float) -> Tensor:
        ctx.dropout, ctx.seed = dropout, new_seed() if dropout else 0
        draw = torch.Generator().manual_seed(ctx.seed)
        b, h, t, c = q.shape
        groups, s = k.shape[1], k.shape[2]
        with torch.autocast("cpu", enabled=False):
            q = (q * scale).view(b, groups, h // groups, t, c).contiguous()
            k = (k - k.mean(2, keepdim=True)).contiguous()
            v = (v * kept_scale(dropout) if dropout else v).contiguous()
            out = q.new_empty(b, t, h, c).transpose(1, 2)  # laid out as the next product reads it
            for rows in _groups(b, h, t, s):
                for queries, keys in _blocks(t, s, causal):
                    _, weights = _weights(q, k, mask, causal, rows, queries, keys)
                    if dropout:
                        keep_(weights, dropout, draw)
                    piece = torch.bmm(weights, v[rows, :, :keys].flatten(0, 1))  # (rows * K, G * t, C)
                    out[rows, :, queries] = piece.view(-1, h, queries.stop - queries.start, c)
        ctx.save_for_backward(q, k, v, mask)
        ctx.causal, ctx.scale = causal, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, mask = ctx.saved_tensors
        b, groups, g, t, c = q.shape
        h, s, causal = groups * g, k.shape[2], ctx.causal
        draw = torch.Generator().manual_seed(ctx.seed)
        with torch.autocast("cpu", enabled=False):
            grad = grad.contiguous().view(q.shape)
            grad_q, grad_k, grad_v = (x.new_empty(b, x.shape[-2], n, c).transpose(1, 2) for x, n in ((q, h), (k, groups), (v, groups)))
            grad_mask = torch.zeros_like(mask) if ctx.needs_input_grad[3] else None
            for rows in _groups(b, h, t, s):
                sum_k = sum_v = None  # (rows * K, S, C) in fp32: blocks are summed up
                for queries, keys in _blocks(t, s, causal):
                    part, weights = _weights(q, k, mask, causal, rows, queries, keys)
                    above = grad[rows, :, :, queries].flatten(0, 1).flatten(1, 2)  # (rows * K, G * t, C)
                    grad_weights = torch.bmm(above, v[rows, :, :keys].flatten(0, 1).transpose(1, 2))
                    used = weights
                    if ctx.dropout:
                        ones = kept(weights.shape, ctx.dropout, draw)
                        grad_weights.view(torch.int16).bitwise_and_(ones)
                        used = (weights.view(torch.int16) & ones).view(weights.dtype)
                    grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
                    piece = torch.bmm(grad_scores, k[rows, :, :keys].flatten(0, 1)).mul_(ctx.scale)
                    grad_q[rows, :, queries] = piece.view(-1, h, queries.stop - queries.start, c)
                    sum_v = _sum(sum_v, torch.bmm(used.transpose(1, 2), above))
                    sum_k = _sum(sum_k, torch.bmm(grad_scores.transpose(1, 2), part))
                    if grad_mask is not None:
                        place = _part(grad_mask, rows, queries, keys)
                        place += grad_scores.view(-1, h, queries.stop - queries.start, keys).sum_to_size(place.shape)
                grad_k[rows] = sum_k.view(-1, groups, s, c)
                grad_v[rows] = sum_v.view(-1, groups, s, c)
            if ctx.dropout:
                grad_v *= kept_scale(ctx.dropout)
        return grad_q, grad_k, grad_v, grad_mask, None, None, None


def _sum(total: Tensor | None, part: Tensor) -> Tensor:
    """The first part is the longest; the others add to its beginning."""
    if total is None:
        return part.float()
    total[:, : part.shape[1]] += part
    return total
