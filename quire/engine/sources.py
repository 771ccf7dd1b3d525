"""What an encoder-decoder's new requests read: their sources go through the encoder together, once, and what cross-attention makes of them
lies in pages beside the keys and values of what they write. From then on such a request is one like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..decode.beam import padded
from ..decode.rows import encode
from ..errors import RecipeError
from ..nn.paged import Group, Pages
from ..nn.transformer import Block, Transformer
from .request import Request


def check(model: Transformer) -> None:
    """Raises RecipeError for cross-attention whose keys do not fit into the pages of self-attention."""
    for layer in model.config.decoder.layers if model.config.decoder else ():
        if layer.cross and (layer.cross.kv_heads, layer.cross.head_dim) != (layer.attn.kv_heads, layer.attn.head_dim):
            raise RecipeError("cross-attention of this model has heads of another size than self-attention: they cannot share pages.")


@torch.inference_mode()
def read(model: Transformer, pages: Pages, requests: Sequence[Request]) -> None:
    """The encoder over sources that nobody has read yet, and every layer's keys and values of them, without the padding, into pages."""
    ordered = sorted(requests, key=lambda request: request.unread)
    sources, size = [request.source or [] for request in ordered], pages.size
    if not sources or model.decoder is None:
        return
    tokens, keep = padded(sources, model.embed.weight.device)
    memory = encode(model, tokens, keep)  # (R, S, D)
    memory = memory.flatten(0, 1) if keep is None else memory[keep]  # (N, D)
    slots = [r.source_blocks[place // size] * size + place % size for r, ids in zip(ordered, sources) for place in range(len(ids))]
    where = torch.tensor(slots, device=memory.device)
    for block in model.decoder.layers:
        assert isinstance(block, Block) and block.cross is not None
        keys, values = block.cross.sides(memory[None])  # (1, K, N, C)
        pages.write(block.cross.layer, where, keys[0], values[0])
    for request in ordered:
        request.source_read = True


def attach(group: Group, requests: Sequence[Request], size: int, device: torch.device) -> None:
    """Tells a group where the sources of its requests lie."""
    if requests[0].source is None:
        return
    group.read = [len(request.source or ()) for request in requests]
    width = -(-max(group.read) // size)
    tables = [[*request.source_blocks, *[0] * (width - len(request.source_blocks))] for request in requests]
    group.sources = torch.tensor(tables, device=device)
