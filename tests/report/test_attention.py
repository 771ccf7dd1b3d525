"""The format of attention.json: small, reversible to its rounding, and strict about what it is given."""

from __future__ import annotations

import base64
import json
import struct
import zlib

import numpy as np
import pytest

from quire.report.attention import MOST_TOKENS, pack, png, unpack


def weights(layers: int, heads: int, size: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    scores = np.exp(generator.normal(size=(layers, heads, size, size)) * 2) * np.tril(np.ones((size, size)))
    return list(scores / scores.sum(-1, keepdims=True))


def test_weights_come_back_to_their_rounding() -> None:
    given = weights(3, 2, 20)
    packed = json.loads(json.dumps(pack(given, [f"t{i}" for i in range(20)])))
    maps, tokens, numbers = unpack(packed)
    assert maps.shape == (3, 2, 20, 20) and tokens[4] == "t4" and numbers == [0, 1, 2]
    back = (maps / 255.0) ** 2
    assert np.abs(back - np.stack(given)).max() < 1 / 255
    assert np.abs(back.sum(-1) - 1).max() < 0.05
    assert (np.triu(maps[0, 0], 1) == 0).all()


def test_small_weights_survive() -> None:
    row = np.full((1, 1, 1), 0.001)
    maps, _, _ = unpack(pack([row], ["a"]))
    assert (maps[0, 0, 0, 0] / 255) ** 2 == pytest.approx(0.001, rel=0.1)


def test_a_deep_model_keeps_layers_evenly_spaced_and_a_long_text_its_beginning() -> None:
    layer = weights(1, 16, 70)[0]
    packed = pack([layer] * 24, [str(i) for i in range(70)])
    assert len(packed["tokens"]) == MOST_TOKENS
    assert packed["layer_numbers"][0] == 0 and packed["layer_numbers"][-1] == 23 and len(packed["layer_numbers"]) < 24
    assert len(json.dumps(packed)) < 450_000
    wide = pack([np.repeat(layer, 8, axis=0)], [str(i) for i in range(70)])
    assert len(wide["tokens"]) < MOST_TOKENS and len(json.dumps(wide)) < 450_000


@pytest.mark.parametrize(
    ("given", "tokens", "says"),
    [
        ([], ["a"], "0 layers over 1 tokens"),
        ([np.ones((2, 3, 3)) / 3], ["a"], r"shape \(2, 3, 3\) where \(2, 1, 1\) belong"),
        ([np.full((1, 1, 1), 7.0)], ["a"], "outside 0 to 1; give them after the softmax"),
        ([np.full((1, 1, 1), np.nan)], ["a"], "outside 0 to 1"),
    ],
)
def test_what_cannot_be_packed_is_refused(given: list[np.ndarray], tokens: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        pack(given, tokens)


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"tokens": []}, {"tokens": ["a"] * 65}, {"layers": [["!!"]]},
     {"layers": [[base64.b64encode(b"12").decode()]]}, {"layer_numbers": []}, {"layers": [[]]},
     {"layers": [None]}, {"layer_numbers": [None]}],
)  # fmt: skip
def test_what_cannot_be_unpacked_is_refused(change: dict[str, object]) -> None:
    packed = pack(weights(1, 1, 3), ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"\w"):
        unpack(packed | change)


def test_the_map_is_a_right_png() -> None:
    shades = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    data = png(shades, (1, 2, 3))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = {}, 8
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        assert struct.unpack(">I", data[place + 8 + length : place + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind], place = body, place + 12 + length
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (4, 3, 8, 3, 0, 0, 0)
    assert chunks[b"tRNS"] == bytes(range(256)) and chunks[b"PLTE"][:3] == b"\1\2\3"
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), dtype=np.uint8).reshape(3, 5)
    assert (rows[:, 0] == 0).all() and (rows[:, 1:] == shades).all()
