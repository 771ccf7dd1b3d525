"""Products through oneDNN, on a CPU and without gradients: one call with bias and activation, or with the residual.

torch hands fp32 products on a CPU to MKL, which leaves more than half of the speed of some processors unused (an AMD EPYC with AVX-512:
139 of 410 GFLOP/s for 128 rows over a vocabulary of 32,128). oneDNN, which torch brings along, does not. The numbers differ by rounding.
It is two to three times as fast there, for one row as for a thousand, so `Linear` takes it wherever no gradient is wanted. A call of it
takes 11 us beside the numbers, torch's own 1 to 2: the smallest products stay with torch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FUSED = {"relu": ("relu", ""), "silu": ("swish", ""), "gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh")}

_SMALL = 400_000  # multiplications of a product; fewer are over before oneDNN has begun


def activate(name: str, x: Tensor) -> Tensor:
    if name == "silu":
        return F.silu(x)
    if name == "relu":
        return F.relu(x)
    if name == "tanh":
        return torch.tanh(x)
    return F.gelu(x, approximate="tanh" if name == "gelu_tanh" else "none")


def suits(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN computes this product here: it is worth a call, and can be."""
    return _can(x, weight) and (x.numel() * weight.shape[0] >= _SMALL or weight.is_mkldnn)


def _can(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.bfloat16)
        and type(weight) in (Tensor, nn.Parameter)
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None, act: str | None = None) -> Tensor:
    """act(x (.., M) @ weight (N, M)' + bias); the weight may be a `packed` one."""
    if act is not None and (act not in _FUSED or not suits(x, weight)):
        return activate(act, product(x, weight, bias))
    if not suits(x, weight):
        return F.linear(x, weight, bias)
    name, algorithm = ("none", "") if act is None else _FUSED[act]
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm)
    return out


def added(x: Tensor, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (.., N) + h (.., M) @ weight (N, M)' + bias."""
    if not suits(h, weight) or x.dtype != h.dtype:
        return x + F.linear(h, weight, bias)
    out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(h, x, weight, bias, "add")
    return out


def packed(weight: Tensor, rows: int) -> Tensor:
    """A copy of a weight in the order in which oneDNN reads it for products over about `rows` rows: a fifth less time each.

    It fits `product` and `added` alone, and does not follow the weight when that is trained. Weights that do not suit stay as they are.
    """
    if not _can(weight, weight):
        return weight
    copy: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return copy


class Linear(nn.Linear):
    """x (.., M) -> act(x @ weight (N, M)' + bias) (.., N)."""

    def forward(self, x: Tensor, act: str | None = None) -> Tensor:
        return product(x, self.weight, self.bias, act)
