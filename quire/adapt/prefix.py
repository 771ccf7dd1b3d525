"""Prefix tuning: keys and values that stand in front of every layer's own, trained while the whole model is frozen (Li and Liang 2021).

To a decoder they are what a cache already holds before the first token, so nothing but the cache's beginning is new: positions begin behind
them, and training, scoring and the plain loop of decoding compute alike. While it is trained a small network may make them (`hidden`); what
is saved is what it made. For decoders: what PEFT puts before an encoder's layers has no cache to stand in.

On disk it is PEFT's: `prompt_embeddings` (n, 2 L K C), the keys of a layer before its values. L layers, K key/value heads, C channels.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..binding import Binding
from ..errors import ContextError, ModelError, RecipeError, WeightsError
from ..families.folder import ModelFolder
from ..nn.attention import AttnContext
from ..nn.cache import Cache
from ..nn.config import LMHead, ModelConfig
from ..nn.transformer import Transformer
from .folder import CONFIG, WEIGHTS, proven, read_json, read_slots, read_tensors, refuse_unknown, task_type, weights_hash, write
from .lora import Wrapper
from .soft_prompt import MAX_TOKENS
from .surgery import DEFAULT, activate, check_name, put

KIND, _KEY = "PREFIX_TUNING", "prompt_embeddings"
_STD = 0.02  # of first vectors that no network makes
_HARMLESS = frozenset(
    """auto_mapping base_model_name_or_path revision inference_mode peft_version task_type prefix_projection init_weights
    encoder_hidden_size""".split()
)
_READ = frozenset("peft_type num_virtual_tokens token_dim num_transformer_submodules num_attention_heads num_layers".split())


class PrefixVectors(nn.Module):
    """Keys and values of one prefix, (n, 2 L K C); hidden: the width of the network that makes them of (n, K C), 0 for none."""

    def __init__(self, length: int, layers: int, width: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        first = torch.randn(length, width if hidden else 2 * layers * width, generator=generator)
        self.weight = nn.Parameter(first if hidden else first * _STD)
        self.network: nn.ModuleList | None = None
        if hidden:
            self.network = nn.ModuleList((nn.Linear(width, hidden), nn.Linear(hidden, 2 * layers * width)))
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
    """Begins a decoder's cache with the active prefix."""

    pages = False
    ids: list[int] = []

    def __init__(self, model: Transformer) -> None:
        self.model, self.whole = model, model.config

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
        layers, heads, channels = shape(self.whole)
        both = active().view(-1, layers, 2, heads, channels).permute(2, 1, 3, 0, 4)  # (n, L, 2, K, C) -> (2, L, K, n, C)
        keys, values = both[:, :, None].expand(-1, -1, rows, -1, -1, -1)
        return keys, values

    def seen(self, keep: Tensor | None) -> Tensor | None:
        return None if keep is None else F.pad(keep, (self._count, 0), value=True)


def shape(config: ModelConfig) -> tuple[int, int, int]:
    """(layers, key/value heads, channels of a head) of a decoder. Raises ModelError for a model that takes no prefix."""
    stack = config.decoder
    if stack is None or config.encoder is not None or not isinstance(config.head, LMHead):
        raise ModelError("A prefix is for decoders that write text. Adapt this model with LoRA, or an encoder-decoder with a soft prompt.")
    sizes = {(layer.attn.kv_heads, layer.attn.head_dim) for layer in stack.layers}
    if len(sizes) > 1 or stack.relative or stack.alibi or any(layer.attn.window for layer in stack.layers):
        raise ModelError(
            "The layers of this model differ in their heads, or look at distances or windows: no prefix fits. Use a soft prompt."
        )
    [(heads, channels)] = sizes
    return len(stack.layers), heads, channels


