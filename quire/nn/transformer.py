"""The one model: embeddings, one or two stacks of layers, and a head kept apart.

    tokens -> embed (+ positions, + types, norm) -> [ attend, (cross-attend), feed forward ] x layers -> norm -> hidden -> head

pre            x = x + part(norm(x))                          (GPT-2, LLaMA, T5)
post           x = norm(x + part(x))                          (Vaswani et al. 2017, BERT)
sandwich       x = x + norm_out(part(norm(x)))                (Gemma 2)
after          x = x + norm(part(x))                          (OLMo 2)
parallel       x = x + attn(norm(x)) + ffn(norm_ffn(x))       (GPT-NeoX)
parallel-one   x = x + attn(n) + ffn(n), n = norm(x)          (Phi)

`forward` returns hidden states; logits are the head's business, so that a loss can make them a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import ContextError
from .attention import Attention, AttnContext, Frame, build_mask
from .batch import Batch
from .config import Attn, Layer, ModelConfig, MoE, Stack
from .disentangled import Convolution, DisentangledAttention, DistanceTable
from .dropout import dropped
from .heads import make_head
from .layers import FeedForward, make_norm
from .moe import Experts
from .paged import Paged
from .position import RelativeBias, Rotary, Sinusoid, alibi
from .products import Linear


class Block(nn.Module):
    """One layer: attention, cross-attention where there is an encoder to look at, feed-forward part or experts."""

    def __init__(self, layer: Layer, config: ModelConfig) -> None:
        super().__init__()
        self.wiring, self.dropout = layer.wiring, config.dropout
        attention_dropout = config.dropout if config.attention_dropout is None else config.attention_dropout
        self.attn = _attention(layer.attn, config, attention_dropout)
        self.norm_attn = None if layer.bare else make_norm(layer.norm, config.width)
        self.cross = Attention(layer.cross, config.width, attention_dropout) if layer.cross else None
        self.norm_cross = make_norm(layer.norm, config.width) if layer.cross else None
        ffn = layer.ffn
        self.ffn: FeedForward | Experts
        if isinstance(ffn, MoE):
            self.ffn = Experts(ffn, config.width, config.dropout if ffn.expert.dropout else 0.0)
        else:
            self.ffn = FeedForward(ffn, config.width, config.dropout if ffn.dropout else 0.0)
        self.norm_ffn = None if layer.wiring == "parallel-one" else make_norm(layer.norm, config.width)
        sandwich = layer.wiring == "sandwich"
        self.norm_attn_out = make_norm(layer.norm, config.width) if sandwich else None
        self.norm_ffn_out = make_norm(layer.norm, config.width) if sandwich else None

    def _drop(self, x: Tensor) -> Tensor:
        return dropped(x, self.dropout) if self.dropout and self.training else x

    def _feed(self, x: Tensor, frame: Frame) -> Tensor:
        return self.ffn(x, frame.routing) if isinstance(self.ffn, Experts) else self.ffn(x)

    def forward(self, x: Tensor, frame: Frame) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        if self.wiring in ("parallel", "parallel-one"):
            assert self.norm_attn is not None
            normed = self.norm_attn(x, frame.narrow)
            other = normed if self.norm_ffn is None else self.norm_ffn(x, frame.narrow)
            return x + self._drop(self.attn(normed, frame)) + self._drop(self._feed(other, frame))
        x = self._part(x, lambda n: self.attn(n, frame), frame.narrow, self.norm_attn, self.norm_attn_out)
        if self.cross is not None:
            cross = self.cross
            x = self._part(x, lambda n: cross(n, frame, cross=True), frame.narrow, self.norm_cross)
        return self._part(x, lambda n: self._feed(n, frame), frame.narrow, self.norm_ffn, self.norm_ffn_out)

    def _part(
        self,
        x: Tensor,
        part: Callable[[Tensor], Tensor],
        narrow: torch.dtype | None,
        norm: nn.Module | None,
        norm_out: nn.Module | None = None,
    ) -> Tensor:
        """`part` beside the residual stream. narrow: autocast's dtype; what several products read is cast once, here."""
        if norm is None:
            return x + self._drop(part(x if narrow is None else x.to(narrow)))
        if self.wiring in ("post", "after"):
            y = part(x if narrow is None else x.to(narrow))
            return norm(x + self._drop(y)) if self.wiring == "post" else x + self._drop(norm(y))
        y = part(norm(x, narrow))
        return x + self._drop(y if norm_out is None else norm_out(y))


