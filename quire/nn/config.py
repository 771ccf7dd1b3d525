"""What a model is, as nested frozen records: no torch, no files, no model names.

Which stacks exist *is* the kind of model: a decoder alone (GPT, LLaMA), an encoder alone (BERT), or both (T5). A field is here
when it changes one line of `forward`; anything bigger is a record of its own with a module of its own. Layers are a tuple, so a
mixed stack needs no special case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Act = Literal["silu", "gelu", "gelu_tanh", "relu", "tanh"]


@dataclass(frozen=True)
class Norm:
    kind: Literal["rms", "layer"]
    eps: float
    bias: bool = True  # of a layer norm; an RMS norm has none
    offset: float = 0.0  # added to the stored weight (Gemma stores it around zero)


@dataclass(frozen=True)
class Linear:
    """Positions divided by `factor` (Chen et al. 2023)."""

    factor: float


@dataclass(frozen=True)
class Dynamic:
    """Theta grows with the length of the text once it is beyond `original` positions (NTK-aware, "dynamic")."""

    factor: float
    original: int


@dataclass(frozen=True)
class Llama3:
    """Slow turns divided by `factor`, fast ones kept, a smooth step between them (Llama 3.1)."""

    factor: float
    low: float
    high: float
    original: int


@dataclass(frozen=True)
class Yarn:
    """Slow turns divided by `factor`, fast ones kept, a ramp between (Peng et al. 2023); `attention` multiplies cos and sin."""

    factor: float
    original: int
    fast: float = 32.0
    slow: float = 1.0
    attention: float = 1.0
    truncate: bool = True


@dataclass(frozen=True)
class LongRope:
    """A divisor for every pair of channels: `short` within `original` positions, `long` beyond (Ding et al. 2024)."""

    short: tuple[float, ...]
    long: tuple[float, ...]
    original: int
    attention: float = 1.0


Scaling = Linear | Dynamic | Llama3 | Yarn | LongRope


@dataclass(frozen=True)
class Rope:
    """Rotary positions (Su et al. 2021), in the half-split layout of LLaMA checkpoints."""

    theta: float = 10_000.0
    channels: int = 0  # how many of a head's channels turn, from the first; 0: all
    scaling: Scaling | None = None


@dataclass(frozen=True)
class Relative:
    """T5's relative position buckets (Raffel et al. 2020): one bias per head and bucket, shared by every layer of a stack."""

    buckets: int = 32
    max_distance: int = 128


@dataclass(frozen=True)
class Distances:
    """A learned vector for every distance between a query and a key, shared by the layers of a stack (DeBERTa, He et al. 2020).

    span: distances from -span to span - 1 have one, others take the nearest. furthest: where it is not 0, distances beyond span / 2 share
    buckets that grow logarithmically up to it (He et al. 2021). norm: of the vectors.
    """

    span: int
    furthest: int = 0
    norm: Norm | None = None


@dataclass(frozen=True)
class Disentangled:
    """Scores that also weigh what a token holds against distance: `key` the query against a distance's key, `query` a distance's query
    against the key. shared: the projections of tokens serve distances too, else they have their own."""

    key: bool = True
    query: bool = True
    shared: bool = False


@dataclass(frozen=True)
class Conv:
    """A convolution over neighbouring tokens beside the first layer (DeBERTa v2's largest): norm(layer(x) + act(conv(x)))."""

    kernel: int
    act: Act
    groups: int = 1


@dataclass(frozen=True)
class QKNorm:
    """A norm of queries and of keys before they turn: over each head's channels, or over all heads at once (`whole`)."""

    norm: Norm
    whole: bool = False


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
    window: int | None = None  # a query sees keys nearer than this; None: all
    softcap: float | None = None  # scores s become cap * tanh(s / cap) (Gemma 2)
    norm: QKNorm | None = None
    clip: float | None = None  # q, k and v are cut to [-clip, clip] (MPT)
    disentangled: Disentangled | None = None  # in a stack that has `distances`


@dataclass(frozen=True)
class FFN:
    hidden: int
    act: Act
    gated: bool = False
    bias: bool = False
    dropout: bool = False  # also between the two products (T5)


@dataclass(frozen=True)
class MoE:
    """Mixture of experts (Shazeer et al. 2017): each token goes through the `top` likeliest of `experts` feed-forward parts.

    normalise: the chosen probabilities are divided by their sum. balance: weight of the loss that keeps the experts evenly used
    (Fedus et al. 2021) in training.
    """

    experts: int
    top: int
    expert: FFN
    normalise: bool = True
    balance: float = 0.0


Wiring = Literal["pre", "post", "parallel", "parallel-one", "sandwich", "after"]


