"""Which token comes next: penalties, temperature, filters, one draw; and the log-probabilities that go with it.

The order is transformers', so the same numbers mean the same thing in both: repetition penalty, presence and frequency penalties,
added bias, banned ids, temperature, top-k, top-p, min-p, typical. Only the best of a large vocabulary are sorted, and after top-k only the
survivors are looked at. One uniform number is drawn for each sampled token, from a generator that belongs to this sampler alone: a seed
gives the same text whatever else the process does, and a greedy step draws nothing.

Everything here is numpy: for one row of logits its calls cost a fraction of torch's, and no gradient is wanted.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import ModelError, RecipeError
from ..types import Sampling

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

_WHOLE_NUMBER, _NUMBER = (int, np.integer), (int, float, np.integer, np.floating)
COLDEST = 1e-6  # below it, logits that are divided by the temperature are no numbers of fp32

# field: (lowest, highest, is the lowest itself allowed, what is allowed in words)
_FLOATS: dict[str, tuple[float, float, bool, str]] = {
    "temperature": (0.0, 100.0, True, f"0 (greedy) to 100, but nothing between 0 and {COLDEST:f}"),
    "top_p": (0.0, 1.0, False, "above 0, up to 1 (off)"),
    "min_p": (0.0, 1.0, True, "0 (off) to 1"),
    "typical_p": (0.0, 1.0, False, "above 0, up to 1 (off)"),
    "repetition_penalty": (0.01, 100.0, True, "0.01 to 100; 1 is off"),
    "presence_penalty": (-2.0, 2.0, True, "-2 to 2; 0 is off"),
    "frequency_penalty": (-2.0, 2.0, True, "-2 to 2; 0 is off"),
}
_WHOLE: dict[str, tuple[int, str]] = {
    "max_tokens": (1, "a whole number, 1 or more"),
    "top_k": (0, "a whole number, 0 (off) or more"),
    "min_tokens": (0, "a whole number, 0 or more"),
    "logprobs": (0, "a whole number, 0 (off) or more"),
    "seed": (0, "a whole number, 0 or more, or none for a different text every time"),
}


def check(sampling: Sampling, vocab: int | None = None) -> None:
    """Raises RecipeError naming the field, the value it has and what is allowed. `vocab` bounds the ids."""

    def refuse(name: str, value: Any, allowed: str) -> None:
        raise RecipeError(f"sampling: {name} is {value!r}; allowed: {allowed}", field=name)

    for name, (low, high, closed, words) in _FLOATS.items():
        value = getattr(sampling, name)
        if isinstance(value, bool) or not isinstance(value, _NUMBER) or not low <= value <= high or (value == low and not closed):
            refuse(name, value, words)  # not a number (NaN) fails the comparison too
    for name, (lowest, words) in _WHOLE.items():
        value = getattr(sampling, name)
        if name == "seed" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, _WHOLE_NUMBER) or value < lowest:
            refuse(name, value, words)
    if 0 < sampling.temperature < COLDEST:
        refuse("temperature", sampling.temperature, _FLOATS["temperature"][3])
    if sampling.min_tokens > sampling.max_tokens:
        refuse("min_tokens", sampling.min_tokens, f"at most max_tokens, which is {sampling.max_tokens}")
    listed = {
        "stop": "a tuple of strings, none of them empty",
        "stop_ids": "a tuple of ids",
        "logit_bias": "a tuple of pairs, or a mapping",
    }
    for name, words in listed.items():
        if not isinstance(getattr(sampling, name), list | tuple):  # what can be read only once would be empty after this check
            refuse(name, getattr(sampling, name), words)
    if not all(isinstance(text, str) and text for text in sampling.stop):
        refuse("stop", sampling.stop, listed["stop"])
    for pair in sampling.logit_bias:
        bias = pair[1] if isinstance(pair, list | tuple) and len(pair) == 2 else None
        if isinstance(bias, bool) or not isinstance(bias, _NUMBER) or not -100 <= bias <= 100:
            refuse("logit_bias", pair, "pairs of an id and a number from -100 to 100")
    if len({token for token, _ in sampling.logit_bias}) < len(sampling.logit_bias):
        refuse("logit_bias", sampling.logit_bias, "each id once")
    if vocab is not None:
        if sampling.logprobs > vocab:
            refuse("logprobs", sampling.logprobs, f"at most the vocabulary, {vocab}")
        for name, tokens in (("stop_ids", sampling.stop_ids), ("logit_bias", tuple(token for token, _ in sampling.logit_bias))):
            for token in tokens:
                if isinstance(token, bool) or not isinstance(token, _WHOLE_NUMBER) or not 0 <= token < vocab:
                    refuse(name, token, f"ids from 0 to {vocab - 1}")


class Pick(NamedTuple):
    """One chosen token. `logprob` and `top` describe the model itself, before penalties and filters; empty unless asked for."""

    id: int
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Picks tokens for one sequence. `prompt` ids count for the repetition penalty; presence and frequency count generated ids only."""

    def __init__(self, sampling: Sampling, vocab: int, prompt: Sequence[int] = ()) -> None:
        check(sampling, vocab)
        self.sampling = sampling
        self.vocab = vocab
        self._random = np.random.Generator(np.random.PCG64(sampling.seed))
        self._counts = np.zeros(vocab, dtype=np.int64)  # of generated ids
        self._seen = np.zeros(vocab, dtype=bool)  # in the prompt or generated
        self._seen[np.asarray(prompt, dtype=np.int64)] = True
        self._repetition = sampling.repetition_penalty != 1.0
        self._counted = sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0
        self.plain = sampling.temperature == 0.0 and not self._repetition and not self._counted and not sampling.logit_bias

    def note(self, chosen: int) -> None:
        """Remembers an id that was not picked here but decided elsewhere."""
        if self._repetition or self._counted:
            self._counts[chosen] += 1
            self._seen[chosen] = True

    def pick(self, logits: Floats, banned: Collection[int] = ()) -> Pick:
        """The next token from logits (V,), and remembers it. `banned` ids cannot be picked. Raises ModelError on logits that are NaN."""
        if self.plain and not banned:
            chosen = int(logits.argmax())
            if not math.isfinite(logits[chosen]):
                raise not_numbers()
        else:
            chosen = self._draw(self._penalised(logits, banned))
        self.note(chosen)
        return Pick(chosen, *logprobs(logits, chosen, self.sampling.logprobs)) if self.sampling.logprobs else Pick(chosen)

    def candidates(self, logits: Floats, banned: Collection[int] = ()) -> tuple[Ids, Floats]:
        """The ids that may be picked next, and their scores: logits after penalties and temperature, so that their softmax is the draw."""
        scores = self._penalised(logits, banned)
        if self.sampling.temperature == 0.0:
            best = np.array([scores.argmax()])
            return best, scores[best]
        return filtered(scores / np.float32(self.sampling.temperature), self.sampling)

    def _penalised(self, logits: Floats, banned: Collection[int]) -> Floats:
        sampling = self.sampling
        scores = logits
        if self._repetition:
            seen = np.flatnonzero(self._seen)
            values = scores[seen]
            factor = np.float32(sampling.repetition_penalty)
            scores = scores.copy()
            scores[seen] = np.where(values < 0, values * factor, values / factor)
        if self._counted:
            presence, frequency = np.float32(sampling.presence_penalty), np.float32(sampling.frequency_penalty)
            scores = scores - (self._counts * frequency + (self._counts > 0) * presence).astype(np.float32)
        if sampling.logit_bias:
            ids, bias = zip(*sampling.logit_bias)
            scores = scores.copy()
            scores[list(ids)] += np.array(bias, dtype=np.float32)
        if banned:
            scores = scores.copy()
            scores[list(banned)] = -np.inf
        return scores

    def _draw(self, scores: Floats) -> int:
        if self.sampling.temperature == 0.0:
            chosen = int(scores.argmax())
            if not math.isfinite(scores[chosen]):
                raise not_numbers()
            return chosen
        ids, kept = filtered(scores / np.float32(self.sampling.temperature), self.sampling)
        mass = np.cumsum(np.exp(kept - kept.max()), dtype=np.float64)
        # The largest number below the total keeps rounding from pointing past the end, or at a candidate of no probability.
        place = min(self._random.random() * mass[-1], np.nextafter(mass[-1], 0.0))
        return int(ids[np.searchsorted(mass, place, side="right")])


