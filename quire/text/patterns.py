"""Regular expressions that come with a tokenizer.json, looked at before the library runs them.

The library's engine (Oniguruma) goes back and tries again, and gives up after ten million tries from one place of a text: a quarter of a
second. A repeated group that holds a repetition, `(a+)+`, takes that long at place after place, for a few characters each. No published
tokenizer needs one, so such patterns are refused. What is left can take time that grows with a power of the longest run of equal
characters, never one that doubles with each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..errors import ModelError

LONGEST = 16_384  # characters; published patterns have a few hundred

# One thing of a pattern: a class, an escaped character, the beginning of a group, its end, a repetition, any other character.
_TOKEN = re.compile(
    r"(?P<class>\[(?:\\.|\[[^\]]*\]|[^\]\\\[])*\])|(?P<escaped>\\(?:[pPx]\{[^}]*\}|.))|(?P<opens>\((?:\?(?:<?[=!]|[a-zA-Z-]*:|>|<\w+>))?)"
    r"|(?P<closes>\))|(?P<repeats>(?:[*+?]|\{\d*(?:,\d*)?\})[+?]?)|(?P<other>.)",
    re.DOTALL,
)


def check(parts: Any, origin: str) -> None:
    """Raises ModelError for a pattern anywhere in the parts of a tokenizer.json that would take too long."""
    for pattern in _patterns(parts):
        if len(pattern) > LONGEST:
            raise ModelError(f"{origin} holds a pattern of {len(pattern):,} characters; at most {LONGEST:,} are allowed")
        if _nests(pattern):
            raise ModelError(
                f"{origin} holds the pattern {pattern[:80]!r}, which repeats a group that holds a repetition: a short text could keep it "
                "busy for hours. Write it with one repetition, as in [ab]+ for (a+|b+)+."
            )


def _patterns(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if isinstance(item.get("Regex"), str):
                yield item["Regex"]
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item


def _nests(pattern: str) -> bool:
    holds = [False]  # for each open group: does it hold a repetition without an end?
    inner = False  # the same for what stands right before, where that is a group
    for token in _TOKEN.finditer(pattern):
        kind = token.lastgroup
        if kind == "repeats":
            if inner and not token[0].startswith(("?", "{1}", "{0,1}", "{,1}")):
                return True
            holds[-1] |= token[0][0] in "*+" or re.match(r"\{\d*,\}", token[0]) is not None
        inner = False
        if kind == "opens":
            holds.append(False)
        elif kind == "closes" and len(holds) > 1:
            inner = holds.pop()
            holds[-1] |= inner
    return False
