"""The report on what the sources hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quire.data.check import check
from quire.data.sources import read, split
from quire.errors import DataError, RecipeError


def write(folder: Path, count: int) -> None:
    for i in range(count):
        (folder / f"{i:03}.txt").write_text(f"text number {i}\n")


def test_the_report_says_what_there_is_and_what_was_left_out(tmp_path: Path) -> None:
    write(tmp_path, 200)
    (tmp_path / "copy.txt").write_text("text number 7\n")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "zz.bin").write_bytes(b"\0\1\2")
    seen: list[tuple[int, int]] = []
    report = check([str(tmp_path)], held_out=0.1, progress=lambda documents, size: seen.append((documents, size)))
    documents = list(read([str(tmp_path)]))
    assert (report.documents, report.bytes, report.files) == (200, sum(d.size for d in documents), 203)
    assert (
        report.held_out_documents
        == sum(split(d, report.cut) == "held_out" for d in documents)
        == sum(split(d, 0.1) == "held_out" for d in documents)
    )
    assert 5 < report.held_out_documents < 40 and report.held_out_bytes < report.bytes
    assert seen[-1] == (200, report.bytes)
    lines = "\n".join(report.lines())
    assert "200 documents, 3.1 kB of text from 203 files" in lines
    assert "dropped: 1 duplicates of a document before them (copy.txt)" in lines
    assert "skipped: 1 empty (empty.txt)" in lines and "skipped: 1 binary (zz.bin)" in lines
    assert f"corpus hash {report.corpus[:16]}" in lines
    assert json.loads(json.dumps(report.json()))["skipped"][0]["count"] == 1


def test_sources_are_listed_with_their_weights(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text(f"text of {name}\n" * 100)
    report = check([f"{tmp_path}/a", f"{tmp_path}/b*2.5"])
    assert [(s.name, s.weight, s.documents) for s in report.sources] == [(f"{tmp_path}/a", 1.0, 1), (f"{tmp_path}/b", 2.5, 1)]
    assert f"  {tmp_path}/b: 1 document, 1.0 kB, weight 2.5" in report.lines()


def test_a_small_corpus_still_holds_one_document_out(tmp_path: Path) -> None:
    write(tmp_path, 3)
    report = check([str(tmp_path)], held_out=1e-9)
    assert report.held_out_documents == 1
    held = [d for d in read([str(tmp_path)]) if split(d, report.cut) == "held_out"]
    assert len(held) == 1 and report.held_out_bytes == held[0].size
    assert any("of 3 documents one is held out" in note for note in report.notes)
    nearly_all = check([str(tmp_path)], held_out=0.999999)
    assert nearly_all.held_out_documents == 1


def test_one_document_cannot_be_split_and_the_report_says_so(tmp_path: Path) -> None:
    write(tmp_path, 1)
    report = check([str(tmp_path)])
    assert (report.held_out_documents, report.cut) == (0, 0)
    assert "note: the corpus is one document, so nothing can be held out: there will be no held-out figure. Add files" in report.lines()


def test_nothing_held_out_when_nothing_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, 5)
    report = check([str(tmp_path)], held_out=0.0)
    assert (report.held_out_documents, report.cut, report.notes) == (0, 0, ())


def test_an_empty_corpus_is_refused_with_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the sources hold no text to train on: '.*'\. There is no file in them\. Give files"):
        check([str(tmp_path)])
    (tmp_path / "a.bin").write_bytes(b"\0")
    (tmp_path / "b.txt").touch()
    with pytest.raises(DataError, match=r"left out: 1 binary \(a\.bin\); 1 empty \(b\.txt\)\. Give files or folders with text in UTF-8"):
        check([str(tmp_path)])


def test_a_share_that_is_none_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 2)
    with pytest.raises(RecipeError, match=r"data\.held_out = 1\.5 is not a share of the documents"):
        check([str(tmp_path)], held_out=1.5)
