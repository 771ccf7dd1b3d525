"""Colour where there is a terminal that wants it, plain text elsewhere (`NO_COLOR` and pipes are honoured)."""

from __future__ import annotations

import sys
import unicodedata
from typing import TextIO

from ..progress import coloured

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def paint(text: str, style: str, out: TextIO | None = None) -> str:
    """`text` in a style ('bold', 'dim', 'red' ...) for `out` (standard output)."""
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if coloured(out or sys.stdout) else text


def safe(text: str, out: TextIO | None = None) -> str:
    """Text from a model or a file without the control characters that move the cursor or retitle a terminal; unchanged into a pipe."""
    if not (out or sys.stdout).isatty():
        return text
    return "".join("\ufffd" if unicodedata.category(char) == "Cc" and char not in "\n\t" else char for char in text)
