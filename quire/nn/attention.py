"""Attention (Vaswani et al. 2017) with grouped keys and values (Ainslie et al. 2023).

Two forms of the same mathematics: `attend` through torch's fused kernel, and `attend_plain`, written out, which also returns the weights.
The mask is built once a forward (`build_mask`), never per layer; where there is none, the fused kernel's own causal path runs. Training
on a CPU in bf16 goes through `blocked`, which is faster there than torch's kernel.
A query that may see no key at all (padding) attends to everything instead: its output is meaningless but never not-a-number.

Shapes: B batch, T queries, S keys, H query heads, K key/value heads, C head channels, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ContextError
from .blocked import blocked, suits
from .cache import Cache
from .config import Attn
from .dropout import dropped
from .layers import make_norm
from .paged import Paged
from .position import turn
from .products import Linear


@dataclass
class AttnContext:
    """What attention must know beside the tokens; passed explicitly, so two forwards never share a hidden state.

    positions (B, T): where they are not `cache.length` onward. keep (B, S) bool over *all* keys, cached ones included; False is padding.
    segments (B, T): attention stays within equal numbers (packed documents). trace: a list that receives every attention's weights
    (B, H, T, S) in the order of execution; the plain form runs then. routing: a list that receives the router's logits (B * T, E) of every
    layer with experts. paged: keys and values lie in pages; the tokens are one flat row (1, N) with `positions`.
    """

    positions: Tensor | None = None
    keep: Tensor | None = None
    segments: Tensor | None = None
    cache: Cache | None = None
    trace: list[Tensor] | None = None
    routing: list[Tensor] | None = None
    paged: Paged | None = None


@dataclass(slots=True)
class Frame:
    """What every layer of one stack shares during one forward: built once by the stack."""

    causal: bool  # no query looks past itself; where there is a mask, it says so too
    masks: dict[int | None, Tensor | None]  # by window; (B or 1, H or 1, T, S): bool, True where a query may look, or added to the scores
    narrow: torch.dtype | None = None  # autocast's dtype while it is on
    rotary: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    cache: Cache | None = None
    trace: list[Tensor] | None = None
    routing: list[Tensor] | None = None
    distances: tuple[Tensor, Tensor] | None = None  # vectors (R, D) of distances, and which of them stands between query and key (T, S)
    keep: Tensor | None = None  # (B, S), as in the context
    paged: Paged | None = None
    memory: Tensor | None = None  # (B, S, D): the encoder's output
    memory_mask: Tensor | None = None  # (B, 1, 1, S)


def build_mask(
    queries: int,
    keys: int,
    *,
    causal: bool,
    keep: Tensor | None = None,
    segments: Tensor | None = None,
    bias: Tensor | None = None,
    window: int | None = None,
    device: torch.device | str = "cpu",
) -> Tensor | None:
    """Join everything that limits attention into one mask, or None when a query may see all keys.

    The last query stands at the last key. keep (B, S), segments (B, S), bias (1, H, T, S); window: keys at that distance and beyond are
    out of sight. Returns bool (B or 1, 1, T, S), or, with a
    bias, numbers (.., H, T, S) to add with -inf where a query may not look.
    """
    mask: Tensor | None = None
    if causal and queries > 1:
        mask = torch.ones(queries, keys, dtype=torch.bool, device=device).tril_(keys - queries)[None, None]
    if window is not None and keys > window:
        near = torch.ones(queries, keys, dtype=torch.bool, device=device).triu_(keys - queries - window + 1)[None, None]
        if not causal:
            near.tril_(keys - queries + window - 1)
        mask = near if mask is None else mask & near
    if segments is not None:
        same = (segments[:, keys - queries :, None] == segments[:, None, :]).unsqueeze(1)  # (B, 1, T, S)
        mask = same if mask is None else mask & same
    if keep is not None:
        kept = keep[:, None, None, :]  # (B, 1, 1, S)
        mask = kept if mask is None else mask & kept
        mask = mask | ~mask.any(-1, keepdim=True)  # a query with nothing to see would be 0/0
    if bias is None:
        return mask
    return bias if mask is None else torch.where(mask, bias, float("-inf"))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    keep: Tensor | None = None,
    segments: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """q (B, H, T, C) over k, v (B, K, S, C) -> (B, H, T, C), the fast way. H must be a multiple of K.

    causal: the last query stands at the last key. keep (B, S), segments (B, S), bias (1, H, T, S) as in `build_mask`; `mask` is one
    already built, of all that limits attention, and then the other three stay empty. softcap: torch's fused kernel knows none, so the
    plain form runs.
    """
    if softcap is not None:
        if mask is None:
            mask = build_mask(q.shape[2], k.shape[2], causal=causal, keep=keep, segments=segments, bias=bias, device=q.device)
        return attend_plain(q, k, v, mask=mask, scale=scale, softcap=softcap, dropout=dropout)[0].to(q.dtype)
    queries, keys = q.shape[2], k.shape[2]
    if keep is not None or segments is not None or bias is not None:
        mask = build_mask(queries, keys, causal=causal, keep=keep, segments=segments, bias=bias, device=q.device)
    if suits(q, causal):
        return blocked(q, k, v, mask, causal, scale, dropout)
    if causal and mask is None and 1 < queries != keys:
        mask = build_mask(queries, keys, causal=True, device=q.device)
    grouped = q.shape[1] != k.shape[1]
    if grouped and queries == 1 and (mask is None or mask.shape[1] == 1):
        # one query a head: the heads of a group become the queries of one, and no key is repeated
        b, h, _, c = q.shape
        out = F.scaled_dot_product_attention(q.reshape(b, k.shape[1], -1, c), k, v, attn_mask=mask, dropout_p=dropout, scale=scale)
        return out.reshape(b, h, 1, c)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal and mask is None and queries > 1, scale=scale, enable_gqa=grouped
    )


def attend_plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    keep: Tensor | None = None,
    segments: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The same as `attend`, written out: softmax(cap(q k' * scale) + mask) v. Returns (out (B, H, T, C), weights (B, H, T, S))."""
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    if mask is None:
        mask = build_mask(q.shape[2], k.shape[2], causal=causal, keep=keep, segments=segments, bias=bias, device=q.device)
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(-1)
    return dropped(weights, dropout) @ v.to(weights.dtype), weights


