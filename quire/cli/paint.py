"""Colour where there is a terminal that wants it, plain text elsewhere (`NO_COLOR` and pipes are honoured)."""

from __future__ import annotations

import shutil
import sys
import unicodedata
from typing import TextIO

from ..progress import coloured

_CODES = {
    "bold": "1",
    "dim": "2",
    "underline": "4",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}

_FLAT = str.maketrans("\n\r\t\v\f\x85\u2028\u2029", " " * 8)


def paint(text: str, style: str, out: TextIO | None = None) -> str:
    """`text` in a style ('bold', 'dim', 'underline red' ...) for `out` (standard output)."""
    if not coloured(out or sys.stdout):
        return text
    return f"\x1b[{';'.join(_CODES[word] for word in style.split())}m{text}\x1b[0m"


def flat(text: str) -> str:
    """A text as a part of one line: line ends and tabs become spaces, and a terminal is not steered."""
    return safe(text.translate(_FLAT))


def short(text: str, taken: int = 0, lines: int = 1) -> str:
    """A text as so many lines of this terminal at most, of which `taken` columns stand before it; '…' where it goes on."""
    text, room = flat(text), max(20, lines * shutil.get_terminal_size().columns - taken - 1)
    return text if len(text) <= room else text[: room - 1] + "…"


def bar(share: float, width: int = 24) -> str:
    """A bar for a share of 1, with the space that a whole one would take."""
    full = round(width * min(max(share, 0.0), 1.0))
    return paint("━" * full, "cyan") + " " * (width - full)


def safe(text: str, out: TextIO | None = None) -> str:
    """Text from a model or a file without the control characters that move the cursor or retitle a terminal; unchanged into a pipe."""
    if not (out or sys.stdout).isatty():
        return text
    return "".join("\ufffd" if unicodedata.category(char) == "Cc" and char not in "\n\t" else char for char in text)