@dataclass(frozen=True)
class Layer:
    """wiring: where the norms stand (drawn in `transformer.py`). bare: attention reads its input without a norm (ModernBERT's first)."""

    attn: Attn
    ffn: FFN | MoE
    norm: Norm
    cross: Attn | None = None
    wiring: Wiring = "pre"
    bare: bool = False


@dataclass(frozen=True)
class Stack:
    layers: tuple[Layer, ...]
    final_norm: Norm | None = None
    relative: Relative | None = None
    distances: Distances | None = None
    alibi: tuple[float, ...] = ()  # a slope for each head: scores fall with distance (Press et al. 2022)
    positions: int = 0  # rows of a learned position table; 0: none
    position_offset: int = 0  # the row of the first position (RoBERTa: 2)
    sinusoid: bool = False  # fixed sines, then cosines, added to the embeddings (Vaswani et al. 2017)
    types: int = 0  # rows of a token-type table (BERT's segments A and B); 0: none
    embed_norm: Norm | None = None
    conv: Conv | None = None
    order: tuple[int, ...] = ()  # which of `layers` runs when, for layers used several times (ALBERT); (): each once


@dataclass(frozen=True)
class LMHead:
    """hidden -> vocabulary. `scale` multiplies the hidden states first (T5 1.0 with tied embeddings); logits z become
    cap * tanh(z / cap) where there is a `softcap`."""

    tied: bool = True
    scale: float = 1.0
    bias: bool = False
    softcap: float | None = None


@dataclass(frozen=True)
class MLMHead:
    """BERT's: dense, activation, norm, then the tied table with a bias of its own; `next_sentence` adds the pooler and its classifier."""

    act: Act = "gelu"
    eps: float = 1e-12
    next_sentence: bool = True
    bias: bool = True  # of the dense part and the norm


@dataclass(frozen=True)
class Pooler:
    """BERT's summary of a row alone: dense and activation over the first token; no vocabulary."""

    act: Act = "tanh"


@dataclass(frozen=True)
class LabelHead:
    """hidden -> labels: of a row, of every token, where an answer begins and ends (a span: two labels a token), or whether a row's second
    text follows its first (next: label 0 says that it does; pooled as a row is).

    pool: which hidden state stands for a row ("last": the last token that is no padding; "eos": the same, of an encoder-decoder that
    reads the row on both sides). dense: a square layer, `act` and perhaps a norm come before the labels. In training dropout falls on what
    the labels are made of, and, where it falls `twice`, on what the square layer reads too (RoBERTa, MPNet, BART).
    """

    labels: int
    over: Literal["row", "token", "span", "next"] = "row"
    pool: Literal["first", "mean", "last", "eos"] = "first"
    dense: bool = True
    dense_bias: bool = True
    act: Act = "tanh"
    norm: Norm | None = None
    bias: bool = True
    twice: bool = False


Head = LMHead | MLMHead | Pooler | LabelHead


@dataclass(frozen=True)
class ModelConfig:
    width: int
    vocab: int
    context: int  # positions the model was made for
    encoder: Stack | None = None
    decoder: Stack | None = None
    head: Head | None = LMHead()  # None: hidden states only
    embed_width: int = 0  # of the embedding, where a product widens it to `width` (ALBERT); 0: width
    embed_scale: float = 1.0  # multiplies the embedded tokens
    dropout: float = 0.0
    attention_dropout: float | None = None  # of attention's weights; None: as dropout
    init_std: float = 0.02
    init: Literal["gpt", "bert", "t5"] = "gpt"  # which paper's initialisation

    @property
    def kind(self) -> Literal["decoder", "encoder", "seq2seq"]:
        return "seq2seq" if self.encoder and self.decoder else "decoder" if self.decoder else "encoder"

    @property
    def moe(self) -> MoE | None:
        """The experts of the decoder, where it has some."""
        return next((layer.ffn for layer in (self.decoder.layers if self.decoder else ()) if isinstance(layer.ffn, MoE)), None)

    def parameters(self) -> int:
        """Trainable numbers, tied tables and shared layers counted once."""
        narrow = self.embed_width or self.width
        total = self.vocab * narrow + (self.width * (narrow + 1) if self.embed_width else 0)
        for stack in (self.encoder, self.decoder):
            if stack:
                total += _stack_parameters(stack, self.width, narrow)
        return total + _head_parameters(self)

    def flops_per_token(self, length: int, backward: bool = True) -> float:
        """Floating-point operations a token at rows of `length` tokens: two a weight that multiplies, plus attention's scores and sums.

        Training triples it (Kaplan et al. 2020). Causal attention is counted at half its square, a window at its width, experts only
        where a token goes. An encoder-decoder is counted as if both sides were `length` long.
        """
        total = 2.0 * self.vocab * (self.embed_width or self.width) if isinstance(self.head, LMHead | MLMHead) else 0.0
        for stack in (self.encoder, self.decoder):
            for layer in _run(stack):
                total += 2.0 * _matrix_weights(layer, self.width, used=True)
                for attn in (layer.attn, layer.cross):
                    if attn:
                        keys = min(length * (0.5 if attn.causal else 1.0), attn.window or length)
                        total += 4.0 * attn.heads * attn.head_dim * keys
        return total * (3.0 if backward else 1.0)

    def cache_bytes_per_token(self, bytes_per_number: int = 4) -> int:
        """Keys and values that one decoded token leaves behind."""
        return sum(2 * layer.attn.kv_heads * layer.attn.head_dim for layer in _run(self.decoder)) * bytes_per_number


