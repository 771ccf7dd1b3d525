"""Texts of one file: pieces of long ones, rows of JSONL, CSV and Parquet, and what is said about rows that are wrong."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.data import formats
from quire.data.sources import Tally, read
from quire.errors import DataError, ExtraError


def rows(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), encoding="utf-8")
    return path


def texts(path: Path, field: str = "text", tally: Tally | None = None) -> list[str]:
    return [one.text for one in read([str(path)], field, tally=tally)]


@given(st.lists(st.sampled_from(["", "a line", "a longer line of text", "ü" * 9]), max_size=60), st.integers(10, 80))
def test_pieces_keep_every_line_and_stay_small(lines: list[str], piece: int) -> None:
    text = "".join(line + "\n" for line in lines)
    found = list(formats._pieces(io.BytesIO(text.encode()), piece))
    assert [line for line in "".join(found).split("\n") if line] == [line for line in lines if line]
    assert all(len(part.encode()) <= 2 * piece + 25 and part.strip() and not part.startswith("\n") for part in found)


def test_a_long_prose_file_is_cut_at_blank_lines_and_code_stays_whole(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {i}. " + "It goes on. " * 40 + "\n\n" for i in range(400)]
    (tmp_path / "book.txt").write_text("".join(paragraphs))
    (tmp_path / "code.py").write_text("# comment\n\n" * 20_000)
    tally = Tally()
    documents = list(read([str(tmp_path)], tally=tally))
    book = [one for one in documents if one.kind == "txt"]
    assert [one.name for one in book] == [f"book.txt[{i}]" for i in range(1, len(book) + 1)] and len(book) > 4
    assert all(one.text.startswith("Paragraph") and formats.PROSE_PIECE // 2 < one.size < 2 * formats.PROSE_PIECE for one in book[:-1])
    assert [one.name for one in documents if one.kind == "py"] == ["code.py"]
    assert tally.pieces == len(book)


def test_a_fault_late_in_a_big_file_leaves_all_of_it_out(tmp_path: Path) -> None:
    good = b"some words\n\n" * 200_000
    (tmp_path / "late.txt").write_bytes(good + b"\xff\xfe broken\n")
    (tmp_path / "nul.txt").write_bytes(good + b"\0")
    (tmp_path / "cut.txt").write_bytes(good + "ä".encode()[:1])
    tally = Tally()
    assert not list(read([str(tmp_path)], tally=tally))
    assert tally.examples == {"not UTF-8": ["cut.txt", "late.txt"], "binary": ["nul.txt"]}


def test_a_character_across_two_blocks_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "wide.md").write_bytes(b"x\n" + "ä\n".encode() * 1_200_000)
    tally = Tally()
    assert sum(len(one.text) for one in read([str(tmp_path)], tally=tally)) > 0 and not tally.skipped


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "marked.txt").write_bytes(b"\xef\xbb\xbftext\n")
    assert texts(tmp_path / "marked.txt") == ["text\n"]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    with open(tmp_path / "big.txt", "w") as file:
        for i in range(200_000):
            file.write(f"line {i} of a long file with quite some words in it\n" + "\n" * (i % 50 == 0))
    tally = Tally()
    tracemalloc.start()
    size = sum(one.size for one in read([str(tmp_path / "big.txt")], tally=tally))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 10_000_000 and peak < 4_000_000


def test_jsonl_rows_and_their_names(tmp_path: Path) -> None:
    path = rows(tmp_path / "a.jsonl", {"text": "one", "id": 1}, {"text": "two"}, "", {"text": "dr\u00e9i"})
    assert [(one.text, one.name, one.kind) for one in read([str(path)])] == [
        ("one", "a.jsonl:1", "jsonl"),
        ("two", "a.jsonl:2", "jsonl"),
        ("dréi", "a.jsonl:4", "jsonl"),
    ]
    packed = tmp_path / "b.ndjson.gz"
    packed.write_bytes(gzip.compress(b'{"body": "zipped"}\n{"body": "rows"}'))
    assert texts(packed, "body") == ["zipped", "rows"]


def test_bad_rows_are_counted_by_reason_and_row(tmp_path: Path) -> None:
    good = [{"text": f"row {i}"} for i in range(100)]
    path = rows(tmp_path / "a.jsonl", *good, "{broken", [1], {"other": 1}, {"text": 3}, {"text": ""}, {"text": None}, '{"text": "\\ud800"}')
    with open(path, "ab") as file:
        file.write(b'{"text": "\xff"}\n')
    tally = Tally()
    assert len(texts(path, tally=tally)) == 100
    assert tally.examples == {
        "a row that is not JSON": ["a.jsonl:101"],
        "a row that is no JSON object": ["a.jsonl:102"],
        "a row without 'text'": ["a.jsonl:103"],
        "a row whose 'text' is no text but int": ["a.jsonl:104"],
        "an empty row": ["a.jsonl:105", "a.jsonl:106"],
        "a row with half a surrogate pair": ["a.jsonl:107"],
        "a row that is not UTF-8": ["a.jsonl:108"],
    }


def test_too_many_bad_rows_refuse_a_named_file_and_are_counted_in_a_folder(tmp_path: Path) -> None:
    path = rows(tmp_path / "a.jsonl", *[{"text": f"row {i}"} for i in range(8)], "{", "}")
    with pytest.raises(
        DataError, match=r"a\.jsonl: 2 of 10 rows cannot be used \(the first is row 9: a row that is not JSON\).* mend it or take it out"
    ):
        texts(path)
    tally = Tally()
    assert len(texts(tmp_path, tally=tally)) == 8 and tally.skipped["a row that is not JSON"] == 2


def test_a_wrong_field_names_the_fields_there_are(tmp_path: Path) -> None:
    path = rows(tmp_path / "a.jsonl", {"txt": "one", "id": 1})
    with pytest.raises(DataError, match=r"has no field 'text'\. Did you mean 'txt'\? Its fields are: 'txt', 'id'\. Set data\.field"):
        texts(path)
    tally = Tally()
    assert not texts(tmp_path, tally=tally) and tally.examples == {"no field 'text'": ["a.jsonl"]}


def test_an_endless_row_is_skipped_and_the_next_one_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "LONGEST_ROW", 1000)
    path = rows(tmp_path / "a.jsonl", {"text": "first"}, {"text": "x" * 5000}, {"text": "last"})
    tally = Tally()
    assert texts(path, tally=tally) == ["first", "last"] and tally.examples == {"a row of more than 0 MB": ["a.jsonl:2"]}


def test_a_damaged_gzip_of_rows_is_refused_when_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "some row"}\n' * 1000)[:-12])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz is a damaged gzip file"):
        texts(path)


def test_tables_need_pyarrow_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / "a.csv").write_text("text\none\n")
    with pytest.raises(ExtraError, match=r"reading a\.csv needs the package 'pyarrow'.*pip install 'quire\[data\]'"):
        texts(tmp_path / "a.csv")
    tally = Tally()
    assert not texts(tmp_path, tally=tally)
    assert tally.examples == {"a table, and pyarrow is not installed (pip install 'quire[data]')": ["a.csv"]}


def test_csv(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,"two\nlines, one ""row"""\n2,NA\n3,\nx,plain\n', encoding="utf-8")
    tally = Tally()
    assert texts(path, tally=tally) == ['two\nlines, one "row"', "NA", "plain"]
    assert tally.examples == {"an empty row": ["a.csv:3"]}
    with pytest.raises(DataError, match=r"has no field 'txt'\. Did you mean 'text'\? Its fields are: 'id', 'text'"):
        texts(path, "txt")
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress(b"text\tid\none\t1\n"))
    assert texts(tmp_path / "b.tsv.gz") == ["one"]


