"""Text that came out of a run as Markdown: escaped or set as code, so that a hostile name stays text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .page import clean

_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&!])")


def plain(text: object) -> str:
    """Text as Markdown prose: on one line, its marks escaped."""
    return _MARKUP.sub(r"\\\1", " ".join(clean(text).split()))


def code(text: object) -> str:
    """Text as inline code: on one line, fenced by more backticks than it holds."""
    line = " ".join(clean(text).split()) or " "
    fence = "`" * (1 + max((len(found) for found in re.findall(r"`+", line)), default=0))
    pad = " " if "`" in line else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Columns after the first are set flush right."""
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(cell, row))} |" for row in rows)])
