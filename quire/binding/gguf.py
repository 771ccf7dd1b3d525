"""The container of a `.gguf` file: named values, then where each tensor lies. Read with care, without torch.

The file comes from strangers. Every count and length is compared with what is left of the file, in Python's own integers, before anything
of that size is made; the header, its elements and its nesting are capped; a key or a tensor that is there twice is refused.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import WeightsError
from .weights import MAX_TENSORS, Slot

MAX_HEADER_BYTES = 64 << 20  # the largest published vocabularies with their merges take about 20 MiB
MAX_KEYS = 4096
MAX_ELEMENTS = 1 << 22  # of all arrays together, as many as a vocabulary may have tokens
MAX_NAME = 1 << 16
MAX_NESTING = 4

# number of the format -> (name, numbers in a block, bytes of a block)
TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    8: ("Q8_0", 32, 34),
    12: ("Q4_K", 256, 144),
    14: ("Q6_K", 256, 210),
    30: ("BF16", 1, 2),
}
READ = tuple(name for name, _, _ in TYPES.values())
_OTHERS = {3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 10: "Q2_K", 11: "Q3_K", 13: "Q5_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS"}
_OTHERS |= {19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64"}
_OTHERS |= {29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"}

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}  # type of a value -> struct's letter
_BOOL, _STRING, _ARRAY = 7, 8, 9


@dataclass(frozen=True)
class Container:
    """`values`: the metadata by key. `slots`: where each tensor lies; shapes are in torch's order, the slowest dimension first."""

    path: Path
    values: dict[str, Any] = field(repr=False)
    slots: dict[str, Slot] = field(repr=False)

    @property
    def architecture(self) -> str:
        found = self.values.get("general.architecture")
        if not isinstance(found, str):
            raise WeightsError(f"{self.path}: general.architecture is {found!r}; a GGUF file names its architecture there. Fetch it again.")
        return found


