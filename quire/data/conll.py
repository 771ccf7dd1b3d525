"""Tagged words in columns, as the CoNLL shared tasks have them: a word a line, a blank line after each sentence.

The first column is the word, the last one its tag. Columns are parted by tabs where the file's first line has any, else by spaces.
`-DOCSTART-` lines, and lines that begin with '#' before a sentence and are no row of the table, say nothing about words.
Source: Tjong Kim Sang and De Meulder 2003 (CoNLL-2003), section 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .lines import Fault, lines
from .problems import shown

LONGEST_SENTENCE = 100_000  # words; a file without blank lines is no text in sentences, and would fill the memory
_BLANK = " \t\r\n"


def sentences(path: Path, fault: Fault) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where the sentence begins, {tokens, tags})."""
    words: list[str] = []
    tags: list[str] = []
    begin = width = 0
    tabs = False

    def sentence() -> Iterator[tuple[str, dict[str, Any]]]:
        if words:
            yield f"{path}:{begin}", {"tokens": words.copy(), "tags": tags.copy()}
        words.clear()
        tags.clear()

    for number, line in lines(path, fault):
        if not line.strip(_BLANK):
            yield from sentence()
            continue
        tabs = tabs or (not width and "\t" in line)
        values = line.rstrip("\r\n").split("\t") if tabs else line.strip(_BLANK).split(" ")
        values = values if tabs else [value for value in values if value]
        if values[0] == "-DOCSTART-" or (not words and line.startswith("#") and (len(values) != width if width else len(values) != 2)):
            continue
        width = width or len(values)
        where = f"{path}:{number}"
        if len(values) < 2:
            fault(
                where,
                f"{shown(line.strip(_BLANK))} has no tag: a line is a word, then its tag, with a {'tab' if tabs else 'space'} between.",
            )
        elif len(values) != width or not all(values):
            fault(where, f"{shown(line.strip(_BLANK))} has {sum(map(bool, values))} columns; the lines before have {width}.")
        elif len(words) == LONGEST_SENTENCE:
            fault(where, f"a sentence of more than {LONGEST_SENTENCE:,} words. A blank line ends a sentence: there is none.")
            return
        else:
            begin = begin if words else number
            words.append(values[0])
            tags.append(values[-1])
    yield from sentence()
