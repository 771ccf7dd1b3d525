"""ROUGE: the words that a text shares with the one wanted (Lin 2004), as Google's `rouge_score` counts them without stemming.

Words are runs of a-z and 0-9 of the text in small letters; F1 weighs precision and recall alike. ROUGE-L is of the longest common
subsequence of the whole text, without dividing it into sentences. Every example has its own figure; a corpus has the mean, so that
`interval.mean_interval` applies.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from .labels import check, harmonic

_WORD = re.compile("[a-z0-9]+")


class Rouge(NamedTuple):
    """F1 from 0 to 1: of single words, of pairs of neighbours, of the longest common subsequence."""

    one: float
    two: float
    longest: float


def rouge(found: Sequence[str], wanted: Sequence[str | Sequence[str]]) -> list[Rouge]:
    """One an example. `wanted`: a text or several, of which the best counts, for each of the three figures alone.

    Raises DataError for lists of unequal length, or empty ones.
    """
    check(found, wanted)
    rows = []
    for text, texts in zip(found, wanted):
        scores = [_score(words(text), words(one)) for one in ([texts] if isinstance(texts, str) else texts)]
        rows.append(Rouge(*map(max, zip(*scores))) if scores else Rouge(0.0, 0.0, 0.0))
    return rows


def mean(rows: Sequence[Rouge]) -> Rouge:
    """Of at least one example."""
    return Rouge(*(sum(column) / len(rows) for column in zip(*rows)))


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _score(found: list[str], wanted: list[str]) -> Rouge:
    longest = harmonic(common_subsequence(found, wanted), len(found), len(wanted))
    return Rouge(_shared(found, wanted, 1), _shared(found, wanted, 2), longest)


def _shared(found: list[str], wanted: list[str], n: int) -> float:
    mine, theirs = (Counter(zip(*(side[start:] for start in range(n)))) for side in (found, wanted))
    return harmonic((mine & theirs).total(), mine.total(), theirs.total())


def common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence, one row of its table in one integer (Hyyrö 2004): a bit that is 0 is a step upwards."""
    places: dict[str, int] = {}
    for place, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << place
    whole = (1 << len(one)) - 1
    row = whole
    for word in other:
        matched = row & places.get(word, 0)
        row = (row + matched | row - matched) & whole
    return len(one) - row.bit_count()
