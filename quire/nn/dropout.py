"""Dropout (Srivastava et al. 2014) whose masks cost little on a CPU.

torch draws a number of its Mersenne twister for every element, a quarter of a step of a small encoder, and keeps the mask for the backward
pass. Here four elements share a number of 64 bits, fifteen bits each: what is kept is a 16-bit word of ones, made by a subtraction and a
shift, and laid over the numbers' own bits. The rate is p to the nearest 32768th and what is kept is scaled by exactly what it leaves. The
backward pass draws the same mask again from a seed, which comes from torch's own generator, so the trainer's seed decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_SMALL = 1 << 10  # elements below which there is nothing to save
_WORDS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


def dropped(x: Tensor, p: float) -> Tensor:
    """x with a share p of its elements zero and the others scaled up. For training: the caller knows when."""
    if p <= 0.0:
        return x
    if x.device.type != "cpu" or x.numel() < _SMALL or x.dtype not in _WORDS or torch.compiler.is_compiling():
        return F.dropout(x, p)
    result: Tensor = _Dropout.apply(x, p, new_seed())
    return result


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, seed: int) -> Tensor:
        ctx.p, ctx.seed = p, seed
        return _over(x, p, seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _over(grad, ctx.p, ctx.seed), None, None


def _over(x: Tensor, p: float, seed: int) -> Tensor:
    y = x.clone(memory_format=torch.contiguous_format)
    return keep_(y, p, torch.Generator().manual_seed(seed)).mul_(kept_scale(p))


def new_seed() -> int:
    """From torch's generator."""
    return int(torch.randint(2**62, ()))


def keep_(x: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """Sets a share p of the elements of a contiguous x to zero, in place; the others stay as they are (see `kept_scale`)."""
    word = _WORDS[x.dtype]
    x.view(word).bitwise_and_(kept(x.shape, p, generator).to(word))
    return x


def kept(shape: Sequence[int], p: float, generator: torch.Generator) -> Tensor:
    """int16: -1, all bits set, where an element is kept, else 0."""
    count = math.prod(shape)
    drawn = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator).view(torch.int16)
    return drawn[:count].bitwise_and_(0x7FFF).sub_(_below(p)).bitwise_right_shift_(15).view(*shape)


def kept_scale(p: float) -> float:
    """What is kept is multiplied by this."""
    return 32768 / _below(p)


def _below(p: float) -> int:
    return max(1, round(32768 * (1 - p)))
