"""Records of files: every format gives the same rows, and whatever is wrong is refused with file and line."""

from __future__ import annotations

import gzip
import importlib.util
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.data import conll, formats, lines, problems, records, squad
from quire.data.sources import Tally
from quire.errors import DataError, ExtraError, QuireError

ROWS = [{"text": 'one, "two"\nthree', "label": "a"}, {"text": "vier ü 😀", "label": "b"}]


def fields(*sources: Path | str, names: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    return [record.fields for record in records.read([str(source) for source in sources], names)]


def put(path: Path, text: str | bytes) -> Path:
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def refusal(*sources: Path | str, names: tuple[str, ...] = ()) -> str:
    with pytest.raises(DataError) as error:
        fields(*sources, names=names)
    return str(error.value)


SAME = {
    "jsonl": "\n".join(map(json.dumps, ROWS)),
    "ndjson": "\ufeff" + "".join(json.dumps(row) + "\r\n\r\n" for row in ROWS),
    "json": json.dumps(ROWS, indent=1),
    "data.json": json.dumps({"version": 1, "data": ROWS}),
    "csv": 'text,label\r\n"one, ""two""\nthree",a\r\n\r\nvier ü 😀,b\r\n',
}


@pytest.mark.parametrize("ending", [*SAME, *(f"{ending}.gz" for ending in SAME)])
def test_every_format_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    path = put(tmp_path / f"rows.{ending}", SAME[ending.removesuffix(".gz")])
    assert fields(path) == ROWS == fields(tmp_path) == fields(tmp_path / f"*.{ending}")


@pytest.mark.parametrize("ending", ["parquet", "parquet.gz"])
def test_parquet(tmp_path: Path, ending: str) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    parquet.write_table(pa.Table.from_pylist(ROWS * 300), tmp_path / "a.parquet")
    path = put(tmp_path / f"b.{ending}", (tmp_path / "a.parquet").read_bytes())
    found = list(records.read([str(path)]))
    assert [record.fields for record in found] == ROWS * 300 and found[599].where == f"{path}, row 600"
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[4:60] = b"x" * 56
    assert "no Parquet file that can be read" in refusal(put(tmp_path / "broken.parquet", bytes(data)))
    assert "no Parquet file that can be read" in refusal(put(tmp_path / "text.parquet", "text,label\n"))


def test_parquet_needs_pyarrow_and_csv_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExtraError, match=r"reading a\.parquet needs the package 'pyarrow'.*pip install 'quire\[data\]'"):
        fields(put(tmp_path / "a.parquet", "PAR1"))
    assert fields(put(tmp_path / "a.csv", "a\n1\n")) == [{"a": "1"}]


def test_where_names_the_line_that_a_row_begins_on(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", 'a,b\n"1\n2\n3",x\n\n4,5\n')
    assert [record.where for record in records.read([str(path)])] == [f"{path}:2", f"{path}:6"]
    path = put(tmp_path / "a.jsonl", '\n{"a": 1}\n')
    assert [record.where for record in records.read([str(path)])] == [f"{path}:2"]
    assert [record.where for record in records.read([str(put(tmp_path / "a.json", '[{"a": 1}]'))])] == [f"{tmp_path / 'a.json'}, row 1"]


def test_tsv_takes_quotes_as_they_are_and_names_replace_a_header(tmp_path: Path) -> None:
    path = put(tmp_path / "a.tsv", '"Hello" he said\t0\n"all of it"\t1\r\n')
    assert fields(path, names=("text", "label")) == [{"text": '"Hello" he said', "label": "0"}, {"text": '"all of it"', "label": "1"}]
    path = put(tmp_path / "more.tsv", "a\tb\nc\td\tsource\n")
    assert fields(path, names=("x", "y", "...")) == [{"x": "a", "y": "b"}, {"x": "c", "y": "d"}]
    assert (
        f"{path}:2: 3 values for 2 names in data.names (x, y)" in (said := refusal(path, names=("x", "y")))
        and "end data.names with '...'" in said
    )
    said = refusal(put(tmp_path / "quoted.tsv", 'text\tlabel\n"say ""hi"" to\tx\n"say ""hi"""\ty\n'))
    assert 'quoted.tsv:3: \'"say ""hi"""\' is quoted as CSV is' in said


def test_conll_columns(tmp_path: Path) -> None:
    text = "-DOCSTART-\t-X-\tO\n\n# id = 1\nJack\tNNP\tB-PER\n#\tNN\tO\n \n\nBonn\tNNP\tB-LOC\n"
    path = put(tmp_path / "a.conll", text)
    found = list(records.read([str(path)]))
    assert [record.fields for record in found] == [
        {"tokens": ["Jack", "#"], "tags": ["B-PER", "O"]},
        {"tokens": ["Bonn"], "tags": ["B-LOC"]},
    ]
    assert [record.where for record in found] == [f"{path}:4", f"{path}:8"]
    assert fields(put(tmp_path / "a.bio.gz", "a  O\nb X\n\n# NN\n")) == [
        {"tokens": ["a", "b"], "tags": ["O", "X"]},
        {"tokens": ["#"], "tags": ["NN"]},
    ]
    assert "a.iob:2: 'b' has no tag: a line is a word, then its tag" in refusal(put(tmp_path / "a.iob", "a O\nb\n"))
    assert "c.iob:2: 'b x O' has 3 columns; the lines before have 2" in refusal(put(tmp_path / "c.iob", "a O\nb x O\n"))


def test_a_sentence_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conll, "LONGEST_SENTENCE", 3)
    assert "a.bio:4: a sentence of more than 3 words" in refusal(put(tmp_path / "a.bio", "a O\n" * 9))


