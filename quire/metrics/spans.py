"""Stretches of text, right or wrong as a whole (Tjong Kim Sang & De Meulder 2003), and answers by their words (Rajpurkar et al. 2016)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence

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


def _overlap(found: str, wanted: str) -> float:
    mine, theirs = plain(found).split(), plain(wanted).split()
    if not mine or not theirs:
        return float(mine == theirs)
    return harmonic(sum((Counter(mine) & Counter(theirs)).values()), len(mine), len(theirs))