def attach_prefix(
    model: Transformer, length: int, *, hidden: int = 0, generator: torch.Generator | None = None, name: str = DEFAULT
) -> None:
    """Puts a prefix of `length` places on a model, freezes the rest, and makes it the active one.

    hidden: the width of the network that makes its keys and values; 0: none. Raises RecipeError for a length or name that cannot be,
    ModelError for a model that takes no prefix.
    """
    layers, heads, channels = shape(model.config)
    check_name(model, name)
    if not 1 <= length < min(model.config.context, MAX_TOKENS):
        raise RecipeError(f"the prefix's length is {length}; allowed is 1 to {min(model.config.context, MAX_TOKENS) - 1}.")
    if not isinstance(model.embed, PrefixEmbedding):
        if isinstance(model.embed, Wrapper):
            raise ModelError("The embedding is adapted already. A prefix and another adapter of the embedding do not go together.")
        put(model, "embed", PrefixEmbedding(cast(nn.Module, model.embed)).train(model.training))
    embed = cast(PrefixEmbedding, model.embed)
    vectors = PrefixVectors(length, layers, heads * channels, hidden, generator or torch.Generator().manual_seed(0))
    embed.adapters[name] = vectors.to(embed.weight.device).train(model.training)
    model.front = model.front or PrefixFront(model)
    activate(model, name)


def save_prefix(path: Path | str, model: Transformer, opened: ModelFolder, base: Binding | None = None, name: str = DEFAULT) -> Path:
    """Writes one prefix as a folder that Quire and PEFT open, whole or not at all. As `soft_prompt.save_prompt`."""
    layers, heads, channels = shape(opened.model_config)
    with torch.no_grad():
        vectors = cast(PrefixVectors, cast(PrefixEmbedding, model.embed).adapters[name])().detach().float().contiguous()
    said = {
        "peft_type": KIND,
        "task_type": task_type(opened.model_config),
        "base_model_name_or_path": str(opened.path),
        "inference_mode": True,
        "num_virtual_tokens": vectors.shape[0],
        "token_dim": heads * channels,
        "num_transformer_submodules": 1,
        "num_attention_heads": heads,
        "num_layers": layers,
        "prefix_projection": False,
    }
    return write(Path(path), {_KEY: vectors}, said, base, opened.changed)


def is_prefix(path: Path | str) -> bool:
    """Whether an adapter's folder holds a prefix."""
    return read_json(Path(path)).get("peft_type") == KIND


def open_prefix(path: Path | str, model: Transformer, opened: ModelFolder, base: Binding | None = None, name: str = DEFAULT) -> str:
    """Reads a prefix's folder, Quire's or PEFT's, onto a model as its active one; returns a note, "" for none. Raises as `open_prompt`."""
    path, config = Path(path), read_json(Path(path))
    layers, heads, channels = shape(opened.model_config)
    if config.get("peft_type") != KIND:
        raise ModelError(f"{CONFIG}: peft_type is {str(config.get('peft_type'))[:80]!r}; allowed is {KIND}.")
    refuse_unknown(config, _HARMLESS | _READ)
    wanted = {"token_dim": heads * channels, "num_layers": layers, "num_attention_heads": heads, "num_transformer_submodules": 1}
    for field, value in wanted.items():
        if config.get(field) not in (None, value):
            raise ModelError(f"{CONFIG}: {field} is {str(config[field])[:80]!r}; this base has {value}.")
    count, most = config.get("num_virtual_tokens"), min(opened.model_config.context, MAX_TOKENS) - 1
    if type(count) is not int or not 1 <= count <= most:
        raise ModelError(f"{CONFIG}: num_virtual_tokens is {str(count)[:80]!r}; allowed is 1 to {most}.")
    slots = read_slots(path)
    note = proven(path, base, weights_hash(path), opened.path)
    size = (count, 2 * layers * heads * channels)
    if set(slots) != {_KEY} or slots[_KEY].shape != size:
        raise WeightsError(f"{path / WEIGHTS} holds {sorted(slots)[:3]}; a prefix of this base is {_KEY} of shape {size}.")
    vectors = read_tensors(path, slots)[_KEY]
    attach_prefix(model, count, name=name)
    with torch.no_grad():
        cast(PrefixVectors, cast(PrefixEmbedding, model.embed).adapters[name]).weight.copy_(vectors)
    return note
