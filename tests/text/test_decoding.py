"""Streams never show half a character, and joined they are the whole decode, whatever the ids."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from quire.text.decoding import byte_characters
from quire.text.tokenizer import Tokenizer
from quire.text.training import KINDS
from tests.text.files import file
from tests.text.texts import texts


def streamed(tokenizer: Tokenizer, ids: list[int], special: bool = False) -> list[str]:
    stream = tokenizer.stream(special)
    return [*(stream.push(id) for id in ids), stream.end()]


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), special=st.booleans())
def test_a_stream_is_the_whole(trained: dict[str, Tokenizer], kind: str, data: st.DataObject, special: bool) -> None:
    tokenizer = trained[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    assert "".join(streamed(tokenizer, ids, special)) == tokenizer.decode(ids, special)


@given(data=st.binary(max_size=60))
def test_bytes_that_are_no_text(bpe: Tokenizer, data: bytes) -> None:
    ids = [bpe.byte_ids[bytes([byte])] for byte in data]
    assert "".join(streamed(bpe, ids)) == bpe.decode(ids) == data.decode("utf-8", "replace")


@given(text=texts)
def test_no_half_characters(bpe: Tokenizer, text: str) -> None:
    """Byte by byte: each character comes out whole, with its last byte, and no replacement character is ever shown."""
    stream = bpe.stream()
    shown = []
    for character in text:
        parts = [stream.push(bpe.byte_ids[bytes([byte])]) for byte in character.encode()]
        assert parts == [""] * (len(parts) - 1) + [character]
        shown += parts
    assert stream.end() == ""
    assert "".join(shown) == text


def test_a_broken_character_is_replaced_when_it_can_no_longer_complete(bpe: Tokenizer) -> None:
    stream = bpe.stream()
    byte = {value: bpe.byte_ids[bytes([value])] for value in range(256)}
    assert [stream.push(byte[value]) for value in (0xF0, 0x9F, 0x91)] == ["", "", ""]
    assert stream.push(byte[0x41]) == "\ufffdA"
    assert stream.push(byte[0xE2]) == ""
    assert stream.end() == "\ufffd"
    assert stream.push(byte[0x42]) == "B"  # and again, for another text


def test_the_first_piece_of_a_second_text(trained: dict[str, Tokenizer]) -> None:
    wordpiece = trained["wordpiece"]
    stream = wordpiece.stream()
    ids = wordpiece.encode("the fox")
    for _ in range(2):
        assert "".join(map(stream.push, ids)) + stream.end() == "the fox"


@pytest.mark.parametrize("kind", KINDS)
@given(text=texts, special=st.booleans())
def test_the_library_decodes_the_same(trained: dict[str, Tokenizer], kind: str, text: str, special: bool) -> None:
    tokenizer = trained[kind]
    ids = tokenizer.encode(text)
    reference = tokenizers.Tokenizer.from_str(json.dumps(tokenizer.definition.raw))
    assert tokenizer.decode(ids, special) == reference.decode(ids, skip_special_tokens=not special)


def test_special_tokens_are_shown_on_request(bpe: Tokenizer) -> None:
    ids = [1, *bpe.encode("user\nhi"), 2]
    assert bpe.decode(ids) == "user\nhi"
    assert bpe.decode(ids, special=True) == "<|im_start|>user\nhi<|im_end|>"


def test_the_alphabet_of_bytes() -> None:
    assert sorted(byte_characters().values()) == list(range(256))
    assert set(byte_characters()) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())


LLAMA = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
SOME = ["<unk>", "▁", "▁the", "fox", "<0xF0>", "<0x9F>", "<0x91>", "<0x8B>", "<0x41>", "é", " .", "don", " n't", "##ing", "a</w>", "b"]


@pytest.mark.parametrize(
    "decoder",
    [
        LLAMA,
        None,
        {"type": "Fuse"},
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        {"type": "WordPiece", "prefix": "##", "cleanup": False},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        {"type": "Sequence", "decoders": [{"type": "WordPiece", "prefix": "##", "cleanup": True}]},
        {"type": "BPEDecoder", "suffix": "</w>"},
        {"type": "CTC", "pad_token": "<unk>", "word_delimiter_token": "▁", "cleanup": False},
    ],
    ids=["llama", "none", "fuse", "wordpiece", "plain wordpiece", "metaspace", "sequence", "suffix", "ctc"],
)
@given(ids=st.lists(st.integers(1, len(SOME) - 1), max_size=12))
def test_decoders_of_others(decoder: dict[str, Any] | None, ids: list[int]) -> None:
    text = file({"type": "WordLevel", "unk_token": "<unk>", "vocab": {token: id for id, token in enumerate(SOME)}}, [], decoder=decoder)
    tokenizer, reference = Tokenizer.from_json(text), tokenizers.Tokenizer.from_str(text)
    whole = tokenizer.decode(ids)
    assert "".join(streamed(tokenizer, ids)) == whole
    expected = reference.decode(ids, skip_special_tokens=False)
    if "\ufffd" not in whole + expected:  # the library gives up on a whole run of bytes, we only on those that are broken
        assert whole == expected


def test_an_added_token_is_written_as_it_stands() -> None:
    """The library reads an added token's letters as bytes where they happen to be letters of the byte alphabet."""
    model = {"type": "BPE", "merges": [], "vocab": dict(byte_characters())}
    tokenizer = Tokenizer.from_json(file(model, [{"id": 256, "content": "éé"}], decoder=BYTES))
    assert tokenizer.token_bytes(256) == "éé".encode()
    assert tokenizer.decode([256], special=True) == "éé"
