"""NF4 with double quantization, as QLoRA has it (Dettmers et al. 2023): four bits a weight, for a base that is frozen.

A matrix is read row after row in blocks of 64. Each block is divided by its largest absolute number, and every number becomes the nearest
of 16 levels that stand where a normal distribution has equal shares. Double quantization keeps those largest numbers, less their mean, in
8 bits: blocks of 256 over a table whose steps grow with the number (Dettmers 2015). That makes 4.127 bits a weight. Tables and rounding
are those of bitsandbytes, so a matrix that either packs, both unpack to the same numbers.

The product is computed in bf16, forward and backward: the matrix is unpacked for it and dropped again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..errors import ModelError
from ..nn.moe import Experts
from ..nn.transformer import Transformer

BLOCK, GROUP = 64, 256  # weights that share a largest number; largest numbers that share theirs

# Quantiles of a normal distribution, scaled to [-1, 1], with an exact zero (QLoRA, appendix E).
LEVELS = torch.tensor(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ]
)


def dynamic_levels() -> Tensor:
    """256 numbers in [-1, 1]: a sign, up to seven leading zeros that stand for powers of ten, and a fraction in the bits that are left."""
    levels = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1)
        middles = ((edges[:-1] + edges[1:]) / 2.0) * 10 ** (exponent - 6)
        levels += [*middles.tolist(), *(-middles).tolist()]
    return torch.tensor(sorted(levels))


DYNAMIC = dynamic_levels()


def _nearest(numbers: Tensor, levels: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """numbers (N,) -> (which level each is nearest to (N,) uint8, largest of each block); the last block may be shorter."""
    count = numbers.numel()
    padded = F.pad(numbers.float(), (0, -count % block)).view(-1, block)
    largest = padded.abs().amax(1)
    scaled = padded * (1.0 / largest.clamp(min=1e-38))[:, None]
    if count % block:  # bitsandbytes divides here, and multiplies above: the last bit may decide
        scaled[-1] = padded[-1] / largest[-1].clamp(min=1e-38)
    scaled.clamp_(-1, 1)
    middles = (levels[:-1] + levels[1:]) / 2
    return torch.bucketize(scaled, middles, out_int32=True).to(torch.uint8).view(-1)[:count], largest


class NF4(nn.Module):
    """A matrix (out, in) in four bits: `codes` two a byte, the first in the high half; `largest` of each block in 8 bits or in fp32."""

    codes: Tensor
    largest: Tensor
    groups: Tensor | None
    offset: Tensor | None

    def __init__(self, weight: Tensor, double: bool = True) -> None:
        super().__init__()
        self.shape, self.dtype = tuple(weight.shape), weight.dtype
        codes, largest = _nearest(weight.detach().reshape(-1), LEVELS.to(weight.device), BLOCK)
        codes = F.pad(codes, (0, codes.numel() % 2), value=7)  # the level that is zero
        groups = offset = None
        if double:
            offset = largest.mean()
            largest, groups = _nearest(largest - offset, DYNAMIC.to(weight.device), GROUP)
        self.register_buffer("codes", codes[::2] << 4 | codes[1::2])
        self.register_buffer("largest", largest)
        self.register_buffer("groups", groups)
        self.register_buffer("offset", offset)

    @property
    def bytes(self) -> int:
        return sum(buffer.nbytes for buffer in self.buffers())

    def unpack(self, dtype: torch.dtype) -> Tensor:
        """The matrix (out, in): multiplied in fp32, then rounded."""
        device, largest = self.codes.device, self.largest
        if self.groups is not None and self.offset is not None:
            largest = F.pad(DYNAMIC.to(device)[largest.int()], (0, -largest.numel() % GROUP)).view(-1, GROUP) * self.groups[:, None]
            largest = largest.view(-1)[: self.largest.numel()] + self.offset
        numbers = self.shape[0] * self.shape[1]
        pairs = _pairs(device)[self.codes.int()].view(-1)[:numbers]  # (N / 2, 2): both numbers of a byte in one look-up
        full = numbers // BLOCK * BLOCK
        out = torch.empty(numbers, dtype=dtype, device=device)
        torch.mul(pairs[:full].view(-1, BLOCK), largest[: full // BLOCK, None], out=out[:full].view(-1, BLOCK))
        if full < numbers:
            out[full:] = pairs[full:] * largest[-1]
        return out.view(self.shape)


def _pairs(device: torch.device) -> Tensor:
    """(256, 2): the two numbers of every byte."""
    byte = torch.arange(256)
    return torch.stack((LEVELS[byte >> 4], LEVELS[byte & 15]), 1).to(device)


class _Product(torch.autograd.Function):
    """x W' with W unpacked once forward and once backward, and never kept between."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: NF4) -> Tensor:
        ctx.packed = packed
        return F.linear(x, packed.unpack(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ ctx.packed.unpack(grad.dtype), None


class NF4Linear(nn.Module):
    """x (.., in) -> x W' + bias (.., out) in `compute`, given back in x's dtype. W is frozen."""

    def __init__(self, weight: Tensor, bias: Tensor | None, double: bool = True, compute: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.packed, self.compute = NF4(weight, double), compute
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.out_features, self.in_features = weight.shape

    def unpacked(self) -> Tensor:
        """W (out, in), in the dtype that it had."""
        return self.packed.unpack(self.packed.dtype)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Product.apply(x.to(self.compute), self.packed)  # type: ignore[no-untyped-call]
        return (y if self.bias is None else y + self.bias.to(self.compute)).to(x.dtype)


def quantize_model(
    model: Transformer,
    *,
    double: bool = True,
    compute: torch.dtype = torch.bfloat16,
    dropped: Callable[[Tensor], None] = lambda weight: None,
) -> Sequence[str]:
    """Packs every linear of the stacks in place and freezes the rest; returns the names of those that were packed. For training adapters.

    Embeddings, norms, head, routers and experts stay as they are. dropped: is given each matrix that a packed one has replaced. Raises
    ModelError where nothing is there to pack: it was done already, or an adapter is on it.
    """
    inside = {id(part) for module in model.modules() if isinstance(module, Experts) for part in module.modules()}
    names = []
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear) or id(module) in inside or name.startswith("head."):
            continue
        if ".base" in name or ".adapters" in name:
            raise ModelError(f"{name} belongs to an adapter. Pack the base first, then attach adapters to it.")
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, NF4Linear(module.weight, module.bias, double, compute))
        dropped(module.weight.detach())
        names.append(name)
    if not names:
        raise ModelError("there is no linear to pack: this model was packed already.")
    return names
