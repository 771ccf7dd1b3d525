"""Encoded text: ids with the characters they stand for, and several of them as one batch of equal rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import DataError


@dataclass(frozen=True)
class Encoded:
    """Token ids, and for each the characters [start, end) of the text it stands for.

    Tokens that are parts of one character share its place; characters that the normaliser drops belong to no token.
    words: for each token the number of the word that it is in, as the pre-tokenizer divides; None for a token in no word, [] if not asked.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]
    words: list[int | None] = field(default_factory=list)


@dataclass(frozen=True)
class PaddedBatch:
    """Rows of equal length. ids (B, T) int64; keep (B, T) bool, False on padding; offsets (B, T, 2) int64, zeros on padding;
    cut: how many tokens of each text were left out (all zero unless long="cut" was asked for)."""

    ids: np.ndarray[Any, np.dtype[np.int64]]
    keep: np.ndarray[Any, np.dtype[np.bool_]]
    offsets: np.ndarray[Any, np.dtype[np.int64]]
    cut: list[int]


def pad_rows(rows: list[Encoded], cut: list[int], columns: int, pad: int, side: str) -> PaddedBatch:
    if side not in ("right", "left"):
        raise DataError(f"padding goes to the 'right' or to the 'left', not to {side!r}")
    ids = np.full((len(rows), columns), pad, dtype=np.int64)  # (B, T)
    keep = np.zeros((len(rows), columns), dtype=np.bool_)
    offsets = np.zeros((len(rows), columns, 2), dtype=np.int64)
    for number, row in enumerate(rows):
        count = len(row.ids)
        place = slice(0, count) if side == "right" else slice(columns - count, columns)
        if count:
            ids[number, place] = row.ids
            offsets[number, place] = row.offsets
        keep[number, place] = True
    return PaddedBatch(ids, keep, offsets, cut)


def real_places(offsets: list[tuple[int, int]], places: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Places in the text with secret spellings, as places in the real one. A position inside a special token counts as its beginning."""
    there, length, here = np.array(places).T
    positions = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    at = np.searchsorted(there, positions, side="right") - 1  # the last special token that begins at or before it; -1: none
    following = np.minimum(at + 1, len(there) - 1)
    inside = (at >= 0) & (positions < there[at] + length[at])
    real = np.where(inside, here[at], here[following] - (there[following] - positions))
    return list(map(tuple, real.tolist()))
