"""Answers to rows: found in chunks with the time left shown, written as lines or JSON in the order of the input.

They go to standard output as they are found, or with --out into a file that appears whole or not at all, also when a signal comes. An error
of the model names the row that it is about.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, BinaryIO, TypeVar

from ..durable import writing
from ..errors import ContextError, DataError, QuireError
from ..progress import left_out
from .lines import Files, Row, tell

_PATIENCE = 1.0  # seconds before progress is shown
_SUSPECTS = 8
Found = TypeVar("Found")

Result = dict[str, Any]


class Sink:
    """Where answers go: `row` writes one, as JSON with what is passed through or as the line that the verb made of it."""

    def __init__(self, files: Files, out: BinaryIO | None) -> None:
        self.json, self.out = files.as_json, out
        self.shows = out is None and not self.json and sys.stdout.isatty()  # somebody looks at it

    def row(self, row: Row, result: Result, line: Callable[..., str], *facts: Any) -> None:
        """`result` as JSON, else line(*facts)."""
        if not self.json:
            self.write(line(*facts))
            return
        # A field of the input that has the name of one of ours is kept under another one.
        self.write(dump({f"input_{name}" if name in result else name: value for name, value in row.rest.items()} | result))

    def write(self, text: str) -> None:
        if self.out is not None:
            self.out.write(text.encode("utf-8", "backslashreplace") + b"\n")
        else:
            print(text, flush=True)


def dump(value: Any) -> str:
    """One line of JSON, also for readers to whom more than a line feed ends a line; what UTF-8 cannot hold is escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if text.isascii():
        return text
    if any("\ud800" <= char <= "\udfff" for char in text):
        return json.dumps(value, allow_nan=False)
    return text.translate(_SEPARATORS)


_SEPARATORS = {ord(char): f"\\u{ord(char):04x}" for char in "\x85\u2028\u2029"}


@contextmanager
def sink(files: Files) -> Iterator[Sink]:
    """Opened before any work, so that a place which cannot be written to is named at once. A signal leaves nothing behind."""
    target = files.target()
    if target is None:
        yield Sink(files, None)
        return
    with _terminated_as_interrupted(), writing(target) as file:
        yield Sink(files, file)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM unwinds as an exception does, so that the half-written file is taken away; the exit code is 143."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not the main thread: whoever started us hears the signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


AT_ONCE = 1024  # rows: enough to sort by length, few enough to see answers soon
Done = Callable[[int], None]


def each(
    rows: Sequence[Row], method: Callable[[list[Row], Done], Sequence[Found]], verb: str, to: Sink, at_once: int = AT_ONCE, more: int = 0
) -> Iterator[tuple[Row, Found]]:
    """(row, what `method` found for it), chunk by chunk in the order of the input; progress on standard error when it takes a while.

    method: rows and a callback that hears how many are done -> as many results. An error of the model names the row that it is about.
    more: texts beside the rows that `method` works on and counts (all rows at once then).
    """
    live = Later(len(rows) + more, verb)
    try:
        for start in range(0, len(rows), at_once):
            part = list(rows[start : start + at_once])
            found = _named(part, method, partial(_plus, live, start))
            live.update(start + len(part) + more)
            if to.shows:
                live.clear()
            yield from zip(part, found, strict=True)
    except BaseException:  # also Ctrl-C: a line with the time left would stay, of work that nobody does
        live.clear()
        raise
    live.close()


def _plus(live: Later, before: int, done: int) -> None:
    live.update(before + done)


def of_windows(done: Done, rows: int, windows: Callable[[], int]) -> Done:
    """A callback that hears of windows, for a method that reads long rows in them. windows: counts those of all rows, once and only when
    the method has begun, so that what it refuses is refused by it."""
    count = cache(windows)
    return lambda number: done(number * rows // max(count(), 1))


class Later:
    """Progress that begins to show once there is something to wait for."""

    def __init__(self, total: int, label: str, unit: str = "rows") -> None:
        from ..progress import Progress

        self.unit = unit

        self.live = Progress(total, label)
        self.shown = False

    def update(self, done: int) -> None:
        waited = time.monotonic() - self.live.started
        self.shown = self.shown or (done < self.live.total and waited > _PATIENCE)
        if self.live.first is None:
            self.live.first = 0
        if self.shown:
            self.live.update(done, **{self.unit: f"{done:,}/{self.live.total:,.0f}"})

    def clear(self) -> None:
        if self.shown:
            self.live.clear()

    def close(self) -> None:
        if self.shown:
            self.live.close()


def _named(part: list[Row], method: Callable[[list[Row], Done], Sequence[Found]], done: Done) -> Sequence[Found]:
    try:
        return method(part, done)
    except (ContextError, DataError) as error:
        if len(part) == 1:
            raise _at(part[0], error) from None
        # A model refuses texts before it works on any, so asking again about the longest ones is quick.
        for row in sorted(part, key=lambda row: -len(row.text) - len(row.beside or ""))[:_SUSPECTS]:
            try:
                method([row], lambda _: None)
            except (ContextError, DataError) as own:
                raise _at(row, own) from None
            except QuireError:  # one row alone makes no sense to this method: the first error stands
                break
        raise


def _at(row: Row, error: ContextError | DataError) -> ContextError | DataError:
    """The error with the row's place, in the words of the command line. A number within one chunk says nothing to who reads it."""
    told = re.sub(r"^([Tt]he )?(text|pair|prompt|row) \d+ ", r"this \2 ", str(error))
    told = re.sub(r'long="([\w-]+)"', r"--long \1", told).replace("give a stride (32, say)", "give --stride 32")
    told = re.sub(r"^the question of pair \d+ ", "the question ", told)
    return type(error)(f"{row.where}: {told}" if row.where else told)


def tell_cut(cut: Sequence[int], what: str = "text") -> None:
    """Says how many texts were cut, as --long asked for or as the model was tuned. cut: how many tokens of each were left out."""
    if said := left_out(cut, what):
        tell(said)
