"""Token shards: what goes in comes out, and a file that is missing, damaged or changed is named."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from quire import durable
from quire.data import shards
from quire.data.shards import Shard
from quire.data.sources import corpus_hash, document, split
from quire.errors import CheckpointError, DataError, StorageError
from quire.text.tokenizer import Tokenizer
from quire.text.training import SpecialTokens, train

from .conftest import some_documents

EOS = 0


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    assert tokenizer.eos == EOS
    shards.build(tmp_path, some_documents(60), tokenizer, EOS, 0.2)
    return tmp_path


def test_every_document_comes_back_as_it_was(folder: Path, tokenizer: Tokenizer) -> None:
    documents = some_documents(60)
    for side in ("train", "held_out"):
        shard = Shard.open(folder, side, verify=True)
        want = [d for d in documents if split(d, 0.2) == side]
        assert shard.documents == len(want) > 5 and list(shard.names()) == [d.name for d in want]
        assert [tokenizer.decode(shard.document(i).tolist()) for i in range(shard.documents)] == [d.text for d in want]
        assert [shard.document_bytes(i) for i in range(shard.documents)] == [d.size for d in want]
        assert shard.text_bytes == sum(d.size for d in want)
        assert shard.tokens[0] == EOS and all(shard.tokens[shard.offsets[1:] - 1] == EOS)
        assert np.count_nonzero(shard.tokens == EOS) == shard.documents + 1
        assert (shard.tokenizer, shard.corpus) == (tokenizer.hash, corpus_hash(d.digest for d in documents))


def test_tokens_are_mapped_and_cannot_be_written(folder: Path) -> None:
    shard = Shard.open(folder, "train")
    assert isinstance(shard.tokens, np.memmap) and shard.tokens.dtype == np.dtype("<u2")
    with pytest.raises(ValueError, match="read-only"):
        shard.tokens[0] = 1


def test_a_large_vocabulary_takes_four_bytes(tmp_path: Path) -> None:
    large = train("bpe", ["some text"], 320, special=SpecialTokens({"eos": "<|end|>"}))
    large.__dict__["vocab_size"] = 70_000  # as if: training so many takes minutes
    shard = shards.write(tmp_path, "x", some_documents(2), large, 0)
    assert shard.tokens.dtype == np.dtype("<u4") and [large.decode(shard.document(0).tolist())] == [some_documents(2)[0].text]


def test_sources_keep_their_stretches_and_weights(tmp_path: Path, tokenizer: Tokenizer) -> None:
    mixed = some_documents(5, 1, "a") + some_documents(7, 2, "b", 2.0)
    shard = shards.write(tmp_path, "train", mixed, tokenizer, EOS)
    a, b = shard.sources
    assert (a.name, a.weight, a.documents, a.start) == ("a", 1.0, 5, 1) and (b.name, b.weight, b.documents) == ("b", 2.0, 7)
    assert a.stop == b.start == shard.offsets[5] and b.stop == shard.token_count == len(shard.tokens)


def test_chunks_do_not_change_what_is_written(tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = shards.write(tmp_path, "whole", some_documents(40), tokenizer, EOS)
    monkeypatch.setattr(shards, "_CHUNK_DOCUMENTS", 3)
    seen: list[tuple[int, int]] = []
    parts = shards.build(tmp_path / "parts", some_documents(40), tokenizer, EOS, progress=lambda *done: seen.append(done))["train"]
    assert parts.sha256 == whole.sha256 and (parts.byte_offsets == whole.byte_offsets).all()
    assert seen[-1][0] == whole.text_bytes and seen == sorted(seen)


def test_without_a_held_out_document_there_is_no_such_shard(tmp_path: Path, tokenizer: Tokenizer) -> None:
    assert list(shards.build(tmp_path, some_documents(5), tokenizer, EOS, 0)) == ["train"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.bin", "train.idx", "train.json", "train.names"]


def test_an_empty_side_is_refused_with_numbers(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="no document is left to train on: the corpus has 5 documents and all of them are held out"):
        shards.build(tmp_path, some_documents(5), tokenizer, EOS, 1.0)
    with pytest.raises(DataError, match="no document to write into the shard 'x'"):
        shards.write(tmp_path, "x", [], tokenizer, EOS)
    assert not list(tmp_path.iterdir())


def test_text_that_spells_the_separator_does_not_become_it(tmp_path: Path, tokenizer: Tokenizer) -> None:
    text = "a <|endoftext|> in the text"
    shard = shards.write(tmp_path, "x", [document(text, "x")], tokenizer, EOS)
    assert shard.documents == 1 and tokenizer.decode(shard.document(0).tolist()) == text
    assert np.count_nonzero(shard.tokens == EOS) == 2
    wrong = tokenizer.encode("x")[0]
    with pytest.raises(DataError, match=f"the text of doc.txt became the separator token {wrong}"):
        shards.write(tmp_path, "x", [document("xxx", "doc.txt")], tokenizer, wrong)


@pytest.mark.parametrize("end", ["bin", "idx", "names"])
def test_a_missing_or_shortened_file_is_named_at_opening(folder: Path, end: str) -> None:
    path = folder / f"train.{end}"
    data = path.read_bytes()
    path.write_bytes(data[:-3])
    with pytest.raises(
        CheckpointError, match=rf"train\.{end} has {len(data) - 3:,} bytes where {len(data):,} were written: the shard is damaged"
    ):
        Shard.open(folder, "train")
    path.unlink()
    with pytest.raises(CheckpointError, match=rf"train\.{end} is missing: the shard is not whole\. Delete the data folder"):
        Shard.open(folder, "train")


@pytest.mark.parametrize("end", ["bin", "idx", "names"])
def test_one_flipped_bit_is_found_by_the_hash(folder: Path, end: str) -> None:
    shard = Shard.open(folder, "train")
    path = folder / f"train.{end}"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    for found in (lambda: Shard.open(folder, "train", verify=True), shard.verify):
        with pytest.raises(
            CheckpointError, match=rf"train\.{end} changed since it was written: its SHA-256 was [0-9a-f]{{16}}… and is now"
        ):
            found()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:40], r"train\.json cannot be read \(JSONDecodeError"),
        (lambda text: text.replace('"tokens"', '"token"'), r"train\.json cannot be read \(KeyError: 'tokens'"),
        (lambda text: text.replace('"format": 1', '"format": 9'), r"train\.json has format 9, and this version reads 1"),
        (lambda text: text.replace("uint16", "uint7"), r"train\.json cannot be read \(TypeError"),
        (lambda text: "[]", r"train\.json cannot be read \(TypeError"),
        (lambda text: None, r"train\.json is missing: the shard 'train' was never finished, or was moved"),
    ],
)
def test_a_damaged_sidecar_is_named(folder: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    path = folder / "train.json"
    text = change(path.read_text())
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(CheckpointError, match=message):
        Shard.open(folder, "train")


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_a_full_disk_leaves_no_shard_that_could_be_taken_for_whole(
    folder: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real = getattr(durable._os, call)

    def full(*arguments, **keywords):  # type: ignore[no-untyped-def]
        if next(left) == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **keywords)

    for stop in range(5):
        left = iter(range(stop, -1000, -1))
        with monkeypatch.context() as patch:
            patch.setattr(durable._os, call, staticmethod(full))
            with pytest.raises(StorageError, match="the disk is full: free some space"):
                shards.build(folder, some_documents(30, seed=stop), tokenizer, EOS, 0.2)
        with pytest.raises(CheckpointError, match=r"(train|held_out)\.json is missing"):
            for side in ("train", "held_out"):
                Shard.open(folder, side)
        assert not list(folder.glob(".*"))


@pytest.mark.parametrize("stop", range(8))
def test_a_train_shard_that_is_there_has_its_held_out_shard_beside_it(
    folder: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    real, left = durable._os.replace, iter(range(stop, -1000, -1))

    def killed(*arguments):  # type: ignore[no-untyped-def]
        if next(left) == 0:
            raise KeyboardInterrupt  # nothing that runs afterwards may mend it
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(durable._os, "replace", staticmethod(killed))
        shards.build(folder, some_documents(30, seed=1), tokenizer, EOS, 0.2)
    assert not (folder / "train.json").exists()


def test_sources_that_change_between_check_and_shards_are_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    seen = corpus_hash(d.digest for d in some_documents(5))
    assert shards.build(tmp_path, some_documents(5), tokenizer, EOS, corpus=seen)["train"].corpus == seen
    with pytest.raises(
        DataError, match=rf"the sources changed while they were being read: their hash was {seen[:16]}… at the check and is now"
    ):
        shards.build(tmp_path, some_documents(6), tokenizer, EOS, corpus=seen)
    assert not (tmp_path / "train.json").exists()


def test_an_older_shard_is_replaced_whole(folder: Path, tokenizer: Tokenizer) -> None:
    before = json.loads((folder / "train.json").read_text())
    shards.build(folder, some_documents(30, seed=9), tokenizer, EOS, 0.2)
    after = Shard.open(folder, "train", verify=True)
    assert after.sha256 != before["files"]["train.bin"]["sha256"]
