"""Blocks of a GGUF file as numbers: Q8_0, Q4_0, Q4_K, Q6_K. F32, F16 and BF16 are numbers already.

A block holds 32 or 256 numbers of a row as small integers, with a scale (fp16) for all of them; the K kinds have a small scale, and Q4_K
a small offset, for each part of a block too. Every product is taken in fp32 and in the order of the reference: results are equal to the
bit.

Layouts: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

BLOCKS_AT_ONCE = 1 << 12  # keeps what is in between in the processor's caches, and small beside the tensor


def _fp16(data: Bytes) -> Floats:
    """(N, 2) bytes -> (N, 1) numbers"""
    return np.ascontiguousarray(data).view("<f2").astype(np.float32)


def _nibbles(data: Bytes, run: int) -> Bytes:
    """Two numbers a byte: of each run of bytes first all low halves, then all high ones. (N, n) -> (N, 2n)"""
    parts = data.reshape(len(data), -1, 1, run) >> np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)
    return (parts & np.uint8(15)).reshape(len(data), -1)


def _q8_0(blocks: Bytes) -> Floats:
    return np.ascontiguousarray(blocks[:, 2:]).view(np.int8).astype(np.float32) * _fp16(blocks[:, :2])


def _q4_0(blocks: Bytes) -> Floats:
    return _fp16(blocks[:, :2]) * (_nibbles(blocks[:, 2:], 16).astype(np.int8) - np.int8(8)).astype(np.float32)


def _q4_k(blocks: Bytes) -> Floats:
    """256 numbers as 8 parts of 32: number = d * scale * q - dmin * offset; scales and offsets are six bits each, in twelve bytes."""
    low, middle, high = (blocks[:, 4 + 4 * i : 8 + 4 * i] for i in range(3))
    scale = np.concatenate([low & 63, (high & 15) | ((low >> 2) & 48)], axis=1).astype(np.float32)  # (N, 8)
    offset = np.concatenate([middle & 63, (high >> 4) | ((middle >> 2) & 48)], axis=1).astype(np.float32)
    q = _nibbles(blocks[:, 16:], 32).reshape(-1, 8, 32).astype(np.float32)
    found: Floats = (_fp16(blocks[:, :2]) * scale)[..., None] * q - (_fp16(blocks[:, 2:4]) * offset)[..., None]
    return found.reshape(-1, 256)


def _q6_k(blocks: Bytes) -> Floats:
    """256 numbers as 16 parts of 16: number = d * scale * (q - 32); four bits of q lie in one place, two in another."""
    low = _nibbles(blocks[:, :128], 64)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    q = (low | ((high & np.uint8(3)).reshape(-1, 256) << np.uint8(4))).astype(np.int8) - np.int8(32)
    scale = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)  # (N, 16)
    found: Floats = (_fp16(blocks[:, 208:]) * scale)[..., None] * q.reshape(-1, 16, 16).astype(np.float32)
    return found.reshape(-1, 256)


KINDS: dict[str, tuple[int, int, Callable[[Bytes], Floats]]] = {
    # kind: (numbers in a block, bytes of a block, blocks -> numbers)
    "Q8_0": (32, 34, _q8_0),
    "Q4_0": (32, 18, _q4_0),
    "Q4_K": (256, 144, _q4_k),
    "Q6_K": (256, 210, _q6_k),
}


def dequantize(kind: str, data: Bytes) -> Floats:
    """The numbers in `data`, whole blocks of one kind: (bytes,) -> (numbers,)."""
    count, width, convert = KINDS[kind]
    blocks = data.reshape(-1, width)
    out = np.empty((len(blocks), count), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # a damaged scale is infinite or no number here as in the file
        for start in range(0, len(blocks), BLOCKS_AT_ONCE):
            out[start : start + BLOCKS_AT_ONCE] = convert(blocks[start : start + BLOCKS_AT_ONCE])
    return out.reshape(-1)
