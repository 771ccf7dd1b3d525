"""Frames: whole messages however the bytes are cut, and lengths that cannot be."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.errors import DataError
from quire.serve.wire import LARGEST, Frames, frame

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3), max_leaves=8)


@given(st.lists(JSON, max_size=6), st.randoms(use_true_random=False))
def test_messages_come_out_as_they_went_in(messages: list[object], draw: random.Random) -> None:
    data, frames, found = b"".join(map(frame, messages)), Frames(), []
    while data:
        size = draw.randrange(1, len(data) + 1)
        found += frames.feed(data[:size])
        data = data[size:]
    assert found == messages


def test_a_length_beyond_the_bound_is_refused_before_it_is_waited_for() -> None:
    with pytest.raises(DataError, match="at most"):
        Frames().feed(struct.pack("!I", LARGEST + 1))


def test_what_is_no_number_never_crosses() -> None:
    with pytest.raises(ValueError):
        frame({"logprob": float("nan")})
