"""The fast path gives the library's ids or is not taken, and says why."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire import machine
from quire.text import fast
from quire.text.decoding import byte_characters
from quire.text.tokenizer import Tokenizer
from quire.text.training import SpecialTokens, train
from tests.text.conftest import corpus
from tests.text.files import BYTES, split_by
from tests.text.texts import PIECES, TEXTS, texts

pytest.importorskip("tiktoken")


def changed(tokenizer: Tokenizer, **parts: Any) -> Tokenizer:
    return Tokenizer.from_json(json.dumps({**tokenizer.definition.raw, **parts}), tokenizer.settings())


@pytest.mark.parametrize("pattern", list(fast._PATTERNS), ids=["gpt2", "cl100k", "qwen2"])
@given(text=texts)
def test_ids_are_equal(bpe: Tokenizer, pattern: str, text: str) -> None:
    tokenizer = _by_pattern(bpe, pattern)
    assert tokenizer.fast is not None, tokenizer.why_not_fast
    assert tokenizer.fast.encode(text) == tokenizer.library_batch([text])[0]


_MADE: dict[tuple[int, str], Tokenizer] = {}


def _by_pattern(bpe: Tokenizer, pattern: str) -> Tokenizer:
    if (id(bpe), pattern) not in _MADE:
        _MADE[id(bpe), pattern] = changed(bpe, pre_tokenizer=split_by(pattern))
    return _MADE[id(bpe), pattern]


@pytest.mark.parametrize("pattern", list(fast._PATTERNS), ids=["gpt2", "cl100k", "qwen2"])
def test_the_engines_agree_on_every_character(pattern: str) -> None:
    """Every code point of the planes in use, after a letter, a digit, a sign and a space. Merges across the border show each split."""
    spelt = {byte: character for character, byte in byte_characters().items()}
    vocabulary = {spelt[byte]: byte for byte in range(256)}
    merges = []
    for before in b"a1! ":
        for lead in (*range(128), *range(0xC2, 0xF5)):
            if spelt[before] + spelt[lead] not in vocabulary:
                vocabulary[spelt[before] + spelt[lead]] = len(vocabulary)
                merges.append([spelt[before], spelt[lead]])
    model = {"type": "BPE", "vocab": vocabulary, "merges": merges}
    tokenizer = Tokenizer.from_json(json.dumps({"added_tokens": [], "model": model, "decoder": BYTES, "pre_tokenizer": split_by(pattern)}))
    assert tokenizer.fast is not None, tokenizer.why_not_fast
    # The patterns share the classes of letters, digits and spaces, so one of them is enough for the rarer planes.
    top = 0x32400 if pattern == fast.GPT2_PATTERN else 0x3400
    points = [*range(top), *range(0xE0000, 0xE0200), *range(0xF900, 0x10000)]
    texts = [f"a{chr(point)}1{chr(point)}!{chr(point)} {chr(point)}\n" for point in points if not 0xD800 <= point < 0xE000]
    for start in range(0, len(texts), 4096):
        joined = "".join(texts[start : start + 4096])
        if tokenizer.fast.encode(joined) != tokenizer.library_batch([joined])[0]:
            wrong = [text for text in texts[start : start + 4096] if tokenizer.fast.encode(text) != tokenizer.library_batch([text])[0]]
            raise AssertionError(f"{len(wrong)} texts, such as {[ascii(text) for text in wrong[:5]]}")


@pytest.mark.needs_data
def test_real_corpora(bpe: Tokenizer, gpt2: Tokenizer, data_folder: Path) -> None:
    corpora = [(data_folder / "corpora" / name).read_text() for name in ("tinyshakespeare.txt", "botchan.txt")]
    lines = [line for text in corpora for line in text[:50_000].splitlines(keepends=True)]
    some = [*(text[:200_000] for text in corpora), *lines]
    for tokenizer in (bpe, gpt2):
        assert tokenizer.fast is not None, tokenizer.why_not_fast
        assert tokenizer.encode_batch(some) == tokenizer.library_batch(some)


@given(pieces=st.lists(st.sampled_from([*PIECES, "\n", "x\n", "\ny", "\n\n", "a b"]), min_size=1, max_size=60), at=st.integers(1, 40))
def test_a_long_text_is_divided_where_it_makes_no_difference(bpe: Tokenizer, pieces: list[str], at: int) -> None:
    text = "".join(pieces)
    for pattern in fast._PATTERNS:
        tokenizer = _by_pattern(bpe, pattern)
        whole = tokenizer.library_batch([text])[0]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fast, "_LONG", at)
            parts = list(fast._divide(text))
            assert "".join(parts) == text
            assert tokenizer.fast is not None
            assert tokenizer.fast.encode(text) == whole


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_keep_the_order(bpe: Tokenizer, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "threads", lambda: threads)
    monkeypatch.setattr(fast, "_LONG", 1000)
    rows = [text * number for number, text in enumerate((*TEXTS, *corpus()[1:2]))]
    assert bpe.encode_batch(rows) == bpe.library_batch(rows)
    assert bpe.encode_batch([]) == []


def test_one_short_text_does_not_wait_for_the_proof(bpe: Tokenizer) -> None:
    fresh = changed(bpe)
    fresh.encode("short")
    assert "fast" not in fresh.__dict__
    assert fresh.encode("long " * 20_000) == fresh.library_batch(["long " * 20_000])[0]
    assert fresh.__dict__["fast"] is not None


def test_what_the_engine_gives_up_on(bpe: Tokenizer) -> None:
    spaces = " " * 1_100_000
    assert bpe.fast is not None
    assert bpe.fast.encode(spaces) == bpe.library_batch([spaces])[0]

    class Broken:
        def encode_ordinary(self, text: str) -> list[int]:
            raise ValueError("stack")

    assert fast.Fast(Broken(), None, bpe.encode).encode("abc") == bpe.encode("abc")  # type: ignore[arg-type]


def test_ids_in_another_order_than_the_merges(bpe: Tokenizer) -> None:
    raw = bpe.definition.raw
    top = bpe.vocab_size - 1
    turned = {token: id if id < 3 else top + 3 - id for token, id in raw["model"]["vocab"].items()}
    tokenizer = changed(bpe, model={**raw["model"], "vocab": turned})
    assert tokenizer.fast is not None, tokenizer.why_not_fast
    for text in TEXTS:
        assert tokenizer.fast.encode(text) == tokenizer.library_batch([text])[0]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"normalizer": {"type": "NFC"}}, "it changes text before it is split"),
        ({"pre_tokenizer": {**BYTES, "add_prefix_space": True}}, "not one whose equality is proven"),
        ({"pre_tokenizer": split_by(r"\p{L}+")}, "not one whose equality is proven"),
        ({"decoder": {"type": "Fuse"}}, "it is not a byte-level BPE"),
    ],
)
def test_it_says_why_not(bpe: Tokenizer, change: dict[str, Any], why: str) -> None:
    tokenizer = changed(bpe, **change)
    assert tokenizer.fast is None
    assert why in tokenizer.why_not_fast
    for text in TEXTS:
        assert tokenizer.encode_batch([text]) == tokenizer.library_batch([text])


def test_vocabularies_that_tiktoken_would_read_otherwise(bpe: Tokenizer) -> None:
    raw = bpe.definition.raw
    model = raw["model"]
    extra = {
        "id": bpe.vocab_size,
        "content": "    ",
        "special": False,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": True,
    }
    ways: dict[str, dict[str, Any]] = {
        "added tokens that are not special": {"added_tokens": [*raw["added_tokens"], extra]},
        "rules that tiktoken does not have": {"model": {**model, "byte_fallback": True}},
        "is not listed": {"model": {**model, "ignore_merges": True}},
        "stands behind one that makes a later token": {"model": {**model, "ignore_merges": True, "merges": model["merges"][::-1]}},
        "is not what its own bytes are merged to": {"model": {**model, "merges": model["merges"][::-1]}},
        "two merges make the token": {"model": {**model, "merges": [*model["merges"], model["merges"][0]]}},
    }
    for why, change in ways.items():
        tokenizer = changed(bpe, **change)
        assert tokenizer.fast is None
        assert why in tokenizer.why_not_fast


@pytest.mark.parametrize("seed", range(12))
def test_ranks_in_any_order(seed: int, tmp_path: Path) -> None:
    """Vocabularies that no training would make, over two letters: tokens come before their parts, cannot be reached, overlap themselves."""
    dice = random.Random(seed)
    words = dict.fromkeys("".join(dice.choice("ab") for _ in range(dice.randint(2, 7))).encode() for _ in range(dice.randint(5, 60)))
    ranks = [*(bytes([byte]) for byte in range(256)), *words]
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(ranks))
    (tmp_path / "cl100k_base.tiktoken").write_text("".join(lines))
    tokenizer = Tokenizer.open(tmp_path)
    assert tokenizer.fast is not None, tokenizer.why_not_fast
    some = ["".join(dice.choice("ab") for _ in range(dice.randint(1, 40))) for _ in range(300)] + ["ab" * 30, "a" * 50, "aab" * 20]
    assert tokenizer.fast.encode_batch(some) == tokenizer.library_batch(some)


def test_without_tiktoken(bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tiktoken", None)
    tokenizer = changed(bpe)
    assert tokenizer.fast is None
    assert "pip install 'quire[fast]'" in tokenizer.why_not_fast
    assert tokenizer.encode_batch(["abc"]) == bpe.encode_batch(["abc"])


def test_a_sample_that_differs_closes_the_path(bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fast._PATTERNS, fast.GPT2_PATTERN, r"\s+|\S+")
    tokenizer = changed(bpe)
    assert tokenizer.fast is None
    assert "tiktoken gave other ids for the sample" in tokenizer.why_not_fast


def test_special_tokens_of_any_spelling() -> None:
    tokenizer = train("bpe", corpus()[:1], 400, special=SpecialTokens({"eos": "return", "pad": "the"}))
    assert tokenizer.fast is not None
    assert tokenizer.fast.encode("return the value") == tokenizer.library_batch(["return the value"])[0]
    assert not any(tokenizer.is_special(id) for id in tokenizer.fast.encode("return the value"))
