"""Many rows of a decoder, one token each a step: what beam search and batched decoding advance.

Each input has `beams` rows ("slots") side by side: slot n belongs to input n // beams. An encoder-decoder's source is read once an input,
and its keys and values for cross-attention are made once an input too: the queries of its beams become the queries of one attention. All
rows are equally long, so self-attention needs no mask. A row goes on from another one by copying that one's cache (`move`), and inputs
that are finished are dropped (`select`), so nothing is computed for them.

Two ways of one step, held against each other by the tests. The plain one is `Transformer.decode`. The lean one is for encoder-decoders on
the CPU: a row is a vector, every product is one call with its bias and activation (oneDNN's, which here is also faster than torch's own
fp32 product), attention is two batched products, and no layer builds masks.

Shapes: R inputs, W beams, N = R x W slots, D width, H heads, C head channels, S keys, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from ..nn.attention import Attention, AttnContext
from ..nn.cache import Cache
from ..nn.config import FFN, LMHead
from ..nn.heads import LMHeadModule
from ..nn.layers import FeedForward, LayerNorm, RMSNorm
from ..nn.position import RelativeBias
from ..nn.products import Linear, added, packed, product
from ..nn.transformer import Block, Transformer

_TOKENS = 1024  # that an encoder reads at once, padding included
_PACKED = 1 << 29  # bytes of weights that are copied for faster products
_FIRST = 32  # positions of a new cache; it doubles when they are full

Way = Literal["lean", "plain"]


@dataclass(slots=True)
class _Linear:
    weight: Tensor
    bias: Tensor | None


@dataclass(slots=True)
class _Part:
    """Self- or cross-attention with its norm."""

    norm: nn.Module
    q: _Linear
    k: _Linear
    v: _Linear
    o: _Linear
    heads: int
    channels: int
    scale: float | None


@dataclass(slots=True)
class _Layer:
    """What one layer of an encoder-decoder's decoder needs, taken out of its modules once."""

    post: bool
    attn: _Part
    cross: _Part
    norm_ffn: nn.Module
    gate: _Linear | None
    up: _Linear
    down: _Linear
    act: str


class Weights:
    """A decoder's weights, taken out of its modules for the lean step.

    rows: they are packed for steps of about so many rows, where a copy of them all is no burden. That pays back within some dozens of
    steps, so it is for a caller with several batches, who makes it once for all of them; 0: nothing is copied.
    """

    @torch.inference_mode()
    def __init__(self, model: Transformer, rows: int = 0) -> None:
        assert model.decoder is not None and isinstance(model.head, LMHeadModule)
        size = model.embed.weight.nbytes + sum(p.nbytes for p in model.decoder.parameters())
        self.rows = rows if size <= _PACKED else 0
        self.layers = [self.layer(cast(Block, block)) for block in model.decoder.layers]
        self.table = self.linear(*model.head.table())

    def linear(self, weight: Tensor, bias: Tensor | None) -> _Linear:
        return _Linear(packed(weight, self.rows) if self.rows else weight, bias)

    def of(self, module: nn.Linear) -> _Linear:
        return self.linear(module.weight, module.bias)

    def part(self, attn: Attention | None, norm: nn.Module | None) -> _Part:
        assert attn is not None and norm is not None
        q, k, v, o = (self.of(linear) for linear in (attn.q, attn.k, attn.v, attn.o))
        return _Part(norm, q, k, v, o, attn.attn.heads, attn.head_dim, attn.scale)

    def layer(self, block: Block) -> _Layer:
        ffn = block.ffn
        assert isinstance(ffn, FeedForward) and block.norm_ffn is not None
        return _Layer(
            post=block.wiring == "post",
            attn=self.part(block.attn, block.norm_attn),
            cross=self.part(block.cross, block.norm_cross),
            norm_ffn=block.norm_ffn,
            gate=None if ffn.gate is None else self.of(ffn.gate),
            up=self.of(ffn.up),
            down=self.of(ffn.down),
            act=ffn.act,
        )


