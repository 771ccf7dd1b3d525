"""Tables as records: CSV and TSV by Python's own reader, Parquet by pyarrow. Every row has each column, or it is a fault.

CSV is RFC 4180, strictly: commas, quotes doubled inside quotes, line breaks allowed inside quotes. TSV is IANA's text/tab-separated-values:
a line is a row, a tab ends a field, and a quote is a character like any other.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import ExtraError
from .formats import LONGEST_ROW, kind_of, open_file
from .lines import Fault, lines
from .problems import shown

REST = "..."  # as the last of given names: further columns are there and are left out
Found = tuple[str, dict[str, Any]]  # where, fields


class _Columns:
    """The names of a table's columns and the check that a row has one value for each."""

    def __init__(self, path: Path, names: Sequence[str], fault: Fault) -> None:
        self.path, self.fault = path, fault
        self.given = bool(names)
        self.rest = self.given and names[-1] == REST
        self.names = list(names[:-1] if self.rest else names)

    def header(self, values: list[str], where: str) -> bool:
        """Takes the first line as names; False, and a fault, when they can be none."""
        twice = [name for name, count in Counter(values).items() if count > 1]
        if twice or not all(name.strip() for name in values):
            what = f"the name {shown(twice[0])} twice" if twice else "a column without a name"
            self.fault(
                where, f"the first line, which must name the columns, has {what}: {shown(values)}. If it is a row, name them in data.names."
            )
            return False
        self.names = values
        return True

    def row(self, values: list[str], where: str) -> Found | None:
        if len(values) == len(self.names) or (self.rest and len(values) > len(self.names)):
            return where, dict(zip(self.names, values, strict=False))
        names = f"{len(self.names)} {'names in data.names' if self.given else 'columns'} ({', '.join(self.names)[:200]})"
        self.fault(where, f"{len(values)} values for {names}: {shown(values)}.{self._advice(values)}")
        return None

    def _advice(self, values: list[str]) -> str:
        if len(values) == 1 and len(self.names) > 1:
            for mark, name in (("\t", "tabs: name the file .tsv"), (";", "semicolons: save it with commas")):
                if values[0].count(mark) == len(self.names) - 1:
                    return f" Its values are parted by {name}."
        if len(values) > len(self.names) and self.given and not self.rest:
            return f" To leave further columns out, end data.names with '{REST}'."
        return " Mend the line (a value with a comma needs quotes)." if kind_of(self.path) == "csv" else " Mend the line."


def delimited(path: Path, names: Sequence[str], fault: Fault) -> Iterator[Found]:
    """The rows of a CSV or TSV file. names: the columns of a file without a header; '...' at their end leaves further ones out."""
    columns = _Columns(path, names, fault)
    for number, values in _csv(path, fault) if kind_of(path) == "csv" else _tsv(path, fault):
        where = f"{path}:{number}"
        if not columns.names:
            if not columns.header(values, where):
                return
        elif (row := columns.row(values, where)) is not None:
            yield row


def _csv(path: Path, fault: Fault) -> Iterator[tuple[int, list[str]]]:
    """(line that the row begins on, values). A row that is no CSV ends the file: what follows cannot be told from what is quoted."""
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_ROW))  # of the whole process; only ever raised
    last = 0

    def counted() -> Iterator[str]:
        nonlocal last
        for number, line in lines(path, fault):
            last = number
            yield line

    reader = csv.reader(counted(), strict=True)
    while True:
        begin = last + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fault(f"{path}:{begin}", _csv_fault(str(error), last))
            return
        if values:  # a blank line holds nothing
            yield begin, values


def _csv_fault(error: str, last: int) -> str:
    if "unexpected end" in error or "field limit" in error:
        return f"a quote that is opened here is not closed (read to line {last:,}). A quote inside a quoted value is written twice."
    if "expected after" in error:
        return f"a quote inside a value (line {last:,}: {error}). Inside a quoted value a quote is written twice."
    return f"no CSV (line {last:,}: {error})."


def _tsv(path: Path, fault: Fault) -> Iterator[tuple[int, list[str]]]:
    for number, line in lines(path, fault):
        line = line.removesuffix("\n").removesuffix("\r")
        if not line:
            continue
        values = line.split("\t")
        quoted = next((value for value in values if len(value) > 2 and value[0] == value[-1] == '"' and '""' in value[1:-1]), None)
        if quoted is None:
            yield number, values
        else:
            fault(f"{path}:{number}", f"{shown(quoted)} is quoted as CSV is; TSV has no quotes. Save the file as .csv, with commas.")


def parquet(path: Path, fault: Fault) -> Iterator[Found]:
    """The rows of a Parquet file, a few hundred in memory at a time. Raises ExtraError without pyarrow."""
    if importlib.util.find_spec("pyarrow") is None:
        raise ExtraError("pyarrow", "data", f"reading {path.name}")
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with open_file(path) as file, pyarrow.parquet.ParquetFile(file) as table:
            twice = [name for name, count in Counter(table.schema_arrow.names).items() if count > 1]
            if twice:
                fault(str(path), f"the column {shown(twice[0])} is there twice. Rename one.")
                return
            for batch in table.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, gzip.BadGzipFile) or getattr(error, "errno", None) is not None:
            raise  # the disk's or gzip's fault; pyarrow's own have no number
        at = f" (after row {number:,})" if number else ""
        fault(str(path), f"no Parquet file that can be read{at}: {' '.join(str(error).split())[:200]}. Fetch or write it again.")
