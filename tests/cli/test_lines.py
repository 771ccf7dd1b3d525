"""Rows in, rows out: what counts as a line, what a broken one is told, what is passed through, and that no half output is left."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.cli import lines, results
from quire.cli.lines import Fields, Files, Row, read
from quire.cli.results import dump, each, sink
from quire.errors import ContextError, DataError, RecipeError, StorageError

PAIR = Fields(("question",), ("context",), needed=True)


def rows_of(tmp_path: Path, data: bytes, name: str = "x.txt", fields: Fields | None = None) -> list[Row]:
    (tmp_path / name).write_bytes(data)
    return read((), Files(file=tmp_path / name), fields or Fields(), "classify")


# -- what a line is ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\ntwo", ["one", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"\xef\xbb\xbfone\r\ntwo", ["one", "two"]),
        ("a\u2028b\nc\u0085d\x0ce\x0bf\n".encode(), ["a\u2028b", "c\u0085d\x0ce\x0bf"]),
        (b"a\rb\nc", ["a\rb", "c"]),
        ("  für Größe 👍🏽 \n".encode(), ["  für Größe 👍🏽 "]),
        (b"a\x00b\n", ["a\x00b"]),
    ],
)
def test_only_a_line_feed_ends_a_line(tmp_path: Path, data: bytes, texts: list[str]) -> None:
    assert [row.text for row in rows_of(tmp_path, data)] == texts


def test_empty_lines_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(tmp_path, b"one\n\n  \ntwo\n")
    assert [row.text for row in rows] == ["one", "two"] and rows[1].where.endswith("line 4")
    assert "2 empty lines of" in capsys.readouterr().err


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf", b"\r\n"])
def test_a_file_without_text_is_an_error(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError, match="holds no text: it has no line with something in it"):
        rows_of(tmp_path, data)


def test_other_encodings_and_enormous_lines_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"line 2 is not UTF-8 text \(byte 1\). Save it as UTF-8"):
        rows_of(tmp_path, b"fine\nf\xfcr\n")
    with pytest.raises(DataError, match=r"line 1 is not UTF-8 text \(byte 0\)"):
        rows_of(tmp_path, "one\ntwo".encode("utf-16"))
    with pytest.raises(DataError, match=r"line 2 has 16,777,217 bytes; allowed are 16,777,216. Is it one text a line\?"):
        rows_of(tmp_path, b"a\n" + b"b" * (lines.LARGEST_LINE + 1))
    monkeypatch.setattr(lines, "LARGEST_INPUT", 1 << 20)
    with pytest.raises(DataError, match="has more than 1 MiB; split it into parts"):
        rows_of(tmp_path, b"ab\n" * (1 << 19))


# -- JSONL ---------------------------------------------------------------------------------------------------------------------------


def test_jsonl_is_known_by_name_and_by_content(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbf{"text": "one", "id": 7, "label": "x"}\r\n\n{"source": "two"}\n'
    for name in ("x.jsonl", "x.ndjson", "x.json", "x.data", "noname", "x.txt"):
        rows = rows_of(tmp_path, data, name)
        assert [(row.text, row.rest) for row in rows] == [("one", {"id": 7, "label": "x"}), ("two", {})]
    assert [row.text for row in rows_of(tmp_path, b"{not json\n{either\n", "code")] == ["{not json", "{either"]
    assert [row.text for row in rows_of(tmp_path, b'["a"]\n', "array")] == ['["a"]']


@pytest.mark.parametrize("line", [b'{"words": "one"}', b'{"text": "broken",}'])
def test_a_plain_file_that_begins_as_json_does_is_read_as_plain_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: bytes
) -> None:
    assert [row.text for row in rows_of(tmp_path, line + b"\n")] == [line.decode()]
    said = capsys.readouterr().err
    assert "x.txt is read as plain text: its first line begins as JSON does, but is no object with the field 'text'" in said
    assert rows_of(tmp_path, b"{code}\n") and capsys.readouterr().err == ""


def test_every_line_is_a_row_where_rows_are_found_by_their_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def every(data: bytes, name: str) -> list[str]:
        (tmp_path / name).write_bytes(data)
        return [row.text for row in read((), Files(file=tmp_path / name), Fields(), "embed", every=True)]

    assert every(b"one\n\ntwo\n", "x.txt") == ["one", "", "two"]
    assert "1 empty line of" in (said := capsys.readouterr().err) and "read as empty text, so that rows are found by the number" in said
    with pytest.raises(DataError, match=r'x.jsonl, line 2 is empty, so rows and lines would differ. Delete it, or write {"text": "..."}'):
        every(b'{"text": "one"}\n\n{"text": "two"}\n', "x.jsonl")
    assert every(b'{"text": "one"}\n{"text": ""}\n\n', "x.jsonl") == ["one", ""]
    with pytest.raises(DataError, match="holds no text"):
        every(b"\n\n", "x.txt")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', r"line 2 is not JSON: .*Correct the line; all lines are objects where the first one is"),
        ('{"text": "a", "text": "b"}', "line 2 is not JSON: the field 'text' stands there twice"),
        ('{"text": NaN}', "line 2 is not JSON: NaN is no number of JSON"),
        ('{"words": "a", "n": 1}', r"line 2 has no field 'text'; its fields are words, n. A row looks like {\"text\": \"...\"}"),
        ("{}", "line 2 has no field 'text'; its fields are none"),
        ('{"text": ["a"]}', r"line 2: the field 'text' is \[\"a\"\]; it must be a text in quotes"),
        ('{"text": null}', "line 2: the field 'text' is null; it must be a text"),
        ('["a"]', "line 2 is not a JSON object"),
        ("7", "line 2 is not a JSON object"),
        ('{"text": "\\ud83d"}', r"line 2 holds half a character \(a lone surrogate\)"),
        ('{"n": ' + "9" * 5000 + ', "text": "a"}', "line 2 is not JSON: Exceeds the limit"),
        ("[" * 200_000, "line 2 is nested too deeply"),
    ],
)
def test_a_broken_row_is_named_by_its_number(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        rows_of(tmp_path, b'{"text": "fine"}\n' + line.encode() + b"\n", "x.jsonl")


def test_a_broken_first_row_that_names_our_field_is_no_plain_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 1 is not JSON"):
        rows_of(tmp_path, b'{"text": "a",}\n', "noname")


def test_pairs_come_from_the_row_or_from_an_option(tmp_path: Path) -> None:
    data = b'{"question": "a?", "context": "A.", "id": 1}\n{"question": "b?"}\n'
    rows = rows_of(tmp_path, data, "x.jsonl", Fields(("question",), ("context",), "given", needed=True))
    assert [(row.text, row.beside, row.rest) for row in rows] == [("a?", "A.", {"id": 1}), ("b?", "given", {})]
    with pytest.raises(DataError, match=r"line 2 has no context: give one for all with --context, or rows as \{\"question\""):
        rows_of(tmp_path, data, "x.jsonl", PAIR)


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: bool(text.strip())), min_size=1))
def test_any_texts_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    place = tmp_path_factory.mktemp("any")
    assert [row.text for row in rows_of(place, "".join(dump({"text": text}) + "\n" for text in texts).encode(), "x.jsonl")] == texts
    plain = [text.replace("\n", " ").removesuffix("\r") for text in texts]
    plain = [text for text in plain if text.strip()]
    if plain and not plain[0].startswith("\ufeff"):
        assert [row.text for row in rows_of(place, "\n".join(plain).encode())] == plain


@given(data=st.binary(max_size=200), name=st.sampled_from(["x.jsonl", "x.txt", "x"]))
def test_any_bytes_give_rows_or_an_error_of_ours(tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str) -> None:
    with contextlib.suppress(DataError):
        assert rows_of(tmp_path_factory.mktemp("any"), data, name)


# -- where rows come from ------------------------------------------------------------------------------------------------------------


def test_arguments_are_texts_as_they_are() -> None:
    assert [row.text for row in read(("two\nlines", ""), Files(), Fields(), "x")] == ["two\nlines", ""]
    with pytest.raises(RecipeError, match="give a text or --file, not both"):
        read(("a",), Files(file=Path("b")), Fields(), "x")
    with pytest.raises(StorageError, match=r"cannot read missing.txt: No such file"):
        read((), Files(file=Path("missing.txt")), Fields(), "x")
    with pytest.raises(StorageError, match="cannot read"):
        read((), Files(file=Path(__file__).parent), Fields(), "x")


class Stdin(io.TextIOWrapper):
    def __init__(self, data: bytes, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize("texts", [(), ("-",)])
def test_standard_input(monkeypatch: pytest.MonkeyPatch, texts: tuple[str, ...]) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(b"one\r\ntwo\n"))
    assert [row.text for row in read(texts, Files(), Fields(), "x")] == ["one", "two"]
    monkeypatch.setattr(sys, "stdin", Stdin(b"one\ntwo"))
    assert [row.text for row in read(texts, Files(), Fields(), "x", whole=True)] == ["one\ntwo"]
    monkeypatch.setattr(sys, "stdin", Stdin(b'{"text": "one"}\n{"text": "two"}\n'))
    assert [row.text for row in read(texts, Files(), Fields(), "x", whole=True)] == ["one", "two"]
    monkeypatch.setattr(sys, "stdin", Stdin(b"one\ntwo"))
    assert len(read((), Files(file=Path("-")), Fields(), "x", whole=True)) == 2
    monkeypatch.setattr(sys, "stdin", Stdin(b"", terminal=True))
    with pytest.raises(RecipeError, match='there is no text. Give one: quire x MODEL "a text", or --file PATH'):
        read(texts, Files(), Fields(), "x")


# -- doing and writing ---------------------------------------------------------------------------------------------------------------


def written(path: Path) -> list[object]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_answers_come_in_order_with_what_is_passed_through(tmp_path: Path) -> None:
    rows = [Row(f"text {i}", None, {"id": i, "score": "old", "odd": "\ud800"}, f"line {i}") for i in range(10)]
    seen: list[int] = []

    def method(part: list[Row], done: results.Done) -> list[int]:
        seen.append(len(part))
        done(1)
        return [len(row.text) for row in part]

    with sink(Files(out=tmp_path / "out.jsonl")) as to:
        for row, found in each(rows, method, "x", to, at_once=4):
            to.row(row, {"text": row.text, "score": found}, str, "unused")
    assert seen == [4, 4, 2]
    assert written(tmp_path / "out.jsonl") == [
        {"id": i, "input_score": "old", "odd": "\ud800", "text": f"text {i}", "score": 6} for i in range(10)
    ]


def test_an_error_names_the_row_it_is_about(tmp_path: Path) -> None:
    rows = [Row("a" * size, None, {}, f"x.txt, line {size}") for size in (3, 90, 5)]

    def method(part: list[Row], _: object) -> list[int]:
        for number, row in enumerate(part):
            if len(row.text) > 50:
                raise ContextError(f"text {number} has 90 tokens; the model has 50 positions")
        return [0] * len(part)

    with pytest.raises(ContextError, match=r"^x.txt, line 90: this text has 90 tokens"), sink(Files()) as to:
        list(each(rows, method, "x", to))


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    out.write_text("old\n")
    with pytest.raises(DataError), sink(Files(out=out)) as to:
        to.write("half")
        raise DataError("broken")
    assert out.read_text() == "old\n" and os.listdir(tmp_path) == ["out.txt"]
    with pytest.raises(RecipeError, match="is a folder; give the name of a file"), sink(Files(out=tmp_path)):
        pass
    with pytest.raises(StorageError, match="cannot write"), sink(Files(out=tmp_path / "no" / "folder.txt")):
        pytest.fail("work was done before the place was looked at")


PROGRAM = """
import sys, time
from pathlib import Path
from quire.cli import main
from quire.cli.lines import Files, Row
from quire.cli.results import each, sink

