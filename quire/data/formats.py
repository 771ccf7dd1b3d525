"""One file, whatever its format, as texts: plain text and code, JSONL, CSV and Parquet, and gzip of these.

Everything streams: a text longer than a piece is cut at a blank line (or a line) into pieces that are documents of their own, so memory
does not grow with the file and one long book still has a held-out part. A big file is read twice: once to see that all of it is
text, once to cut it, so a file is either in or out, never half. Rows that are not what they should be are counted by line.
"""

from __future__ import annotations

import codecs
import gzip
import importlib.util
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..errors import DataError, ExtraError, nearest

ROWS = {"jsonl", "ndjson", "csv", "tsv", "parquet"}
_PROSE = {"", "txt", "text"}
PROSE_PIECE = 32 << 10  # bytes: prose has no files to split by, so it is cut finer
PIECE = 1 << 20  # bytes: code and markup stay whole up to here
LONGEST_LINE = 1 << 20  # bytes: a longer line is data or minified code, not something to learn a language from
LONGEST_ROW = 64 << 20  # bytes of one JSONL line
BAD_SHARE = 0.1  # share of rows beyond which a file of rows is not what it says
_BLOCK = 1 << 20

Report = Callable[[str, str], None]  # reason, where in the file


class Skip(Exception):
    """A whole file that is left out, with the reason."""

    def __init__(self, reason: str, where: str = "") -> None:
        super().__init__(reason)
        self.reason, self.where = reason, where