def test_squad_gives_a_record_a_question(tmp_path: Path) -> None:
    ask = {"id": "7", "question": "Who?", "answers": [{"text": "Jack", "answer_start": 0}], "is_impossible": False, "plausible_answers": []}
    path = put(tmp_path / "a.json", json.dumps({"data": [{"title": "T", "paragraphs": [{"context": "Jack did.", "qas": [ask]}]}]}))
    (record,) = records.read([str(path)])
    assert record.where == f"{path}, article 1, question '7'"
    assert record.fields == {key: ask[key] for key in ("id", "question", "answers", "is_impossible")} | {"context": "Jack did."}
    said = refusal(put(tmp_path / "b.json", json.dumps({"data": [{"paragraphs": [{"qas": [ask, 1]}]}, {"paragraphs": 2}, 3]})))
    assert (
        all(part in said for part in ("has the context None", "'qas' holds 1", "'paragraphs' is 2", "row 3: 3 is no object"))
        and "(4 faults)" in said
    )


def test_two_parallel_files(tmp_path: Path) -> None:
    one, two = put(tmp_path / "a.en.gz", "a\nb\u2028c\n"), put(tmp_path / "a.de", "x\r\ny")
    assert fields(f"{one}+{two}") == [{"source": "a", "target": "x"}, {"source": "b\u2028c", "target": "y"}]
    assert f"{one}+a.fr: 2 lines against 3" in refusal(f"{one}+{put(tmp_path / 'a.fr', '1' + chr(10) + '2' + chr(10) + '3')}")
    assert f"'{tmp_path / 'a.xx'}' is not there" in refusal(f"{one}+{tmp_path / 'a.xx'}")
    assert "pairs a file with itself" in refusal(f"{one}+{one}")
    assert "is a file of rows" in refusal(f"{one}+{put(tmp_path / 'a.jsonl', '{}')}")
    assert fields(put(tmp_path / "c++.jsonl", '{"a": 1}')) == [{"a": 1}]


