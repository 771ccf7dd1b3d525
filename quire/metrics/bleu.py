"""BLEU of a corpus (Papineni et al. 2002), to the digit what sacrebleu 2 gives by default (Post 2018).

Its signature there: mixed case, tokens of mteval-v13a, exponential smoothing, up to 4 words, the nearest length of several references.
The counts are kept sentence by sentence, so that an interval can draw sentences again.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import reduce

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .interval import Interval
from .labels import check

_ORDERS = 4
_LEFT_OUT = {"<skipped>": "", "-\n": "", "\n": " "}  # as the 13a script does it, in this order
_ENTITIES = {"&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}
_DIVIDED = (
    (re.compile(r"([{-~\[-` -&(-+:-@/])"), r" \1 "),  # signs
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),  # a point or comma that no digit comes before
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),  # or after
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)

Counts = npt.NDArray[np.int64]


def bleu(found: Sequence[str], wanted: Sequence[str | Sequence[str]]) -> float:
    """0 to 100. `wanted`: for each text the translation, or several. Raises DataError for lists of unequal length, or empty ones."""
    return _bleu(counts(found, wanted).sum(axis=0))


def bleu_interval(
    found: Sequence[str], wanted: Sequence[str | Sequence[str]], *, level: float = 0.95, draws: int = 1000, seed: int = 0
) -> Interval:
    """BLEU with its bootstrap interval, drawing sentences (Koehn 2004)."""
    rows = counts(found, wanted)
    generator = np.random.default_rng(seed)
    drawn = [_bleu(rows[generator.integers(0, len(rows), len(rows))].sum(axis=0)) for _ in range(draws)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(_bleu(rows.sum(axis=0)), float(low), float(high), level, len(rows))


def counts(found: Sequence[str], wanted: Sequence[str | Sequence[str]]) -> Counts:
    """(N, 10) a sentence: its length, the nearest wanted length, the n-grams that are right, and all of them, for n = 1 to 4."""
    check(found, wanted)
    rows = []
    for number, (text, texts) in enumerate(zip(found, wanted)):
        references = [tokens(one) for one in ([texts] if isinstance(texts, str) else texts)]
        if not references:
            raise DataError(f"text {number} has no translation to be compared with; BLEU needs one for every text.")
        mine = tokens(text)
        nearest = min(map(len, references), key=lambda length: (abs(length - len(mine)), length))
        right, total = [], []
        for n in range(1, _ORDERS + 1):
            grams = _grams(mine, n)
            best = reduce(Counter.__or__, (_grams(reference, n) for reference in references))
            right.append((grams & best).total())
            total.append(grams.total())
        rows.append([len(mine), nearest, *right, *total])
    return np.array(rows, dtype=np.int64)


def tokens(text: str) -> list[str]:
    """The words and signs of a text as mteval-v13a divides them."""
    text = text.rstrip()
    for old, new in (*_LEFT_OUT.items(), *_ENTITIES.items()):
        text = text.replace(old, new)
    text = f" {text} "
    for pattern, parted in _DIVIDED:
        text = pattern.sub(parted, text)
    return text.split()


def _grams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(n))))


def _bleu(sums: Counts) -> float:
    length, wanted, *numbers = map(int, sums)
    right, total = numbers[:_ORDERS], numbers[_ORDERS:]
    if not any(right) or not all(total):  # nothing is right, or no text is long enough for 4 words
        return 0.0
    logs, halved = 0.0, 1
    for hits, all_of_them in zip(right, total):
        if not hits:  # each order that has none counts half of a hit less than the one before
            halved *= 2
        logs += math.log(100 * hits / all_of_them if hits else 100 / (halved * all_of_them))
    return min(1.0, math.exp(1 - wanted / length)) * math.exp(logs / _ORDERS)
