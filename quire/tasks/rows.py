"""Where rows begin and end: two geometries over a stretch of a shard, addressed by number, so that any order of them is cheap.

`Windows` cuts the joined stream at fixed steps; a row may hold several documents or part of one. The stretch is a circle (its end is a
separator and its start follows one, so the seam is a document boundary like any other), which lets every epoch shift all the cuts and
keeps the number of rows the same. `Pieces` cuts every document alone into nearly equal pieces: for tasks whose rows must not mix
documents.
"""

from __future__ import annotations

import numpy as np

from .task import Array


class Windows:
    """Rows of `span` tokens that begin every `stride` tokens. Reads (rows, span) int64."""

    def __init__(self, tokens: Array, start: int, stop: int, span: int, stride: int) -> None:
        self.tokens, self.start, self.length, self.span, self.stride = tokens, start, stop - start, span, stride
        self.whole = self.length // stride
        self.count = max(1, self.whole) if self.length > 0 else 0
        self.used = self.count * stride

    def read(self, numbers: Array, shift: int = 0) -> Array:
        rows = np.empty((len(numbers), self.span), dtype=np.int64)
        for row, number in zip(rows, numbers.tolist(), strict=True):
            begin = (number * self.stride + shift) % self.length
            if begin + self.span <= self.length:
                row[:] = self.tokens[self.start + begin : self.start + begin + self.span]
            else:  # over the seam; a stretch shorter than a row goes round more than once
                row[:] = self.tokens[self.start + (begin + np.arange(self.span)) % self.length]
        return rows


class Pieces:
    """Rows of at most `span` tokens of one document, without its separator. Documents shorter than `least` tokens give no row.

    Reads a list of int64 arrays. A document of n tokens gives ceil(n / span) rows whose lengths differ by at most one, so no row is a
    scrap. `shift` has no meaning here: documents begin where they begin.
    """

    def __init__(self, tokens: Array, offsets: Array, start: int, stop: int, span: int, least: int = 2) -> None:
        first, last = (int(i) for i in np.searchsorted(offsets, (start, stop)))
        begins = np.asarray(offsets[first : last + 1], dtype=np.int64)
        lengths = np.diff(begins) - 1
        keep = lengths >= least
        self.tokens, self.begins, self.lengths = tokens, begins[:-1][keep], lengths[keep]
        self.pieces = -(-self.lengths // span)
        self.ends = np.cumsum(self.pieces)
        self.count = int(self.ends[-1]) if len(self.ends) else 0
        self.whole, self.used = self.count, int(self.lengths.sum())

    def read(self, numbers: Array, shift: int = 0) -> list[Array]:
        documents = np.searchsorted(self.ends, numbers, side="right")
        piece = numbers - (self.ends - self.pieces)[documents]
        begin = self.begins[documents] + self.lengths[documents] * piece // self.pieces[documents]
        end = self.begins[documents] + self.lengths[documents] * (piece + 1) // self.pieces[documents]
        return [self.tokens[b:e].astype(np.int64) for b, e in zip(begin.tolist(), end.tolist(), strict=True)]
