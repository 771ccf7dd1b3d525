"""One token through a decoder as one row of plain products: the same arithmetic as `Transformer.decode`, without its generality.

A small model spends most of a decoding step on calls, not on numbers: modules, shapes of four axes, masks that are not there. Here a
token is a vector (D,), a projection is one matrix-vector product, the residual sum rides on it, and the weights and the cache are
those of the model itself (nothing is copied, so a model in training can be sampled). It is used only where it declares that it
understands every layer; everything else goes the plain way, and `certify` holds the two against each other.

Shapes: D width, H query heads, K key/value heads, C head channels, S keys, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.cache import Cache
from ..nn.config import FFN, Attn, Layer, LMHead, Norm, Rope, Stack
from ..nn.heads import LMHeadModule
from ..nn.layers import FeedForward, LayerNorm, RMSNorm
from ..nn.products import Linear, activate
from ..nn.transformer import Block, Transformer

_Map = Callable[[Tensor], Tensor]


def understands(model: Transformer) -> bool:
    """Whether `Step` computes exactly this model: a decoder alone, pre-norm, fp32 on the CPU, with nothing wrapped or swapped inside."""
    stack = model.config.decoder
    if stack is None or model.config.encoder is not None or stack.relative or stack.types or not isinstance(model.config.head, LMHead):
        return False
    known = {Linear, nn.Embedding, LayerNorm, RMSNorm, LMHeadModule}
    leaves = (type(module) for module in model.modules() if not any(True for _ in module.children()))
    plain = all(_plain(layer) for layer in stack.layers) and not stack.alibi and not stack.sinusoid and not stack.order
    config, head = model.config, model.config.head
    plain = plain and config.embed_scale == 1.0 and not config.embed_width and not head.bias and head.softcap is None
    return plain and set(leaves) <= known and all(p.dtype == torch.float32 and p.device.type == "cpu" for p in model.parameters())


def _plain(layer: Layer) -> bool:
    """Whether nothing is in a layer but what this file computes."""
    attn = layer.attn
    known = Attn(attn.heads, attn.kv_heads, attn.head_dim, attn.bias, attn.out_bias, attn.causal, attn.rope, attn.scale)
    rope = attn.rope is None or attn.rope == Rope(attn.rope.theta)
    return attn == known and rope and isinstance(layer.ffn, FFN) and layer == Layer(attn, layer.ffn, layer.norm) and not layer.norm.offset


@dataclass(slots=True)
class _Layer:
    """What one layer needs, taken out of its modules once."""

    norm_attn: _Map
    q: tuple[Tensor, Tensor | None]
    k: tuple[Tensor, Tensor | None]
    v: tuple[Tensor, Tensor | None]
    o: tuple[Tensor, Tensor | None]
    norm_ffn: _Map
    gate: tuple[Tensor, Tensor | None] | None
    up: tuple[Tensor, Tensor | None]
    down: tuple[Tensor, Tensor | None]
    act: str
    heads: tuple[int, int, int]  # H, K, C
    scale: float | None
    rotary: int | None


class Step:
    """`step(token)` -> logits (V,) of the position after it. The cache moves on by one; it may have been filled by `Transformer.decode`."""

    def __init__(self, model: Transformer, cache: Cache) -> None:
        stack, body = model.config.decoder, model.decoder
        assert stack is not None and body is not None
        self.cache, self.stack = cache, body
        self.embed = model.embed.weight
        self.positions = None if body.positions is None else body.positions.weight
        self.begin = None if body.embed_norm is None else _norm(body.embed_norm, stack.embed_norm)
        self.end = None if body.norm is None else _norm(body.norm, stack.final_norm)
        self.layers = [_take(cast(Block, block), stack, i) for i, block in enumerate(body.layers)]
        head = model.head
        assert isinstance(head, LMHeadModule)
        self.table, self.scale = head.table(), head.scale

    def __call__(self, token: int) -> Tensor:
        cache = self.cache
        place = cache.length
        cache.room(1)
        x = self.embed[token]  # (D,)
        if self.positions is not None:
            x = x + self.positions[place]
        if self.begin is not None:
            x = self.begin(x)
        turns = [rotary(place, 1, None, x.device, x.dtype) for rotary in self.stack.rotary]
        for i, layer in enumerate(self.layers):
            h = layer.norm_attn(x)
            q, k, v = _product(layer.q, h), _product(layer.k, h), _product(layer.v, h)
            heads, groups, channels = layer.heads
            q, k = q.view(heads, channels), k.view(groups, channels)
            if layer.rotary is not None:
                cos, sin = turns[layer.rotary]
                half = channels // 2
                q = torch.addcmul(q * cos, q.roll(half, -1), sin)
                k = torch.addcmul(k * cos, k.roll(half, -1), sin)
            keys, values = cache.keys[i], cache.values[i]  # (1, K, capacity, C)
            keys[0, :, place] = k
            values[0, :, place] = v.view(groups, channels)
            # the queries of a group share its keys: they stand as the rows of one attention
            a = F.scaled_dot_product_attention(
                q.view(1, groups, -1, channels), keys.narrow(2, 0, place + 1), values.narrow(2, 0, place + 1), scale=layer.scale
            )
            x = _product(layer.o, a.reshape(-1), x)
            h = layer.norm_ffn(x)
            if layer.gate is None:
                h = activate(layer.act, _product(layer.up, h))
            else:
                h = activate(layer.act, _product(layer.gate, h)).mul_(_product(layer.up, h))
            x = _product(layer.down, h, x)
        cache.advance(1)
        if self.end is not None:
            x = self.end(x)
        return _product(self.table, x if self.scale == 1.0 else x * self.scale)


def _product(linear: tuple[Tensor, Tensor | None], x: Tensor, rest: Tensor | None = None) -> Tensor:
    """weight (N, M) @ x (M,) + bias (+ rest)."""
    weight, bias = linear
    if rest is None:
        return torch.mv(weight, x) if bias is None else torch.addmv(bias, weight, x)
    out = torch.addmv(rest, weight, x)
    return out if bias is None else out.add_(bias)


def _norm(module: nn.Module, norm: Norm | None) -> _Map:
    weight, eps = cast(Tensor, module.weight), norm.eps if norm else 0.0
    size = weight.shape[0]
    if isinstance(module, nn.LayerNorm):
        bias, shape = module.bias, (size,)
        return lambda x: F.layer_norm(x, shape, weight, bias, eps)
    nothing = torch.zeros(size)

    def rms(x: Tensor) -> Tensor:
        # torch's rms_norm is several calls inside; a dot product and one fused multiply cost a third of it
        return torch.addcmul(nothing, x, weight, value=1.0 / math.sqrt(float(torch.dot(x, x)) / size + eps))

    return rms


def _take(block: Block, stack: Stack, number: int) -> _Layer:
    layer = stack.layers[number]
    attn, ffn = block.attn, block.ffn
    assert isinstance(ffn, FeedForward) and isinstance(layer.ffn, FFN) and block.norm_attn is not None and block.norm_ffn is not None
    return _Layer(
        norm_attn=_norm(block.norm_attn, layer.norm),
        q=(attn.q.weight, attn.q.bias),
        k=(attn.k.weight, attn.k.bias),
        v=(attn.v.weight, attn.v.bias),
        o=(attn.o.weight, attn.o.bias),
        norm_ffn=_norm(block.norm_ffn, layer.norm),
        gate=None if ffn.gate is None else (ffn.gate.weight, ffn.gate.bias),
        up=(ffn.up.weight, ffn.up.bias),
        down=(ffn.down.weight, ffn.down.bias),
        act=layer.ffn.act,
        heads=(layer.attn.heads, layer.attn.kv_heads, layer.attn.head_dim),
        scale=layer.attn.scale,
        rotary=None if layer.attn.rope is None else attn.rotary,
    )
