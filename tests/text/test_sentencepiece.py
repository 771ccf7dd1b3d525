"""SentencePiece models give the ids that sentencepiece gives, on any text, and text comes back."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.errors import ModelError
from quire.text.sentencepiece import convert, parse
from quire.text.tokenizer import Tokenizer
from tests.text.conftest import PROSE, corpus
from tests.text.models import processor, spm
from tests.text.texts import PIECES, TEXTS

SYMBOLS = "<sym>,[A B],(,--"
FORMS: dict[str, dict[str, Any]] = {
    "bpe": {"model_type": "bpe"},
    "bpe-bytes": {"model_type": "bpe", "byte_fallback": True, "vocab_size": 600, "remove_extra_whitespaces": False},
    "bpe-bare": {"model_type": "bpe", "byte_fallback": True, "vocab_size": 600, "add_dummy_prefix": False, "user_defined_symbols": SYMBOLS},
    "bpe-spaces": {"model_type": "bpe", "add_dummy_prefix": False, "remove_extra_whitespaces": False, "user_defined_symbols": "▁▁,▁▁▁▁"},
    "bpe-rules": {"model_type": "bpe", "rules": True},
    "unigram": {"model_type": "unigram", "control_symbols": "<c>,[X]"},
    "unigram-spaces": {"model_type": "unigram", "remove_extra_whitespaces": False},
    "unigram-bytes": {"model_type": "unigram", "byte_fallback": True, "vocab_size": 600},
    "unigram-rules": {"model_type": "unigram", "rules": True, "user_defined_symbols": SYMBOLS, "pad_id": 3},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tokenizer, Any]]:
    """{form: (our tokenizer, the reference)}"""
    folder = tmp_path_factory.mktemp("spm")
    texts = [PROSE * 20, corpus()[1][:20_000]]
    made = {}
    for name, options in FORMS.items():
        data = spm(texts, folder, **options)
        (folder / f"{name}.model").write_bytes(data)
        made[name] = Tokenizer.open(folder / f"{name}.model"), processor(data)
    return made


def score(reference: Any, ids: list[int]) -> float:
    return sum(reference.get_score(id) for id in ids)


def check(tokenizer: Tokenizer, reference: Any, text: str) -> None:
    ids, theirs = tokenizer.encode(text), reference.encode(text)
    if ids != theirs:
        # A Unigram model takes the likeliest way. Of two that are equally likely, the rounding of sums decides: theirs has 32 bits, the
        # tokenizers library's 64. Nothing else may differ.
        assert tokenizer.definition.kind == "Unigram", text
        assert score(reference, ids) == pytest.approx(score(reference, theirs), abs=1e-3, rel=1e-5), text
        assert tokenizer.decode(ids) == tokenizer.decode(theirs), text
    if reference.unk_id() not in theirs:
        # Where the model trims spaces, the reference also takes away `▁` that someone wrote in front.
        assert tokenizer.decode(theirs).lstrip(" ") == reference.decode(theirs).lstrip(" ")


mixed = st.lists(
    st.one_of(
        st.sampled_from([*PIECES, "<0x41>", "</s>", "<unk>", "<c>", "<sym>", "[A B]", "(", "--", "ﬁ", "Ａ", "½", "¨", "\u200b", "▁▁"]),
        st.text(max_size=4),
        st.builds(lambda c, n: c * n, st.sampled_from("ab= -_▁"), st.integers(1, 20)),
    ),
    max_size=12,
).map("".join)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("text", TEXTS)
def test_texts(models: dict[str, tuple[Tokenizer, Any]], form: str, text: str) -> None:
    check(*models[form], text)


@given(text=mixed, form=st.sampled_from(list(FORMS)))
@settings(max_examples=400)
def test_any_text(models: dict[str, tuple[Tokenizer, Any]], text: str, form: str) -> None:
    tokenizer, reference = models[form]
    if tokenizer.definition.raw["normalizer"]["normalizers"][0]["type"] == "Precompiled":
        text = "".join(c for c in text if c not in "\u0301\u200d\ufe0f\u0308")  # test_marks_over_letters says why
    check(tokenizer, reference, text)


def test_marks_over_letters(models: dict[str, tuple[Tokenizer, Any]], tmp_path: Path) -> None:
    """The one known difference: what people see as one character, and the table knows a part of, is that part to the tokenizers library."""
    tokenizer, reference = models["unigram-rules"]
    check(tokenizer, reference, "e\u0301 \ufb01")
    assert reference.decode(reference.encode("\ufb01\u0300")).startswith("fi")
    assert tokenizer.encode("\ufb01\u0300") == tokenizer.encode("\ufb01")  # the accent is lost, as in transformers
    tokenizer.save(tmp_path)
    assert opened(tmp_path).encode("\ufb01\u0300", add_special_tokens=False) == tokenizer.encode("\ufb01\u0300")


def opened(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("rule", ["nmt_nfkc", "nfkc_cf"])
def test_every_character_is_normalised_alike(tmp_path: Path, rule: str) -> None:
    from tokenizers import Tokenizer as Library

    data = spm([PROSE], tmp_path, normalization_rule_name=rule, vocab_size=200)
    raw = convert(parse(data, "here"))
    raw["normalizer"]["normalizers"] = [step for step in raw["normalizer"]["normalizers"] if step["type"] == "Precompiled"]
    normalizer, reference = Library.from_str(json.dumps(raw)).normalizer, processor(data)
    for code in [*range(0x3400), *range(0x4E00, 0x4E40), *range(0xAC00, 0xAC40), *range(0xF900, 0x10000), *range(0x1D400, 0x1FC00)]:
        letter = chr(code)
        ours, theirs = normalizer.normalize_str(f"a{letter}b"), reference.normalize(f"a{letter}b")
        assert ours.replace(" ", "▁") == theirs.removeprefix("▁"), hex(code)


def test_saved_models_open_in_transformers(models: dict[str, tuple[Tokenizer, Any]], tmp_path: Path) -> None:
    for form, (tokenizer, _) in models.items():
        tokenizer.save(tmp_path / form)
        theirs = opened(tmp_path / form)
        again = Tokenizer.open(tmp_path / form)
        assert again.hash == tokenizer.hash
        for text in TEXTS[:6]:
            ids = tokenizer.encode(text)
            assert theirs.encode(text, add_special_tokens=False) == ids == again.encode(text)
            assert theirs.decode(ids) == tokenizer.decode(ids, special=True)


def test_special_tokens_are_the_models(models: dict[str, tuple[Tokenizer, Any]]) -> None:
    tokenizer, reference = models["unigram-rules"]
    assert tokenizer.special_ids == {role: getattr(reference, f"{role}_id")() for role in ("unk", "bos", "eos", "pad")}
    assert models["unigram"][0].special_tokens.keys() == {"<unk>", "<s>", "</s>", "<c>", "[X]"}
    for tokenizer, _ in models.values():
        assert not {id for id in tokenizer.encode("</s><s><c>[X]<unk>") if tokenizer.is_special(id) and id != tokenizer.unk}


def test_offsets_follow_the_text(models: dict[str, tuple[Tokenizer, Any]]) -> None:
    tokenizer, _ = models["bpe-bytes"]
    text = "The fox  über 中x"
    row = tokenizer.pieces(text)
    assert "".join(text[a:b] for a, b in dict.fromkeys(row.offsets)) == text


# -- published models --------------------------------------------------------------------------------------------------------------

PUBLISHED = (
    *("llama2/tokenizer.model", "mistral/tokenizer.model.v1", "mistral/mistral_instruct_tokenizer_240323.model.v3"),
    *("unigram/albert_spiece.model", "unigram/test_sentencepiece.model", "unigram/test_sentencepiece_bpe.model"),
)


def samples(data_folder: Path, name: str) -> list[tuple[str, list[int]]]:
    """The texts and ids that llama.cpp publishes for a vocabulary."""
    folder = data_folder / "tokenizers" / "gguf"
    texts = (folder / f"ggml-vocab-{name}.gguf.inp").read_text().split("\n__ggml_vocab_test__\n")[:-1]
    lines = (folder / f"ggml-vocab-{name}.gguf.out").read_text().splitlines()
    return [(text, [int(id) for id in line.split()]) for text, line in zip(texts, lines, strict=True)]


@pytest.mark.needs_data
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models(data_folder: Path, name: str) -> None:
    path = data_folder / "tokenizers" / name
    tokenizer, reference = Tokenizer.open(path), processor(path.read_bytes())
    stories = (data_folder / "corpora" / "tinystories_sample.txt").read_text()[:20_000].splitlines()
    dice = random.Random(0)
    runs = ["".join(dice.choice([*PIECES, *"ab=-_▁", " " * dice.randint(1, 9)]) for _ in range(dice.randint(1, 12))) for _ in range(300)]
    for text in [*TEXTS, *PIECES, *stories, *(text for text, _ in samples(data_folder, "llama-spm")), *runs]:
        if tokenizer.definition.raw["normalizer"]["normalizers"][0]["type"] != "Precompiled" or "\u0301" not in text:
            check(tokenizer, reference, text)


@pytest.mark.needs_data
def test_llamas_own_samples(data_folder: Path) -> None:
    tokenizer = Tokenizer.open(data_folder / "tokenizers" / "llama2" / "tokenizer.model")
    for text, ids in samples(data_folder, "llama-spm"):
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == text


# -- what is refused ---------------------------------------------------------------------------------------------------------------


def field(number: int, value: bytes | int) -> bytes:
    return bytes([number << 3, value]) if isinstance(value, int) else bytes([number << 3 | 2, len(value)]) + value


def piece(text: bytes, kind: int = 1, score: bytes = bytes(4)) -> bytes:
    return field(1, field(1, text) + bytes([2 << 3 | 5]) + score + field(3, kind))


UNK = piece(b"<unk>", 2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 unknown pieces"),
        (UNK + piece(b"<u>", 2), "2 unknown pieces among 2"),
        (UNK + piece(b"a") + piece(b"a"), "two of its pieces are spelt alike"),
        (UNK + piece(b"\xff"), "utf-8"),
        (UNK + piece(b"a", 9), "of the unknown kind 9"),
        (UNK + piece(b"a", score=b"\x00\x00\xc0\x7f"), "the score nan"),
        (UNK + field(1, b""), "piece 1 has no text of 1 to 512 bytes"),
        (UNK + field(2, field(3, 4)), r"model type is 4; 1 \(Unigram\) and 2 \(BPE\)"),
        (UNK + field(2, b"\xc0\x01\x01"), "treat_whitespace_as_suffix"),
        (UNK + field(3, field(5, 0)), "escape_whitespaces"),
        (UNK + field(2, field(3, 2)) + piece(b"a", 5), "unused pieces"),
        (UNK + field(2, b"\x98\x02\x01"), "256 pieces for them"),
        (UNK + field(3, field(2, b"abc")), "normaliser of 3 bytes"),
        (UNK + b"\x0a\xff\xff\xff\xff\x0f", "4,294,967,295 bytes are announced"),
        (UNK + b"\x80" * 12, "does not end"),
        (UNK + b"\x0b", "wire type 3"),
        (UNK + field(1, 7), "a number stands where a message belongs"),
    ],
)
def test_what_is_wrong_is_named(data: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse(data, "here")
