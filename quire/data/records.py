"""Structured rows from files, strictly: what supervised tasks learn from. `columns` makes typed rows of them.

Formats: JSON Lines, JSON, CSV, TSV, Parquet, CoNLL columns, and two parallel plain-text files as `train.en+train.de`; gzip of each.
Unlike texts (`sources`), of which some may be left out, every row counts: a row that cannot be read is a fault with its file and line, and
a pass with faults ends in an error. Everything streams but .json files, which are bounded.
"""

from __future__ import annotations

import glob
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ..errors import DataError
from . import conll, formats, sources, squad, tables
from .lines import Fault, lines
from .problems import Problems, shown

CONLL = ("conll", "iob", "bio")
TABLES = ("csv", "tsv")
KINDS = ("jsonl", "ndjson", "json", *TABLES, "parquet", *CONLL)
Found = Iterator[tuple[str, dict[str, Any]]]  # where, fields


@dataclass(frozen=True, slots=True)
class Record:
    """One row as its file has it. `where`: "train.jsonl:12", for a person."""

    fields: dict[str, Any]
    where: str


def read(
    given: Sequence[str], names: Sequence[str] = (), *, tally: sources.Tally | None = None, problems: Problems | None = None
) -> Iterator[Record]:
    """The records of all sources, source by source, in an order that depends on names alone.

    given: files, folders, globs, pulled data sets by their names, or A+B for two plain-text files whose lines belong together (fields
    `source`, `target`). names: the columns of CSV and TSV files that have no header; '...' as the last leaves further ones out.
    tally: what folders held that is no file of records is counted there. problems: faults are gathered there, for the caller to finish.
    Raises DataError with the first faults and their number when the pass ends (what came before it is then not to be used), at once for a
    source that is not there; ExtraError for Parquet without pyarrow.
    """
    if isinstance(given, str):
        raise DataError(f"the sources are one text, {given!r}; a list of files, folders or globs is needed.")
    if not given:
        raise DataError("no sources were given. Name files, folders or globs of rows.")
    tally = sources.Tally() if tally is None else tally
    gathered = Problems() if problems is None else problems
    seen: dict[Path, str] = {}
    for spec in given:
        for name, read_one in _places(spec, names, tally, seen):
            tally.files += 1
            count = 0
            faults = gathered.count
            try:
                for where, fields in read_one(gathered.add):
                    count += 1
                    yield Record(fields, sources.printable(where))
            except (gzip.BadGzipFile, zlib.error, EOFError) as error:
                gathered.add(name, f"a damaged gzip file ({error}){_after(count)}. Fetch or compress it again.")
            except OSError as error:
                gathered.add(name, f"cannot be read: {error.strerror or error}{_after(count)}. Check the file and its permissions.")
            if not count and gathered.count == faults:
                gathered.add(name, "the file holds no rows. Mend it or take it out.")
    if problems is None:
        gathered.finish()


def _after(count: int) -> str:
    return f", after {count:,} rows" if count else ""


def _places(spec: str, names: Sequence[str], tally: sources.Tally, seen: dict[Path, str]) -> Iterator[tuple[str, Callable[[Fault], Found]]]:
    """What to read of one source: a name for messages, and the reader. Raises DataError for what is not there or given twice."""
    pair = _pair(spec)
    if pair is not None:
        yield spec, lambda fault: _parallel(*pair, fault)
        return
    source = sources.Source.parse(spec)
    if source.weight != 1:
        raise DataError(f"the source '{spec}' has a weight; rows have none. Write '{source.spec}'.")
    if spec == sources.STDLIB:
        raise DataError(f"the source '{spec}' is text without rows. Name files, folders or globs of rows.")
    found = 0
    for path, _, named in sources.files(source, tally):
        kind = formats.kind_of(path)
        if kind not in KINDS:
            if named and not glob.has_magic(spec):
                raise DataError(
                    f"{path} is no file of rows: its ending is {kind!r}; known: {', '.join(KINDS)}, each with .gz or without.{_plain(kind)}"
                )
            tally.skip(f"no file of rows ('.{kind}')", str(path))
            continue
        if (real := path.resolve()) in seen:
            raise DataError(f"{path} is given twice (by '{seen[real]}' and by '{spec}'), so its rows would count twice. Name it once.")
        seen[real] = spec
        found += 1
        yield sources.printable(str(path)), lambda fault, path=path, kind=kind: _records(path, kind, names, fault)  # type: ignore[misc]
    unread = [
        f"{reason}: {example}" for reason, examples in tally.examples.items() if reason.startswith("unreadable") for example in examples
    ]
    if unread:
        raise DataError(
            f"the source '{spec}' holds what cannot be read: {'; '.join(unread[:5])}. Check its permissions, or name the files."
        )
    if not found:
        skipped = "; ".join(f"{reason}: {examples[0]}" for reason, examples in tally.examples.items())
        raise DataError(
            f"the source '{spec}' holds no file of rows ({', '.join(KINDS)}; .gz of these){skipped and f'. It holds {skipped}'}."
        )


