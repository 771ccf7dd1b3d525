"""The lines of a file of records, strictly: each is UTF-8, has no NUL byte and is at most 64 MB long, or it is a fault with its number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from .formats import LONGEST_ROW, bounded, open_file

Fault = Callable[[str, str], None]  # where, what


def lines(path: Path, fault: Fault) -> Iterator[tuple[int, str]]:
    """(number from 1, line with its end) of every line that can be read; the others are reported. Raises OSError and gzip's errors."""
    with open_file(path) as file:
        for number, line in bounded(file):
            text = None if line is None else decoded(line, number == 1)
            if line is None:
                fault(f"{path}:{number}", f"a line of more than {LONGEST_ROW >> 20} MB. Is this the right file? A row fits in far less.")
            elif text is None or "\0" in text:
                what = bytes_fault(line, number == 1)
                fault(f"{path}:{number}", what)
                if "UTF-16" in what:
                    return  # every further line would say the same
            else:
                yield number, text


def decoded(data: bytes, first: bool) -> str | None:
    """UTF-8 text, without a byte order mark at the beginning of a file; None when it is none."""
    try:
        return data.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError:
        return None


def bytes_fault(data: bytes, first: bool) -> str:
    """Why bytes are not taken as text."""
    if first and data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "the file is UTF-16, not UTF-8. Save it as UTF-8."
    if b"\0" in data:
        return f"a NUL byte at byte {data.index(0) + 1:,} of the line. The file is damaged or no text."
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"no UTF-8 at byte {error.start + 1:,} of the line ({data[error.start : error.start + 4]!r}). Save the file as UTF-8."
    return "the line cannot be read"
