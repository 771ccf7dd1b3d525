"""Prefix tuning: keys and values that stand in front of every layer's own, trained while the whole model is frozen (Li and Liang 2021).

To a decoder they are what a cache already holds before the first token, so nothing but the cache's beginning is new: positions begin behind
them, and training, scoring and the plain loop of decoding compute alike. An encoder gets such a cache for one forward. In an
encoder-decoder they are the decoder's alone. While it is trained a small network may make them (`hidden`); what is saved is what it made.

On disk it is PEFT's: `prompt_embeddings` (n, 2 P K C), the keys of a pair before its values. P pairs (num_layers), K key/value heads,
C channels. A layer has the pair of its own number. In an encoder-decoder PEFT lays the pairs out twice and takes them by four, so that
decoder layer i has pair 2 i mod P: an odd P gives each layer its own, and with PEFT's usual even one layers i and i + P/2 share theirs.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..binding import Binding
from ..errors import ContextError, ModelError, RecipeError
from ..families.folder import ModelFolder
from ..nn.attention import AttnContext
from ..nn.cache import Cache
from ..nn.config import LMHead, ModelConfig
from ..nn.transformer import Transformer
from .folder import CONFIG, read_json
from .lora import Wrapper
from .surgery import DEFAULT, check_name
from .virtual import check_fields, check_length, length_of, peft_type, put_on, read, save, takes

KIND = "PREFIX_TUNING"
_STD = 0.02  # of first vectors that no network makes
_HARMLESS = frozenset("prefix_projection init_weights encoder_hidden_size".split())
_ENCODERS = ("bert", "roberta", "xlm-roberta")  # whose layers in transformers look at keys and values that they are given


class PrefixVectors(nn.Module):
    """Keys and values of one prefix, (n, 2 P K C); hidden: the width of the network that makes them of (n, K C), 0 for none."""

    def __init__(self, length: int, pairs: int, width: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        first = torch.randn(length, width if hidden else 2 * pairs * width, generator=generator)
        self.weight = nn.Parameter(first if hidden else first * _STD)
        self.network: nn.ModuleList | None = None
        if hidden:
            self.network = nn.ModuleList((nn.Linear(width, hidden), nn.Linear(hidden, 2 * pairs * width)))
            with torch.no_grad():
                for linear, inside in zip(self.network, (width, hidden)):
                    for part in linear.parameters():
                        part.uniform_(-(inside**-0.5), inside**-0.5, generator=generator)

    def forward(self) -> Tensor:
        if self.network is None:
            return self.weight
        first, last = self.network
        return cast(Tensor, last(torch.tanh(first(self.weight))))


class PrefixEmbedding(Wrapper):
    """The embedding, and beside it the prefixes: what is read there is as it was."""

    @property
    def weight(self) -> Tensor:
        """The base's table: for its dtype, device and size."""
        return cast(nn.Embedding, self.base).weight

    def forward(self, tokens: Tensor) -> Tensor:
        return cast(Tensor, self.base(tokens))

    def merged(self) -> nn.Module:
        raise ModelError("A prefix stands before each text and cannot be merged into weights. Keep it beside its base.")