def _plain(kind: str) -> str:
    return " Two plain-text files whose lines belong together are written A+B." if kind not in ("zip", "tar", "tgz", "xlsx") else ""


def _records(path: Path, kind: str, names: Sequence[str], fault: Fault) -> Found:
    if kind == "json":
        return squad.document(path, fault)
    if kind in TABLES:
        return tables.delimited(path, names, fault)
    if kind == "parquet":
        return tables.parquet(path, fault)
    return conll.sentences(path, fault) if kind in CONLL else _jsonl(path, fault)


def _jsonl(path: Path, fault: Fault) -> Found:
    for number, line in lines(path, fault):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = squad.parse(line.rstrip())  # of an object left open the fault is then at its end, not on a next line
        except (ValueError, RecursionError) as error:
            fault(where, f"no JSON: {squad.why(error)}, in {shown(line.strip())}. Each line must be one whole JSON object.")
            continue
        if isinstance(row, dict):
            yield where, row
        else:
            fault(where, f'{shown(row)} is no JSON object. Each line must be one: {{"text": ..., ...}}.')


def _pair(spec: str) -> tuple[Path, Path] | None:
    """The two files of A+B; None where that is one name, of a file that is there or of something else."""
    if "+" not in spec or Path(spec).expanduser().exists():
        return None
    cuts = [at for at, letter in enumerate(spec) if letter == "+"]
    pairs = [(Path(spec[:at]).expanduser(), Path(spec[at + 1 :]).expanduser()) for at in cuts]
    whole = [pair for pair in pairs if pair[0].is_file() and pair[1].is_file()]
    if not whole:
        missing = next(
            (side for left, right in pairs if left.is_file() or right.is_file() for side in (left, right) if not side.is_file()), None
        )
        if missing is not None:
            raise DataError(f"the source '{spec}' is a pair of files, and '{missing}' is not there. Give two plain-text files as A+B.")
        return None
    for path in whole[0]:
        if formats.kind_of(path) in KINDS:
            raise DataError(
                f"the source '{spec}' is a pair, and {path} is a file of rows. A pair is of plain-text files; list this one alone."
            )
    if whole[0][0].resolve() == whole[0][1].resolve():
        raise DataError(f"the source '{spec}' pairs a file with itself. Give two plain-text files as A+B.")
    return whole[0]


def _parallel(source: Path, target: Path, fault: Fault) -> Found:
    """The lines of two files side by side. They belong together by their number alone, so the numbers of lines must be the same."""
    counts = [0, 0]

    def side(which: int, path: Path) -> Iterator[str]:
        for number, line in lines(path, fault):
            counts[which] = number
            yield line.removesuffix("\n").removesuffix("\r")

    for first, second in zip_longest(side(0, source), side(1, target)):
        if first is not None and second is not None:
            yield f"{source}:{counts[0]}", {"source": first, "target": second}
    if counts[0] != counts[1]:
        fault(
            f"{source}+{target.name}",
            f"{counts[0]:,} lines against {counts[1]:,}: every line must have its other half on the same line of the other file.",
        )


def parse_columns(given: Sequence[str]) -> dict[str, str]:
    """{our name: the file's name} of entries like "text=review". Raises DataError for one without '=' and for a name given twice."""
    found: dict[str, str] = {}
    for entry in given:
        ours, sign, theirs = (part.strip() for part in entry.partition("="))
        if not (ours and sign and theirs):
            raise DataError(f"the column {entry!r} must be written NAME=COLUMN, for example text=review (our name, then the file's).")
        if found.setdefault(ours, theirs) != theirs:
            raise DataError(f"the column '{ours}' is given as '{found[ours]}' and as '{theirs}'. Keep one.")
    return found


def parse_names(given: Sequence[str]) -> dict[str, str]:
    """{number: name} of the names of classes: in order from 0, or each with its number as "1=World". Raises DataError for a mixture."""
    numbered = [number.strip().isdecimal() for number, sign, _ in (entry.partition("=") for entry in given) if sign]
    if not any(numbered):
        return {str(number): name for number, name in enumerate(given)}
    found = {number.strip(): name.strip() for number, _, name in (entry.partition("=") for entry in given)}
    if len(numbered) != len(given) or not all(numbered) or len(found) != len(given):
        raise DataError(
            f"data.label_names = {shown(list(given))}: give the names in order from 0, or each with its own number as '1=World'."
        )
    return found
