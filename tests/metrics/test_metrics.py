"""Bits per byte, intervals, compressors, and which samples count as Python."""

from __future__ import annotations

import bz2
import gzip
import inspect
import lzma
import math
import random
import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.metrics.bits import bits_per_byte, perplexity, uniform_bits_per_byte
from quire.metrics.compressors import compressors
from quire.metrics.interval import mean_interval, ratio_interval
from quire.metrics.parses import parses, share_that_parses


def test_a_uniform_model_over_bytes_needs_eight_bits() -> None:
    text = b"any text at all"
    nats = len(text) * math.log(256)
    assert bits_per_byte(nats, len(text)) == pytest.approx(8)
    assert uniform_bits_per_byte(256, 1.0) == 8
    assert perplexity(math.log(256)) == pytest.approx(256)
    assert perplexity(1e4) == math.inf


def test_bits_per_byte_refuses_an_empty_text() -> None:
    with pytest.raises(ValueError, match="0 bytes is not defined; give a text"):
        bits_per_byte(1.0, 0)
    with pytest.raises(ValueError, match="vocabulary of 0"):
        uniform_bits_per_byte(0, 1.0)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Exponential values of mean 1: of 200 intervals at 90 %, about 180 hold 1."""
    generator = np.random.default_rng(5)
    held = 0
    for seed in range(200):
        found = mean_interval(generator.exponential(size=60).tolist(), level=0.9, draws=300, seed=seed)
        assert found.low <= found.value <= found.high
        held += found.low <= 1 <= found.high
    assert 160 <= held <= 195


def test_ratio_weighs_long_documents_and_repeats_exactly() -> None:
    bits, sizes = [8.0, 100.0, 30.0], [4, 100, 10]
    found = ratio_interval(bits, sizes)
    assert found.value == 138 / 114
    assert found == ratio_interval(bits, sizes)
    many = np.random.default_rng(0).random(50).tolist()
    assert mean_interval(many) != mean_interval(many, seed=1)
    assert found.n == 3 and "[" in str(found)
    assert ratio_interval([3.0], [2.0]).low == 1.5  # one document says nothing about others; the interval cannot either


def test_all_right_or_none_right_claims_no_certainty() -> None:
    """Clopper and Pearson's bounds; those of 12 of 12 and 0 of 12 stand in many tables."""
    right, wrong = mean_interval([1.0] * 12), ratio_interval([0.0] * 12, [1.0, 3.0] * 6)
    assert (right.value, right.high) == (1.0, 1.0) and right.low == pytest.approx(0.7354, abs=1e-4)
    assert (wrong.value, wrong.low) == (0.0, 0.0) and wrong.high == pytest.approx(0.2646, abs=1e-4)
    assert mean_interval([1.0] * 10_000).low > 0.9996


def test_interval_in_pieces_equals_interval_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(size=40).tolist()
    whole = mean_interval(values, draws=500)
    monkeypatch.setattr("quire.metrics.interval._AT_ONCE", 40 * 7)
    assert mean_interval(values, draws=500) == whole


