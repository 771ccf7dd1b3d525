"""Learn a unigram vocabulary: the pieces under which the text is likeliest, and their log-probabilities (Kudo 2018, as in SentencePiece).

Why not the trainer of the `tokenizers` library: it adds floating-point numbers in the order of a hash table that is seeded anew in each
process, so the same text gives other scores, and at times other pieces, on every run. Here the order of everything is fixed, ties are
decided by spelling, and only sums and products decide, so that the same text gives the same vocabulary. The model that comes out runs in
the library as usual.

The steps: count all substrings of the words; then, until the vocabulary is small enough, expectation-maximisation over every way to cut
every word (forward-backward, all words at once), and drop the quarter of the pieces that the likelihood misses least.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

LONGEST_PIECE = 16  # characters
LONGEST_WORD = 32  # a longer one is learned from in stretches of this length
MOST_WORDS = 100_000  # the most frequent ones; the rest hardly moves the counts
_SCALE = 12.0  # about the inverse probability of a character: keeps the product over a word near 1

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class _Cuts:
    """Every piece that could stand somewhere in every word: word, start, end and piece are parallel arrays, one entry a place."""

    words: int
    word: Ints
    start: Ints
    end: Ints
    piece: Ints

    @classmethod
    def of(cls, words: list[str], index: Mapping[str, int], whole: bool) -> _Cuts:
        """whole: may a piece be the whole word?"""
        found: list[tuple[int, int, int, int]] = []
        for number, word in enumerate(words):
            for start in range(len(word)):
                for end in range(start + 1, min(len(word), start + LONGEST_PIECE) + 1):
                    piece = index.get(word[start:end])
                    if piece is not None and (whole or end - start < len(word)):
                        found.append((number, start, end, piece))
        columns = np.array(found, dtype=np.int64).reshape(-1, 4).T
        return cls(len(words), *columns)

    def only(self, alive: np.ndarray[Any, np.dtype[np.bool_]]) -> _Cuts:
        keep = alive[self.piece]
        return _Cuts(self.words, self.word[keep], self.start[keep], self.end[keep], self.piece[keep])

    def places(self, ends: Ints) -> list[Ints]:
        """For each position, the entries whose start (or end) it is."""
        order = np.argsort(ends, kind="stable")
        bounds = np.searchsorted(ends[order], np.arange(LONGEST_WORD + 2))
        return [order[bounds[i] : bounds[i + 1]] for i in range(LONGEST_WORD + 1)]


def learn(counts: Mapping[str, int], size: int, required: Iterable[str]) -> list[tuple[str, float]]:
    """At most `size` (piece, log-probability) pairs, likeliest first, from {word: how often it occurs}.

    required: single characters that must be among them. Characters outside `required` are not learned from.
    """
    alphabet = sorted(set(required))
    words, weights = _stretches(counts, set(alphabet))
    pieces = alphabet + _seeds(words, weights, max(50_000, 8 * size))
    index = {piece: number for number, piece in enumerate(pieces)}
    fixed = np.arange(len(pieces)) < len(alphabet)
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    last = np.array([len(word) for word in words], dtype=np.int64)
    cuts = _Cuts.of(words, index, whole=True)
    inside = _Cuts.of(pieces, index, whole=False)
    frequency = _added(cuts.piece, weights[cuts.word], len(pieces))
    alive = np.ones(len(pieces), dtype=np.bool_)
    goal = max(int(size * 1.1), len(alphabet))
    while True:
        for _ in range(2):
            probability = _probability(frequency, alive, fixed)
            scaled = probability * _SCALE**lengths
            frequency = _expected(cuts, scaled, weights, last)
            alive &= fixed | (frequency >= 0.5)
        probability = _probability(frequency, alive, fixed)
        if alive.sum() <= goal:
            break
        keep = max(goal, int(alive.sum() * 0.75))
        alive = _best(pieces, _loss(inside, probability, frequency, lengths), alive, fixed, keep)
        cuts, inside = cuts.only(alive), inside.only(alive)
    chosen = sorted(np.flatnonzero(alive), key=lambda number: (not fixed[number], -probability[number], pieces[number]))[:size]
    total = sum(float(probability[number]) for number in chosen)
    scored = [(pieces[number], round(float(np.log(probability[number] / total)), 6)) for number in chosen]
    return sorted(scored, key=lambda pair: (-pair[1], pair[0]))


def _stretches(counts: Mapping[str, int], alphabet: set[str]) -> tuple[list[str], Floats]:
    """Words of at most LONGEST_WORD characters of the alphabet, with their counts."""
    found: Counter[str] = Counter()
    for word, count in counts.items():
        kept = word if alphabet.issuperset(word) else "".join(character for character in word if character in alphabet)
        for start in range(0, len(kept), LONGEST_WORD):
            found[kept[start : start + LONGEST_WORD]] += count
    chosen = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_WORDS]
    return [word for word, _ in chosen], np.array([count for _, count in chosen], dtype=np.float64)


def _seeds(words: list[str], weights: Floats, most: int) -> list[str]:
    """Substrings of two characters and more that occur at least twice; those that cover most text when there are too many."""
    found: Counter[str] = Counter()
    for word, weight in zip(words, weights.tolist()):
        for start in range(len(word) - 1):
            for end in range(start + 2, min(len(word), start + LONGEST_PIECE) + 1):
                found[word[start:end]] += int(weight)
    often = [(piece, count) for piece, count in found.items() if count >= 2]
    often.sort(key=lambda pair: (-pair[1] * len(pair[0]), pair[0]))
    return [piece for piece, _ in often[:most]]


def _probability(frequency: Floats, alive: np.ndarray[Any, np.dtype[np.bool_]], fixed: np.ndarray[Any, np.dtype[np.bool_]]) -> Floats:
    """Half an occurrence is taken from each piece: what the digamma function of the Bayesian update comes to, without its rounding."""
    weight = np.where(alive, np.maximum(frequency - 0.5, np.where(fixed, 0.01, 0.0)), 0.0)
    probability: Floats = weight / weight.sum()
    return probability


def _added(place: Ints, amount: Floats, places: int) -> Floats:
    """Sums of `amount` by `place`, added in the order in which they stand."""
    return np.bincount(place, weights=amount, minlength=places).astype(np.float64, copy=False)


def _expected(cuts: _Cuts, scaled: Floats, weights: Floats, last: Ints) -> Floats:
    """How often each piece occurs, over all ways to cut each word, weighted by their probability (forward-backward)."""
    rows = np.arange(cuts.words)
    weight = scaled[cuts.piece]
    forward = np.zeros((LONGEST_WORD + 1, cuts.words))
    forward[0] = 1.0
    for position, entries in enumerate(cuts.places(cuts.end)):
        if position and len(entries):
            step = forward[cuts.start[entries], cuts.word[entries]] * weight[entries]
            forward[position] = _added(cuts.word[entries], step, cuts.words)
    backward = np.zeros((LONGEST_WORD + 1, cuts.words))
    backward[last, rows] = 1.0
    starts = cuts.places(cuts.start)
    for position in range(LONGEST_WORD - 1, -1, -1):
        entries = starts[position]
        if len(entries):
            step = backward[cuts.end[entries], cuts.word[entries]] * weight[entries]
            backward[position] += _added(cuts.word[entries], step, cuts.words)
    whole = forward[last, rows]
    share = np.divide(weights, whole, out=np.zeros_like(weights), where=whole > 0)  # a word that cannot be cut teaches nothing
    posterior = forward[cuts.start, cuts.word] * weight * backward[cuts.end, cuts.word] * share[cuts.word]
    return _added(cuts.piece, posterior, len(scaled))


def _loss(inside: _Cuts, probability: Floats, frequency: Floats, lengths: Ints) -> Floats:
    """What the log-likelihood loses when a piece is written by its best alternative instead."""
    best = np.zeros((LONGEST_WORD + 1, len(probability)))
    best[0] = 1.0
    weight = probability[inside.piece] * _SCALE ** lengths[inside.piece]
    for position, entries in enumerate(inside.places(inside.end)):
        if position and len(entries):
            np.maximum.at(best[position], inside.word[entries], best[inside.start[entries], inside.word[entries]] * weight[entries])
    instead = best[lengths, np.arange(len(lengths))] * _SCALE ** -lengths.astype(np.float64)
    gain = np.divide(probability, instead, out=np.ones_like(probability), where=(instead > 0) & (probability > 0))
    loss: Floats = np.where(instead > 0, frequency * np.log(gain), np.inf)
    return loss.round(6)


def _best(
    pieces: list[str], loss: Floats, alive: np.ndarray[Any, np.dtype[np.bool_]], fixed: np.ndarray[Any, np.dtype[np.bool_]], keep: int
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    ranked = sorted(np.flatnonzero(alive & ~fixed), key=lambda number: (-loss[number], pieces[number]))
    kept = fixed.copy()
    kept[ranked[: max(0, keep - int(fixed.sum()))]] = True
    return kept
