"""Norms and feed-forward parts.

A norm may return its output in another dtype (`narrow`): under autocast several products read one norm, and each would cast it again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .config import FFN, Norm
from .dropout import dropped
from .products import Linear, activate


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * (weight + offset) (Zhang & Sennrich 2019); the division in fp32.

    torch fuses this on a GPU; on a CPU it runs as seven passes over memory and more backward, so a CPU gets a function of its own.
    """

    def __init__(self, width: int, eps: float, offset: float = 0.0) -> None:
        super().__init__()
        self.eps, self.offset = eps, offset
        self.weight = nn.Parameter(torch.full((width,), 1.0 - offset))

    def forward(self, x: Tensor, narrow: torch.dtype | None = None) -> Tensor:
        # an offset is added in fp32: one plus a small number keeps few digits of it in 16 bits
        weight = self.weight.float() + self.offset if self.offset else self.weight
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            y = F.rms_norm(x, weight.shape, weight if weight.dtype == x.dtype else None, self.eps)
            y = y if weight.dtype == x.dtype else (y * weight).to(x.dtype)
            return y if narrow is None else y.to(narrow)
        if torch.is_grad_enabled():
            return _RMS.apply(x, weight, self.eps, narrow)
        if x.dtype == torch.float32 and narrow is None and x.numel() == weight.numel():
            # one token: four calls, of which two touch the numbers; a dot product and a Python float replace five
            row = x.reshape(-1)
            return (x * weight).mul_((torch.dot(row, row).item() / row.numel() + self.eps) ** -0.5)
        return _rms(x, _rms_factor(x, self.eps), weight, narrow)


def _rms_factor(x: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x^2) + eps), (.., 1), at least in fp32."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide).square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def _rms(x: Tensor, factor: Tensor, weight: Tensor, narrow: torch.dtype | None) -> Tensor:
    y = x * factor  # fp32 even when x is not
    if narrow is None or narrow == y.dtype:
        if y.dtype in (x.dtype, weight.dtype):
            return y.mul_(weight).to(x.dtype)
        return y.to(x.dtype).mul_(weight)
    return torch.mul(y, weight, out=torch.empty_like(y, dtype=narrow))  # multiplied in fp32, rounded as it is written


class _RMS(torch.autograd.Function):
    """The backward pass borrows layer norm's fused kernel, told that the mean is 0; what it subtracts for the mean is added back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, narrow: torch.dtype | None) -> Tensor:
        factor = _rms_factor(x, eps)
        ctx.save_for_backward(x, weight, factor)
        return _rms(x, factor, weight, narrow)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, factor = ctx.saved_tensors
        width, dtype = x.shape[-1], factor.dtype
        grad, wide = grad.to(dtype), weight.to(dtype)
        grad_x, grad_weight, _ = torch.ops.aten.native_layer_norm_backward(
            grad, x.to(dtype), [width], torch.zeros_like(factor), factor, wide, None, [True, True, False]
        )
        grad_x.add_((grad @ wide).unsqueeze(-1).mul_(factor).div_(width))
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), None, None


class LayerNorm(nn.LayerNorm):
    """(x - mean) / sqrt(variance + eps) * weight + bias (Ba et al. 2016)."""

    def forward(self, x: Tensor, narrow: torch.dtype | None = None) -> Tensor:
        y = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return y if narrow is None else y.to(narrow)


def make_norm(norm: Norm, width: int) -> RMSNorm | LayerNorm:
    return RMSNorm(width, norm.eps, norm.offset) if norm.kind == "rms" else LayerNorm(width, norm.eps, bias=norm.bias)


# name of an activation -> (gradient above it, what went into it) -> gradient below it
_SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "silu": torch.ops.aten.silu_backward,
    "gelu": torch.ops.aten.gelu_backward,
    "gelu_tanh": functools.partial(torch.ops.aten.gelu_backward, approximate="tanh"),
}


class _Gated(torch.autograd.Function):
    """act(gate) * up, of which gate and up alone are kept: what the activation made is made again, one wide tensor less for each layer."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, act: str) -> Tensor:
        ctx.act = act
        ctx.save_for_backward(gate, up)
        return activate(act, gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        return _SLOPES[ctx.act](grad * up, gate), activate(ctx.act, gate).mul_(grad), None


class FeedForward(nn.Module):
    """down(act(up(x))), or down(act(gate(x)) * up(x)) when gated (Shazeer 2020)."""

    def __init__(self, ffn: FFN, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.act, self.dropout = ffn.act, dropout
        self.gate = Linear(width, ffn.hidden, ffn.bias) if ffn.gated else None
        self.up = Linear(width, ffn.hidden, ffn.bias)
        self.down = Linear(ffn.hidden, width, ffn.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is not None and self.act in _SLOPES and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            hidden: Tensor = _Gated.apply(self.gate(x), self.up(x), self.act)
        else:
            inner = self.up if self.gate is None else self.gate
            # a linear of ours does both in one call; what wraps it (an adapter) need not know of that
            hidden = inner(x, self.act) if type(inner) is Linear else activate(self.act, inner(x))
            if self.gate is not None:
                hidden = hidden * self.up(x)
        if self.dropout and self.training:
            hidden = dropped(hidden, self.dropout)
        return self.down(hidden)