BAD = {
    "open.jsonl": ('{"text": "a", "label": "x"\n', r"open\.jsonl:1: no JSON: Expecting ',' delimiter at column 27, in "),
    "broken.jsonl": ('{"a": 1}\n{"a": \n', r"broken\.jsonl:2: no JSON: Expecting value at column \d+, in '\{\"a\":'"),
    "array.jsonl": ('{"a": 1}\n[1, 2]\n', r"array\.jsonl:2: \[1, 2\] is no JSON object"),
    "twice.jsonl": ('{"a": 1, "a": 2}\n', r"twice\.jsonl:1: no JSON: the key 'a' stands twice"),
    "deep.jsonl": ("[" * 100_000 + "\n", r"deep\.jsonl:1: no JSON: it is nested too deeply"),
    "nul.jsonl": (b'{"a": "\0"}\n', r"nul\.jsonl:1: a NUL byte at byte 8"),
    "latin.jsonl": ('{"a": "é"}\n'.encode("latin-1"), r"latin\.jsonl:1: no UTF-8 at byte 8 .*Save the file as UTF-8"),
    "wide.jsonl": ('{"a": 1}\n{"a": 2}\n'.encode("utf-16"), r"wide\.jsonl:1: the file is UTF-16, not UTF-8"),
    "empty.jsonl": ("", r"empty\.jsonl: the file holds no rows"),
    "blank.csv": ("\n\n", r"blank\.csv: the file holds no rows"),
    "header.csv": ("text,label\n", r"header\.csv: the file holds no rows"),
    "ragged.csv": (
        "a,b\n1,2\n1\n1,2,3\n",
        r"2 faults\):\n  .*ragged\.csv:3: 1 values for 2 columns \(a, b\): \['1'\].*\n  .*ragged\.csv:4: 3 values",
    ),
    "semicolon.csv": ("a,b\n1;2\n", r"semicolon\.csv:2: .*Its values are parted by semicolons"),
    "double.csv": ("a,b,a\n1,2,3\n", r"double\.csv:1: .*the name 'a' twice.*data\.names"),
    "unnamed.csv": (",text\n0,a\n", r"unnamed\.csv:1: .*a column without a name"),
    "open.csv": ('a,b\n1,2\n"3,4\n5,6\n', r"open\.csv:3: a quote that is opened here is not closed \(read to line 4\)"),
    "stray.csv": ('a,b\n"1" x,2\n', r"stray\.csv:2: a quote inside a value"),
    "lines.json": ('{"a": 1}\n{"a": 2}\n', r"lines\.json:2: no JSON: Extra data.*name it \.jsonl"),
    "broken.json": ('[{"a": 1},\n{"a": }]', r"broken\.json:2: no JSON: Expecting value"),
    "number.json": ("1", r"number\.json: the file holds 1; an array"),
    "examples.json": ('{"examples": []}', r"examples\.json: .*If its rows are in 'examples'"),
    "void.json": ("[]", r"void\.json: the array is empty"),
    "mixed.json": ('[{"a": 1}, 2]', r"mixed\.json, row 2: 2 is no object"),
    "latin.json": ('[{"a": "b"},\n{"a": "é"}]'.encode("latin-1"), r"latin\.json:2: no UTF-8 at byte 8"),
    "nul.json": (b'[{"a": "b"},\n{"a": "\0"}]', r"nul\.json:2: a NUL byte at byte 8"),
    "wide.json": ("[]".encode("utf-16"), r"wide\.json:1: the file is UTF-16"),
    "empty.json": (" ", r"empty\.json: the file is empty"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("zipped", [False, True])
def test_bad_files_are_refused_with_their_line(tmp_path: Path, name: str, zipped: bool) -> None:
    text, message = BAD[name]
    message = message.replace("json:", r"json(?:\.gz)?:").replace("jsonl:", r"jsonl(?:\.gz)?:").replace("csv:", r"csv(?:\.gz)?:")
    with pytest.raises(DataError, match=message.replace(r"json, row", r"json(?:\.gz)?, row")):
        fields(put(tmp_path / (name + ".gz" * zipped), text))


def test_damaged_gzip(tmp_path: Path) -> None:
    whole = put(tmp_path / "a.jsonl.gz", "".join(f'{{"a": {i}}}\n' for i in range(50_000)))
    assert "a.jsonl.gz: a damaged gzip file" in (said := refusal(_cut(whole))) and "after " in said
    (tmp_path / "plain.jsonl.gz").write_bytes(b'{"a": 1}\n')
    assert "plain.jsonl.gz: a damaged gzip file" in refusal(tmp_path / "plain.jsonl.gz")


def _cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-5000])
    return path