def test_csv_faults(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "ragged.csv").write_text("text,id\n" + "".join(f"row {i},{i}\n" for i in range(20)) + "a,b,c\n")
    tally = Tally()
    assert len(texts(tmp_path / "ragged.csv", tally=tally)) == 20
    assert tally.examples == {"a row with another number of columns": ["ragged.csv:22"]}
    (tmp_path / "bytes.csv").write_bytes(b"text,id\n\xff\xfe\xfd,1\n")
    with pytest.raises(DataError, match=r"bytes\.csv is no CSV file that can be read: .*UTF8"):
        texts(tmp_path / "bytes.csv")
    (tmp_path / "empty.csv").write_text("")
    tally = Tally()
    assert not texts(tmp_path / "empty.csv", tally=tally) and tally.examples == {"empty": ["empty.csv"]}


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"id": [1, 2, 3, 4], "text": ["one", None, "zwölf", " "]}), path)
    tally = Tally()
    assert texts(path, tally=tally) == ["one", "zwölf"] and tally.examples == {"an empty row": ["a.parquet:2", "a.parquet:4"]}
    with pytest.raises(DataError, match=r"has no field 'body'.* Its fields are: 'id', 'text'"):
        texts(path, "body")
    with pytest.raises(DataError, match=r"2 of 2 rows cannot be used \(the first is row 1: a row whose 'id' is no text but int\)"):
        parquet.write_table(pa.table({"id": [1, 2]}), tmp_path / "b.parquet")
        texts(tmp_path / "b.parquet", "id")
    (tmp_path / "c.parquet").write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"c\.parquet is no Parquet file that can be read"):
        texts(tmp_path / "c.parquet")
