"""A decoding step of a whole decoder in one native call: up to 32 tokens, one or a few of each request, over paged keys and values.

The C side runs all layers in one parallel region (`step.cpp`); here a `Transformer` is described to it, once. bf16 and fp32 weights are
used where they lie, so a memory-mapped checkpoint is read in place; packed ones (`linears.pack_model`) as they are.

What a row answers does not depend on the rows beside it, on their number or on the number of threads, to the last bit: every kernel
sums in one order. Between instruction sets, sums of fp32 and bf16 products differ in their last digits.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import ContextError, ModelError
from ..nn import config as records
from ..nn.heads import LMHeadModule
from ..nn.layers import FeedForward, LayerNorm, RMSNorm
from ..nn.products import Linear
from ..nn.transformer import Block, Transformer
from .library import ACTS, NORMS, ROWS, Kernels, Layer, Norm, Pace, Pool, Spec, Weight, byref, find, threads
from .linears import PackedHead, PackedLinear, packed_bytes
from .pack import describe
from .plain import PlainStep, check_pools, embedded

_FIRST = 256  # rows of rotary tables to begin with


def refusal(config: records.ModelConfig) -> str:
    """Why the fused step does not compute this model; "" where it does."""
    stack, head = config.decoder, config.head
    if stack is None or config.encoder is not None:
        return "it is no decoder alone"
    if head is not None and not isinstance(head, records.LMHead):
        return "its head makes no logits"
    if config.embed_width or stack.relative or stack.distances or stack.types or stack.conv or stack.order:
        return "its embeddings or positions are of a kind that the kernels leave to torch"
    for layer in stack.layers:
        attn, rope = layer.attn, layer.attn.rope
        if layer.cross or not attn.causal or attn.disentangled:
            return "its attention is of a kind that the kernels leave to torch"
        if not isinstance(layer.ffn, records.FFN):
            return "it has experts"
        if layer.wiring == "post":
            return "its norms stand behind the residual sums"
        if rope is not None and isinstance(rope.scaling, records.Dynamic | records.LongRope):
            return "its rotary tables change with the length of a text"
    sizes = {(layer.attn.heads * layer.attn.head_dim, layer.ffn.hidden) for layer in stack.layers if isinstance(layer.ffn, records.FFN)}
    if len(sizes) > 1:
        return "its layers differ in size"
    return ""


def understands(config: records.ModelConfig) -> bool:
    return not refusal(config)


def make_step(model: Transformer, keys: Sequence[Tensor], values: Sequence[Tensor], **options: Any) -> NativeStep | PlainStep:
    """The fused step where there are kernels that understand this model, else the same in plain torch. Options as `NativeStep`'s."""
    kernels, _ = find()
    if kernels is not None and not unfit(model):
        return NativeStep(model, keys, values, **options)
    check_pools(model, keys, values)
    if understood := refusal(model.config):
        raise ModelError(f"there is no step of one token a row for this model: {understood}")
    return PlainStep(model, keys, values)


def unfit(model: Transformer) -> str:
    """Why `NativeStep` does not compute this model here; "" where it does."""
    if find()[0] is None:
        return find()[1]
    known = {Linear, PackedLinear, nn.Embedding, LayerNorm, RMSNorm, LMHeadModule}
    leaves = {type(module) for module in model.modules() if not any(True for _ in module.children())}
    if leaves - known:
        return f"a part of it was wrapped or swapped ({', '.join(sorted(leaf.__name__ for leaf in leaves - known))})"
    kinds = {(p.dtype, p.device.type) for p in model.parameters()}
    if kinds - {(torch.float32, "cpu"), (torch.bfloat16, "cpu")}:
        return "its weights are not in fp32 or bf16 on the CPU"
    return refusal(model.config)