def run(argv):
    def slow(part, done):
        print("working", flush=True)
        time.sleep(30)
        return [0]
    with sink(Files(out=Path(argv[0]))) as to:
        for row, found in each([Row("a"), Row("b")], lambda p, d: [0] if p[0].text == "a" else slow(p, d), "x", to, at_once=1):
            to.row(row, {}, str, "half an answer")
    return 0

main.verb_function = lambda verb: run
sys.exit(main.main(["doctor", sys.argv[1]]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_no_half_output(tmp_path: Path, number: signal.Signals, code: int) -> None:
    out = tmp_path / "out.txt"
    child = subprocess.Popen([sys.executable, "-c", PROGRAM, str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "working\n"
    time.sleep(0.1)
    child.send_signal(number)
    _, said = child.communicate(timeout=20)
    assert child.returncode == code and "Traceback" not in said
    assert os.listdir(tmp_path) == []


def test_progress_shows_only_when_there_is_something_to_wait_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Row(str(i)) for i in range(4)]

    def method(part: list[Row], done: results.Done) -> list[int]:
        for count in range(1, len(part)):
            done(count)
        return [0] * len(part)

    with sink(Files()) as to:
        list(each(rows, method, "x", to))
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(results, "_PATIENCE", -1.0)
        list(each(rows, method, "x", to))
    shown = capsys.readouterr().err
    assert "x   25%  rows 1/4" in shown and "left" in shown and "100%  rows 4/4  done in" in shown


def test_an_error_takes_the_progress_away(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(results, "_PATIENCE", -1.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", screen := Terminal())

    def method(part: list[Row], done: results.Done) -> list[int]:
        done(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), sink(Files()) as to:
        list(each([Row("a"), Row("b")], method, "x", to))
    assert "rows 1/2" in screen.getvalue() and screen.getvalue().endswith("\x1b[1F\x1b[J")


def test_windows_are_heard_as_rows() -> None:
    heard: list[int] = []
    done = results.of_windows(heard.append, 4, lambda: 20)
    for windows in (5, 12, 20):
        done(windows)
    assert heard == [1, 2, 4]