@pytest.mark.parametrize(
    ("totals", "weights", "level", "says"),
    [
        ([], [], 0.9, "0 totals"),
        ([1.0], [1.0, 2.0], 0.9, "1 totals and 2 weights"),
        ([1.0], [0.0], 0.9, "leave empty documents out"),
        ([math.nan], [1.0], 0.9, "every total finite"),
        ([1.0], [1.0], 95.0, "between 0 and 1"),
    ],
)
def test_interval_refuses_what_has_none(totals: list[float], weights: list[float], level: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ratio_interval(totals, weights, level=level)


def test_compressors_at_their_best_level() -> None:
    words = random.Random(3).choices("def return self value for in the of token".split(), k=4000)
    texts = [" ".join(words[:50]), "", " ".join(words[50:])]
    found = compressors(texts)
    data = "".join(texts).encode()
    assert list(found) == ["gzip", "bzip2", "xz"]
    assert found["gzip"]["one_stream"] == 8 * len(gzip.compress(data, 9)) / len(data)
    assert found["bzip2"]["one_stream"] == 8 * len(bz2.compress(data, 9)) / len(data)
    extreme = 9 | lzma.PRESET_EXTREME
    # The shorter window is a saving of time only.
    assert found["xz"]["one_stream"] == 8 * len(lzma.compress(data, preset=extreme)) / len(data)
    alone = [text.encode() for text in texts if text]
    assert found["xz"]["per_file"] == 8 * sum(len(lzma.compress(text, preset=extreme)) for text in alone) / len(data)
    assert all(figures["per_file"] > figures["one_stream"] for figures in found.values())
    assert compressors([data]) == compressors(data.decode() for _ in range(1))


def test_compressors_refuse_nothing() -> None:
    with pytest.raises(ValueError, match="2 texts without a byte"):
        compressors(["", b""])


@pytest.mark.parametrize(
    ("completion", "accepted"),
    [
        ("x(a, b):\n    return a + b\n", True),
        ("x(a, b):\n    return a + b\n\ndef other(", True),  # the unfinished last line is not counted
        ("x(a):\n    y = 1\n    if y:\n        z = call(1,\n            2,\n", True),  # nor is an unfinished statement
        ("x(a):\n    y = 1\n    '''an open string\n    over lines\n", True),
        ("x(a):\n    try:\n        y = 1\n    except E:\n        pass\n", True),
        ("x(a):\n    return '\\d'\n", True),  # an invalid escape warns, and is Python
        ("x(a):\n    '''an open string\n    from the start\n", True),  # a docstring that has begun
        ("x(a,\n    b):\n    if a:\n", True),
        ("x(a):\n", False),  # a header followed by nothing ...
        ("x(a):\n\n\n    # or by a comment\n\n", False),
        ("x(a):\n    return (a\n    b = 2\n    c = 3)\n", False),
        ("x(a b):\n    pass\n", False),
        ("x(a):\npass\n", False),
        ("x(a):\n    if a\n        pass\n", False),
        ("x(a):\n    return 1)\n", False),
        ("x(a):\n    return 'abc\n", False),
        ("x(a):\n    return 1\n   return 2\n", False),
        ("x(a): return a", False),  # not one complete line
        ("", False),
        ("\n", False),
        ("\n\n\n\n", False),
        ("(((((\n((((\n", False),
        ("x():\n    pass\n\0\n", False),
        ("x():\n    y = " + "(" * 5000 + "\n    z = )\n", False),
    ],
)
def test_which_completions_of_def_parse_count(completion: str, accepted: bool) -> None:
    assert parses(completion, "def parse_") is accepted


def test_saying_nothing_gains_nothing() -> None:
    whole = "import os\n"  # a prompt that parses by itself
    assert not parses("", whole)
    assert not parses("\n\n# a comment\n\n", whole)
    assert not parses("   \n", whole)
    assert not parses("'''" + "words\n" * 100, whole)
    assert parses("import sys\n", whole)
    assert parses(".path\n", "import os")
    assert parses("    return 1\n", "def f():\n    '''Ünïcode.'''\n")


def test_real_python_counts_wherever_it_is_cut() -> None:
    source = inspect.getsource(random) + "\n\n" + inspect.getsource(textwrap)
    pieces = [part + "\n" for part in source.split("\n\ndef ") if part[:1].isalpha() or part[:1] == "_"]
    generator = random.Random(0)
    cuts = [piece[: generator.randint(150, 400)] for piece in pieces for _ in range(5)]
    assert len(cuts) > 30
    assert share_that_parses(cuts, "def ") > 0.95  # the others hold no whole line but a header


def test_share() -> None:
    assert share_that_parses(["x():\n    pass\n", "x(:\n\n", ""], "def parse_") == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="share of no samples"):
        share_that_parses([])


@given(st.text(alphabet="abc()[]{}:='\"\n \t#\\,.0", max_size=80))
def test_any_text_has_an_answer(text: str) -> None:
    answer = parses(text)
    assert answer in (True, False)
    if answer:
        assert text.strip()
