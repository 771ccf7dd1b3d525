"""Products of many rows through oneDNN, on a CPU and without gradients: one call with bias and activation, or with the residual.

torch hands fp32 products on a CPU to MKL, which leaves more than half of the speed of some processors unused (an AMD EPYC with AVX-512:
139 of 410 GFLOP/s for 128 rows over a vocabulary of 32,128). oneDNN, which torch brings along, does not. The numbers differ by rounding.
`onednn()` sends every product of a forward that way, without another forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .layers import activate

_FUSED = {"relu": ("relu", ""), "silu": ("swish", ""), "gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh")}


def suits(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN computes this product here."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.bfloat16)
        and type(weight) in (Tensor, torch.nn.Parameter)
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        and torch.backends.mkldnn.is_available()
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
    if not suits(weight, weight):
        return weight
    copy: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return copy


class onednn(TorchFunctionMode):
    """Inside, every `F.linear` that suits goes through oneDNN. For forwards over many rows: each torch call costs a microsecond more."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.linear and len(args) >= 2 and suits(args[0], args[1]):
            bias = args[2] if len(args) > 2 else (kwargs or {}).get("bias")
            return torch.ops.mkldnn._linear_pointwise(args[0], args[1], bias, "none", [], "")
        return func(*args, **(kwargs or {}))