class PrefixCache(Cache):
    """A cache for one forward that begins with the prefix, through which gradients flow."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        """keys, values (L, B, K, n, C)."""
        self.rows, self.length, self.capacity = keys.shape[1], keys.shape[3], 1 << 62
        self.keys, self.values = list(keys), list(values)
        self.cross = [None] * len(self.keys)

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat((self.keys[layer].to(k.dtype), k), 2), torch.cat((self.values[layer].to(v.dtype), v), 2)


class PrefixFront:
    """Begins a decoder's cache, or what an encoder's layers look at, with the active prefix."""

    pages = False
    ids: list[int] = []

    def __init__(self, model: Transformer) -> None:
        self.model, self.whole = model, model.config

    @property
    def stack(self) -> Literal["encoder", "decoder"]:
        return "encoder" if self.model.decoder is None else "decoder"

    def _active(self) -> PrefixVectors | None:
        embed = self.model.embed
        return cast(PrefixVectors, embed.adapters[embed.active]) if isinstance(embed, PrefixEmbedding) and embed.active else None

    @property
    def _count(self) -> int:
        active = self._active()
        return 0 if active is None else len(active.weight)

    def settle(self) -> None:
        """The prefix takes its positions from the model's context."""
        self.model.config = replace(self.whole, context=self.whole.context - self._count)

    def enter(self, tokens: Tensor, ctx: AttnContext, types: Tensor | None = None) -> tuple[Tensor, AttnContext, Tensor | None, int]:
        """Raises ContextError for packed rows, each of whose texts would need the prefix, ModelError for an engine's pages."""
        active, cache = self._active(), ctx.cache
        if active is None:
            return tokens, ctx, types, 0
        if ctx.paged is not None:
            raise ModelError("An engine's pages hold no prefix. Decode this model by the plain loop (`decode.loop`).")
        if ctx.segments is not None:
            raise ContextError("Several texts share a row, and each would need the prefix. Give each text a row of its own.")
        ctx = replace(ctx, keep=self.seen(ctx.keep), positions=None if ctx.positions is None else ctx.positions + self._count)
        if cache is not None and cache.length:
            return tokens, ctx, types, 0
        keys, values = self._sides(active, tokens.shape[0])
        if cache is None:
            return tokens, replace(ctx, cache=PrefixCache(keys, values)), types, 0
        cache.widen(self._count)
        for i, (k, v) in enumerate(zip(keys, values)):
            cache.keys[i][:, :, : self._count], cache.values[i][:, :, : self._count] = k, v
        cache.advance(self._count)
        return tokens, ctx, types, 0

    def _sides(self, active: PrefixVectors, rows: int) -> tuple[Tensor, Tensor]:
        """Keys and values, (L, B, K, n, C) each."""
        layers, heads, channels = _sizes(self.whole)
        both = active().unflatten(1, (-1, 2, heads, channels)).permute(2, 1, 3, 0, 4)  # (n, P, 2, K, C) -> (2, P, K, n, C)
        both = both[:, _pairs_of(self.whole, layers, both.shape[1])]
        keys, values = both[:, :, None].expand(-1, -1, rows, -1, -1, -1)
        return keys, values

    def seen(self, keep: Tensor | None) -> Tensor | None:
        return None if keep is None else F.pad(keep, (self._count, 0), value=True)


def _sizes(config: ModelConfig) -> tuple[int, int, int]:
    """(layers, key/value heads, channels of a head) of the stack that a prefix stands before."""
    stack = config.decoder or config.encoder
    assert stack is not None
    attn = stack.layers[0].attn
    return len(stack.layers), attn.kv_heads, attn.head_dim


def _pairs_of(config: ModelConfig, layers: int, pairs: int) -> list[int]:
    """Which pair each layer has."""
    return [2 * layer % pairs if config.kind == "seq2seq" else layer for layer in range(layers)]


def shape(opened: ModelFolder) -> tuple[int, int, int]:
    """(pairs of a new prefix, key/value heads, channels of a head). Raises ModelError for a model that takes no prefix."""
    config = opened.model_config
    takes(config, "prefix")
    if config.kind == "seq2seq" and not isinstance(config.head, LMHead):
        raise ModelError("A prefix stands before a decoder, which makes no vectors here. Adapt this model with a soft prompt or LoRA.")
    if config.kind == "encoder" and opened.family.names[0] not in _ENCODERS:
        raise ModelError(
            f"The layers of '{opened.family.names[0]}' take no keys and values from outside in transformers, so PEFT has no prefix for it "
            f"(of encoders it has for {', '.join(_ENCODERS)}). Adapt this model with a soft prompt or LoRA."
        )
    stack = config.decoder or config.encoder
    assert stack is not None
    if (
        len({(layer.attn.kv_heads, layer.attn.head_dim) for layer in stack.layers}) > 1
        or stack.alibi
        or (stack.relative and config.kind != "seq2seq")
        or any(layer.attn.window for layer in stack.layers)
    ):
        raise ModelError(
            "The layers of this model differ in their heads, or look at distances or windows: no prefix fits. Adapt this model with a soft "
            "prompt or LoRA."
        )
    layers, heads, channels = _sizes(config)
    return layers + (config.kind == "seq2seq" and layers % 2 == 0), heads, channels