class NativeStep:
    """`step(tokens, positions, tables)` -> logits (R, V) or hidden states (R, D), fp32; the new keys and values are written to the pools.

    keys, values: a pool a layer, (blocks, K, slots, C) in fp32 or bf16, channels contiguous, other strides as they like. rows: the most
    requests of one step. asked: threads; 0: as many as torch uses. The weights may change in place, not move. One step at a time: an
    object belongs to one thread.
    """

    def __init__(
        self,
        model: Transformer,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        *,
        rows: int = ROWS,
        asked: int = 0,
    ) -> None:
        kernels, reason = find()
        if kernels is None:
            raise ModelError(f"there are no native kernels: {reason}")
        if reason := unfit(model):
            raise ModelError(f"the fused step does not compute this model: {reason}")
        if not 1 <= rows <= ROWS:
            raise ModelError(f"rows is {rows}; a step takes 1 to {ROWS}")
        check_pools(model, keys, values)
        assert model.decoder is not None and model.config.decoder is not None
        self.model, self.body, self.stack = model, model.decoder, model.config.decoder
        self.kernels: Kernels = kernels
        self.rows, self.slots = rows, keys[0].shape[2]
        self.bytes = packed_bytes(model)
        self._kept: list[Any] = [list(keys), list(values)]  # what C points at
        self._tables: dict[int, tuple[Tensor, Tensor]] = {}  # by rotary
        self._reach = 0
        self.blocks = [cast(Block, block) for block in self.body.layers]
        self.pace = Pace(threads(asked))
        self._plan = self._describe(keys, values, self.pace.count)
        self._grow(_FIRST)

    def __del__(self) -> None:
        if plan := self.__dict__.pop("_plan", None):
            self.kernels.lib.qn_plan_free(plan)

    @torch.inference_mode()
    def __call__(self, tokens: Tensor, positions: Tensor, tables: Tensor, *, logits: bool = True) -> Tensor:
        """tokens (R,), positions (R,), tables (R, blocks): which block of the pools holds a request's tokens 0.., slots.., and so on.

        Rows of one text stand side by side, in order, with one table; none may write another's place. Raises ContextError when a number is
        out of range; then nothing was written.
        """
        count, places = len(tokens), positions.tolist()
        if not 1 <= count <= self.rows or len(places) != count or tables.shape[0] != count:
            raise ContextError(f"{count} tokens, {len(places)} positions, {tables.shape[0]} tables; a step takes 1 to {self.rows} of each")
        low, high = min(places), max(places)
        most = min(tables.shape[1] * self.slots, self.body.rows - self.body.offset if self.body.rows else 1 << 31)
        if low < 0 or high >= most:
            raise ContextError(f"positions from {low} to {high} were given; these tables and this model allow 0 to {most - 1}")
        if high >= self._reach:
            self._grow(high + 1)
        x = embedded(self.model, self.body, tokens, positions).to(torch.float32, copy=True).contiguous()
        where, blocks = positions.to(torch.int32).contiguous(), tables.to(torch.int32).contiguous()
        logits = logits and self.model.head is not None
        out = torch.empty(count, self.vocab if logits else self.model.config.width)
        targets = (None, out.data_ptr()) if logits else (out.data_ptr(), None)
        given = (x.data_ptr(), where.data_ptr(), blocks.data_ptr(), blocks.stride(0), *targets)
        began = time.perf_counter()
        wrong = self.kernels.lib.qn_step(self._plan, count, *given, self.pace.next())
        self.pace.took(count, time.perf_counter() - began)
        if wrong:
            row, pool = wrong - 1, self._kept[0][0].shape[0]
            raise ContextError(
                f"row {row} is at position {places[row]}, but its blocks {blocks[row].tolist()} do not reach there within a pool of {pool}"
            )
        return out

    def _grow(self, length: int) -> None:
        """Rotary tables for `length` positions, and then some."""
        self._reach = 1 << max(length - 1, _FIRST - 1).bit_length()
        for number, rotary in enumerate(self.body.rotary):
            cos, sin = rotary(0, self._reach, None, torch.device("cpu"), torch.float32)
            self._tables[number] = cos.contiguous(), sin.contiguous()
        for layer, block in enumerate(self.blocks):
            if block.attn.attn.rope is not None:
                cos, sin = self._tables[block.attn.rotary]
                self.kernels.lib.qn_plan_rotary(self._plan, layer, cos.data_ptr(), sin.data_ptr())

    def _describe(self, keys: Sequence[Tensor], values: Sequence[Tensor], count: int) -> int:
        each = [self._layer(*parts) for parts in zip(self.stack.layers, self.blocks, keys, values, strict=True)]
        layers = (Layer * len(each))(*each)
        spec = Spec(layers=layers, count=len(each), width=self.model.config.width, max_rows=self.rows, threads=count)
        spec.final_norm = self._norm(self.body.norm)
        spec.cache_bf16, spec.block, spec.blocks = keys[0].dtype == torch.bfloat16, self.slots, keys[0].shape[0]
        head = cast(LMHeadModule | PackedHead | None, self.model.head)
        self.vocab = 0
        if head is not None:
            spec.head = self._weight(head.linear if isinstance(head, PackedHead) else head)
            spec.head_scale, spec.head_softcap, self.vocab = head.scale, head.softcap or 0.0, spec.head.rows
        self._kept.append(layers)
        plan = self.kernels.lib.qn_plan(byref(spec))
        if not plan:
            raise MemoryError
        return int(plan)

    def _layer(self, layer: records.Layer, block: Block, keys: Tensor, values: Tensor) -> Layer:
        attn, part, ffn = layer.attn, block.attn, cast(FeedForward, block.ffn)
        made = Layer(heads=attn.heads, kv_heads=attn.kv_heads, head_dim=attn.head_dim, window=attn.window or 0, act=ACTS[ffn.act])
        for name in ("q", "k", "v", "o"):
            linear = getattr(part, name)
            setattr(made, name, self._weight(linear))
        for name in ("up", "down") + (("gate",) if ffn.gate is not None else ()):
            linear = getattr(ffn, name)
            setattr(made, name, self._weight(linear))
        after = layer.wiring == "after"
        made.norm_attn, made.norm_attn_out = self._norm(None if after else block.norm_attn), self._norm(block.norm_attn_out)
        made.norm_ffn, made.norm_ffn_out = self._norm(None if after else block.norm_ffn), self._norm(block.norm_ffn_out)
        if after:
            made.norm_attn_out, made.norm_ffn_out = self._norm(block.norm_attn), self._norm(block.norm_ffn)
        made.norm_q, made.norm_k = self._norm(part.norm_q), self._norm(part.norm_k)
        made.norm_whole = attn.norm is not None and attn.norm.whole
        made.parallel = {"parallel": 1, "parallel-one": 2}.get(layer.wiring, 0)
        made.scale = attn.head_dim**-0.5 if attn.scale is None else attn.scale
        made.softcap, made.clip = attn.softcap or 0.0, attn.clip or 0.0
        if attn.rope is not None:
            made.turned = attn.rope.channels or attn.head_dim
        if self.stack.alibi:
            slopes = torch.tensor(self.stack.alibi, dtype=torch.float32)
            self._kept.append(slopes)
            made.slopes = slopes.data_ptr()
        for name, pool in (("keys", keys), ("values", values)):
            setattr(made, name, Pool(pool.data_ptr(), *pool.stride()[:3]))
        return made

    def _weight(self, linear: nn.Module) -> Weight:
        if isinstance(linear, PackedLinear):
            record, kept = describe(linear.packed, linear.bias)
        elif isinstance(linear, LMHeadModule):
            record, kept = describe(*linear.table())
        else:
            assert isinstance(linear, nn.Linear)
            record, kept = describe(linear.weight, linear.bias)
        self._kept.append(kept)
        return record

    def _norm(self, norm: nn.Module | None) -> Norm:
        if norm is None:
            return Norm(NORMS[""], 0.0, ctypes.c_void_p(None), ctypes.c_void_p(None))
        if isinstance(norm, RMSNorm):
            weight, bias = norm.weight.detach().float() + norm.offset, None
        else:
            assert isinstance(norm, LayerNorm)
            weight, bias = norm.weight.detach().float().clone(), None if norm.bias is None else norm.bias.detach().float().clone()
        self._kept.append((weight, bias))
        kind = NORMS["rms" if isinstance(norm, RMSNorm) else "layer"]
        return Norm(kind, norm.eps, weight.data_ptr(), None if bias is None else bias.data_ptr())