def _run(stack: Stack | None) -> tuple[Layer, ...]:
    """The layers in the order in which they run."""
    if stack is None:
        return ()
    return tuple(stack.layers[i] for i in stack.order) or stack.layers


def _matrix_weights(layer: Layer, width: int, used: bool = False) -> int:
    total = 0
    for attn in (layer.attn, layer.cross):
        if attn:
            total += width * attn.head_dim * (2 * attn.heads + 2 * attn.kv_heads)
    if isinstance(layer.ffn, MoE):
        expert = layer.ffn.expert
        return (
            total
            + width * layer.ffn.experts
            + (layer.ffn.top if used else layer.ffn.experts) * width * expert.hidden * (3 if expert.gated else 2)
        )
    return total + width * layer.ffn.hidden * (3 if layer.ffn.gated else 2)


def _norm_parameters(norm: Norm | None, width: int) -> int:
    return 0 if norm is None else width * (2 if norm.kind == "layer" and norm.bias else 1)


def _stack_parameters(stack: Stack, width: int, narrow: int) -> int:
    total = 0 if stack.sinusoid else stack.positions * narrow
    total += stack.types * narrow + _norm_parameters(stack.embed_norm, narrow) + _norm_parameters(stack.final_norm, width)
    if stack.relative:
        total += stack.relative.buckets * stack.layers[0].attn.heads
    if stack.distances:
        total += 2 * stack.distances.span * width + _norm_parameters(stack.distances.norm, width)
    if stack.conv:
        total += width * width // stack.conv.groups * stack.conv.kernel + width + _norm_parameters(stack.layers[0].norm, width)
    return total + sum(_layer_parameters(layer, width) for layer in stack.layers)


def _layer_parameters(layer: Layer, width: int) -> int:
    norms = {"parallel-one": 1, "sandwich": 4}.get(layer.wiring, 2) + (1 if layer.cross else 0) - (1 if layer.bare else 0)
    total = _matrix_weights(layer, width) + norms * _norm_parameters(layer.norm, width)
    for attn in (layer.attn, layer.cross):
        if attn:
            total += attn.head_dim * (attn.heads + 2 * attn.kv_heads) * attn.bias + width * attn.out_bias
            if attn.norm:
                sizes = (attn.heads, attn.kv_heads) if attn.norm.whole else (1, 1)
                total += sum(_norm_parameters(attn.norm.norm, count * attn.head_dim) for count in sizes)
            if attn.disentangled and not attn.disentangled.shared:
                total += (attn.disentangled.key + attn.disentangled.query) * (width + 1) * attn.heads * attn.head_dim
    ffn, times = (layer.ffn.expert, layer.ffn.experts) if isinstance(layer.ffn, MoE) else (layer.ffn, 1)
    return total + (times * (ffn.hidden * (2 if ffn.gated else 1) + width) if ffn.bias else 0)


def _head_parameters(config: ModelConfig) -> int:
    head, width, narrow = config.head, config.width, config.embed_width or config.width
    square = width * width + width
    if head is None:
        return 0
    if isinstance(head, Pooler):
        return square
    if isinstance(head, LMHead):
        return (0 if head.tied else config.vocab * width) + (config.vocab if head.bias else 0)
    if isinstance(head, LabelHead):
        dense = (width * width + (width if head.dense_bias else 0)) if head.dense else 0
        return dense + _norm_parameters(head.norm, width) + width * head.labels + (head.labels if head.bias else 0)
    total = width * narrow + (narrow if head.bias else 0) + _norm_parameters(Norm("layer", head.eps, head.bias), narrow) + config.vocab
    return total + (square + 2 * width + 2 if head.next_sentence else 0)


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