def _attention(attn: Attn, config: ModelConfig, dropout: float) -> Attention:
    if attn.disentangled is None:
        return Attention(attn, config.width, dropout)
    return DisentangledAttention(attn, config.width, dropout, config.dropout)


class Layers(nn.Module):
    """One stack: what is added to the embeddings, the blocks, and what closes them."""

    def __init__(self, stack: Stack, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.random = config.dropout > 0 or (config.attention_dropout or 0) > 0  # a recomputation must then draw the same numbers
        self.causal = stack.layers[0].attn.causal
        self.order = stack.order or tuple(range(len(stack.layers)))
        width = config.embed_width or config.width
        self.rows, self.offset = stack.positions, stack.position_offset
        self.sinusoid = Sinusoid(width) if stack.sinusoid else None
        self.positions = nn.Embedding(stack.positions, width) if stack.positions and not stack.sinusoid else None
        self.types = nn.Embedding(stack.types, width) if stack.types else None
        self.embed_norm = make_norm(stack.embed_norm, width) if stack.embed_norm else None
        self.alibi = stack.alibi
        self.relative = RelativeBias(stack.relative, stack.layers[0].attn.heads, not self.causal) if stack.relative else None
        self.distances = DistanceTable(stack.distances, config.width) if stack.distances else None
        self.conv = Convolution(stack.conv, stack.layers[0].norm, config.width, config.dropout) if stack.conv else None
        blocks = [Block(layer, config) for layer in stack.layers]
        self.layers = nn.ModuleList(blocks)
        self.windows = {layer.attn.window for layer in stack.layers}
        self.norm = make_norm(stack.final_norm, config.width) if stack.final_norm else None
        self.rotary: list[Rotary] = []
        for i, (layer, block) in enumerate(zip(stack.layers, blocks, strict=True)):
            block.attn.layer = i
            if block.cross is not None:
                block.cross.layer = i
            rope = layer.attn.rope
            if rope is not None:
                known = [(r.rope, r.head_dim) for r in self.rotary]
                key = (rope, layer.attn.head_dim)
                if key not in known:
                    known.append(key)
                    self.rotary.append(Rotary(*key))
                block.attn.rotary = known.index(key)

    def frame(self, x: Tensor, ctx: AttnContext, memory: Tensor | None, memory_keep: Tensor | None) -> Frame:
        """Masks, tables and biases of this forward; x (B, T, D) is only looked at for its size, device and dtype."""
        if ctx.paged is not None:
            return self._paged_frame(x, ctx, ctx.paged)
        tokens, start = x.shape[1], 0 if ctx.cache is None else ctx.cache.length
        keys = start + tokens
        if ctx.keep is not None and ctx.keep.shape[1] != keys:
            raise ContextError(f"keep has {ctx.keep.shape[1]} positions; it must cover all keys: {start} cached + {tokens} new = {keys}.")
        bias = None if self.relative is None else self.relative(start, tokens, keys)
        if self.alibi:
            bias = alibi(self.alibi, start, tokens, keys, x.device)
        masks: dict[int | None, Tensor | None] = {}
        for window in self.windows:
            far = window is not None and keys > window
            if far or bias is not None or ctx.keep is not None or ctx.segments is not None or (self.causal and 1 < tokens != keys):
                masks[window] = build_mask(
                    tokens, keys, causal=self.causal, keep=ctx.keep, segments=ctx.segments, bias=bias, window=window, device=x.device
                )
            else:
                masks[window] = None
        device = x.device.type
        narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        if memory is not None and narrow is not None:
            memory = memory.to(narrow)
        frame = Frame(self.causal and tokens > 1, masks, narrow, cache=ctx.cache, trace=ctx.trace, routing=ctx.routing, memory=memory)
        if self.distances is not None:
            frame.distances = self.distances(tokens)
        if self.conv is not None:
            if ctx.segments is not None:
                raise ContextError("This model mixes neighbouring tokens, so texts cannot share a row. Give each text a row of its own.")
            frame.keep = ctx.keep
        if memory_keep is not None:
            frame.memory_mask = build_mask(1, memory_keep.shape[1], causal=False, keep=memory_keep)
        if self.rotary:
            top = 0 if ctx.positions is None else int(ctx.positions.max()) + 1  # one wait for the device a forward
            frame.rotary = [rotary(start, tokens, ctx.positions, x.device, narrow or x.dtype, top) for rotary in self.rotary]
        return frame

    def _paged_frame(self, x: Tensor, ctx: AttnContext, paged: Paged) -> Frame:
        if not self.causal:
            raise ContextError("Pages hold the keys and values of decoders; this stack looks ahead.")
        assert ctx.positions is not None
        paged.prepare(self.windows, self.alibi, self.relative)
        tables = [rotary(0, x.shape[1], ctx.positions, x.device, x.dtype, paged.reach) for rotary in self.rotary]
        return Frame(True, {}, rotary=tables, routing=ctx.routing, paged=paged)

    def begin(self, x: Tensor, ctx: AttnContext, types: Tensor | None) -> Tensor:
        """Add learned positions and types to embedded tokens (B, T, D), then norm and dropout."""
        if self.rows:
            x = x + self._places(x, ctx)
        if self.types is not None:
            x = x + (self.types.weight[0] if types is None else self.types(types))
        if self.embed_norm is not None:
            x = self.embed_norm(x)
        return dropped(x, self.dropout) if self.dropout and self.training else x

    def _places(self, x: Tensor, ctx: AttnContext) -> Tensor:
        """Rows of the position table for tokens x (B, T, D): (T, D) or (B, T, D)."""
        start = self.offset + (0 if ctx.cache is None else ctx.cache.length)
        end = start + x.shape[1] if ctx.positions is None else self.offset + int(ctx.positions.max()) + 1
        if end > self.rows:
            given, fit = end - self.offset, self.rows - self.offset
            raise ContextError(f"{given} tokens were given; this model has positions for {fit}. Cut the text or split it.")
        table = self.positions.weight if self.sinusoid is None else self.sinusoid.table(self.rows, x.device, x.dtype)
        return table[start:end] if ctx.positions is None else F.embedding(ctx.positions + self.offset, table)

    def forward(self, x: Tensor, frame: Frame, checkpointing: bool = False) -> Tensor:
        first = x
        for place, index in enumerate(self.order):
            layer = self.layers[index]
            if checkpointing:
                x = checkpoint(layer, x, frame, use_reentrant=False, preserve_rng_state=self.random)
            else:
                x = layer(x, frame)
            if place == 0 and self.conv is not None:
                x = self.conv(first, x, frame.keep)
        return x if self.norm is None else self.norm(x)


class Front(Protocol):
    """What stands before every text that a model reads: a soft prompt (`adapt.soft_prompt`, `adapt.prefix`).

    pages: whether an engine can hold it, as `ids` before a request's own.
    """

    pages: bool

    @property
    def stack(self) -> Literal["encoder", "decoder"]:
        """The stack before whose text it stands."""

    @property
    def ids(self) -> list[int]:
        """Its ids now, beyond the vocabulary; [] where it has none, or nothing is active."""

    def enter(self, tokens: Tensor, ctx: AttnContext, types: Tensor | None = None) -> tuple[Tensor, AttnContext, Tensor | None, int]:
        """The same with the prompt before it, and how many hidden states it puts before those of the text."""

    def seen(self, keep: Tensor | None) -> Tensor | None:
        """What an encoder's reader may look at, keep (B, S), with the prompt before it."""

    def settle(self) -> None:
        """Another adapter computes from now on."""


class Transformer(nn.Module):
    """A model of any kind, by its config. Weights are whatever torch made them: call `initialise`, or load."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False  # recompute activations in the backward pass instead of keeping them
        self.embed = nn.Embedding(config.vocab, config.embed_width or config.width)
        self.widen = Linear(config.embed_width, config.width) if config.embed_width else None
        self.encoder = Layers(config.encoder, config) if config.encoder else None
        self.decoder = Layers(config.decoder, config) if config.decoder else None
        self.head = make_head(config, self.embed)
        self.front: Front | None = None

    def _run(
        self,
        stack: Layers,
        tokens: Tensor,
        ctx: AttnContext,
        types: Tensor | None = None,
        memory: Tensor | None = None,
        memory_keep: Tensor | None = None,
    ) -> Tensor:
        x = self.embed(tokens)
        if self.config.embed_scale != 1.0:
            x = x * torch.tensor(self.config.embed_scale, dtype=x.dtype)  # rounded as the embedding is (Gemma in 16 bits)
        x = stack.begin(x, ctx, types)
        if self.widen is not None:
            x = self.widen(x)
        recompute = self.checkpointing and self.training and torch.is_grad_enabled()
        return stack(x, stack.frame(x, ctx, memory, memory_keep), recompute)

    def encode(self, tokens: Tensor, ctx: AttnContext | None = None, types: Tensor | None = None) -> Tensor:
        """tokens, types (B, T) -> hidden states of the encoder (B, T, D), those of a soft prompt before them.

        A decoder and a label head look at these too; who wants a text's own states takes the last T.
        """
        if self.encoder is None:
            raise ContextError("This model has no encoder: it is a decoder alone.")
        ctx = ctx or AttnContext()
        if self.front is not None and self.front.stack == "encoder":
            tokens, ctx, types, _ = self.front.enter(tokens, ctx, types)
        return self._run(self.encoder, tokens, ctx, types)

    def decode(
        self,
        tokens: Tensor,
        ctx: AttnContext | None = None,
        memory: Tensor | None = None,
        memory_keep: Tensor | None = None,
    ) -> Tensor:
        """tokens (B, T) -> hidden states of the decoder (B, T, D), continuing from the context's cache, which moves on by T.

        memory (B, S, D) with memory_keep (B, S) is what an encoder returned; with a cache it is read at the first call only.
        """
        if self.decoder is None:
            raise ContextError("This model has no decoder: it is an encoder alone and writes nothing.")
        ctx, before = ctx or AttnContext(), 0
        if self.front is not None and self.front.stack == "decoder":
            tokens, ctx, _, before = self.front.enter(tokens, ctx)
        elif self.front is not None:
            memory_keep = self.front.seen(memory_keep)
        if ctx.cache is not None:
            ctx.cache.room(tokens.shape[1])
        hidden = self._run(self.decoder, tokens, ctx, None, memory, memory_keep)
        if ctx.cache is not None:
            ctx.cache.advance(tokens.shape[1])
        return hidden[:, before:] if before else hidden

    def forward(self, batch: Batch, ctx: AttnContext | None = None) -> Tensor:
        """Hidden states (B, T, D) of the last stack, as `encode` or `decode`. `ctx` overrides the batch, field by field."""
        main = _context(batch, ctx)
        if self.decoder is None:
            return self.encode(batch.tokens, main, batch.types)
        if self.encoder is None:
            return self.decode(batch.tokens, main)
        source = batch.source
        if source is None:
            raise ContextError("An encoder-decoder needs batch.source, the encoder's side; it was empty.")
        memory = self.encode(source.tokens, _context(source, AttnContext(trace=main.trace)), source.types)
        return self.decode(batch.tokens, main, memory, source.keep)


def _context(batch: Batch, ctx: AttnContext | None) -> AttnContext:
    if ctx is None:
        return AttnContext(positions=batch.positions, keep=batch.keep, segments=batch.segments)
    return AttnContext(
        positions=batch.positions if ctx.positions is None else ctx.positions,
        keep=batch.keep if ctx.keep is None else ctx.keep,
        segments=batch.segments if ctx.segments is None else ctx.segments,
        cache=ctx.cache,
        trace=ctx.trace,
        routing=ctx.routing,
        paged=ctx.paged,
    )
