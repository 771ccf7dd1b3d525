"""One live line on a terminal, a plain line now and then elsewhere; both with the time left.

Under a terminal the line rewrites itself; `block` shows a few more lines below it (a sample being written). In a pipe or a log file a line
comes every few seconds, so logs stay short. `NO_COLOR` is honoured.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from typing import TextIO

_EVERY_TERMINAL = 0.1  # seconds
_EVERY_PLAIN = 10.0


def duration(seconds: float) -> str:
    """3725 -> '1:02:05', 65 -> '1:05'."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def count(number: float) -> str:
    """1234567 -> '1.23M', 322.374 -> '322': three digits."""
    number = float(f"{number:.3g}")  # first, so that 999,999 is 1M
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:g}"


def many(number: int, word: str) -> str:
    """(1, 'row') -> '1 row', (1200, 'row') -> '1,200 rows'."""
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def left_out(cut: Sequence[int], what: str = "text") -> str:
    """How much was not read, in words; "" where nothing was left out. cut: tokens left out of each `what`."""
    texts = sum(1 for tokens in cut if tokens)
    return f"{texts:,} {what}{'s were' if texts > 1 else ' was'} too long: {sum(cut):,} tokens left out" if texts else ""


def coloured(out: TextIO) -> bool:
    return out.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def wrapped(parts: Sequence[str], columns: int) -> list[str]:
    """Parts side by side, going on in a second line where a narrow terminal has no room: the time left stands last and must be seen."""
    lines = [""]
    for part in parts:
        joined = f"{lines[-1]}  {part}" if lines[-1] else part
        if len(joined) > columns and lines[-1].strip():
            lines.append("    " + part)
        else:
            lines[-1] = joined
    return [line[:columns] for line in lines]


class Progress:
    """`update(done, field='value', ...)` as work goes on; `note` for a line that stays; `close` at the end."""

    def __init__(self, total: float, label: str, out: TextIO | None = None) -> None:
        self.total, self.label = max(total, 1e-9), label
        self.out = out or sys.stderr
        self.live = self.out.isatty() and os.environ.get("TERM") != "dumb"
        self.started = time.monotonic()
        self.first: float | None = None  # work that was done before we started (a resumed run)
        self._last = self._paused = -math.inf
        self._doing: list[str] = []
        self._lines = 0
        self._text: list[str] = []
        self._block: list[str] = []

    def update(self, done: float, **fields: str) -> None:
        if self.first is None:
            self.first = done
        now = time.monotonic()
        finished = done >= self.total
        if not finished and now - self._last < (_EVERY_TERMINAL if self.live else _EVERY_PLAIN):
            return
        self._last = now
        self._text = self._parts(done, now, fields)
        self._draw()

    def pause(self, doing: str) -> None:
        """Says what is done while no work goes on ("": it does again). On a plain stream a line, unless another came shortly before."""
        now = time.monotonic()
        if not self.live:
            if doing and now - self._paused >= _EVERY_PLAIN:
                self._paused = now
                print(f"{self.label}  {doing} ...", file=self.out, flush=True)
            return
        self._doing = [f"{doing} ..."] if doing else []
        if self._text or doing:
            self._draw()

    def block(self, text: str, lines: int = 8) -> None:
        """Shows text below the live line until it is replaced; on a plain stream it is left out (see `note`)."""
        self._block = text.expandtabs(4).splitlines()[:lines]
        if self.live:
            self._draw()

    def note(self, text: str) -> None:
        """A line that stays."""
        self._erase()
        print(text, file=self.out, flush=True)
        if self.live and self._text:
            self._draw()

    def clear(self) -> None:
        """Takes the live line away until the next `update`: something else is written to the same terminal."""
        self._erase()

    def close(self) -> None:
        """Leaves the last state on the screen."""
        self._block = []
        if self.live and self._text:
            self._draw()
        self._lines = 0

    def _parts(self, done: float, now: float, fields: dict[str, str]) -> list[str]:
        share = min(done / self.total, 1.0)
        worked = done - (self.first or 0)
        left = (self.total - done) * (now - self.started) / worked if worked > 0 else None
        parts = [self.label, f"{share:4.0%}", *(f"{name.replace('_', ' ')} {value}" for name, value in fields.items())]
        parts.append("done in " + duration(now - self.started) if share >= 1 else f"{duration(left)} left" if left is not None else "...")
        if not self.live:
            return parts
        width = 12
        full = round(share * width)
        parts[1:2] = ["━" * full + "─" * (width - full), parts[1].strip()]
        return parts

    def _erase(self) -> None:
        if self.live and self._lines:
            self.out.write(f"\x1b[{self._lines}F\x1b[J")
            self._lines = 0

    def _draw(self) -> None:
        if not self.live:
            print("  ".join(self._text), file=self.out, flush=True)
            return
        columns = shutil.get_terminal_size().columns - 1
        dim, plain = ("\x1b[2m", "\x1b[0m") if coloured(self.out) else ("", "")
        self._erase()
        lines = wrapped((self._text or [self.label]) + self._doing, columns)
        for line in lines:
            self.out.write(line + "\n")
        for line in self._block:
            self.out.write(f"{dim}  │ {line[: columns - 4]}{plain}\n")
        self._lines = len(lines) + len(self._block)
        self.out.flush()
