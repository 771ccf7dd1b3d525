"""The safetensors form with torch's types. `binding.weights` reads headers, with care; here files are written as a stream.

Writing goes tensor by tensor into a durable file, so a save needs no second copy of the model in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..binding.weights import MAX_HEADER_BYTES, MAX_TENSORS, read_header
from ..durable import writing

__all__ = ["DTYPES", "FLOATING", "MAX_HEADER_BYTES", "MAX_TENSORS", "NAMES", "read_header", "write_tensors"]

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
FLOATING = ("F64", "F32", "F16", "BF16")


def write_tensors(path: Path, tensors: Iterable[tuple[str, Tensor]], metadata: dict[str, str] | None = None) -> None:
    """Write named tensors as one safetensors file, whole or not at all, in order of name. Raises StorageError."""
    ordered = sorted(tensors, key=lambda item: item[0])
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, tensor in ordered:
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers start at a multiple of eight
    with writing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            _write(file, tensor)


def _write(file: BinaryIO, tensor: Tensor) -> None:
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    if flat.numel():
        file.write(flat.view(torch.uint8).numpy().data)
