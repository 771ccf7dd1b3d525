"""What a model is, as nested frozen records: no torch, no files, no model names.

Which stacks exist *is* the kind of model: a decoder alone (GPT, LLaMA), an encoder alone (BERT), or both (T5). A field is here
when it changes one line of `forward`; anything bigger is a record of its own with a module of its own. Layers are a tuple, so a
mixed stack needs no special case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Norm:
    kind: Literal["rms", "layer"]
    eps: float


@dataclass(frozen=True)
class Rope:
    """Rotary positions (Su et al. 2021), in the half-split layout of LLaMA checkpoints."""

    theta: float = 10_000.0


@dataclass(frozen=True)
class Relative:
    """T5's relative position buckets (Raffel et al. 2020): one bias per head and bucket, shared by every layer of a stack."""

    buckets: int = 32
    max_distance: int = 128


@dataclass(frozen=True)
class Attn:
    heads: int
    kv_heads: int
    head_dim: int
    bias: bool = False  # on q, k and v
    out_bias: bool = False
    causal: bool = True
    rope: Rope | None = None
    scale: float | None = None  # of the scores; None: head_dim ** -0.5


@dataclass(frozen=True)
class FFN:
    hidden: int
    act: Literal["silu", "gelu", "gelu_tanh", "relu"]
    gated: bool = False
    bias: bool = False
    dropout: bool = False  # also between the two products (T5)


@dataclass(frozen=True)
class Layer:
    attn: Attn
    ffn: FFN
    norm: Norm
    cross: Attn | None = None
    wiring: Literal["pre", "post"] = "pre"


@dataclass(frozen=True)
class Stack:
    layers: tuple[Layer, ...]
    final_norm: Norm | None = None
    relative: Relative | None = None
    positions: int = 0  # rows of a learned position table; 0: none
    types: int = 0  # rows of a token-type table (BERT's segments A and B); 0: none
    embed_norm: Norm | None = None


@dataclass(frozen=True)
class LMHead:
    """hidden -> vocabulary. `scale` multiplies the hidden states first (T5 1.0 with tied embeddings)."""

    tied: bool = True
    scale: float = 1.0


@dataclass(frozen=True)
class MLMHead:
    """BERT's: dense, activation, norm, then the tied table with a bias of its own; `next_sentence` adds the pooler and its classifier."""

    act: Literal["gelu", "relu"] = "gelu"
    eps: float = 1e-12
    next_sentence: bool = True


@dataclass(frozen=True)
class Pooler:
    """BERT's summary of a row alone: dense and tanh over the first token; no vocabulary."""


@dataclass(frozen=True)
class ModelConfig:
    width: int
    vocab: int
    context: int  # positions the model was made for
    encoder: Stack | None = None
    decoder: Stack | None = None
    head: LMHead | MLMHead | Pooler | None = LMHead()  # None: hidden states only
    dropout: float = 0.0
    attention_dropout: float | None = None  # of attention's weights; None: as dropout
    init_std: float = 0.02
    init: Literal["gpt", "bert", "t5"] = "gpt"  # which paper's initialisation

    @property
    def kind(self) -> Literal["decoder", "encoder", "seq2seq"]:
        return "seq2seq" if self.encoder and self.decoder else "decoder" if self.decoder else "encoder"

    def parameters(self) -> int:
        """Trainable numbers, tied tables counted once."""
        total = self.vocab * self.width
        for stack in (self.encoder, self.decoder):
            if stack:
                total += _stack_parameters(stack, self.width)
        if self.head is None or isinstance(self.head, Pooler):
            return total + (0 if self.head is None else self.width * self.width + self.width)
        if isinstance(self.head, LMHead):
            return total + (0 if self.head.tied else self.vocab * self.width)
        total += self.width * self.width + self.width + 2 * self.width + self.vocab
        return total + (self.width * self.width + self.width + 2 * self.width + 2 if self.head.next_sentence else 0)

    def flops_per_token(self, length: int, backward: bool = True) -> float:
        """Floating-point operations a token at rows of `length` tokens: two a weight that multiplies, plus attention's scores and sums.

        Training triples it (Kaplan et al. 2020). Causal attention is counted at half its square. An encoder-decoder is counted as if
        both sides were `length` long.
        """
        total = 2.0 * self.vocab * self.width if isinstance(self.head, LMHead | MLMHead) else 0.0
        for stack in (self.encoder, self.decoder):
            for layer in stack.layers if stack else ():
                total += 2.0 * _matrix_weights(layer, self.width)
                for attn in (layer.attn, layer.cross):
                    if attn:
                        total += 4.0 * attn.heads * attn.head_dim * length * (0.5 if attn.causal else 1.0)
        return total * (3.0 if backward else 1.0)

    def cache_bytes_per_token(self, bytes_per_number: int = 4) -> int:
        """Keys and values that one decoded token leaves behind."""
        layers = self.decoder.layers if self.decoder else ()
        return sum(2 * layer.attn.kv_heads * layer.attn.head_dim for layer in layers) * bytes_per_number


def _matrix_weights(layer: Layer, width: int) -> int:
    total = 0
    for attn in (layer.attn, layer.cross):
        if attn:
            total += width * attn.head_dim * (2 * attn.heads + 2 * attn.kv_heads)
    return total + width * layer.ffn.hidden * (3 if layer.ffn.gated else 2)


def _norm_parameters(norm: Norm | None, width: int) -> int:
    return 0 if norm is None else width * (2 if norm.kind == "layer" else 1)


def _stack_parameters(stack: Stack, width: int) -> int:
    total = stack.positions * width + stack.types * width
    total += _norm_parameters(stack.embed_norm, width) + _norm_parameters(stack.final_norm, width)
    if stack.relative:
        total += stack.relative.buckets * stack.layers[0].attn.heads
    for layer in stack.layers:
        total += _matrix_weights(layer, width) + (3 if layer.cross else 2) * _norm_parameters(layer.norm, width)
        for attn in (layer.attn, layer.cross):
            if attn:
                total += attn.head_dim * (attn.heads + 2 * attn.kv_heads) * attn.bias + width * attn.out_bias
        if layer.ffn.bias:
            total += layer.ffn.hidden * (2 if layer.ffn.gated else 1) + width
    return total


@dataclass(frozen=True)
class Sizes:
    """What a user chooses for a model trained from scratch; a family turns it into its stock config.json."""

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int = 0  # 0: as many as heads
    hidden: int = 0  # of the feed-forward part; 0: what the family usually takes
    context: int = 256
    tied: bool = True
    dropout: float = 0.0
    next_sentence: bool = True  # of an encoder: BERT's second head
    bos: int | None = None
    eos: int | None = None
    pad: int | None = None
