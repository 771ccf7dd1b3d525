"""What is read, what is left out and counted, and on which side of the split it falls."""

from __future__ import annotations

import gzip
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.data.sources import STDLIB, Source, Tally, corpus_hash, document, read, split
from quire.errors import DataError


def names(sources: list[str], tally: Tally | None = None) -> list[str]:
    return [one.name for one in read(sources, tally=tally)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_text("first text\n", encoding="utf-8")
    (tmp_path / "b" / "code.py").write_text("def f():\n    return 'ä'\n", encoding="utf-8")
    (tmp_path / "b" / "notes.md").write_text("# Notes\n", encoding="utf-8")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"packed text\n"))
    return tmp_path


def test_a_folder_is_read_sorted_with_names_inside_it(folder: Path) -> None:
    documents = list(read([str(folder)]))
    assert [one.name for one in documents] == ["a.txt", "b/code.py", "b/notes.md", "c.txt.gz"]
    assert [one.kind for one in documents] == ["txt", "py", "md", "txt"]
    assert documents[1].text == "def f():\n    return 'ä'\n" and documents[1].size == len(documents[1].text.encode())
    assert documents[3].text == "packed text\n"
    assert {one.source for one in documents} == {str(folder)}


def test_what_a_folder_holds_beside_text_is_counted_with_reason_and_name(folder: Path) -> None:
    (folder / "empty.txt").write_text(" \n\n")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    (folder / "noise.dat").write_bytes(random.Random(0).randbytes(4000).replace(b"\0", b""))
    (folder / "latin.txt").write_bytes("schöne Grüße, lange genug".encode("latin-1"))
    (folder / "windows.txt").write_text("wide", encoding="utf-16")
    (folder / "long.js").write_text("x" * (1 << 20) + "y" * 10)
    (folder / ".hidden").write_text("secret")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("[core]")
    (folder / "__pycache__").mkdir()
    (folder / "damaged.txt.gz").write_bytes(gzip.compress(b"some text that was cut short " * 50)[:-20])
    (folder / "copy.txt").write_text("first text\n")
    (folder / "broken").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe")
    tally = Tally()
    assert names([str(folder)], tally) == ["a.txt", "b/code.py", "b/notes.md", "c.txt.gz"]
    assert {reason: tally.examples[reason] for reason in tally.skipped} == {
        "empty": ["empty.txt"],
        "binary": ["noise.dat", "picture.png"],
        "not UTF-8": ["latin.txt"],
        "not UTF-8 but UTF-16": ["windows.txt"],
        "a line of more than 1 MB": ["long.js"],
        "hidden": [f"{folder}/.git/", f"{folder}/.hidden"],
        "a __pycache__ folder": [f"{folder}/__pycache__/"],
        "damaged gzip": ["damaged.txt.gz"],
        "unreadable (No such file or directory)": [f"{folder}/broken"],
        "not a regular file": [f"{folder}/pipe"],
    }
    assert (tally.duplicates, tally.duplicate_examples) == (1, ["copy.txt"])
    assert tally.documents == 4 and tally.bytes == sum(one.size for one in read([str(folder)]))


def test_a_loop_of_links_ends_and_a_linked_folder_is_read_once(folder: Path) -> None:
    (folder / "b" / "up").symlink_to(folder)
    (folder / "again").symlink_to(folder / "b")
    tally = Tally()
    found = names([str(folder)], tally)
    assert sorted(Path(name).name for name in found) == ["a.txt", "c.txt.gz", "code.py", "notes.md"]
    assert tally.skipped["a link to a folder that was already read"] == 2


def test_an_unreadable_file_is_counted_in_a_folder_and_refused_when_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quire.data import formats

    real = formats.open_file  # the tests may run as a user whom permissions do not stop

    def refuse(path: Path) -> object:
        if path.name == "a.txt":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(formats, "open_file", refuse)
    tally = Tally()
    assert "a.txt" not in names([str(folder)], tally)
    assert tally.examples == {"unreadable (Permission denied)": ["a.txt"]}
    with pytest.raises(DataError, match=r"cannot read .*a\.txt: Permission denied\. Check the file"):
        names([str(folder / "a.txt")])