def kind_of(path: Path) -> str:
    """The suffix without its dot; 'x.jsonl.gz' is jsonl."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return suffixes[-1][1:] if suffixes else ""


def texts(path: Path, kind: str, field: str, named: bool, report: Report) -> Iterator[tuple[str, str]]:
    """The texts of a file, each with the part of the file it is ('' for all of it, '[3]' for its third piece, ':12' for row 12).

    Raises Skip for a file that is no text, DataError for rows that cannot be meant when the user `named` the file, OSError.
    """
    try:
        if kind == "parquet":
            yield from _parquet(path, field, named, report)
        elif kind in ("csv", "tsv"):
            yield from _csv(path, kind, field, named, report)
        elif kind in ROWS:
            yield from _jsonl(path, field, named, report)
        else:
            yield from _plain(path, PROSE_PIECE if kind in _PROSE else PIECE)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        if named:
            raise DataError(f"{path} is a damaged gzip file ({error}). Fetch or compress it again.") from error
        raise Skip("damaged gzip") from error


def open_file(path: Path) -> BinaryIO:
    """The bytes of a file, of the file inside for one that ends in .gz."""
    if path.suffix.lower() == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    return open(path, "rb")


def bounded(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """The lines of a file with their numbers from 1; None for one of more than LONGEST_ROW bytes, which is never held whole."""
    number = 0
    while line := file.readline(LONGEST_ROW + 1):
        number += 1
        if len(line) <= LONGEST_ROW:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(_BLOCK)
        yield number, None


def _plain(path: Path, piece: int) -> Iterator[tuple[str, str]]:
    with open_file(path) as file:
        head = file.read(piece + 1)
        if len(head) <= piece:
            _Probe().feed(head, last=True)
            text = head.decode("utf-8-sig")
            if not text.strip():
                raise Skip("empty")
            yield text, ""
            return
        probe = _Probe()
        probe.feed(head)
        while block := file.read(_BLOCK):
            probe.feed(block)
        probe.feed(b"", last=True)
    with open_file(path) as file:
        for number, text in enumerate(_pieces(file, piece), start=1):
            yield text, f"[{number}]"


class _Probe:
    """Is it text? Raises Skip when bytes are no UTF-8, when there is a NUL byte, or when a line has no end. UTF-16 is named."""

    def __init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.line = 0  # bytes of the line that the last block left open
        self.first = True

    def feed(self, block: bytes, last: bool = False) -> None:
        if self.first and block[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise Skip("not UTF-8 but UTF-16")
        self.first = False
        if b"\0" in block:
            raise Skip("binary")
        try:
            self.decoder.decode(block, last)
        except UnicodeDecodeError as error:
            # Text in another encoding is mostly letters; what is full of control characters is no text at all.
            sample = block[:4096]
            control = sum(byte < 9 or 13 < byte < 32 for byte in sample)
            raise Skip("binary" if control * 50 > len(sample) else "not UTF-8") from error
        first, *rest = map(len, block.split(b"\n"))
        if max(self.line + first, *rest, 0) > LONGEST_LINE:
            raise Skip(f"a line of more than {LONGEST_LINE >> 20} MB")
        self.line = rest[-1] if rest else self.line + first


def _pieces(file: BinaryIO, piece: int) -> Iterator[str]:
    """Cuts valid UTF-8 lines into pieces of about `piece` bytes, at the first blank line after that, at any line after twice that."""
    lines: list[bytes] = []
    size = 0
    for line in file:
        blank = not line.strip()
        if lines and ((blank and size >= piece) or size + len(line) > 2 * piece):
            yield from _piece(lines)
            lines, size = [], 0
        if lines or not blank:
            lines.append(line)
            size += len(line)
    yield from _piece(lines)


def _piece(lines: list[bytes]) -> Iterator[str]:
    text = b"".join(lines).decode("utf-8-sig")
    if text.strip():
        yield text


class _Rows:
    """Counts the rows of a file that are not what they should be, and decides when the file itself is at fault.

    A first row without the field is a wrong setting, and more than a tenth of bad rows a wrong file: both are refused when the user named
    the file. Anything less is counted by row. An empty text is counted, and not held against the file.
    """

    def __init__(self, path: Path, field: str, named: bool, report: Report) -> None:
        self.path, self.field, self.named, self.report = path, field, named, report
        self.good = self.bad = 0
        self.first = ""

    def refuse(self, message: str, reason: str) -> Exception:
        return DataError(message) if self.named else Skip(reason)

    def missing(self, there: list[str]) -> Exception:
        fields = ", ".join(f"'{name}'" for name in there[:20]) or "none"
        return self.refuse(
            f"{self.path} has no field '{self.field}'.{nearest(self.field, there)} Its fields are: {fields}. "
            "Set data.field to the one that holds the text.",
            f"no field '{self.field}'",
        )

    def skip(self, reason: str, number: int) -> None:
        self.bad += 1
        self.first = self.first or f"row {number}: {reason}"
        self.report(reason, f":{number}")

    def usable(self, value: Any, number: int) -> str | None:
        """The text of a row, or None when there is none and that was counted."""
        if value is None or (isinstance(value, str) and not value.strip()):
            self.report("an empty row", f":{number}")
        elif not isinstance(value, str):
            self.skip(f"a row whose '{self.field}' is no text but {type(value).__name__}", number)
        else:
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                self.skip("a row with half a surrogate pair", number)
            else:
                self.good += 1
                return value
        return None

    def finish(self) -> None:
        if self.named and self.bad > 1 and self.bad > BAD_SHARE * (self.good + self.bad):
            raise DataError(
                f"{self.path}: {self.bad:,} of {self.good + self.bad:,} rows cannot be used (the first is {self.first}). More than "
                f"{BAD_SHARE:.0%} bad rows means that the file is not what it should be: mend it or take it out of data.sources."
            )


def _jsonl(path: Path, field: str, named: bool, report: Report) -> Iterator[tuple[str, str]]:
    rows = _Rows(path, field, named, report)
    number = 0
    with open_file(path) as file:
        for number, line in bounded(file):
            if line is None:
                rows.skip(f"a row of more than {LONGEST_ROW >> 20} MB", number)
            elif line.strip():
                text = _json_text(line, number, rows)
                if text is not None:
                    yield text, f":{number}"
    if not number:
        raise Skip("empty")
    rows.finish()


def _json_text(line: bytes, number: int, rows: _Rows) -> str | None:
    """The text of one line, or None when the line was counted as bad."""
    try:
        row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError:
        rows.skip("a row that is not UTF-8", number)
        return None
    except (ValueError, RecursionError):
        rows.skip("a row that is not JSON", number)
        return None
    if not isinstance(row, dict):
        rows.skip("a row that is no JSON object", number)
        return None
    if rows.field not in row:
        if number == 1:
            raise rows.missing(list(row))
        rows.skip(f"a row without '{rows.field}'", number)
        return None
    return rows.usable(row[rows.field], number)


def _pyarrow(path: Path, named: bool) -> None:
    if importlib.util.find_spec("pyarrow") is None:
        if named:
            raise ExtraError("pyarrow", "data", f"reading {path.name}")
        raise Skip("a table, and pyarrow is not installed (pip install 'quire[data]')")


def _parquet(path: Path, field: str, named: bool, report: Report) -> Iterator[tuple[str, str]]:
    _pyarrow(path, named)
    import pyarrow
    import pyarrow.parquet

    rows = _Rows(path, field, named, report)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                raise rows.missing(file.schema_arrow.names)
            yield from _columns((batch.column(0) for batch in file.iter_batches(batch_size=1024, columns=[field])), rows)
    except pyarrow.ArrowException as error:
        raise rows.refuse(f"{path} is no Parquet file that can be read: {error}", "damaged Parquet") from error
    rows.finish()


def _csv(path: Path, kind: str, field: str, named: bool, report: Report) -> Iterator[tuple[str, str]]:
    _pyarrow(path, named)
    import pyarrow
    import pyarrow.csv

    rows = _Rows(path, field, named, report)

    def ragged(row: Any) -> str:
        rows.skip("a row with another number of columns", row.number or 0)
        return "skip"

    def table(file: Any, **convert: Any) -> Any:
        return pyarrow.csv.open_csv(
            file,
            pyarrow.csv.ReadOptions(block_size=8 * _BLOCK, use_threads=False),  # one thread: only then does a bad row know its number
            pyarrow.csv.ParseOptions(delimiter="\t" if kind == "tsv" else ",", newlines_in_values=True, invalid_row_handler=ragged),
            # The words 'NA' and 'null' are text here.
            pyarrow.csv.ConvertOptions(column_types={field: pyarrow.string()}, strings_can_be_null=False, **convert),
        )

    try:
        with pyarrow.input_stream(str(path), compression="detect") as file:
            try:  # other columns stay unread: a type that changes half-way in one of them is not our concern
                reader = table(file, include_columns=[field])
            except KeyError:
                with pyarrow.input_stream(str(path), compression="detect") as again:
                    raise rows.missing(table(again).schema.names) from None
            yield from _columns((batch.column(0) for batch in reader), rows)
    except pyarrow.ArrowException as error:
        if "Empty CSV" in str(error):
            raise Skip("empty") from error
        raise rows.refuse(f"{path} is no CSV file that can be read: {error}", "damaged CSV") from error
    rows.finish()


def _columns(columns: Iterator[Any], rows: _Rows) -> Iterator[tuple[str, str]]:
    number = 0
    for column in columns:
        for value in column.to_pylist():
            number += 1
            text = rows.usable(value, number)
            if text is not None:
                yield text, f":{number}"
