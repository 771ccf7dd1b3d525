"""Words as a model that was taught words reads them: joined by single spaces, and which token of the joined text is of which word.

A plain text is divided as corpora of tagged words are (Penn Treebank, CoNLL 2003, WNUT): at spaces; signs before and behind a word are
words of their own, runs of one sign ('...') together; 's, 're and the like are; what stands inside a word (hyphens, points of 'U.S.',
links, '@name', '#tag') is not divided. Of scripts that write no spaces every character is a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from ..binding.contract import Contract
from .reading import pieces
from .task import Array

_SPACE = "\u2581"  # how Unigram vocabularies spell a space; before the first word it stands for no character
# Thai to Khmer, kana, Han, and the wide forms of these, each with the marks that stand on it
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
    "[\u0300-\u036f\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u17b4-\u17d3\u3099\u309a]*"
)
_LINK = re.compile(r"(?:https?:|www\.)\S*[^\s.,;:!?)\]}>'\"\u2019\u201d]", re.I)
_NAMED = re.compile(r"[@#]\w+|&\w+;")  # '&amp;' stands for one sign
_POINTED = re.compile(r"(?:[^\W\d_]\.)+|(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|No|Inc|Ltd|Co|Corp)\.", re.I)  # U.S. and J. keep their point
_ENDING = re.compile(r"['\u2019](?:s|re|ve|ll|d|m)", re.I)
_DASH = re.compile("\u2014|--+|\\.\\.\\.+|\u2026")


@dataclass(frozen=True)
class Spelled:
    """Words as the tokens of their joined text.

    places (W, 2): the characters [start, end) of each word. first (W,): the first token of each word, -1 where it has none. spaces: (token,
    word) of tokens that are only the space before a word.
    """

    text: str
    ids: list[int]
    places: Array
    first: Array
    spaces: list[tuple[int, int]]


def spell(contract: Contract, words: Sequence[str]) -> Spelled:
    """Words joined by single spaces, and which token of the joined text is of which word."""
    text = " ".join(words)
    ends = np.array(list(accumulate(len(word) + 1 for word in words)), dtype=np.int64) - 1
    starts = ends - np.array([len(word) for word in words], dtype=np.int64)
    read = pieces(contract, text)
    first = np.full(len(words), -1, dtype=np.int64)
    spaces: list[tuple[int, int]] = []
    begins = np.array([start for start, _ in read.offsets], dtype=np.int64)
    for token, (word, (start, end)) in enumerate(zip(np.searchsorted(ends, begins, side="right").tolist(), read.offsets)):
        if word == len(words):
            continue
        if max(start, starts[word]) >= end or contract.tokenizer.token(read.ids[token]) == _SPACE:
            spaces.append((token, word))
        elif first[word] < 0:
            first[word] = token
    return Spelled(text, read.ids, np.stack([starts, ends], 1), first, spaces)


def divided(text: str) -> list[tuple[int, int]]:
    """The characters [start, end) of each word of a plain text, in order."""
    return [place for chunk in re.finditer(r"\S+", text) for place in _words(chunk[0], chunk.start())]


def _words(chunk: str, at: int) -> Iterator[tuple[int, int]]:
    """The words of a stretch without spaces that begins at character `at`."""
    start, end = 0, len(chunk)
    while start < end:
        if not any(chunk[place].isalnum() for place in range(start, end)) or _ENDING.fullmatch(chunk, start):
            yield at + start, at + end  # ':)', '...', "'s" that is apart already
            return
        while _sign(chunk[start]) and not _NAMED.match(chunk, start):
            low, start = start, _run(chunk, start)
            yield at + low, at + start
        whole = _LINK.match(chunk, start) or _NAMED.match(chunk, start)
        if whole is None:
            break
        yield at + start, at + whole.end()
        start = whole.end()
    if start == end:
        return
    behind: list[tuple[int, int]] = []
    while _sign(chunk[end - 1]) and chunk[end - 1] != "-" and not (chunk[end - 1] == "." and _POINTED.fullmatch(chunk, start, end)):
        low = _back(chunk, end)
        behind.append((at + low, at + end))
        end = low
    if ending := next((found for found in _ENDING.finditer(chunk, start + 1, end) if found.end() == end), None):
        behind.append((at + ending.start(), at + end))
        end = ending.start()
    yield from _inner(chunk, start, end, at)
    yield from reversed(behind)


def _inner(chunk: str, start: int, end: int, at: int) -> Iterator[tuple[int, int]]:
    """A word without signs around it: dashes divide it, and characters of scripts without spaces stand alone."""
    place = start
    for found in re.finditer(f"{_UNSPACED.pattern}|{_DASH.pattern}", chunk[start:end]):
        low, high = start + found.start(), start + found.end()
        if low > place:
            yield at + place, at + low
        yield at + low, at + high
        place = high
    if place < end:
        yield at + place, at + end


def _sign(letter: str) -> bool:
    return unicodedata.category(letter)[0] in "PS" and letter not in "_%$\u20ac\u00a3\u00b0+&"


def _run(chunk: str, start: int) -> int:
    """Behind the run of one sign that begins at `start`."""
    end = start + 1
    while end < len(chunk) and chunk[end] == chunk[start]:
        end += 1
    return end


def _back(chunk: str, end: int) -> int:
    """Where the run of one sign begins that ends at `end`."""
    start = end - 1
    while start and chunk[start - 1] == chunk[end - 1]:
        start -= 1
    return start