def test_globs_are_sorted_and_one_that_matches_nothing_is_refused(folder: Path) -> None:
    assert [Path(name).name for name in names([str(folder / "**" / "*.[pm]*")])] == ["code.py", "notes.md"]
    with pytest.raises(DataError, match=r"the glob '.*\*\.rst' matches nothing .*Check the pattern"):
        names([str(folder / "*.rst")])


def test_a_source_that_is_not_there_names_the_nearest(folder: Path) -> None:
    with pytest.raises(
        DataError, match=r"source '.*a\.text' is not there\. Did you mean 'a\.txt'\? Give a file, a folder, a glob, or 'stdlib'"
    ):
        names([str(folder / "a.text")])
    with pytest.raises(DataError, match="no sources were given"):
        names([])
    (folder / "dangling").symlink_to(folder / "gone")
    with pytest.raises(DataError, match="is a link to a file that is not there"):
        names([str(folder / "dangling")])
    os.mkfifo(folder / "pipe")
    with pytest.raises(DataError, match="is neither a file nor a folder"):
        names([str(folder / "pipe")])


def test_weights_are_read_and_bad_ones_refused(folder: Path) -> None:
    assert Source.parse("data/*.txt") == Source("data/*.txt", 1.0)
    assert Source.parse("data/*.txt*2.5") == Source("data/*.txt", 2.5)
    assert Source.parse("stdlib*3") == Source("stdlib", 3.0)
    assert {one.weight for one in read([f"{folder}*0.5"])} == {0.5}
    with pytest.raises(DataError, match=r"weight 0; a weight is above 0"):
        Source.parse("text*0")
    with pytest.raises(DataError, match=r"given twice, with the weights 1 and 2"):
        names([str(folder), f"{folder}*2"])


def test_the_standard_library_is_read_without_installed_packages() -> None:
    tally = Tally()
    found = names([STDLIB], tally)
    assert "stdlib/json/decoder.py" in found and len(found) > 400
    assert not any("site-packages" in name or "__pycache__" in name or not name.endswith(".py") for name in found)
    assert len(tally.digests) == tally.documents == len(found)


def test_the_same_text_is_one_document_whatever_its_name_and_source(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "b"
    tally = Tally()
    assert names([str(other), str(folder)], tally) == ["code.py", "notes.md", "a.txt", "c.txt.gz"]
    assert tally.duplicates == 2 and tally.sources[str(other)][0] == 2


def test_order_of_sources_changes_neither_the_corpus_hash_nor_the_split(folder: Path) -> None:
    one, two = str(folder / "a.txt"), str(folder / "b")
    forth, back = Tally(), Tally()
    sides = {d.name: split(d, 0.5) for d in read([one, two], tally=forth)}
    assert {d.name: split(d, 0.5) for d in read([two, one], tally=back)} == sides
    assert forth.corpus_hash == back.corpus_hash != corpus_hash([])
    (folder / "a.txt").write_text("first text!\n")
    changed = Tally()
    names([one, two], changed)
    assert changed.corpus_hash != forth.corpus_hash


@given(st.lists(st.text(min_size=1), min_size=1, max_size=30), st.floats(0, 1))
def test_a_text_falls_on_one_side_always(texts: list[str], share: float) -> None:
    documents = [document(text, f"{i}") for i, text in enumerate(texts)]
    assert [split(d, share) for d in documents] == [split(document(d.text, "other", "py", "elsewhere"), share) for d in documents]
    assert all(split(d, 0.0) == "train" for d in documents) and all(split(d, 1.0) == "held_out" for d in documents)
    assert all(split(d, int.from_bytes(d.digest[:8], "big") + 1) == "held_out" for d in documents)


def test_the_split_holds_out_about_its_share() -> None:
    held = sum(split(document(f"text {i}", "x"), 0.1) == "held_out" for i in range(5000))
    assert 430 < held < 570


def test_a_name_that_is_no_utf8_can_be_printed(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.txt")
    try:
        path.write_text("text\n")
    except OSError:
        pytest.skip("this file system takes no such name")
    (name,) = names([str(tmp_path)])
    assert name.encode("utf-8") == b"caf\\udce9.txt"