def filtered(scores: Floats, sampling: Sampling) -> tuple[Ids, Floats]:
    """The survivors of top-k, top-p, min-p and typical sampling, in this order, with their scores (already divided by the temperature).

    Ties at the k-th place all stay, as in transformers. At least one id survives. Raises ModelError when no score is a number.
    """
    ids = np.arange(len(scores))
    if 0 < sampling.top_k < len(scores):
        ids = np.flatnonzero(scores >= np.partition(scores, -sampling.top_k)[-sampling.top_k])
        scores = scores[ids]
    if not len(scores) or not math.isfinite(scores.max()):
        raise not_numbers()
    if sampling.top_p < 1.0:
        share = _shares(scores)
        order = _best(scores, share, sampling.top_p)
        share = share[order]
        before = np.cumsum(share, dtype=np.float64) - share
        # An id stays while the mass of the better ones is below top_p; the best one always stays.
        order = np.sort(order[: max(1, int(np.count_nonzero(before < sampling.top_p)))])
        ids, scores = ids[order], scores[order]
    if sampling.min_p > 0.0:
        keep = np.flatnonzero(scores >= scores.max() + np.float32(math.log(sampling.min_p)))
        ids, scores = ids[keep], scores[keep]
    if sampling.typical_p < 1.0:
        keep = _typical(scores, sampling.typical_p)
        ids, scores = ids[keep], scores[keep]
    return ids, scores


