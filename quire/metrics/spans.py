"""Stretches of text, right or wrong as a whole (Tjong Kim Sang & De Meulder 2003), and answers by their words (Rajpurkar et al. 2016)."""

from __future__ import annotations

import re
import string
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from .labels import check, harmonic

Span = tuple[str, int, int]  # label, start, end
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def from_tags(tags: Sequence[str]) -> list[Span]:
    """The stretches that B-, I- and O spell, one tag a word; `end` is the first word behind. An I- that continues nothing begins one."""
    spans: list[Span] = []
    for place, tag in enumerate(tags):
        if tag == "O":
            continue
        label = tag[2:] if tag[:2] in ("B-", "I-") else tag
        if tag[:2] != "B-" and spans and spans[-1][0] == label and spans[-1][2] == place:
            spans[-1] = (label, spans[-1][1], place + 1)
        else:
            spans.append((label, place, place + 1))
    return spans


def span_f1(found: Sequence[Iterable[Span]], wanted: Sequence[Iterable[Span]]) -> float:
    """F1 over all texts; a stretch is right when label, start and end are. 0 where nothing is found nor wanted."""
    check(found, wanted)
    pairs = [(set(mine), set(theirs)) for mine, theirs in zip(found, wanted)]
    right = sum(len(mine & theirs) for mine, theirs in pairs)
    return harmonic(right, sum(len(mine) for mine, _ in pairs), sum(len(theirs) for _, theirs in pairs))


def plain(text: str) -> str:
    """What SQuAD compares: small letters, without punctuation, articles and extra spaces."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(found: Sequence[str], wanted: Sequence[Sequence[str]]) -> float:
    """The share of answers that equal one of those wanted, by `plain`; an empty text is wanted where there is no answer."""
    check(found, wanted)
    return sum(any(plain(one) == plain(text) for one in answers or [""]) for text, answers in zip(found, wanted)) / len(wanted)


def answer_f1(found: Sequence[str], wanted: Sequence[Sequence[str]]) -> float:
    """The mean F1 of the words of each answer with the nearest of those wanted."""
    check(found, wanted)
    return sum(max(_overlap(text, one) for one in answers or [""]) for text, answers in zip(found, wanted)) / len(wanted)


def best_threshold(margins: Sequence[float], scores: Sequence[float], answered: Sequence[bool]) -> float:
    """From which margin on "there is no answer" should be said, so that the mean score over these questions is highest.

    margins: by how much "no answer" is surer than the best answer; scores: what the best answer is worth, from 0 to 1; answered: whether
    the question has an answer. It is left unanswered where its margin is above the threshold, which is worth 1 where it has no answer.
    The threshold lies in the middle between two margins; of equally good ones it is the nearest to 0, and 0 where that is as good as any.
    As `find_best_thresh` of SQuAD 2.0's evaluation (Rajpurkar et al. 2018), which takes the margin itself.
    """
    check(margins, scores)
    order = sorted(range(len(margins)), key=lambda number: margins[number])
    sums = [sum(not there for there in answered) * 1.0]  # every question is left unanswered
    for number in order:
        sums.append(sums[-1] + (scores[number] if answered[number] else -1.0))
    sorted_margins = [margins[number] for number in order]
    places = [sorted_margins[0] - 1.0, *((low + high) / 2 for low, high in pairwise(sorted_margins)), sorted_margins[-1] + 1.0]
    at_zero = sums[bisect_right(sorted_margins, 0.0)]
    # between two equal margins there is no threshold
    ways = [(total, place) for number, (total, place) in enumerate(zip(sums, places)) if _apart(sorted_margins, number)]
    most = max(total for total, _ in ways)
    return 0.0 if at_zero >= most - 1e-9 else min((place for total, place in ways if total >= most - 1e-9), key=abs)


def _apart(margins: Sequence[float], number: int) -> bool:
    return number in (0, len(margins)) or margins[number - 1] < margins[number]


def _overlap(found: str, wanted: str) -> float:
    mine, theirs = plain(found).split(), plain(wanted).split()
    if not mine or not theirs:
        return float(mine == theirs)
    return harmonic(sum((Counter(mine) & Counter(theirs)).values()), len(mine), len(theirs))
