"""The safetensors form: headers read with care, files written as a stream.

A file is eight bytes of length, a JSON header and one block of numbers. Headers come from strangers, so their size and number of entries
are capped and every offset is checked before the library sees the file. Writing goes tensor by tensor into a durable file, so a save needs
no second copy of the model in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from quire.durable import writing
from quire.errors import WeightsError

MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS = 50_000
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


@dataclass(frozen=True)
class Slot:
    """Where a tensor lies: its file, dtype (safetensors' word) and shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def strict_json(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object without repeated keys. Raises WeightsError naming `what`."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ValueError("a key is repeated")
        return table

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{what} is not a JSON object ({error}). The file is damaged; fetch or save it again.") from None
    if not isinstance(value, dict):
        raise WeightsError(f"{what} is not a JSON object. The file is damaged; fetch or save it again.")
    return value


def read_header(path: Path) -> dict[str, Slot]:
    """Names, dtypes and shapes of a safetensors file. Raises WeightsError naming the file and what is wrong with it."""

    def wrong(why: str) -> WeightsError:
        return WeightsError(f"{path} is not a sound safetensors file: {why}. Fetch or save it again.")

    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise wrong(f"it has {size} bytes and its header claims {length}; it was cut short, or it is something else")
            if length > MAX_HEADER_BYTES:
                raise wrong(f"its header has {length} bytes; allowed are {MAX_HEADER_BYTES}")
            header = strict_json(file.read(length), f"The header of {path}")
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}. Check that it is there and that you may read it.") from None
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise wrong(f"its header lists {len(header)} tensors; allowed are {MAX_TENSORS}")
    slots, spans = {}, []
    for name, entry in header.items():
        slots[name], span = _slot(path, entry, lambda why, name=name: wrong(f"tensor {name!r} {why}"))
        spans.append(span)
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise wrong(f"its tensors leave a hole or overlap at byte {min(start, end)}")
        end = stop
    if end != size - 8 - length:
        raise wrong(f"its tensors fill {end} bytes of {size - 8 - length}")
    return slots


def _slot(path: Path, entry: Any, wrong: Any) -> tuple[Slot, tuple[int, int]]:
    try:
        dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise wrong("has no dtype, shape or offsets") from None
    if dtype not in DTYPES:
        raise wrong(f"has dtype {dtype!r}; read are {', '.join(DTYPES)}")
    numbers = [*shape, start, stop] if isinstance(shape, list) else [None]
    if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers) or len(shape) > 8:
        raise wrong(f"has shape {shape!r} and offsets {start!r}, {stop!r}")
    if stop - start != prod(shape) * DTYPES[dtype].itemsize:
        raise wrong(f"has {stop - start} bytes, but its shape {shape} and dtype {dtype} need {prod(shape) * DTYPES[dtype].itemsize}")
    return Slot(path, dtype, tuple(shape)), (start, stop)


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
