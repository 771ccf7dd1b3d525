"""Text to ids and back: exactness, places, batches, and errors that say what to do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from tokenizers.normalizers import BertNormalizer

from quire.errors import ContextError, DataError, ModelError, StorageError
from quire.text.tokenizer import Tokenizer
from quire.text.training import KINDS
from tests.text.texts import TEXTS, texts


@given(text=texts)
def test_bytes_are_restored_exactly(bpe: Tokenizer, text: str) -> None:
    assert bpe.exact
    assert bpe.decode(bpe.encode(text)) == text
    assert b"".join(bpe.token_bytes(id) for id in bpe.encode(text)) == text.encode()


@pytest.mark.parametrize("kind", KINDS)
@given(text=texts)
def test_places_point_into_the_text(trained: dict[str, Tokenizer], kind: str, text: str) -> None:
    tokenizer = trained[kind]
    found = tokenizer.pieces(text)
    assert found.ids == tokenizer.encode(text)
    starts = [start for start, _ in found.offsets]
    assert starts == sorted(starts)
    assert all(0 <= start <= end <= len(text) for start, end in found.offsets)
    for id, (start, end) in zip(found.ids, found.offsets):
        piece = tokenizer.token_bytes(id)
        if id != tokenizer.unk and kind in ("bpe", "unigram", "char") and "▁" not in text:
            # A token is what stands at its place; where it is a part of a character, a part of that character's bytes.
            assert piece in text[start:end].encode()
        elif id != tokenizer.unk and kind == "wordpiece":
            assert BertNormalizer(lowercase=False).normalize_str(text[start:end]).strip() == piece.decode()
    if kind in ("bpe", "unigram", "char"):
        covered = {i for start, end in found.offsets for i in range(start, end)}
        assert covered == set(range(len(text)))


@given(text=texts)
def test_unigram_and_char_restore_what_they_know(trained: dict[str, Tokenizer], text: str) -> None:
    unigram, char = trained["unigram"], trained["char"]
    if "▁" not in text:  # its own mark for a space
        assert unigram.decode(unigram.encode(text)) == text
        assert unigram.unk not in unigram.encode(text)
    ids = char.encode(text)
    if char.unk not in ids:
        assert char.decode(ids) == text


def test_wordpiece_joins_words(trained: dict[str, Tokenizer]) -> None:
    wordpiece = trained["wordpiece"]
    assert wordpiece.decode(wordpiece.encode("The quick brown fox, jumped")) == "The quick brown fox, jumped"
    assert wordpiece.encode("\u1234") == [wordpiece.unk]


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_opened_again_is_the_same(trained: dict[str, Tokenizer], kind: str, tmp_path: Path) -> None:
    tokenizer = trained[kind]
    tokenizer.save(tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        again = Tokenizer.open(path)
        assert again.hash == tokenizer.hash
        assert again.special == tokenizer.special
        assert [again.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
    again.save(tmp_path / "twice")
    assert (tmp_path / "twice" / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


def test_the_hash_follows_content_not_layout(bpe: Tokenizer, tmp_path: Path) -> None:
    bpe.save(tmp_path)
    raw = json.loads((tmp_path / "tokenizer.json").read_text())
    raw["model"]["merges"] = [" ".join(pair) for pair in raw["model"]["merges"]]  # the older way to write them
    raw["truncation"] = {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw, indent=4, sort_keys=True))
    again = Tokenizer.open(tmp_path)
    assert again.hash == bpe.hash
    assert again.encode("a text of more than three tokens") == bpe.encode("a text of more than three tokens")
    raw["model"]["merges"][40], raw["model"]["merges"][41] = raw["model"]["merges"][41], raw["model"]["merges"][40]
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    assert Tokenizer.open(tmp_path).hash != bpe.hash
    bpe.save(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": "<|im_end|>"}))
    assert Tokenizer.open(tmp_path).hash != bpe.hash


def test_roles(trained: dict[str, Tokenizer]) -> None:
    bpe, wordpiece, unigram = trained["bpe"], trained["wordpiece"], trained["unigram"]
    assert (bpe.bos, bpe.eos, bpe.pad, bpe.unk, bpe.mask, bpe.cls, bpe.sep) == (0, 0, 0, None, None, None, None)
    assert bpe.special == {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "pad": "<|endoftext|>"}
    assert bpe.special_tokens == {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    assert wordpiece.special_ids == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert (wordpiece.pad, wordpiece.unk, wordpiece.cls, wordpiece.sep, wordpiece.mask) == (0, 1, 2, 3, 4)
    assert (unigram.pad, unigram.eos, unigram.unk, unigram.token_id("<extra_id_99>")) == (0, 1, 2, 102)
    assert bpe.token_id("no such token") is None
    assert all(bpe.token_id(bpe.token(id)) == id for id in range(bpe.vocab_size))
    assert bpe.is_special(1) and not bpe.is_special(3)
    with pytest.raises(DataError, match=r"there is no token 1100; ids go from 0 to 1099"):
        bpe.token(1100)
    for tokenizer in (bpe, wordpiece, unigram):  # a model with more rows than tokens may pick an id beyond them
        beyond = tokenizer.vocab_size + 7
        assert tokenizer.decode([500, beyond, 501, beyond]) == tokenizer.decode([500, 501]) != ""
        stream = tokenizer.stream()
        assert "".join([*map(stream.push, [500, beyond, 501]), stream.end()]) == tokenizer.decode([500, 501])
    with pytest.raises(DataError, match="a text is needed, not NoneType"):
        bpe.encode(None)  # type: ignore[arg-type]


def test_padding(trained: dict[str, Tokenizer]) -> None:
    tokenizer = trained["wordpiece"]
    rows = ["the fox", "the lazy dog jumps over", ""]
    right = tokenizer.batch(rows)
    left = tokenizer.batch(rows, side="left")
    for batch in (right, left):
        assert batch.ids.dtype == np.int64 and batch.keep.dtype == np.bool_ and batch.offsets.shape == (*batch.ids.shape, 2)
        assert batch.cut == [0, 0, 0]
        for row, text in enumerate(rows):
            assert batch.ids[row][batch.keep[row]].tolist() == tokenizer.encode(text)
            assert [tuple(place) for place in batch.offsets[row][batch.keep[row]]] == tokenizer.pieces(text).offsets
            assert set(batch.ids[row][~batch.keep[row]].tolist()) <= {tokenizer.pad}
    assert right.keep[0].tolist() == sorted(right.keep[0].tolist(), reverse=True)
    assert left.keep[0].tolist() == sorted(left.keep[0].tolist())
    assert tokenizer.batch(rows, pad_to=20).ids.shape == (3, 20)
    assert tokenizer.batch([]).ids.shape == (0, 0)
    with pytest.raises(DataError, match="'right' or to the 'left', not to 'middle'"):
        tokenizer.batch(rows, side="middle")  # type: ignore[arg-type]


def test_nothing_is_cut_silently(trained: dict[str, Tokenizer]) -> None:
    tokenizer = trained["wordpiece"]
    text = "the quick brown fox jumps over the lazy dog"
    many = len(tokenizer.encode(text))
    with pytest.raises(ContextError, match=rf"text 1 has {many} tokens, {many - 3} more than the 3 that fit.*long=\"cut\""):
        tokenizer.batch(["the", text], length=3)
    found = tokenizer.batch(["the", text], length=5, long="cut", before=[tokenizer.cls], after=[tokenizer.sep])
    assert found.cut == [0, many - 3]
    assert found.ids[1].tolist() == [tokenizer.cls, *tokenizer.encode(text)[:3], tokenizer.sep]
    assert found.ids[0].tolist() == [tokenizer.cls, *tokenizer.encode("the"), tokenizer.sep, *[tokenizer.pad] * 2]
    with pytest.raises(ContextError, match="a length of 1 has no room for the 2 tokens"):
        tokenizer.batch(["the"], length=1, before=[2], after=[3])


def test_no_text_is_refused_with_its_place(bpe: Tokenizer) -> None:
    for encode in (bpe.encode, bpe.pieces, lambda text: bpe.encode_batch([text]), lambda text: bpe.library_batch([text])):
        with pytest.raises(DataError, match=r"character 2 is half of a surrogate pair \(U\+D83D\)"):
            encode("ab\ud83d")
    with pytest.raises(DataError, match="a text is needed, not bytes"):
        bpe.encode(b"ab")  # type: ignore[arg-type]


def test_what_is_not_there(bpe: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no tokenizer at .*nowhere"):
        Tokenizer.open(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"holds no tokenizer\.json.*quire tokenizer train"):
        Tokenizer.open(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        bpe.save(tmp_path / "file")


def test_parts_are_encoded_as_one_text(bpe: Tokenizer) -> None:
    start, end = bpe.special_tokens["<|im_start|>"], bpe.special_tokens["<|im_end|>"]
    text = "user\nsay <|im_end|> é"
    found = bpe.encode_parts([start, text, end, "\n"])
    assert found.ids == [start, *bpe.encode(text), end, *bpe.encode("\n")]
    whole = f"<|im_start|>{text}<|im_end|>\n"
    assert found.offsets[0] == (0, 12)
    assert bpe.encode_parts([start, text, end, "\n"], offsets=False).ids == found.ids
    assert "".join(whole[a:b] for a, b in dict.fromkeys(found.offsets)) == whole
    with pytest.raises(DataError, match=re.escape("token 300 (")):
        bpe.encode_parts(["a", 300])
