"""Keys and values in pages: memory cut into blocks of a few positions each, which belong to whoever needs them (Kwon et al. 2023).

A forward over pages reads one flat row of tokens (1, N): some tokens of each of many requests, side by side. Every product runs over all of
them at once; only attention tells requests apart. Requests with equally many new tokens form a group, whose keys are gathered through a
table of blocks. One form serves reading a prompt, a part of it, one more token, and several guessed ones. What an encoder-decoder's
cross-attention makes of a source lies in blocks too, written once and read through a table of its own.

Shapes: R requests of a group, T new tokens of each, S keys, H query heads, K key/value heads, C head channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..errors import ContextError
from .config import Attn, ModelConfig
from .position import RelativeBias

Attend = Callable[..., Tensor]


def bytes_per_block(config: ModelConfig, size: int, bytes_per_number: int) -> int:
    """What one block of `size` positions takes, over all layers."""
    return config.cache_bytes_per_token(bytes_per_number) * size


class Pages:
    """`blocks` blocks of `size` positions for every layer of a decoder: keys[layer], values[layer] (blocks, size, K, C).

    Memory is only reserved here: the system gives pages of it when they are first written, and they hold zeros until then.
    """

    def __init__(
        self, config: ModelConfig, blocks: int, size: int = 16, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> None:
        if config.decoder is None:
            raise ContextError("An encoder alone keeps no keys and values: it reads every token at once.")
        self.blocks, self.size = blocks, size
        shapes = [(blocks, size, layer.attn.kv_heads, layer.attn.head_dim) for layer in config.decoder.layers]
        self.keys = [_zeros(shape, dtype, device) for shape in shapes]
        self.values = [_zeros(shape, dtype, device) for shape in shapes]

    def write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Store k, v (K, N, C) at slots (N,): block * size + place in it."""
        for pool, new in ((self.keys[layer], k), (self.values[layer], v)):
            pool.flatten(0, 1).index_copy_(0, slots, new.transpose(0, 1).to(pool.dtype))

    def read(self, layer: int, group: Group) -> tuple[Tensor, Tensor]:
        """Keys and values (R, K, S, C) of a group's requests. One whose blocks lie side by side is read where it lies."""
        if group.run is None:
            return self.gather(layer, group.blocks, group.keys)
        keys, values = (pool.flatten(0, 1)[group.run].transpose(0, 1) for pool in (self.keys[layer], self.values[layer]))
        return keys.unsqueeze(0), values.unsqueeze(0)

    def gather(self, layer: int, blocks: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """The first `length` keys and values (R, K, S, C) in blocks (R, n)."""
        keys, values = (pool[blocks].flatten(1, 2)[:, :length].transpose(1, 2) for pool in (self.keys[layer], self.values[layer]))
        return keys, values


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    if torch.device(device).type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = torch.empty(0, dtype=dtype).element_size()
    return torch.from_numpy(np.zeros((*shape[:-1], shape[-1] * size), dtype=np.uint8)).view(dtype)  # zeros that nobody has written


@dataclass(slots=True)
class Group:
    """Requests with equally many new tokens. first: where they begin in the flat row; blocks (R, n); lengths: keys of each, new ones in.

    sources (R, m), read: blocks of what cross-attention reads, and how many keys there are of each; () for a decoder alone.
    """

    first: int
    queries: int
    blocks: Tensor
    lengths: list[int]
    run: slice | None = None  # of slots, where there is one request and its blocks lie side by side
    sources: Tensor | None = None
    read: Sequence[int] = ()
    masks: dict[int | None, Tensor | None] = field(default_factory=dict)  # by window
    source_mask: Tensor | None = None  # (R, 1, 1, S), where sources differ in length

    @property
    def rows(self) -> int:
        return len(self.lengths)

    @property
    def keys(self) -> int:
        return max(self.lengths)

    def mask(
        self, window: int | None, slopes: tuple[float, ...], device: torch.device, relative: RelativeBias | None = None
    ) -> Tensor | None:
        """What limits the scores (R, T, S): bool (R, 1, T, S), or numbers to add (R, H, T, S) where distance has a slope or a bias."""
        keys, queries = self.keys, self.queries
        length = torch.tensor(self.lengths, device=device)
        query = length[:, None] - queries + torch.arange(queries, device=device)  # (R, T): positions
        distance = query[:, :, None] - torch.arange(keys, device=device)  # (R, T, S)
        alike = self.rows == 1 or (queries == 1 and len(set(self.lengths)) == 1)
        if alike and (window is None or keys <= window) and not slopes and relative is None:
            return None  # all keys, or those of one request up to each query: attention needs no mask for that
        seen = distance >= 0
        if window is not None:
            seen &= distance < window
        mask = seen.unsqueeze(1)
        if relative is not None:
            return torch.where(mask, relative.behind(distance), float("-inf"))
        if not slopes:
            return mask
        bias = torch.tensor(slopes, device=device)[None, :, None, None] * -distance.unsqueeze(1)
        return torch.where(mask, bias, float("-inf"))


@dataclass(slots=True)
class Paged:
    """What attention must know to read and write pages in one forward. slots (n,): where each token's key goes.

    A flat row may be longer than its n tokens: what fills it up is written nowhere, and attention gives it zeros.
    reach: the length of the text by which rotary scaling is chosen, where it depends on it; the same for all requests of a forward.
    """

    pages: Pages
    slots: Tensor
    groups: list[Group]
    reach: int

    def prepare(self, windows: set[int | None], slopes: tuple[float, ...], relative: RelativeBias | None = None) -> None:
        """Build every group's masks, once a forward."""
        device = self.slots.device
        for group in self.groups:
            for window in windows:
                group.masks[window] = group.mask(window, slopes, device, relative)
            if len(set(group.read)) > 1:
                read = torch.tensor(group.read, device=device)
                group.source_mask = (torch.arange(max(group.read), device=device) < read[:, None])[:, None, None]

    def attend(self, attend: Attend, attn: Attn, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (1, H, N, C), new k and v (1, K, N, C) -> (1, H, N, C)."""
        tokens = len(self.slots)
        self.pages.write(layer, self.slots, k[0, :, :tokens], v[0, :, :tokens])
        return self._each(attend, attn, q, [(*self.pages.read(layer, group), group.masks[attn.window]) for group in self.groups])

    def cross(self, attend: Attend, attn: Attn, layer: int, q: Tensor) -> Tensor:
        """q (1, H, N, C) over what lies in the pages of each request's source -> (1, H, N, C)."""
        sides = []
        for group in self.groups:
            if group.sources is None:
                raise ContextError("Cross-attention has nothing to look at: give the blocks of each request's source.")
            sides.append((*self.pages.gather(layer, group.sources, max(group.read)), group.source_mask))
        return self._each(attend, attn, q, sides)

    def _each(self, attend: Attend, attn: Attn, q: Tensor, sides: Sequence[tuple[Tensor, Tensor, Tensor | None]]) -> Tensor:
        """The queries of each group over its keys and values (R, K, S, C), limited by its mask."""
        found = []
        for group, (keys, values, mask) in zip(self.groups, sides, strict=True):
            r, t = group.rows, group.queries
            part = q[0, :, group.first : group.first + r * t].unflatten(1, (r, t)).transpose(0, 1)  # (R, H, T, C)
            # without a mask, several queries are one request's alone and look at all up to themselves
            causal = mask is None and t > 1 and attn.causal
            out = attend(part, keys.to(q.dtype), values.to(q.dtype), causal=causal, mask=mask, scale=attn.scale, softcap=attn.softcap)
            found.append(out.transpose(0, 1).flatten(1, 2))  # (H, R*T, C)
        if (filling := q.shape[2] - len(self.slots)) > 0:
            found.append(q.new_zeros(q.shape[1], filling, q.shape[3]))
        return torch.cat(found, 1).unsqueeze(0) if len(found) > 1 else found[0].unsqueeze(0)