def attach_prefix(
    model: Transformer,
    length: int,
    opened: ModelFolder,
    *,
    hidden: int = 0,
    generator: torch.Generator | None = None,
    name: str = DEFAULT,
) -> None:
    """Puts a prefix of `length` places on a model, freezes the rest but for a label head's classifier, and makes it the active one.

    opened: the folder that the model was built from. hidden: the width of the network that makes keys and values; 0: none. Raises
    RecipeError for a length or name that cannot be, ModelError for a model that takes no prefix.
    """
    pairs, heads, channels = shape(opened)
    check_name(model, name)
    check_length(model.config, length, "prefix")
    vectors = PrefixVectors(length, pairs, heads * channels, hidden, generator or torch.Generator().manual_seed(0))
    put_on(model, opened, PrefixEmbedding, PrefixFront, vectors, name)


def save_prefix(path: Path | str, model: Transformer, opened: ModelFolder, base: Binding | None = None, name: str = DEFAULT) -> Path:
    """Writes one prefix as a folder that Quire and PEFT open, whole or not at all. As `soft_prompt.save_prompt`."""
    _, heads, channels = shape(opened)
    embed = model.embed
    if not isinstance(embed, PrefixEmbedding) or name not in embed.adapters:
        raise RecipeError(f"there is no prefix {name!r} on this model.")
    with torch.no_grad():
        vectors = cast(PrefixVectors, embed.adapters[name])().detach().float().contiguous()
    said = {
        "peft_type": KIND,
        "token_dim": heads * channels,
        "num_transformer_submodules": 2 if opened.model_config.kind == "seq2seq" else 1,
        "num_attention_heads": heads,
        "num_layers": vectors.shape[1] // (2 * heads * channels),
        "prefix_projection": False,
    }
    return save(path, vectors, said, model, opened, base, name)


def is_prefix(path: Path | str) -> bool:
    """Whether an adapter's folder holds a prefix."""
    return peft_type(path) == KIND


def open_prefix(path: Path | str, model: Transformer, opened: ModelFolder, base: Binding | None = None, name: str = DEFAULT) -> str:
    """Reads a prefix's folder, Quire's or PEFT's, onto a model as its active one; returns a note, "" for none. Raises as `open_prompt`."""
    path, of = Path(path), opened.model_config
    config = read_json(path)
    _, heads, channels = shape(opened)
    check_name(model, name)
    count = length_of(config, of, (KIND,), _HARMLESS)
    layers, several = _sizes(of)[0], of.kind == "seq2seq"
    wanted = {"token_dim": (heads * channels,), "num_attention_heads": (heads,), "num_transformer_submodules": (2 if several else 1,)}
    check_fields(config, wanted | ({} if several else {"num_layers": (layers,)}))
    pairs = config.get("num_layers") or layers
    if type(pairs) is not int or pairs < layers:
        raise ModelError(f"{CONFIG}: num_layers is {str(pairs)[:80]!r}; allowed for this base: {layers} and more.")
    found = read(path, (count, 2 * pairs * heads * channels), "prefix", model, opened, base)
    vectors = PrefixVectors(count, pairs, heads * channels, 0, torch.Generator())
    with torch.no_grad():
        vectors.weight.copy_(found.vectors)
    put_on(model, opened, PrefixEmbedding, PrefixFront, vectors, name, found.names)
    found.fill(model, name)
    return found.note