def test_a_line_without_end_costs_no_memory(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wb", compresslevel=1) as file:
        file.write(b'{"a": "')
        for _ in range(100):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n{"a": 1}\n')
    tracemalloc.start()
    try:
        assert "a.jsonl.gz:1: a line of more than 64 MB" in refusal(tmp_path / "a.jsonl.gz")
        assert tracemalloc.get_traced_memory()[1] < 2.5 * formats.LONGEST_ROW
    finally:
        tracemalloc.stop()


def test_a_big_json_document_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(squad, "LARGEST", 20)
    assert "Write it as JSON Lines" in refusal(put(tmp_path / "a.json", json.dumps(ROWS)))


def test_reading_streams(tmp_path: Path) -> None:
    for name, line in (("a.jsonl", '{"text": "' + "x" * 1000 + '"}\n'), ("a.csv", "x" * 1000 + "\n"), ("a.bio", "x" * 1000 + " O\n\n")):
        put(tmp_path / name, line * 10_000)
        tracemalloc.start()
        try:
            assert sum(1 for _ in records.read([str(tmp_path / name)])) >= 9_999
            assert tracemalloc.get_traced_memory()[1] < 2 << 20, name
        finally:
            tracemalloc.stop()


def test_faults_are_gathered_over_files_and_then_raised(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", '{"a": 1}\n' + "x\n" * 4)
    put(tmp_path / "b.jsonl", '{"a": 2}\n' + "y\n" * 4)
    read = records.read([str(tmp_path)])
    assert [next(read).fields, next(read).fields] == [{"a": 1}, {"a": 2}]
    with pytest.raises(DataError) as error:
        list(read)
    said = str(error.value)
    assert "(8 faults; the first 5)" in said and said.count("\n") == 5 and "b.jsonl:2" in said
    put(tmp_path / "a.jsonl", "x\n" * 5000)
    assert "more than 1,000 faults; the rest was not read" in refusal(tmp_path)


def test_what_is_no_source_of_rows_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "README.md", "# rows")
    assert "is no file of rows: its ending is 'md'; known: jsonl" in refusal(tmp_path / "README.md")
    assert "holds no file of rows" in (said := refusal(tmp_path)) and "README.md" in said
    assert "is not there. Did you mean 'README.md'?" in refusal(tmp_path / "READ.md")
    assert "no sources were given" in refusal()
    assert "has a weight; rows have none" in refusal(f"{tmp_path}*2.0")
    assert "text without rows" in refusal("stdlib")
    with pytest.raises(DataError, match="a list of files"):
        list(records.read("train.jsonl"))
    put(tmp_path / "a.jsonl", '{"a": 1}')
    tally = Tally()
    assert len(list(records.read([str(tmp_path)], tally=tally))) == 1
    assert tally.skipped == {"no file of rows ('.md')": 1} and tally.files == 1
    assert "is given twice" in refusal(tmp_path, tmp_path / "a.jsonl")


def test_parse_columns() -> None:
    assert records.parse_columns(("text=review", "label = stars")) == {"text": "review", "label": "stars"}
    for entries, message in ((("text",), "must be written NAME=COLUMN"), (("a=b", "a=c"), "given as 'b' and as 'c'")):
        with pytest.raises(DataError, match=message):
            records.parse_columns(entries)


def test_values_in_messages_are_short() -> None:
    assert len(problems.shown("x" * 1000)) == len(problems.shown(["x" * 1000] * 1000)) == len(problems.shown({"a": "b" * 1000})) == 80
    assert problems.shown("short") == "'short'"


@given(st.sampled_from(sorted(SAME)), st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=3)), max_size=4), st.booleans())
def test_a_damaged_file_is_read_or_refused_never_more(
    tmp_path_factory: pytest.TempPathFactory, ending: str, cuts: Any, zipped: bool
) -> None:
    data = bytearray(gzip.compress(SAME[ending].encode()) if zipped else SAME[ending].encode())
    for at, patch in cuts:
        data[at : at + len(patch)] = patch
    path = tmp_path_factory.mktemp("fuzz") / f"a.{ending}{'.gz' * zipped}"
    path.write_bytes(bytes(data))
    try:
        assert all(isinstance(row, dict) for row in fields(path))
    except QuireError as error:
        assert str(path) in str(error)


def test_lines_report_and_go_on(tmp_path: Path) -> None:
    faults: list[tuple[str, str]] = []
    path = put(tmp_path / "a", b"one\n\xff\n\0\nfour")
    assert list(lines.lines(path, lambda *fault: faults.append(fault))) == [(1, "one\n"), (4, "four")]
    assert [where for where, _ in faults] == [f"{path}:2", f"{path}:3"]
