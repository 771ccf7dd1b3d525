"""The weights of a model folder as facts: which files, what lies where in them, and the SHA-256 of every tensor.

Read straight from the safetensors files (eight bytes of length, a JSON header, one block of numbers), without loading anything and without
torch. Headers come from strangers: their size and number of entries are capped, and every offset is compared with the file before it is
used. There is one hash for each tensor, so that a flipped bit is found by name and not as "the file differs".

Format: https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ..durable import storage
from ..errors import WeightsError
from ..machine import threads

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS = 50_000
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}  # of one number
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")


@dataclass(frozen=True)
class Slot:
    """Where a tensor lies: its file, dtype (safetensors' word), shape, and bytes [start, end) from the beginning of the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class TensorFacts:
    dtype: str
    shape: tuple[int, ...]
    sha256: str

    def json(self) -> list[Any]:
        return [self.dtype, list(self.shape), self.sha256]


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a folder, each a plain name inside it. Raises WeightsError, also when there are only pickles."""
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS]
    index = path / INDEX
    if index.is_file():
        if index.stat().st_size > MAX_HEADER_BYTES:
            raise WeightsError(f"{index} has {index.stat().st_size} bytes; allowed are {MAX_HEADER_BYTES}.")
        table = strict_json(index.read_bytes(), str(index)).get("weight_map")
        if not isinstance(table, dict) or not 0 < len(table) <= MAX_TENSORS:
            raise WeightsError(f"{index} has no weight_map of 1 to {MAX_TENSORS} tensors. Fetch or save it again.")
        for name in table.values():
            if not isinstance(name, str) or not re.fullmatch(r"[\w][\w.\-]*\.safetensors", name, re.ASCII) or ".." in name:
                raise WeightsError(f"{index} names the file {name!r}; allowed are plain names in the same folder that end in .safetensors.")
        files = sorted({path / name for name in table.values()})
        for file in files:
            there = set(read_header(file))
            listed = {name for name, where in table.items() if path / where == file}
            if there != listed:
                raise WeightsError(f"{index} and {file} disagree about {some(sorted(there ^ listed))}. Fetch or save them again.")
        return files
    pickles = sorted(file.name for pattern in PICKLES for file in path.glob(pattern))
    if pickles:
        raise WeightsError(
            f"{path} has its weights as {some(pickles)}. Such files can run code when they are opened, so Quire reads safetensors only. "
            "Open it once where you trust it, with transformers: AutoModel.from_pretrained(folder).save_pretrained(new_folder)."
        )
    raise WeightsError(f"{path} has no weights: neither {WEIGHTS} nor {INDEX} is there.")


def read_folder(path: Path) -> dict[str, Slot]:
    """Every tensor of a model folder by its name. Raises WeightsError naming the files that disagree."""
    return read_files(weight_files(path))


def read_files(files: list[Path]) -> dict[str, Slot]:
    slots: dict[str, Slot] = {}
    for file in files:
        for name, slot in read_header(file).items():
            if name in slots:
                raise WeightsError(f"{name} is in {slots[name].file} and in {file}. Fetch or save them again.")
            slots[name] = slot
    return slots


def strict_json(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object without repeated keys. Raises WeightsError naming `what`."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ValueError("a key is repeated")
        return table

    def never(word: str) -> Any:
        raise ValueError(f"{word} is no number of JSON")

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=once, parse_constant=never)
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
    base = 8 + length
    slots = {name: _slot(path, entry, base, lambda why, name=name: wrong(f"tensor {name!r} {why}")) for name, entry in header.items()}  # type: ignore[misc]
    end = base
    for start, stop in sorted((slot.start, slot.end) for slot in slots.values()):
        if start != end:
            raise wrong(f"its tensors leave a hole or overlap at byte {min(start, end) - base}")
        end = stop
    if end != size:
        raise wrong(f"its tensors fill {end - base} bytes of {size - base}")
    return slots


def _slot(path: Path, entry: Any, base: int, wrong: Callable[[str], WeightsError]) -> Slot:
    try:
        dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise wrong("has no dtype, shape or offsets") from None
    if not isinstance(dtype, str) or dtype not in BYTES:
        raise wrong(f"has dtype {dtype!r}; read are {', '.join(BYTES)}")
    numbers = [*shape, start, stop] if isinstance(shape, list) else [None]
    if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers) or len(shape) > 8:
        raise wrong(f"has shape {shape!r} and offsets {start!r}, {stop!r}")
    if stop - start != prod(shape) * BYTES[dtype]:
        raise wrong(f"has {stop - start} bytes, but its shape {shape} and dtype {dtype} need {prod(shape) * BYTES[dtype]}")
    return Slot(path, dtype, tuple(shape), base + start, base + stop)


def header_hash(path: Path) -> str:
    """SHA-256 of a file's header: what is in it, whatever the numbers are."""
    with storage(path, "read"), open(path, "rb") as file:
        length = file.read(8)
        return hashlib.sha256(length + file.read(min(int.from_bytes(length, "little"), MAX_HEADER_BYTES))).hexdigest()


def tensors(path: Path) -> dict[str, TensorFacts]:
    """Every tensor of a model folder or a GGUF file by name, hashed. Reads all the bytes once, on the threads that the machine grants."""
    if path.is_file():
        from .gguf import read  # which builds on this file

        slots = read(path).slots
    else:
        slots = read_folder(path)
    with ThreadPoolExecutor(max_workers=threads()) as pool:
        # the largest first, so that no thread is left alone with it at the end
        order = sorted(slots, key=lambda name: slots[name].start - slots[name].end)
        digests = dict(zip(order, pool.map(lambda name: _hash(slots[name]), order), strict=True))
    return {name: TensorFacts(slot.dtype, slot.shape, digests[name]) for name, slot in slots.items()}


def _hash(place: Slot) -> str:
    digest, left = hashlib.sha256(), place.end - place.start
    block = memoryview(bytearray(min(left, 1 << 20)))
    with storage(place.file, "read"), open(place.file, "rb", buffering=0) as file:
        file.seek(place.start)
        while left:
            count = file.readinto(block[: min(left, len(block))])
            if not count:
                raise OSError(f"the file ended {left} bytes early")
            digest.update(block[:count])
            left -= count
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


def some(names: list[str]) -> str:
    """A few names, and how many more."""
    return "nothing" if not names else ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
