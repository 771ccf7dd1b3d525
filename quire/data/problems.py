"""Faults of rows, gathered over a whole pass: one message then shows the first few with their number, instead of one fault a try.

A pass that met a fault ends in an error, so nothing is left out of what a model learns without a word; what it gave before that is not to
be used.
"""

from __future__ import annotations

from typing import Any

from ..errors import DataError

SHOWN = 5
MOST = 1000  # faults after which the file is not what it is taken for: reading on tells nothing more


class FaultyRows(DataError):
    """Rows that cannot be used as they are. count: how many faults were found."""

    def __init__(self, message: str, count: int) -> None:
        super().__init__(message)
        self.count = count


class Problems:
    """`add` faults while reading, `finish` at the end."""

    def __init__(self) -> None:
        self.count = 0
        self.examples: list[str] = []

    def add(self, where: str, fault: str) -> None:
        """Raises DataError at once when there are more than MOST faults."""
        self.count += 1
        if len(self.examples) < SHOWN:
            self.examples.append(f"{where}: {fault}")
        if self.count > MOST:
            raise self._error(f"more than {MOST:,} faults; the rest was not read")

    def finish(self) -> None:
        """Raises DataError when there was any fault."""
        if self.count:
            raise self._error(f"{self.count:,} faults")

    def _error(self, total: str) -> FaultyRows:
        if self.count == 1:
            return FaultyRows(self.examples[0], 1)
        first = f"; the first {len(self.examples)}" if self.count > len(self.examples) else ""
        return FaultyRows("\n  ".join([f"the rows cannot be used as they are ({total}{first}):", *self.examples]), self.count)


def shown(value: Any, most: int = 80) -> str:
    """A value as a message shows it, in at most `most` characters; of a long text or list only the beginning is ever written out."""
    if isinstance(value, str | bytes | list | tuple) and len(value) > most:
        value = value[:most]
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."
