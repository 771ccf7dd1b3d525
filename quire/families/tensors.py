"""Tensors in files: a file mapped into memory privately, and safetensors written as a stream. `binding.weights` reads headers, with care.

Writing goes tensor by tensor into a durable file, so a save needs no second copy of the model in memory; and neither does opening.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..binding.weights import MAX_HEADER_BYTES, MAX_TENSORS, Slot, read_header
from ..durable import writing
from ..errors import WeightsError

__all__ = ["DTYPES", "FLOATING", "MAX_HEADER_BYTES", "MAX_TENSORS", "NAMES", "Mapped", "read_header", "stamp", "write_tensors"]

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


def stamp(path: Path) -> tuple[int, int, int]:
    """What changes when a file is changed or replaced: its inode, size, and time of the last change."""
    try:
        facts = path.stat()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}. Check that it is there and that you may read it.") from None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


_mappings: WeakKeyDictionary[mmap.mmap, int] = WeakKeyDictionary()  # those in use, and where they lie


class Mapped:
    """A file in memory, privately: a page is read when it is first touched and copied when it is written, so no change reaches the file.

    A file that is replaced or deleted stays here as it was: that is how our own saves write, the hub's cache too. One that is overwritten
    or cut short in place does not; a process that then touches a page which is gone is ended by the system (SIGBUS), so files of an open
    model must only be replaced. What can be seen is refused: `expected` is the file's stamp from when its header was read.
    """

    def __init__(self, path: Path, expected: tuple[int, int, int]) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                facts = os.fstat(file.fileno())
                if (facts.st_ino, facts.st_size, facts.st_mtime_ns) != expected:
                    raise WeightsError(f"{path} was changed while it was opened. Open it again when nobody writes to it.")
                self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            _mappings[self.data] = ctypes.addressof(ctypes.c_char.from_buffer(self.data))
        except (OSError, ValueError) as error:
            raise WeightsError(f"{path} cannot be mapped into memory: {error}. Check that it is there and that you may read it.") from None

    def tensor(self, slot: Slot) -> Tensor:
        """The numbers as they lie in the file, without a copy; a tensor keeps the mapping alive."""
        dtype, count = DTYPES[slot.dtype], slot.end - slot.start
        if not count:
            return torch.empty(slot.shape, dtype=dtype)
        if slot.start % dtype.itemsize:  # numbers across the machine's words: legal in a file, slow or worse in memory
            return torch.frombuffer(bytearray(self.data[slot.start : slot.end]), dtype=dtype).reshape(slot.shape)
        found = torch.frombuffer(self.data, dtype=dtype, count=count // dtype.itemsize, offset=slot.start)
        return found.reshape(slot.shape)

    def release(self, slot: Slot) -> None:
        """Give back the pages of a tensor that nobody holds any more, so that converting a file never keeps all of both."""
        page = mmap.PAGESIZE
        start, end = -(-slot.start // page) * page, slot.end // page * page
        if end > start and hasattr(mmap, "MADV_DONTNEED"):
            self.data.madvise(mmap.MADV_DONTNEED, start, end - start)


def release(tensor: Tensor) -> None:
    """Give back the pages of a tensor that lies in a mapped file and was never written to; nothing happens to any other.

    Whoever still holds it, or a part of its pages, reads them from the file again.
    """
    for data in list(_mappings):
        start = tensor.data_ptr() - _mappings[data]
        if 0 <= start and start + tensor.nbytes <= len(data) and hasattr(mmap, "MADV_DONTNEED"):
            first, end = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, (start + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
            if end > first:
                data.madvise(mmap.MADV_DONTNEED, first, end - first)


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
    text += b" " * (-(8 + len(text)) % 64)  # the numbers start where a cache line does: they are computed with where they lie
    with writing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            _write(file, tensor)


def _write(file: BinaryIO, tensor: Tensor) -> None:
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    if flat.numel():
        file.write(flat.view(torch.uint8).numpy().data)