class Rows:
    """Reads the prompts (and sources) at once; `first` is what comes after them, then `step` by `step`."""

    def __init__(
        self,
        model: Transformer,
        prompts: Tensor,
        beams: int = 1,
        sources: Tensor | None = None,
        keep: Tensor | None = None,
        way: Way = "lean",
        weights: Weights | None = None,
    ) -> None:
        """prompts (R, T), all of one length; sources (R, S) with keep (R, S), False on padding, for an encoder-decoder."""
        self.model, self.beams, self.keep = model, beams, keep
        self.lean = way == "lean" and understands(model)
        assert model.head is not None
        weight = model.embed.weight
        self.cache = Cache(model.config, prompts.shape[0], prompts.shape[1], weight.dtype, weight.device)
        memory = None if sources is None else encode(model, sources, keep)
        hidden = model.decode(prompts, AttnContext(cache=self.cache), memory, keep)  # (R, T, D)
        self.first: Tensor = model.head(hidden[:, -1])  # (R, V)
        self._spread()
        if self.lean:
            assert model.decoder is not None
            self.weights = weights or Weights(model)
        self._mask()

    @property
    def slots(self) -> int:
        return self.cache.rows

    def _spread(self) -> None:
        """Every input's cache once a beam, with room to grow; cross-attention's too where the plain way reads it."""
        cache, w = self.cache, self.beams
        cache.rows *= w
        # batched products of 16 bits copy what is not contiguous, and a cache with room to grow is not: fp32 takes a third of the time
        dtype = torch.float32 if self.lean else cache.keys[0].dtype
        for part in (cache.keys, cache.values):
            for i, old in enumerate(part):
                part[i] = old.new_empty((cache.rows, old.shape[1], max(_FIRST, 2 * old.shape[2]), old.shape[3]), dtype=dtype)
                part[i][:, :, : old.shape[2]] = old.repeat_interleave(w, 0)
        cache.capacity = cache.keys[0].shape[2]
        if w > 1 and not self.lean:
            cache.cross = [
                None if pair is None else (pair[0].repeat_interleave(w, 0), pair[1].repeat_interleave(w, 0)) for pair in cache.cross
            ]
            self.keep = None if self.keep is None else self.keep.repeat_interleave(w, 0)
        elif self.lean:
            cache.cross = [None if pair is None else (pair[0].contiguous(), pair[1].contiguous()) for pair in cache.cross]

    def _mask(self) -> None:
        """What cross-attention adds to its scores, (R, 1, 1, S), where sources are padded."""
        self.hidden: Tensor | None = None
        if self.keep is not None and self.lean:
            zero = torch.zeros(self.keep.shape, dtype=self.model.embed.weight.dtype, device=self.keep.device)
            self.hidden = zero.masked_fill_(~self.keep, float("-inf"))[:, None, None]

    def _grow(self) -> None:
        cache = self.cache
        for part in (cache.keys, cache.values):
            for i, old in enumerate(part):
                part[i] = old.new_empty((old.shape[0], old.shape[1], 2 * old.shape[2], old.shape[3]))
                part[i][:, :, : old.shape[2]] = old
        cache.capacity *= 2

    def move(self, into: Tensor, source: Tensor) -> None:
        """Slots `into` go on from what slots `source` have read; int64, no slot of the one among the other."""
        length = self.cache.length
        for part in (self.cache.keys, self.cache.values):
            for whole in part:
                used = whole[:, :, :length]
                used[into] = used[source]

    def select(self, inputs: Tensor) -> None:
        """Only these inputs (int64, numbers among those here) go on."""
        cache, w, length = self.cache, self.beams, self.cache.length
        slots = (inputs[:, None] * w + torch.arange(w, device=inputs.device)).flatten()
        for part in (cache.keys, cache.values):
            for i, old in enumerate(part):
                part[i] = old.new_empty((len(slots), *old.shape[1:]))
                torch.index_select(old[:, :, :length], 0, slots, out=part[i][:, :, :length])
        cache.rows = len(slots)
        kept = inputs if self.lean else slots
        cache.cross = [None if pair is None else (pair[0][kept], pair[1][kept]) for pair in cache.cross]
        self.keep = None if self.keep is None else self.keep[kept]
        self._mask()

    def step(self, tokens: Tensor) -> Tensor:
        """tokens (N,) -> logits (N, V) of the positions after them."""
        if self.cache.length == self.cache.capacity:
            self._grow()
        head = self.model.head
        assert head is not None
        if self.lean:
            x = self._step(tokens)
            assert isinstance(head, LMHeadModule)
            return product(head.transform(x), self.weights.table.weight, self.weights.table.bias)
        hidden = self.model.decode(tokens[:, None], AttnContext(cache=self.cache), None, self.keep)
        logits: Tensor = head(hidden[:, -1])
        return logits

    def _step(self, tokens: Tensor) -> Tensor:
        """tokens (N,) -> hidden states (N, D)."""
        stack, cache = self.model.decoder, self.cache
        assert stack is not None
        place = cache.length
        x = self.model.embed(tokens)  # (N, D)
        if self.model.config.embed_scale != 1.0:
            x = x * torch.tensor(self.model.config.embed_scale, dtype=x.dtype)
        x = stack.begin(x[:, None], AttnContext(cache=cache), None)[:, 0]
        bias = None if stack.relative is None else stack.relative(place, 1, place + 1)  # (1, H, 1, S)
        for i, layer in enumerate(self.weights.layers):
            if layer.post:
                x = layer.attn.norm(self._attend(i, layer.attn, x, x, bias))
                x = layer.cross.norm(self._cross(i, layer.cross, x, x))
                x = layer.norm_ffn(_feed(layer, x, x))
            else:
                x = self._attend(i, layer.attn, layer.attn.norm(x), x, bias)
                x = self._cross(i, layer.cross, layer.cross.norm(x), x)
                x = _feed(layer, layer.norm_ffn(x), x)
        cache.advance(1)
        hidden: Tensor = x if stack.norm is None else stack.norm(x)
        return hidden

    def _attend(self, i: int, attn: _Part, h: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        """x + self-attention of h (N, D), one query a row over all that it has read."""
        place = self.cache.length
        n, heads, c = h.shape[0], attn.heads, attn.channels
        q, k, v = (product(h, linear.weight, linear.bias) for linear in (attn.q, attn.k, attn.v))
        keys, values = self.cache.keys[i], self.cache.values[i]  # (N, H, capacity, C)
        keys[:, :, place] = k.view(n, heads, c)
        values[:, :, place] = v.view(n, heads, c)
        keys, values = (whole.view(n * heads, -1, c)[:, : place + 1] for whole in (keys, values))
        scores = torch.bmm(_scaled(q.float(), attn.scale, c).view(n * heads, 1, c), keys.transpose(1, 2))  # (N*H, 1, S)
        if bias is not None:
            scores.view(n, heads, 1, -1).add_(bias)
        out = torch.bmm(scores.softmax(-1), values).view(n, -1).to(x.dtype)
        return added(x, out, attn.o.weight, attn.o.bias)

    def _cross(self, i: int, attn: _Part, h: Tensor, x: Tensor) -> Tensor:
        """x + cross-attention of h (N, D): the beams of an input are the queries of one attention."""
        pair = self.cache.cross[i]
        assert pair is not None
        n, w, heads, c = h.shape[0], self.beams, attn.heads, attn.channels
        q = _scaled(product(h, attn.q.weight, attn.q.bias), attn.scale, c)
        q = q.view(-1, w, heads, c).transpose(1, 2).reshape(-1, w, c)  # (N, H*C) -> (R, H, W, C) -> (R*H, W, C)
        keys, values = (whole.view(-1, whole.shape[2], c) for whole in pair)  # (R*H, S, C)
        scores = torch.bmm(q, keys.transpose(1, 2))  # (R*H, W, S)
        if self.hidden is not None:
            scores.view(-1, heads, w, scores.shape[2]).add_(self.hidden)
        out = torch.bmm(scores.softmax(-1), values).view(-1, heads, w, c).transpose(1, 2)  # (R, W, H, C)
        return added(x, out.reshape(n, -1), attn.o.weight, attn.o.bias)


def encode(model: Transformer, sources: Tensor, keep: Tensor | None) -> Tensor:
    """What the encoder makes of sources (R, S), (R, S, D). Rows next to one another are read together as far as the longest of them goes:
    for sources in order of length that leaves little padding to compute."""
    rows, width = sources.shape
    if keep is None or rows <= max(1, _TOKENS // width):
        return model.encode(sources, AttnContext(keep=keep))
    memory: Tensor | None = None
    at, last = 0, (keep * torch.arange(1, width + 1, device=keep.device)).amax(1).tolist()  # where each row's last token ends
    while at < rows:
        longest = last[at]
        end = at + 1
        while end < rows and max(longest, last[end]) * (end + 1 - at) <= _TOKENS:
            longest = max(longest, last[end])
            end += 1
        part = model.encode(sources[at:end, :longest], AttnContext(keep=keep[at:end, :longest]))
        before = part.shape[1] - longest  # of a soft prompt
        if memory is None:
            memory = torch.zeros((rows, before + width, model.config.width), dtype=part.dtype, device=part.device)
        memory[at:end, : before + longest] = part
        at = end
    assert memory is not None
    return memory


def understands(model: Transformer) -> bool:
    """Whether the lean step computes exactly this model: an encoder-decoder on the CPU, with nothing wrapped or swapped inside."""
    stack, head = model.config.decoder, model.config.head
    if model.front is not None or stack is None or model.config.encoder is None:
        return False
    if not isinstance(head, LMHead) or head.softcap or stack.alibi or stack.order:
        return False
    for layer in stack.layers:
        if layer.wiring not in ("pre", "post") or not isinstance(layer.ffn, FFN) or layer.bare:
            return False
        for attn in (layer.attn, layer.cross):
            if attn and (attn.kv_heads != attn.heads or attn.rope or attn.window or attn.softcap or attn.norm or attn.clip):
                return False
    assert model.decoder is not None
    known = {Linear, nn.Embedding, LayerNorm, RMSNorm, RelativeBias}
    leaves = {type(module) for module in model.decoder.modules() if not any(True for _ in module.children())}
    return leaves <= known and type(model.head) is LMHeadModule and all(p.device.type == "cpu" for p in model.parameters())


def _feed(layer: _Layer, h: Tensor, x: Tensor) -> Tensor:
    """x + the feed-forward part of h (N, D)."""
    gate, up, down = layer.gate, layer.up, layer.down
    if gate is None:
        h = product(h, up.weight, up.bias, layer.act)
    else:
        h = product(h, gate.weight, gate.bias, layer.act).mul_(product(h, up.weight, up.bias))
    return added(x, h, down.weight, down.bias)


def _scaled(q: Tensor, scale: float | None, channels: int) -> Tensor:
    return q if scale == 1.0 else q.mul_(channels**-0.5 if scale is None else scale)
