"""Packed weights, and products with weights of every format; each with its twin in plain torch.

int8 and int4 keep blocks of 32 columns with one fp16 scale each, symmetric: 8.5 and 4.5 bits a weight, the very numbers of llama.cpp's
Q8_0 and Q4_0, with sixteen rows interleaved for the vector units (`abi.h` draws the layout). Activations meet them as int8, quantized
a block at a time when they are used. bf16 and fp32 weights are read where they lie.

Shapes: M tokens, N rows of a weight (outputs), K columns (inputs).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ModelError
from .library import ACTS, FORMATS, Weight, byref, find, threads

Quant = Literal["int8", "int4"]
TILE, BLOCK = 16, 32


@dataclass(frozen=True, slots=True)
class Packed:
    """A weight (rows, cols) in blocks. data: bytes, uint8; scales: fp16, (tiles, blocks, 16)."""

    format: Quant
    rows: int
    cols: int
    data: Tensor
    scales: Tensor

    @property
    def bytes(self) -> int:
        return self.data.numel() + 2 * self.scales.numel()

    def numbers(self) -> tuple[Tensor, Tensor]:
        """(integers (N, K/32, 32) as fp32, scales (N, K/32) in fp32): the value of a weight is their product."""
        tiles, blocks = self.scales.shape[:2]
        if self.format == "int8":
            q = self.data.view(torch.int8).view(tiles, blocks, 8, TILE, 4)
        else:
            both = self.data.view(tiles, blocks, 4, TILE, 4)
            q = torch.cat((both & 15, both >> 4), 2).to(torch.int8) - 8
        q = q.permute(0, 3, 1, 2, 4).reshape(tiles * TILE, blocks, BLOCK)  # (tiles, blocks, 8, 16, 4) -> (N, K/32, 32)
        s = self.scales.permute(0, 2, 1).reshape(tiles * TILE, blocks)
        return q[: self.rows].float(), s[: self.rows].float()

    def unpack(self) -> Tensor:
        """The weight (N, K) in fp32."""
        q, s = self.numbers()
        return (q * s.unsqueeze(-1)).view(self.rows, self.cols)


def pack(weight: Tensor, format: Quant) -> Packed:
    """weight (N, K), fp32 or bf16 -> blocks. K must be a multiple of 32. Raises ModelError."""
    _packable(weight, format)
    kernels, _ = find()
    if kernels is None:
        return pack_plain(weight, format)
    weight = weight.detach().contiguous()
    n, k = weight.shape
    tiles, blocks = -(-n // TILE), k // BLOCK
    data = torch.zeros(tiles * blocks * TILE * (BLOCK if format == "int8" else BLOCK // 2), dtype=torch.uint8)
    scales = torch.zeros(tiles, blocks, TILE, dtype=torch.float16)
    narrow = weight.dtype == torch.bfloat16
    kernels.lib.qn_pack(weight.data_ptr(), narrow, n, k, format == "int4", data.data_ptr(), scales.data_ptr(), threads())
    return _finite(Packed(format, n, k, data, scales))


def pack_plain(weight: Tensor, format: Quant) -> Packed:
    """The same bytes as `pack`, in plain torch."""
    _packable(weight, format)
    n, k = weight.shape
    x = weight.detach().float().view(n, k // BLOCK, BLOCK)
    place = x.abs().argmax(-1, keepdim=True)
    most = x.gather(-1, place)
    d = most / -8.0 if format == "int4" else most.abs() / 127.0
    y = x * torch.where(d == 0, 0.0, 1.0 / d)
    if format == "int4":
        q = (y + 8.5).to(torch.int32).clamp(0, 15).to(torch.uint8)
    else:
        whole = y.trunc()
        q = (whole + (y - whole).abs().ge(0.5) * y.sign()).to(torch.int8).view(torch.uint8)  # halves away from zero, as C's roundf
    tiles, blocks = -(-n // TILE), k // BLOCK
    q = F.pad(q, (0, 0, 0, 0, 0, tiles * TILE - n)).view(tiles, TILE, blocks, 8, 4).permute(0, 2, 3, 1, 4)  # (tiles, blocks, 8, 16, 4)
    if format == "int4":
        q = q[:, :, :4] | q[:, :, 4:] << 4
    scales = F.pad(d.squeeze(-1).half(), (0, 0, 0, tiles * TILE - n)).view(tiles, TILE, blocks).permute(0, 2, 1)
    return _finite(Packed(format, n, k, q.reshape(-1).contiguous(), scales.contiguous()))


def _packable(weight: Tensor, format: str) -> None:
    if format not in ("int8", "int4"):
        raise ModelError(f"there is no packed format '{format}'; there are int8 and int4")
    if weight.dim() != 2 or weight.shape[1] % BLOCK or weight.dtype not in (torch.float32, torch.bfloat16) or weight.device.type != "cpu":
        shape = "x".join(map(str, weight.shape))
        raise ModelError(
            f"a weight of {shape} in {weight.dtype} on {weight.device} cannot be packed: it must be a matrix in fp32 or bf16 on the CPU "
            f"whose columns are a multiple of {BLOCK}"
        )


def _finite(packed: Packed) -> Packed:
    if not packed.scales.isfinite().all():
        raise ModelError("a weight holds numbers that are not finite, or beyond 8 million; it cannot be packed")
    return packed


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """Activations (M, K) -> (integers (M, K/32, 32) as fp32, scales (M, K/32)), as the kernels quantize them."""
    x = x.view(len(x), -1, BLOCK)
    d = x.abs().amax(-1) / 127.0
    inverse = torch.where(d > 0, 1.0 / d, 0.0)
    return (x * inverse.unsqueeze(-1)).round().clamp(-127, 127), d


def product(x: Tensor, weight: Tensor | Packed, bias: Tensor | None = None, act: str = "", asked: int = 0) -> Tensor:
    """x (M, K) in fp32 or bf16 -> act(x W' + bias) (M, N) in the same. weight: a matrix (N, K) in fp32 or bf16, or packed.

    A token's result does not depend on the others beside it, nor on the number of threads. asked: threads; 0: as torch.
    """
    kernels, _ = find()
    if kernels is None:
        return product_plain(x, weight, bias, act).to(x.dtype)
    if x.dtype != torch.bfloat16:
        x = x.float()
    x = x.contiguous()
    if x.dim() != 2 or x.shape[1] != (weight.cols if isinstance(weight, Packed) else weight.shape[1]):
        raise ModelError(f"x of {tuple(x.shape)} does not fit this weight")
    record, kept = describe(weight, bias)
    y = torch.empty(len(x), record.rows, dtype=x.dtype)
    narrow = x.dtype == torch.bfloat16
    if not kernels.lib.qn_product(byref(record), x.data_ptr(), y.data_ptr(), narrow, len(x), ACTS[act], threads(asked)):
        raise MemoryError
    del kept
    return y


def product_plain(x: Tensor, weight: Tensor | Packed, bias: Tensor | None = None, act: str = "", rounds: bool = True) -> Tensor:
    """The twin of `product`. rounds: x is rounded to bf16 where the weight is bf16, as torch does."""
    from ..nn.products import activate

    x = x.float()
    if isinstance(weight, Packed):
        q, d = quantized(x)
        y = F.linear((q * d.unsqueeze(-1)).view_as(x), weight.unpack())
    else:
        y = F.linear(x.to(weight.dtype).float() if rounds else x, weight.detach().float())
    if bias is not None:
        y = y + bias.float()
    return activate(act, y) if act else y


def describe(weight: Tensor | Packed, bias: Tensor | None = None) -> tuple[Weight, list[Tensor]]:
    """A weight as the kernels read it, and the tensors that must outlive the record. Read in place wherever its rows are contiguous."""
    extra = bias.detach().float().contiguous() if bias is not None else None
    pointer = ctypes.c_void_p(extra.data_ptr() if extra is not None else None)
    if isinstance(weight, Packed):
        record = Weight(FORMATS[weight.format], weight.rows, weight.cols, 0, weight.data.data_ptr(), weight.scales.data_ptr(), pointer)
        return record, [t for t in (weight.data, weight.scales, extra) if t is not None]
    name = {torch.float32: "fp32", torch.bfloat16: "bf16"}.get(weight.dtype)
    if name is None or weight.dim() != 2 or weight.device.type != "cpu":
        raise ModelError(f"the kernels read matrices in fp32 or bf16 on the CPU, not {weight.dtype} on {weight.device}")
    matrix = weight.detach().contiguous()
    record = Weight(FORMATS[name], *matrix.shape, 0, matrix.data_ptr(), None, pointer)
    return record, [t for t in (matrix, extra) if t is not None]
