"""Rows that lie on both sides of a split: exactly, by the digest of what is read, and nearly, by the words that they share.

Near copies have at least `ALIKE` of their runs of three words in common (Jaccard; Broder 1997): another case, other spaces and signs, a
word more or less. Candidates come from MinHash signatures cut into bands (Leskovec, Rajaraman and Ullman 2014, chapter 3); each is then
compared exactly, so what is reported is so. The work grows with the number of words, not with the number of pairs.

Runs of words that stand in a fifth of all rows and more are a form, not a content (a system turn, a prompt that every row repeats), and do
not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..tasks.tuning.schemas import Chat, Question, Ranked, Row, digest

ALIKE = 0.8
_RUN = 3  # words
_BANDS, _DEEP = (
    8,
    3,
)  # 24 hashes: of pairs that are just alike one in 400 is missed, of pairs that share a third two in three are never compared
_LEAST = 6  # runs of words that a text needs before it can be a near copy: shorter ones are alike by chance
_MOST = 600  # words of a row that are compared
_FORM = 0.2  # share of rows
_FORM_ROWS = 10
_CANDIDATES = 50  # rows that a row is compared with
_NEXT = 8  # of the rows of a split
_WORD = re.compile(r"\w+")
_PRIME = np.uint64(0x9E3779B97F4A7C15)

Runs = np.ndarray[Any, np.dtype[np.uint64]]


@dataclass(frozen=True)
class Pair:
    """A row of the training side and one of the evaluation's, and how much of their words they share."""

    train: Row
    held: Row
    alike: float


def content(row: Row) -> tuple[str, ...]:
    """What tells a row apart from others: of a conversation what the user asks, of a ranking the text and its positive."""
    if isinstance(row, Chat):
        return tuple(turn.content for turn in row.messages if turn.role not in ("assistant", "system"))
    if isinstance(row, Ranked):
        return (row.anchor, row.positive)
    return row.reads()


def exact(train: Sequence[Row], held: Sequence[Row]) -> list[Pair]:
    """Rows of `held` that the training rows read too, each with the first that does."""
    known: dict[bytes, Row] = {}
    for row in train:
        known.setdefault(row.digest(), row)
    return [Pair(known[digest], row, 1.0) for row in held if (digest := row.digest()) in known]


def near(train: Sequence[Row], held: Sequence[Row]) -> list[Pair]:
    """Rows of `held` with a near copy among `train`, each with the nearest; exact copies are `exact`'s."""
    if not train or not held:
        return []
    vocabulary: dict[str, int] = {}
    rows = [*train, *held]
    runs, starts = _runs(rows, vocabulary)
    split = len(train)
    signature = _signatures(runs, starts)
    usable = np.diff(starts) >= _LEAST
    found: dict[int, tuple[float, int]] = {}
    for number, candidates in _candidates(signature, usable, split).items():
        for other in candidates:
            alike = _shared(runs, starts, number, other)
            if alike >= ALIKE and alike > found.get(number, (0.0, 0))[0] and _same_question(rows[number], rows[other]):
                found[number] = (alike, other)
    pairs = [Pair(rows[other], rows[number], alike) for number, (alike, other) in sorted(found.items())]
    return [pair for pair in pairs if pair.train.digest() != pair.held.digest()]


def sides(rows: Sequence[Row]) -> list[bytes]:
    """What decides the side of a split: `Row.side`, and for rows that are near copies of one another, through others too, one for all.

    That one is made of the least of theirs, and hashed again: the least of many lies below a threshold nearly always. Rows with a group say
    already what stays together.
    """
    own = [row.side() for row in rows]
    above: dict[bytes, bytes] = {}

    def top(side: bytes) -> bytes:
        while side in above:
            above[side] = above.get(above[side], above[side])
            side = above[side]
        return side

    runs, starts = _runs(rows, {})
    usable = (np.diff(starts) >= _LEAST) & np.array([not row.group for row in rows], dtype=bool)
    for one, other in _neighbours(_signatures(runs, starts), usable):
        low, high = sorted((top(own[one]), top(own[other])))
        if low != high and _shared(runs, starts, one, other) >= ALIKE and _same_question(rows[one], rows[other]):
            above[high] = low
    joined = {top(side) for side in above}
    return [digest(("copies", least.hex())) if (least := top(side)) in joined else side for side in own]


def _shared(runs: Runs, starts: np.ndarray[Any, Any], one: int, other: int) -> float:
    """How much of the runs of two rows both have (Jaccard)."""
    mine, theirs = (runs[starts[row] : starts[row + 1]] for row in (one, other))
    both = len(np.intersect1d(mine, theirs, assume_unique=True))
    return both / (len(mine) + len(theirs) - both)


