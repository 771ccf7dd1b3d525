"""The weights of a model folder as facts: name, dtype, shape and SHA-256 of every tensor, read straight from its safetensors files.

One hash for each tensor, so that a flipped bit is found by name and not as "the file differs". Nothing is loaded and torch is not needed.
A header is trusted with nothing: its size, its number of entries and every offset are compared with the file before they are used.

Format: https://github.com/huggingface/safetensors (8 bytes of header length, a JSON header, the tensors' bytes).
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..durable import storage
from ..errors import ModelError, WeightsError

LARGEST_HEADER = 16 * 2**20  # bytes
MOST_TENSORS = 50_000
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"

_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in its file: bytes [start, end), counted from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class TensorFacts:
    dtype: str
    shape: tuple[int, ...]
    sha256: str

    def json(self) -> list[Any]:
        return [self.dtype, list(self.shape), self.sha256]


def files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, one or several shards. Raises WeightsError when there is none, or one is missing."""
    index = folder / INDEX
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not index.is_file():
        raise WeightsError(f"{folder} holds no {SINGLE}. Give a model folder: config.json, {SINGLE} and tokenizer.json.")
    try:
        with storage(index, "read"):
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise WeightsError(f"{index} is damaged: it must hold a weight_map of tensor names to files. Fetch it again.") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise WeightsError(f"{index} names {name!r}; a shard is a .safetensors file in the same folder.")
        if not (folder / name).is_file():
            raise WeightsError(f"{folder / name} is missing: {INDEX} names it. Fetch it again.")
    return [folder / name for name in names]


def header(path: Path) -> tuple[bytes, dict[str, Place]]:
    """(the header's bytes, where each tensor lies). Raises WeightsError for anything that the file cannot hold."""
    with storage(path, "read"), open(path, "rb") as file:
        size = path.stat().st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise _damaged(path, f"its header claims {length:,} bytes; at most {min(max(size - 8, 0), LARGEST_HEADER):,} are possible")
        raw = file.read(length)
    try:
        entries = json.loads(raw)
    except (ValueError, RecursionError):
        raise _damaged(path, "its header is not JSON") from None
    if not isinstance(entries, dict) or len(entries) > MOST_TENSORS:
        raise _damaged(path, f"its header must be an object of at most {MOST_TENSORS:,} tensors")
    entries.pop("__metadata__", None)
    return raw, {name: _place(path, name, entry, 8 + length, size) for name, entry in entries.items()}


def _place(path: Path, name: str, entry: Any, base: int, size: int) -> Place:
    try:
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        start, end = entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, start, end))
        fits = whole and end - start == math.prod(shape) * _BITS[dtype] // 8 and base + end <= size
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise _damaged(path, f"the entry of tensor {name!r} does not fit the file")
    return Place(dtype, shape, base + start, base + end)


def _damaged(path: Path, why: str) -> WeightsError:
    return WeightsError(f"{path} is not a whole safetensors file: {why}. Fetch or write it again.")


def tensors(folder: Path) -> dict[str, TensorFacts]:
    """Every tensor of a model folder by name, hashed. Reads all the bytes once, in the order in which they lie."""
    found: dict[str, TensorFacts] = {}
    for path in files(folder):
        _, places = header(path)
        with storage(path, "read"), open(path, "rb") as file:
            for name, place in sorted(places.items(), key=lambda item: item[1].start):
                if name in found:
                    raise ModelError(f"{path} holds the tensor {name!r}, which another file of {folder} holds too. Remove one of them.")
                found[name] = TensorFacts(place.dtype, place.shape, _hash(file, place))
    return found


def _hash(file: BinaryIO, place: Place) -> str:
    digest = hashlib.sha256()
    file.seek(place.start)
    left = place.end - place.start
    while left:
        block = file.read(min(left, 2**23))
        if not block:
            raise OSError(f"the file ended {left} bytes early")
        digest.update(block)
        left -= len(block)
    return digest.hexdigest()


def weights_id(facts: dict[str, TensorFacts]) -> str:
    """One hash of all tensors: names in order, each with its dtype, shape and the hash of its bytes."""
    return hashlib.sha256(json.dumps([[name, *fact.json()] for name, fact in sorted(facts.items())]).encode("ascii")).hexdigest()


def differences(expected: dict[str, TensorFacts], found: dict[str, TensorFacts]) -> list[str]:
    """In words, which tensors are not the same; the first few by name, the rest as a number."""
    lines = [f"weight {name!r} is missing" for name in sorted(expected.keys() - found.keys())]
    lines += [f"weight {name!r} is new" for name in sorted(found.keys() - expected.keys())]
    for name in sorted(expected.keys() & found.keys()):
        was, now = expected[name], found[name]
        if (was.dtype, was.shape) != (now.dtype, now.shape):
            lines.append(f"weight {name!r} is {now.dtype} {list(now.shape)} where {was.dtype} {list(was.shape)} was written")
        elif was != now:
            lines.append(f"weight {name!r} has other values")
    return _few(lines, "weights differ")


def _few(lines: list[str], what: str, most: int = 5) -> list[str]:
    return lines if len(lines) <= most else [*lines[: most - 1], f"and {len(lines) - most + 1} more {what}"]


def read_facts(recorded: Any) -> dict[str, TensorFacts]:
    """The inverse of `TensorFacts.json` for a whole record. Raises ValueError, TypeError or AttributeError when it is none."""
    return {str(name): TensorFacts(str(dtype), tuple(map(int, shape)), str(digest)) for name, (dtype, shape, digest) in recorded.items()}