def read(path: Path | str) -> Container:
    """Header of a file. Raises WeightsError naming the file and what is wrong with it."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _Reader(path, file).container()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}. Check that it is there and that you may read it.") from None


class _Reader:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.size = os.fstat(file.fileno()).st_size
        self.place = self.elements = 0
        self.what = "its beginning"

    def wrong(self, why: str) -> WeightsError:
        return WeightsError(f"{self.path} is not a sound GGUF file: {why}. Fetch it again.")

    # -- single values ---------------------------------------------------------------------------------------------------------------

    def take(self, count: int) -> bytes:
        """The next `count` bytes, refused before they are read when the file or the header cannot hold them."""
        if count > self.size - self.place:
            raise self.wrong(f"{self.what} needs {count} bytes at byte {self.place}, but the file has {self.size}; it was cut short")
        if self.place + count > MAX_HEADER_BYTES:
            raise self.wrong(f"its header has more than the {MAX_HEADER_BYTES} bytes that are allowed")
        found = self.file.read(count)
        if len(found) != count:
            raise self.wrong(f"it ended at byte {self.place + len(found)} while it was read")
        self.place += count
        return found

    def number(self, letter: str) -> Any:
        return struct.unpack("<" + letter, self.take(struct.calcsize("<" + letter)))[0]

    def text(self, most: int = MAX_HEADER_BYTES) -> str:
        length = self.number("Q")
        if length > most:
            raise self.wrong(f"{self.what} has a text of {length} bytes; allowed are {most}")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise self.wrong(f"{self.what} is not UTF-8 text") from None

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in _NUMBERS:
            number = self.number(_NUMBERS[kind])
            if number - number != 0:
                raise self.wrong(f"{self.what} is {number}, which is no number")
            return number
        if kind == _BOOL:
            return self.truth(self.take(1))[0]
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self.array(depth + 1)
        raise self.wrong(f"{self.what} has a value of type {kind}, which the format does not know")

    def truth(self, data: bytes) -> list[bool]:
        if data.strip(b"\0\1"):
            raise self.wrong(f"{self.what} has a truth value that is neither 0 nor 1")
        return [bool(byte) for byte in data]

    def array(self, depth: int) -> list[Any]:
        if depth > MAX_NESTING:
            raise self.wrong(f"{self.what} has arrays inside arrays more than {MAX_NESTING} deep")
        kind, count = self.number("I"), self.number("Q")
        self.elements += count
        if self.elements > MAX_ELEMENTS:
            raise self.wrong(f"{self.what} has {count} elements; allowed are {MAX_ELEMENTS} in all arrays together")
        if kind in _NUMBERS:
            letters = f"<{count}{_NUMBERS[kind]}"
            return list(struct.unpack(letters, self.take(struct.calcsize(letters))))
        if kind == _BOOL:
            return self.truth(self.take(count))
        return [self.value(kind, depth) for _ in range(count)]

    # -- the whole -------------------------------------------------------------------------------------------------------------------

    def container(self) -> Container:
        if self.size < 24 or self.take(4) != b"GGUF":
            raise self.wrong("it does not begin with 'GGUF'; it was cut short, or it is something else")
        version = self.number("I")
        if version not in (2, 3):
            if version in (2 << 24, 3 << 24):
                raise self.wrong("its numbers are big-endian, and only little-endian files are read")
            raise self.wrong(f"it has version {version}; read are 2 and 3")
        tensors, keys = self.number("Q"), self.number("Q")
        if tensors > MAX_TENSORS or keys > MAX_KEYS:
            raise self.wrong(f"it claims {tensors} tensors and {keys} values; allowed are {MAX_TENSORS} and {MAX_KEYS}")
        values: dict[str, Any] = {}
        for _ in range(keys):
            self.what = "a value's name"
            name = self.text(MAX_NAME)
            if name in values:
                raise self.wrong(f"the value {name!r} is there twice")
            self.what = f"the value {name!r}"
            values[name] = self.value(self.number("I"))
        alignment = values.get("general.alignment", 32)
        if type(alignment) is not int or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            raise self.wrong(f"general.alignment is {alignment!r}; allowed is a power of two up to {1 << 20}")
        places: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
        for _ in range(tensors):
            name, place = self.tensor(alignment)
            if name in places:
                raise self.wrong(f"the tensor {name!r} is there twice")
            places[name] = place
        return Container(self.path, values, self.placed(places, -(-self.place // alignment) * alignment))

    def tensor(self, alignment: int) -> tuple[str, tuple[str, tuple[int, ...], int, int]]:
        """(name, (type, shape, offset, bytes)) of the next tensor."""
        self.what = "a tensor's name"
        name = self.text(MAX_NAME)
        self.what = f"the tensor {name!r}"
        count = self.number("I")
        if not 1 <= count <= 4:
            raise self.wrong(f"{self.what} has {count} dimensions; allowed are 1 to 4")
        shape = tuple(reversed([self.number("Q") for _ in range(count)]))
        kind, offset = self.number("I"), self.number("Q")
        if kind not in TYPES:
            raise WeightsError(
                f"{self.path}: {self.what} has type {_OTHERS.get(kind, kind)}; read are {', '.join(READ)}. "
                "Take the same model in one of those (Q8_0 and Q4_K_M are the usual ones)."
            )
        word, block, width = TYPES[kind]
        if 0 in shape or shape[-1] % block:
            raise self.wrong(f"{self.what} has shape {list(shape)}, which cannot be cut into {word}'s blocks of {block}")
        if offset % alignment:
            raise self.wrong(f"{self.what} begins at {offset}, which is no multiple of {alignment}")
        return name, (word, shape, offset, prod(shape) // block * width)

    def placed(self, places: dict[str, tuple[str, tuple[int, ...], int, int]], base: int) -> dict[str, Slot]:
        """Slots from the beginning of the file; refuses what lies beyond its end or over one another."""
        slots: dict[str, Slot] = {}
        end, before = 0, ""
        for name, (word, shape, offset, size) in sorted(places.items(), key=lambda item: item[1][2]):
            if offset < end:
                raise self.wrong(f"the tensors {before!r} and {name!r} overlap")
            end, before = offset + size, name
            if base + end > self.size:
                raise self.wrong(f"the tensor {name!r} ends at byte {base + end}, but the file has {self.size}; it was cut short")
            slots[name] = Slot(self.path, word, shape, base + offset, base + end)
        return {name: slots[name] for name in places}
