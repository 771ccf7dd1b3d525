"""Vocabulary files that are damaged or hostile: opened or refused with an error of ours, within bounds of time and memory."""

from __future__ import annotations

import json
import random
import time
import tracemalloc
from pathlib import Path

import pytest

from quire.errors import ModelError
from quire.text.sentencepiece import convert, parse
from quire.text.tokenizer import Tokenizer
from tests.text.conftest import PROSE
from tests.text.models import spm
from tests.text.test_formats import folder_of, lines, pairs, ranks_of, vocabulary
from tests.text.test_sentencepiece import UNK, field, piece


def mutated(data: bytes, dice: random.Random) -> bytes:
    """Cut short, with bits flipped, bytes taken out or put in, or a stretch repeated."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(changed) + 1)
        kind = dice.randrange(5)
        if kind == 0 and dice.random() < 0.3:
            del changed[at:]
        elif kind == 1:
            del changed[at : at + dice.randint(1, 9)]
        elif kind == 2:
            changed[at:at] = dice.randbytes(dice.randint(1, 9))
        elif kind == 3:
            changed[at:at] = changed[max(0, at - dice.randint(1, 30)) : at]
        elif at < len(changed):
            changed[at] ^= 1 << dice.randrange(8)
    return bytes(changed)


@pytest.fixture(scope="module")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("small")
    usual = {"vocab_size": 130, "rules": True}
    return [spm([PROSE[:150] * 9], folder, model_type=kind, user_defined_symbols="ab,(x)", **usual) for kind in ("unigram", "bpe")]


def test_2000_mutations_of_a_model(small_models: list[bytes], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Reading and converting each; every tenth is also opened by the library and used."""
    dice = random.Random(0)
    opened = refused = 0
    began = time.process_time()
    for number in range(2000):
        data = mutated(small_models[number % 2], dice)
        try:
            convert(parse(data, "here"))
            if number % 10 == 0:
                (tmp_path / "it.model").write_bytes(data)
                tokenizer = Tokenizer.open(tmp_path / "it.model")
                tokenizer.decode(tokenizer.encode("Hello ﬁ é \u3000 ½ ¨x (x)"))
            opened += 1
        except ModelError as error:
            assert str(error)
            refused += 1
    assert opened > 20 and refused > 1000
    assert time.process_time() - began < 30
    capfd.readouterr()


@pytest.mark.parametrize("name", ["vocab.txt", "vocab.json", "merges.txt", "cl100k_base.tiktoken"])
def test_mutations_of_text_files(trained: dict[str, Tokenizer], bpe: Tokenizer, name: str, tmp_path: Path) -> None:
    files = {"vocab.txt": vocabulary(trained["wordpiece"])} if name == "vocab.txt" else pairs(bpe)
    if name == "cl100k_base.tiktoken":
        files = {name: lines(ranks_of(bpe))}
    folder = folder_of(tmp_path, files)
    content = files[name]
    original = content if isinstance(content, bytes) else content.encode()
    dice = random.Random(1)
    opened = refused = 0
    for _ in range(150):
        (folder / name).write_bytes(mutated(original, dice))
        try:
            tokenizer = Tokenizer.open(folder)
            tokenizer.decode(tokenizer.encode("Hello wörld"))
            opened += 1
        except ModelError:
            refused += 1
    assert opened + refused == 150 and refused > 10


def test_sizes_that_are_only_announced() -> None:
    """A few bytes that speak of gigabytes cost nothing."""
    tracemalloc.start()
    for claim in (b"\x0a\xff\xff\xff\xff\x7f", b"\x1a\x80\x80\x80\x80\x08", b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f"):
        with pytest.raises(ModelError, match="bytes are announced"):
            parse(UNK + claim, "here")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_pieces_that_would_take_for_ever() -> None:
    """Every way to cut every piece is tried, so pieces are short and all of them together bounded."""
    with pytest.raises(ModelError, match="no text of 1 to 512 bytes"):
        parse(UNK + b"\x0a\x85\x04\x0a\x82\x04" + b"a" * 514, "here")
    many = UNK + b"".join(piece(b"%07d" % number * 16) for number in range(76_000))
    with pytest.raises(ModelError, match="8,388,608 characters"):
        parse(many, "here")
    worst = UNK + field(2, field(3, 2)) + b"".join(piece(b"a" * length) for length in range(1, 119))
    began = time.process_time()
    assert len(convert(parse(worst, "here"))["model"]["merges"]) == 118 * 117 // 2
    assert time.process_time() - began < 5


def test_large_files_are_not_read(tmp_path: Path) -> None:
    for name, size in (("vocab.txt", 2**26), ("x.model", 2**28), ("cl100k_base.tiktoken", 2**26)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size + 1)  # no space on the disk
        with pytest.raises(ModelError, match=r"bytes; at most [\d,]+ are read"):
            Tokenizer.open(tmp_path / name)


def test_vocabularies_of_the_wrong_kind(tmp_path: Path) -> None:
    for ids in ({"a": True}, {"a": "0"}, {"a": -1}, {"a": 2**40}, {"a": 0, "b": 0}):
        with pytest.raises(ModelError):
            Tokenizer.open(folder_of(tmp_path, {"vocab.json": json.dumps(ids), "merges.txt": ""}))
