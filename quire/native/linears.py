"""A decoder with its matrices packed as int8 or int4: surgery on a built model, by name, that leaves the one forward as it is.

One token and a whole prompt go through the same packed product. Without vector kernels many rows are worth unpacking a matrix for: it is
widened to bf16 for one product and dropped again. What cannot be packed stays as it is and is named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..nn.heads import LMHeadModule
from ..nn.products import product as plain
from ..nn.transformer import Transformer
from .library import find
from .pack import BLOCK, Packed, Quant, pack, product

_FEW = 64  # rows; beyond, and without vector kernels, one product in bf16 takes less time


class PackedLinear(nn.Module):
    """x (.., M) -> act(x W' + bias) (.., N), W packed."""

    def __init__(self, packed: Packed, bias: Tensor | None = None) -> None:
        super().__init__()
        self.packed, self.bias = packed, bias

    def forward(self, x: Tensor, act: str | None = None) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        kernels, _ = find()
        if len(rows) <= _FEW or (kernels is not None and kernels.name != "portable"):
            y = product(rows, self.packed, self.bias, act or "").to(x.dtype)
        else:
            bias = None if self.bias is None else self.bias.to(torch.bfloat16)
            y = plain(rows.to(torch.bfloat16), self.packed.unpack().to(torch.bfloat16), bias, act).to(x.dtype)
        return y.view(*x.shape[:-1], -1)


class PackedHead(nn.Module):
    """`LMHeadModule` over a packed table."""

    def __init__(self, head: LMHeadModule, format: Quant) -> None:
        super().__init__()
        self.scale, self.softcap, self.bias = head.scale, head.softcap, head.bias
        self.packed = pack(head.table()[0], format)
        self.linear = PackedLinear(self.packed, self.bias)

    def transform(self, hidden: Tensor) -> Tensor:
        return hidden if self.scale == 1.0 else hidden * self.scale

    def forward(self, hidden: Tensor) -> Tensor:
        logits = self.linear(self.transform(hidden)).float()
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def pack_model(model: Transformer, format: Quant, dropped: Callable[[Tensor], None] = lambda weight: None) -> Sequence[str]:
    """Pack every matrix of a decoder in place, the head's too; returns the names of those that stay as they are. Raises ModelError.

    dropped: is given each matrix that a packed one has replaced and that nothing else of the model holds.
    The embedding stays: a token reads one row of it. A packed model is for use, not for training.
    """
    if model.decoder is None or model.encoder is not None or not isinstance(model.head, LMHeadModule):
        raise ModelError("only decoders that write text are packed as int8 or int4.")
    if format not in ("int8", "int4"):
        raise ModelError(f"quant is {format!r}; allowed: int8, int4.")
    left = []
    for name, module in list(model.decoder.named_modules()):
        if not isinstance(module, nn.Linear):
            continue
        if module.in_features % BLOCK:
            left.append(f"decoder.{name}")
            continue
        parent, _, last = name.rpartition(".")
        setattr(model.decoder.get_submodule(parent), last, PackedLinear(pack(module.weight, format), _kept(module.bias)))
        dropped(module.weight.detach())
    if model.head.table()[0].shape[1] % BLOCK:
        left.append("head")
    else:
        model.head = PackedHead(model.head, format)
    return left


def packed_bytes(model: Transformer) -> int:
    return sum(module.packed.bytes for module in model.modules() if isinstance(module, PackedLinear))


def _kept(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()
