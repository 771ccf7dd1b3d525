"""Whatever someone writes, it does not become a special token: for every kind, for others' files, and for every unkind way to write one."""

from __future__ import annotations

from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from quire.errors import DataError
from quire.text.tokenizer import Tokenizer
from quire.text.training import KINDS, SpecialTokens, train
from tests.text.files import MERGED, PIECES, UNIGRAM, WHOLE, WORDS, file
from tests.text.texts import texts


def special_in(tokenizer: Tokenizer, text: str) -> list[int]:
    """Special ids in the encoding of a text, the unknown token aside: that one says that something could not be written."""
    forms = (tokenizer.encode(text), tokenizer.pieces(text).ids, tokenizer.encode_batch([text])[0], tokenizer.library_batch([text])[0])
    assert all(form == forms[0] for form in forms)
    return [id for id in forms[0] if tokenizer.is_special(id) and id != tokenizer.unk]


@pytest.mark.parametrize("kind", KINDS)
@given(text=texts, before=st.sampled_from(("", " ", "\n", "a", "é", "<", "▁")))
def test_no_text_spells_a_special_token(trained: dict[str, Tokenizer], kind: str, text: str, before: str) -> None:
    tokenizer = trained[kind]
    assert special_in(tokenizer, text) == []
    for spelling in list(tokenizer.special_tokens)[:6]:
        assert special_in(tokenizer, before + spelling + text) == []


@pytest.mark.parametrize("kind", KINDS)
def test_spellings_that_look_like_words(kind: str) -> None:
    special = SpecialTokens({"bos": "begin", "eos": "end", "pad": "pad", "unk": "unknown"}, ("the", "x", "cat's"))
    tokenizer = train(kind, ["the cat sat at the end of the mat and began to pad about x unknown the end begin"] * 9, 400, special=special)
    for text in ("begin", "the end", "the cat's x pad", "unknown", " end ", "theend", "x"):
        assert special_in(tokenizer, text) == []
    # What is written around it is not lost.
    assert tokenizer.encode_parts([tokenizer.bos, "the end", tokenizer.eos]).ids == [
        tokenizer.bos,
        *tokenizer.encode("the end"),
        tokenizer.eos,
    ]


@pytest.mark.parametrize(
    ("model", "spelling", "parts"),
    [
        (UNIGRAM, "</s>", {}),
        (WORDS, "</s>", {"pre_tokenizer": {"type": "WhitespaceSplit"}}),
        (PIECES, "END", {"pre_tokenizer": {"type": "WhitespaceSplit"}}),
        (MERGED, "</s>", {}),
        (WHOLE, "</s>", {}),
    ],
    ids=["unigram", "word", "wordpiece", "merged", "whole"],
)
def test_files_whose_vocabulary_holds_the_spelling(model: dict[str, Any], spelling: str, parts: dict[str, Any]) -> None:
    id = 0 if model["type"] == "BPE" else 1
    text = file(model, [{"id": id, "content": spelling}], **parts)
    # The library's own switch does not help here: this is what the twin is for.
    careful = tokenizers.Tokenizer.from_str(text)
    careful.encode_special_tokens = True
    assert id in careful.encode(f"a {spelling} a").ids or id in careful.encode(spelling).ids
    tokenizer = Tokenizer.from_json(text)
    for written in (spelling, f"a {spelling}", f"{spelling}{spelling}", f"a {spelling} a"):
        assert special_in(tokenizer, written) == []
    assert tokenizer.encode_parts(["a", id]).ids[-1] == id


@pytest.mark.parametrize(
    "flags", [{"normalized": True}, {"lstrip": True, "rstrip": True}, {"single_word": True}, {"normalized": True, "rstrip": True}]
)
def test_flags_of_special_tokens(flags: dict[str, bool]) -> None:
    text = file(
        {**UNIGRAM, "vocab": UNIGRAM["vocab"][:1] + UNIGRAM["vocab"][2:]},
        [{"id": len(UNIGRAM["vocab"]) - 1, "content": "[MASK]", **flags}],
        normalizer={"type": "Lowercase"},
    )
    tokenizer, reference = Tokenizer.from_json(text), tokenizers.Tokenizer.from_str(text)
    id = tokenizer.token_id("[MASK]")
    assert id is not None
    for written in ("[MASK]", "[mask]", "a [MASK] b", "a[MASK]b"):
        assert special_in(tokenizer, written) == []
    # Where a template puts it, it is what the reference makes of the same text, spaces around it included.
    assert tokenizer.encode_parts(["a ", id, " b"]).ids == reference.encode("a [MASK] b").ids


def test_a_place_that_a_special_token_does_not_accept() -> None:
    end = {"id": 3, "content": "</s>", "single_word": True}
    model = {"type": "WordLevel", "unk_token": "<unk>", "vocab": {"<unk>": 0, "a": 1, "b": 2}}
    tokenizer = Tokenizer.from_json(file(model, [end]))
    assert tokenizer.encode_parts(["a", " ", 3]).ids[-1] == 3
    with pytest.raises(DataError, match=r"the special tokens \[3\] were asked for and \[\] came out"):
        tokenizer.encode_parts(["a", 3, "b"])


def test_ordinary_added_tokens_stay_ordinary() -> None:
    """An added token that is not special is a word of the vocabulary: the reference matches it in text, and so do we."""
    text = file(
        UNIGRAM,
        [{"id": 1, "content": "</s>"}, {"id": len(UNIGRAM["vocab"]), "content": "<think>", "special": False}],
    )
    tokenizer, reference = Tokenizer.from_json(text), tokenizers.Tokenizer.from_str(text)
    assert tokenizer.encode("a<think>b") == reference.encode("a<think>b").ids
    assert len(UNIGRAM["vocab"]) in tokenizer.encode("a<think>b")
    # Unless the settings give it a part to play: then it is special.
    role = Tokenizer.from_json(text, {"eos_token": "<think>"})
    assert special_in(role, "a<think>b") == []
    listed = Tokenizer.from_json(text, {"additional_special_tokens": ["<think>"]})
    assert special_in(listed, "a<think>b") == []


@pytest.mark.needs_data
@given(text=texts)
def test_published_tokenizers(gpt2: Tokenizer, neox: Tokenizer, text: str) -> None:
    for tokenizer in (gpt2, neox):
        assert special_in(tokenizer, text + "<|endoftext|>" + text + "<|padding|>") == []