def _best(scores: Floats, share: npt.NDArray[np.float64], mass: float) -> Ids:
    """Places of the best scores, best first, as many as are sure to have `mass` together: sorting a whole vocabulary takes long."""
    count = 128
    while count < len(scores):
        found = np.flatnonzero(scores >= np.partition(scores, -count)[-count])  # all that are equal to the last one, too
        if share[found].sum() > mass + 1e-9:
            return found[np.argsort(-scores[found], kind="stable")]
        count *= 8
    return np.argsort(-scores, kind="stable")


def _typical(scores: Floats, mass: float) -> Ids:
    """Places of the ids whose surprise is nearest to the expected one, until their mass reaches `mass` (Meister et al. 2023)."""
    share = _shares(scores)
    with np.errstate(divide="ignore"):
        surprise = -np.log(share)
    expected = float(np.sum(np.multiply(share, surprise, out=np.zeros_like(share), where=share > 0)))  # 0 * inf counts nothing
    distance = np.abs(surprise - expected)
    order = np.argsort(distance, kind="stable")
    last = min(int(np.count_nonzero(np.cumsum(share[order], dtype=np.float64) < mass)), len(order) - 1)
    return np.flatnonzero(distance <= distance[order[last]])


def _shares(scores: Floats) -> npt.NDArray[np.float64]:
    weights = np.exp((scores - scores.max()).astype(np.float64))
    shares: npt.NDArray[np.float64] = weights / weights.sum()
    return shares


def logprobs(logits: Floats, chosen: int, alternatives: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Natural-log probability of `chosen` under logits (V,), and the `alternatives` best ids with theirs, best first."""
    wide = logits.astype(np.float64)
    peak = wide.max()
    total = float(peak + math.log(np.exp(wide - peak).sum()))
    if alternatives >= len(wide):
        best = np.arange(len(wide))
    else:
        best = np.argpartition(wide, -alternatives)[-alternatives:] if alternatives else np.empty(0, dtype=np.int64)
    best = best[np.lexsort((best, -wide[best]))]
    return float(wide[chosen]) - total, tuple((int(i), float(wide[i]) - total) for i in best)


def not_numbers() -> ModelError:
    return ModelError(
        "the model's logits leave no token to pick: they are not numbers (NaN) or every token is ruled out. "
        "Check the weights with `quire verify`, or load the model with dtype fp32."
    )
