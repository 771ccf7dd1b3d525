"""One decoding step over paged keys and values in plain torch: what the kernels are measured against, and what runs without them.

Each row is a request with one token. It stands at a position of its own and owns the blocks that its row of `tables` names. The model's own
modules do the arithmetic; only the cache is other than `Transformer.decode`'s. With `quant`, every product goes through the packed
numbers, activations quantized as the kernels do it.

Shapes: R rows, D width, K key/value heads, S keys, C head channels, V vocabulary; a pool is (blocks, K, slots, C).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..nn.attention import AttnContext, attend
from ..nn.config import Attn
from ..nn.heads import LMHeadModule
from ..nn.layers import FeedForward
from ..nn.position import turn
from ..nn.products import activate
from ..nn.transformer import Block, Layers, Transformer
from .linears import PackedHead, PackedLinear
from .pack import product_plain


class PlainStep:
    """`step(tokens (R,), positions (R,), tables (R, blocks))` -> logits (R, V) or hidden states (R, D), fp32; stores keys and values."""

    def __init__(self, model: Transformer, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        assert model.decoder is not None and model.config.decoder is not None
        self.model, self.body, self.stack = model, model.decoder, model.config.decoder
        self.keys, self.values = keys, values
        self.head = cast(LMHeadModule | PackedHead | None, model.head)

    def linear(self, module: nn.Module, x: Tensor) -> Tensor:
        """x (R, in) -> (R, out)."""
        if isinstance(module, PackedLinear):
            return product_plain(x, module.packed, module.bias).to(x.dtype)
        return cast(Tensor, module(x))

    @torch.inference_mode()
    def __call__(self, tokens: Tensor, positions: Tensor, tables: Tensor, *, logits: bool = True) -> Tensor:
        tables, positions = tables.long(), positions.long()
        x = embedded(self.model, self.body, tokens, positions)
        for layer, block in enumerate(self.body.layers):
            assert isinstance(block, Block)
            x = self._block(layer, block, x, positions, tables)
        x = x if self.body.norm is None else self.body.norm(x)
        head = self.head
        if not logits or head is None:
            return x.float()
        if isinstance(head, LMHeadModule):
            return cast(Tensor, head(x)).float()
        z = self.linear(head.linear, head.transform(x)).float()
        return z if head.softcap is None else head.softcap * torch.tanh(z / head.softcap)

    def _block(self, layer: int, block: Block, x: Tensor, positions: Tensor, tables: Tensor) -> Tensor:
        """x (R, D) -> (R, D); the wirings are drawn in `nn/transformer.py`."""
        if block.wiring in ("parallel", "parallel-one"):
            assert block.norm_attn is not None
            n = block.norm_attn(x)
            other = n if block.norm_ffn is None else block.norm_ffn(x)
            return x + self._attend(layer, block, n, positions, tables) + self._feed(block, other)
        after = block.wiring == "after"
        n = x if after or block.norm_attn is None else block.norm_attn(x)
        y = self._attend(layer, block, n, positions, tables)
        out = block.norm_attn if after else block.norm_attn_out
        x = x + (y if out is None else out(y))
        assert block.norm_ffn is not None
        y = self._feed(block, x if after else block.norm_ffn(x))
        out = block.norm_ffn if after else block.norm_ffn_out
        return x + (y if out is None else out(y))

    def _feed(self, block: Block, x: Tensor) -> Tensor:
        ffn = cast(FeedForward, block.ffn)
        up = self.linear(ffn.up, x)
        return self.linear(ffn.down, activate(ffn.act, up) if ffn.gate is None else activate(ffn.act, self.linear(ffn.gate, x)) * up)

    def _attend(self, layer: int, block: Block, x: Tensor, positions: Tensor, tables: Tensor) -> Tensor:
        part, rows = block.attn, torch.arange(len(x))
        attn: Attn = part.attn
        q = part._heads(self.linear(part.q, x).unsqueeze(1), part.norm_q)  # (R, H, 1, C)
        k = part._heads(self.linear(part.k, x).unsqueeze(1), part.norm_k)
        v = part._heads(self.linear(part.v, x).unsqueeze(1))
        if attn.rope is not None:
            top = int(positions.max()) + 1
            cos, sin = self.body.rotary[part.rotary](0, 1, positions[:, None], x.device, x.dtype, top)
            q, k = turn(q, cos, sin), turn(k, cos, sin)
        keys, values = self.keys[layer], self.values[layer]
        slots = keys.shape[2]
        own, slot = tables[rows, positions // slots], positions % slots
        keys[own, :, slot] = k[:, :, 0].to(keys.dtype)
        values[own, :, slot] = v[:, :, 0].to(values.dtype)
        used = int(positions.max()) // slots + 1
        there = tables[:, :used].clamp(min=0)  # beyond a request's own blocks a table may hold anything
        # (R, blocks, K, slots, C) -> (R, K, S, C)
        k, v = (pool[there].transpose(1, 2).flatten(2, 3).to(x.dtype) for pool in (keys, values))
        distance = positions[:, None] - torch.arange(used * slots)  # (R, S)
        seen = distance >= 0
        if attn.window is not None:
            seen &= distance < attn.window
        hidden = ~seen[:, None, :, None]  # what another request left there must not count, were it not even a number
        k, v = k.masked_fill(hidden, 0), v.masked_fill(hidden, 0)
        mask = seen[:, None, None]
        if self.stack.alibi:
            slopes = torch.tensor(self.stack.alibi, dtype=x.dtype)
            mask = torch.where(mask, -slopes[None, :, None, None] * distance[:, None, None], float("-inf"))
        out = attend(q, k, v, mask=mask, scale=part.scale, softcap=attn.softcap)
        return self.linear(part.o, out.transpose(1, 2).reshape(len(x), -1))


def embedded(model: Transformer, body: Layers, tokens: Tensor, positions: Tensor) -> Tensor:
    """tokens, positions (R,) -> what the first layer reads (R, D), as the model embeds them."""
    x: Tensor = model.embed(tokens)
    if model.config.embed_scale != 1.0:
        x = x * torch.tensor(model.config.embed_scale, dtype=x.dtype)
    if not body.rows and body.embed_norm is None and body.types is None:
        return x
    return body.begin(x.unsqueeze(1), AttnContext(positions=positions.long().unsqueeze(1)), None).squeeze(1)


def check_pools(model: Transformer, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Raise ModelError unless each layer has a pool (blocks, K, slots, C) of keys and one of values, all of one number type and block."""
    stack = model.config.decoder
    layers = () if stack is None else stack.layers
    if len(keys) != len(layers) or len(values) != len(layers):
        raise ModelError(f"{len(keys)} pools of keys and {len(values)} of values were given; the decoder has {len(layers)} layers")
    for number, (layer, *pools) in enumerate(zip(layers, keys, values)):
        for pool in pools:
            blocks, slots = keys[0].shape[0], keys[0].shape[2]
            wanted = (blocks, layer.attn.kv_heads, slots, layer.attn.head_dim)
            if tuple(pool.shape) != wanted or pool.dtype != keys[0].dtype or pool.dtype not in (torch.float32, torch.bfloat16):
                raise ModelError(f"layer {number}: a pool of {tuple(pool.shape)} in {pool.dtype}; wanted {wanted} in one of fp32, bf16")
            if pool.stride(-1) != 1:
                raise ModelError(f"layer {number}: the channels of a pool must lie beside one another")