class Attention(nn.Module):
    """Projections, rotation, cache and attention of one layer. `memory` makes it cross-attention: keys and values come from there."""

    def __init__(self, attn: Attn, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attn, self.dropout = attn, dropout
        self.head_dim, self.scale = attn.head_dim, attn.scale
        self.layer = 0  # place in the stack: which part of the cache is ours
        self.rotary = 0  # which of the frame's tables; set by the stack
        inner, inner_kv = attn.heads * attn.head_dim, attn.kv_heads * attn.head_dim
        self.q = Linear(width, inner, attn.bias)
        self.k = Linear(width, inner_kv, attn.bias)
        self.v = Linear(width, inner_kv, attn.bias)
        self.o = Linear(inner, width, attn.out_bias)
        norm = attn.norm
        self.norm_q = make_norm(norm.norm, inner if norm.whole else attn.head_dim) if norm else None
        self.norm_k = make_norm(norm.norm, inner_kv if norm.whole else attn.head_dim) if norm else None

    def _heads(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """(B, T, H*C) -> (B, H, T, C), normed over all heads or each."""
        b, t, _ = x.shape
        if self.attn.clip is not None:
            x = x.clamp(-self.attn.clip, self.attn.clip)
        if norm is not None and self.attn.norm.whole:
            return norm(x).view(b, t, -1, self.head_dim).transpose(1, 2)
        x = x.view(b, t, -1, self.head_dim)
        return (x if norm is None else norm(x)).transpose(1, 2)

    def forward(self, x: Tensor, frame: Frame, cross: bool = False) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        q = self._heads(self.q(x), self.norm_q)
        if cross and frame.paged is not None:
            out = frame.paged.cross(attend, self.attn, self.layer, q)
            return self.o(out.transpose(1, 2).flatten(2))
        if cross:
            k, v = self._memory(frame)
            causal, mask = False, frame.memory_mask
        else:
            k, v = self._heads(self.k(x), self.norm_k), self._heads(self.v(x))
            if self.attn.rope is not None:
                cos, sin = frame.rotary[self.rotary]
                q, k = turn(q, cos, sin), turn(k, cos, sin)
            if frame.paged is not None:
                out = frame.paged.attend(attend, self.attn, self.layer, q, k, v)
                return self.o(out.transpose(1, 2).flatten(2))
            if frame.cache is not None:
                k, v = frame.cache.write(self.layer, k, v)
            causal, mask = frame.causal, self._mask(q, k, frame)
        dropout = self.dropout if self.training else 0.0
        if frame.trace is None:
            out = attend(q, k, v, causal=causal, mask=mask, scale=self.scale, softcap=self.attn.softcap, dropout=dropout)
        else:
            out, weights = attend_plain(q, k, v, causal=causal, mask=mask, scale=self.scale, softcap=self.attn.softcap, dropout=dropout)
            frame.trace.append(weights.detach())
        b, _, t, _ = out.shape
        return self.o(out.transpose(1, 2).reshape(b, t, -1))  # (B, H, T, C) -> (B, T, H*C)

    def _mask(self, q: Tensor, k: Tensor, frame: Frame) -> Tensor | None:
        """What limits or biases the scores of q (B, H, T, C) over k (B, K, S, C)."""
        return frame.masks[self.attn.window]

    def sides(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """What cross-attention reads of an encoder's output (B, S, D): keys and values (B, K, S, C)."""
        return self._heads(self.k(memory)), self._heads(self.v(memory))

    def _memory(self, frame: Frame) -> tuple[Tensor, Tensor]:
        cache = frame.cache
        stored = None if cache is None else cache.cross[self.layer]
        if stored is not None:
            return stored
        if frame.memory is None:
            raise ContextError("Cross-attention has nothing to look at: give `memory`, the encoder's output, at the first call.")
        pair = self.sides(frame.memory)
        if cache is not None:
            cache.cross[self.layer] = pair
        return pair
