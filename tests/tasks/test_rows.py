"""Where rows begin and end: windows of a stream, pieces of documents."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quire.tasks.rows import Pieces, Windows


@given(length=st.integers(1, 200), span=st.integers(1, 40), stride=st.integers(1, 40), shift=st.integers(0, 60), start=st.integers(0, 5))
def test_windows_read_a_circle(length: int, span: int, stride: int, shift: int, start: int) -> None:
    tokens = np.arange(start + length + 3, dtype=np.uint16)
    rows = Windows(tokens, start, start + length, span, stride)
    found = rows.read(np.arange(rows.count), shift)
    circle = np.tile(tokens[start : start + length], 60)
    for i, row in enumerate(found):
        begin = (i * stride + shift) % length
        assert (row == circle[begin : begin + span]).all()
    assert found.dtype == np.int64 and rows.count == max(1, length // stride) and rows.whole == length // stride


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(1, 12), st.integers(1, 4))
def test_pieces_cover_every_document_evenly(lengths: list[int], span: int, least: int) -> None:
    offsets = 1 + np.concatenate(([0], np.cumsum(np.array(lengths) + 1)))
    tokens = np.concatenate(([0], *[[*(100 * d + np.arange(n)), 0] for d, n in enumerate(lengths)])).astype(np.int32)
    rows = Pieces(tokens, offsets, 1, len(tokens), span, least)
    found = rows.read(np.arange(rows.count))
    for d, n in enumerate(lengths):
        mine = [row for row in found if len(row) and row[0] // 100 == d and n >= least]
        if n < least:
            continue
        assert np.concatenate(mine).tolist() == (100 * d + np.arange(n)).tolist()
        assert len(mine) == -(-n // span) and max(map(len, mine)) - min(map(len, mine)) <= 1 and max(map(len, mine)) <= span
    assert rows.used == sum(n for n in lengths if n >= least)
    backwards = rows.read(np.arange(rows.count)[::-1])
    assert [row.tolist() for row in backwards] == [row.tolist() for row in found[::-1]]


def test_pieces_of_a_stretch_leave_the_others_alone() -> None:
    offsets = np.array([1, 5, 9, 12])
    rows = Pieces(np.arange(12), offsets, 5, 12, 10)
    assert [row.tolist() for row in rows.read(np.arange(rows.count))] == [[5, 6, 7], [9, 10]]