def _same_question(one: Row, other: Row) -> bool:
    """Of questions: do they ask the same, beside the context that they share?"""
    if not (isinstance(one, Question) and isinstance(other, Question)):
        return True
    mine, theirs = (set(_WORD.findall(row.question.casefold())) for row in (one, other))
    return len(mine & theirs) >= ALIKE * len(mine | theirs)


def without_copies(train: Sequence[Row], held: Sequence[Row]) -> tuple[list[Row], int]:
    """The training rows that are no copies of the evaluation's, exact or near, and how many were left out.

    Each training row is held against the evaluation's, so that all copies of one go together; what is left is looked at as the check does,
    until there is none.
    """
    digests = {row.digest() for row in held}
    left = [row for row in train if row.digest() not in digests]
    alike = {id(pair.held) for pair in near(held, left)}
    left = [row for row in left if id(row) not in alike]
    while copies := {id(pair.train) for pair in near(left, held)}:
        left = [row for row in left if id(row) not in copies]
    return left, len(train) - len(left)


def _runs(rows: Sequence[Row], vocabulary: dict[str, int]) -> tuple[Runs, np.ndarray[Any, Any]]:
    """(the distinct runs of words of all rows as numbers, row after row and sorted in each; where each row's begin)."""
    parts: list[Runs] = []
    owners: list[np.ndarray[Any, Any]] = []
    for number, row in enumerate(rows):
        words: list[str] = []
        for text in content(row):
            words += _WORD.findall(text.casefold()) if len(words) < _MOST else []
        ids = np.array([vocabulary.setdefault(word, len(vocabulary)) for word in words[:_MOST]], dtype=np.uint64)
        if len(ids) >= _RUN:
            made = np.unique(((ids[:-2] * _PRIME + ids[1:-1]) * _PRIME + ids[2:]) * _PRIME)
            parts.append(made)
            owners.append(np.full(len(made), number))
    runs = np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint64)
    owner = np.concatenate(owners) if owners else np.zeros(0, dtype=np.int64)
    if len(rows) >= _FORM_ROWS:
        _, places, counts = np.unique(runs, return_inverse=True, return_counts=True)
        own = counts[places] < max(_FORM * len(rows), 3)
        runs, owner = runs[own], owner[own]
    return runs, np.searchsorted(owner, np.arange(len(rows) + 1))


def _signatures(runs: Runs, starts: np.ndarray[Any, Any]) -> Runs:
    """(rows, bands): for each band a number made of the least hashes of a row's runs; equal bands make candidates."""
    draw = np.random.default_rng(0)
    rows = len(starts) - 1
    bands = np.zeros((rows, _BANDS), dtype=np.uint64)
    there = np.flatnonzero(np.diff(starts))
    if not len(there):
        return bands
    for band in range(_BANDS):
        for _ in range(_DEEP):
            odd, shift = draw.integers(2**63, size=2, dtype=np.uint64)
            mixed = (runs ^ shift) * (odd | np.uint64(1))
            mixed ^= mixed >> np.uint64(29)
            least = np.minimum.reduceat(mixed * _PRIME, starts[:-1][there])
            bands[there, band] = (bands[there, band] + least) * _PRIME
    return bands


def _neighbours(bands: Runs, usable: np.ndarray[Any, Any]) -> Iterator[tuple[int, int]]:
    """Pairs of rows that share a band, each row with the next few that do: copies of copies are joined by them."""
    there = np.flatnonzero(usable)
    for band in range(_BANDS):
        order = there[np.argsort(bands[there, band], kind="stable")]
        keys = bands[order, band]
        for gap in range(1, _NEXT + 1):
            same = keys[gap:] == keys[:-gap]
            yield from zip(order[:-gap][same].tolist(), order[gap:][same].tolist(), strict=True)


def _candidates(bands: Runs, usable: np.ndarray[Any, Any], split: int) -> dict[int, set[int]]:
    """{row of the evaluation: training rows that share a band with it}."""
    train, held = np.flatnonzero(usable[:split]), split + np.flatnonzero(usable[split:])
    found: dict[int, set[int]] = {}
    for band in range(_BANDS if len(train) and len(held) else 0):
        wanted = bands[held, band]
        order = train[np.isin(bands[train, band], wanted)]
        order = order[np.argsort(bands[order, band], kind="stable")]
        keys = bands[order, band]
        low, high = np.searchsorted(keys, wanted), np.searchsorted(keys, wanted, side="right")
        for number, start, end in zip(held[high > low].tolist(), low[high > low].tolist(), high[high > low].tolist(), strict=True):
            there = found.setdefault(number, set())
            there.update(order[start : min(end, start + _CANDIDATES - len(there))].tolist())
    return found
