"""Frames between the server and a worker: four bytes of length, then a JSON value. Nothing else crosses the border of the two processes.

A frame holds one message or, from a worker, a list of what a step has said: one frame a step, however many answers it goes on with.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from ..errors import DataError

LARGEST = 256 << 20  # bytes of a frame: the vectors of 10,000 texts fit
_LENGTH = struct.Struct("!I")


def frame(message: Any) -> bytes:
    """Raises DataError for one that is too large."""
    text = json.dumps(message, separators=(",", ":"), allow_nan=False).encode("ascii")
    if len(text) > LARGEST:
        raise DataError(f"a message of {len(text):,} bytes was to be sent; at most {LARGEST:,} are allowed. Ask for less at once.")
    return _LENGTH.pack(len(text)) + text


class Frames:
    """Bytes as they arrive into messages."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """The messages that are whole now. Raises DataError for a length that cannot be."""
        self._held += data
        messages, start = [], 0
        while len(self._held) - start >= _LENGTH.size:
            [size] = _LENGTH.unpack_from(self._held, start)
            if size > LARGEST:
                raise DataError(f"a frame says it has {size:,} bytes; at most {LARGEST:,} are allowed.")
            if len(self._held) - start - _LENGTH.size < size:
                break
            begin = start + _LENGTH.size
            messages.append(json.loads(self._held[begin : begin + size]))
            start = begin + size
        del self._held[:start]
        return messages
