"""Beam search (Sutskever et al. 2014): the likeliest whole texts, `width` of them in the race for each input, over a batch of inputs.

Equal to `transformers`' search, ids and scores: of an input's width x V continuations the best are looked at; those among the first
`width` that end are finished texts, ranked by their summed log-probability divided by length ** length_penalty (Wu et al. 2016); the best
that do not end go on. An input is done when nothing in the race, at its present length, beats its worst finished text, or with
`early_stopping` as soon as `width` are finished; it then leaves the batch. Inputs do not know of each other.

Penalties work on log-probabilities, in this order: repetition, repeated n-grams, forbidden ids, minimum length, forced ids.
Shapes: R inputs, W beams, N = R x W slots, V vocabulary, L tokens so far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import RecipeError
from ..types import Beam, FinishReason
from .loop import room
from .rows import Rows, Way, Weights
from .sampler import not_numbers

if TYPE_CHECKING:
    from ..nn.transformer import Transformer

_OUT = -1e9  # the score of a beam that holds nothing yet, as in the reference
_DROP = 8  # inputs that are done are dropped when they are one in so many: dropping copies the cache of the others
_CACHED = 1 << 19  # numbers of a vocabulary that are looked at together: two megabytes
_BLOCK = 64  # the best of a vocabulary are looked for in the blocks with the largest maxima


@dataclass(frozen=True)
class Found:
    """The best text of one input. ids: what was written, the id that ended it included. score: log-probability / length ** penalty."""

    ids: tuple[int, ...]
    score: float
    reason: FinishReason


def check(beam: Beam, vocab: int) -> None:
    """Raises RecipeError naming the field, the value it has and what is allowed."""

    def refuse(name: str, value: Any, allowed: str) -> None:
        raise RecipeError(f"beam: {name} is {value!r}; allowed: {allowed}")

    for name, least in (("width", 1), ("max_tokens", 1), ("min_tokens", 0), ("no_repeat_ngram", 0)):
        value = getattr(beam, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            refuse(name, value, f"a whole number, {least} or more")
    if beam.width > min(vocab, 256):
        refuse("width", beam.width, f"at most {min(vocab, 256)}")
    if beam.min_tokens > beam.max_tokens:
        refuse("min_tokens", beam.min_tokens, f"at most max_tokens, which is {beam.max_tokens}")
    for name, low, words in (("length_penalty", -math.inf, "a number"), ("repetition_penalty", 0.0, "above 0; 1 is off")):
        value = getattr(beam, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= low:
            refuse(name, value, words)
    if not isinstance(beam.early_stopping, bool):
        refuse("early_stopping", beam.early_stopping, "true or false")
    for name, ids in (("forced_first", (beam.forced_first,)), ("forced_last", (beam.forced_last,)), ("forbidden", beam.forbidden)):
        for token in ids:
            if token is None and name != "forbidden":
                continue
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab:
                refuse(name, token, f"ids from 0 to {vocab - 1}, one by one (a word of several ids cannot be forbidden)")


def search(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    beam: Beam,
    *,
    stop_ids: Sequence[int] = (),
    sources: Sequence[Sequence[int]] | None = None,
    way: Way = "lean",
    weights: Weights | None = None,
) -> list[Found]:
    """The best text behind each prompt; an encoder-decoder reads `sources` and continues the prompts on its decoder's side.

    Prompts are one batch, so all must be of one length (an encoder-decoder's start id); sources may differ in length, and are padded.
    `max_tokens` is cut to what the model's positions leave. weights: for several batches, made once (`rows.Weights`). Raises
    RecipeError, ContextError before any work; ModelError when the logits are not numbers.
    """
    check(beam, model.config.vocab)
    if not prompts:
        return []
    lengths = {len(prompt) for prompt in prompts}
    if len(lengths) > 1:
        raise RecipeError(f"prompts of {len(lengths)} different lengths in one batch; allowed is one. Group them by length.")
    most = min(room(len(prompt), model.config.context, "prompt") for prompt in prompts)
    for source in sources or ():
        room(len(source), model.config.context, "source", spare=0)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return _Search(model, prompts, beam, frozenset(stop_ids), sources, most, way, weights).run()
    finally:
        model.train(training)


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Rows padded on the right: tokens (R, S), keep (R, S) or None where all are of one length."""
    longest = max(map(len, rows))
    tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    if all(len(row) == longest for row in rows):
        return tokens, None
    return tokens, torch.arange(longest, device=device) < torch.tensor([[len(row)] for row in rows], device=device)


@dataclass(slots=True)
class _Input:
    """What one input has finished: (score, ids, reason), best first, at most `width`."""

    finished: list[tuple[float, tuple[int, ...], FinishReason]] = field(default_factory=list)
    done: bool = False


class _Search:
    def __init__(
        self,
        model: Transformer,
        prompts: Sequence[Sequence[int]],
        beam: Beam,
        stops: frozenset[int],
        sources: Sequence[Sequence[int]] | None,
        most: int,
        way: Way,
        weights: Weights | None,
    ) -> None:
        self.beam, self.device = beam, model.embed.weight.device
        self.stops = torch.tensor(sorted(stops), dtype=torch.long, device=self.device)
        self.forbidden = torch.tensor([id for id in beam.forbidden if id not in stops], dtype=torch.long, device=self.device)
        self.limit = min(beam.max_tokens, most)
        self.reason: FinishReason = "length" if self.limit == beam.max_tokens else "context"
        self.keep_best = max(2, 1 + len(stops)) * beam.width  # so many that `width` remain when all others end
        tokens, keep = (None, None) if sources is None else padded(sources, self.device)
        start = torch.tensor([list(prompt) for prompt in prompts], device=self.device)
        self.rows = Rows(model, start, beam.width, tokens, keep, way, weights)
        self.prompt = start.shape[1]
        self.written = start.repeat_interleave(beam.width, 0)  # (N, L), prompt included
        self.inputs = [_Input() for _ in prompts]
        self.running = np.full((len(prompts), beam.width), _OUT, dtype=np.float32)  # (R, W) summed log-probabilities
        self.running[:, 0] = 0.0

    def run(self) -> list[Found]:
        everything = list(self.inputs)
        logits = self.rows.first.repeat_interleave(self.beam.width, 0) if self.beam.width > 1 else self.rows.first
        for count in range(1, self.limit + 1):
            scores, parents, tokens = self._candidates(logits, count)
            self._advance(count, scores, parents, tokens)
            done = np.array([one.done for one in self.inputs])
            if done.all():
                break
            if done.sum() * _DROP >= len(done):
                self._drop(np.flatnonzero(~done))
            logits = self.rows.step(self.written[:, -1])
        return [Found(ids, score, reason) for score, ids, reason in (one.finished[0] for one in everything)]

    # -- what may come next ------------------------------------------------------------------------------------------------------

    def _candidates(self, logits: Tensor, count: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(scores, beams, tokens), each (R, K), best first: the continuations of logits (N, V) as token number `count`."""
        r, w, k = len(self.inputs), self.beam.width, self.keep_best
        forced = self.beam.forced_last if count == self.limit and self.beam.forced_last is not None else None
        if forced is None and count == 1:
            forced = self.beam.forced_first
        if forced is not None:
            scores = np.full((r, k), -np.inf, dtype=np.float32)
            order = np.argsort(-self.running, axis=1, kind="stable")
            scores[:, :w] = np.take_along_axis(self.running, order, 1)
            return scores, np.concatenate((order, np.zeros((r, k - w), dtype=np.int64)), 1), np.full((r, k), forced)
        # some rows at a time: they stay near the processor from the first pass over the vocabulary to the last
        step = max(1, _CACHED // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
        some = [
            best(self._ruled(part.log_softmax(-1, dtype=torch.float32), written, count), min(k, logits.shape[1]))
            for part, written in zip(logits.split(step), self.written.split(step))
        ]
        values, ids = (torch.cat(parts) for parts in zip(*some))  # (N, k'): no beam gives more than K of the best K
        each = values.shape[1]
        sums = (values.view(r, w, each) + torch.from_numpy(self.running).to(self.device).unsqueeze(2)).view(r, -1)
        scores_, places = sums.topk(min(k, sums.shape[1]), dim=1)
        tokens = ids.view(r, -1).gather(1, places)
        return scores_.cpu().numpy(), places.cpu().numpy() // each, tokens.cpu().numpy()

    def _ruled(self, logp: Tensor, written: Tensor, count: int) -> Tensor:
        """logp (.., V) after the penalties, in place; written (.., L)."""
        beam = self.beam
        if beam.repetition_penalty != 1.0:
            logp.scatter_(1, written, logp.gather(1, written) * beam.repetition_penalty)  # log-probabilities are never above 0
        n = beam.no_repeat_ngram
        if 0 < n <= written.shape[1]:
            windows = written.unfold(1, n, 1)  # (N, L - n + 1, n)
            same = (windows[:, :, :-1] == written[:, written.shape[1] + 1 - n :].unsqueeze(1)).all(-1)
            rows, places = same.nonzero(as_tuple=True)
            logp[rows, windows[rows, places, -1]] = -torch.inf
        if len(self.forbidden):
            logp[:, self.forbidden] = -torch.inf
        if count <= beam.min_tokens and len(self.stops):
            logp[:, self.stops] = -torch.inf
        return logp

    # -- what becomes of it ------------------------------------------------------------------------------------------------------

    def _advance(self, count: int, scores: npt.NDArray[np.float32], parents: npt.NDArray[np.int64], tokens: npt.NDArray[np.int64]) -> None:
        """Keeps finished texts, says which inputs are done, chooses who goes on in the others."""
        w = self.beam.width
        if not all(one.done or finite for one, finite in zip(self.inputs, np.isfinite(scores[:, 0]).tolist())):
            raise not_numbers()
        ends = np.isin(tokens, self.stops.cpu().numpy()) if count < self.limit else np.ones(tokens.shape, dtype=bool)
        self._finish(count, scores, parents, tokens, ends)
        order = np.argsort(ends, axis=1, kind="stable")[:, :w]  # those that do not end, best first
        parent, token = np.take_along_axis(parents, order, 1), np.take_along_axis(tokens, order, 1)
        running = np.where(np.take_along_axis(ends, order, 1), _OUT, np.take_along_axis(scores, order, 1)).astype(np.float32)
        for place, one in enumerate(self.inputs):
            if len(one.finished) == w and not one.done:
                hope = float(running[place, 0]) / count**self.beam.length_penalty
                one.done = self.beam.early_stopping or hope <= one.finished[-1][0]
            one.done = one.done or count == self.limit
        if not all(one.done for one in self.inputs):
            self._continue(running, parent, token)

    def _finish(
        self,
        count: int,
        scores: npt.NDArray[np.float32],
        parents: npt.NDArray[np.int64],
        tokens: npt.NDArray[np.int64],
        ends: npt.NDArray[np.bool_],
    ) -> None:
        """Texts that end among an input's first `width` continuations."""
        w = self.beam.width
        stops = frozenset(self.stops.tolist())
        for place, rank in np.argwhere(ends[:, :w]).tolist():
            one, last = self.inputs[place], int(tokens[place, rank])
            if one.done:
                continue
            ids = (*self.written[place * w + int(parents[place, rank]), self.prompt :].tolist(), last)
            score = float(scores[place, rank]) / count**self.beam.length_penalty
            one.finished.append((score, ids, "stop" if last in stops else self.reason))
            one.finished.sort(key=lambda text: -text[0])
            del one.finished[w:]

    def _continue(self, running: npt.NDArray[np.float32], parent: npt.NDArray[np.int64], token: npt.NDArray[np.int64]) -> None:
        """Each survivor takes its parent's slot where no better one has it, else the slot of a beam that died: few caches are copied."""
        r, w = running.shape
        slots = np.full((r, w), -1)
        for place in range(r):
            taken = [-1] * w  # which survivor has each slot
            rest = []
            for rank, old in enumerate(parent[place].tolist()):
                if taken[old] < 0:
                    taken[old] = rank
                else:
                    rest.append(rank)
            for slot in range(w):
                if taken[slot] < 0:
                    taken[slot] = rest.pop(0)
            slots[place] = taken
        self.running = np.take_along_axis(running, slots, 1)
        parent, token = np.take_along_axis(parent, slots, 1), np.take_along_axis(token, slots, 1)
        source = (np.arange(r)[:, None] * w + parent).ravel()
        into = np.flatnonzero(source != np.arange(r * w))
        if len(into):
            moved = torch.from_numpy(source[into]).to(self.device)
            self.rows.move(torch.from_numpy(into).to(self.device), moved)
            self.written[torch.from_numpy(into).to(self.device)] = self.written[moved]
        self.written = torch.cat((self.written, torch.from_numpy(token.reshape(-1, 1)).to(self.device)), 1)

    def _drop(self, left: npt.NDArray[np.int64]) -> None:
        """Only these inputs go on."""
        w = self.beam.width
        slots = torch.from_numpy((left[:, None] * w + np.arange(w)).ravel()).to(self.device)
        self.inputs = [self.inputs[place] for place in left.tolist()]
        self.running = self.running[left]
        self.written = self.written[slots]
        self.rows.select(torch.from_numpy(left).to(self.device))


def best(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of values (N, V), best first, with their places: `topk`, which on a CPU looks at every number slowly.

    The k largest lie in the k blocks with the largest maxima, and maxima are quick.
    """
    n, v = values.shape
    blocks = v // _BLOCK
    if values.device.type != "cpu" or blocks < 4 * k:
        found = values.topk(k, dim=1)
        return found.values, found.indices
    if values.dtype != torch.float32:
        values = values.float()  # maxima of 16 bits are not vectorised
    cut = blocks * _BLOCK
    tops = values[:, :cut].unflatten(1, (blocks, _BLOCK)).amax(-1)  # (N, blocks)
    chosen = tops.topk(k, dim=1).indices  # (N, k)
    places = (chosen.unsqueeze(2) * _BLOCK + torch.arange(_BLOCK)).flatten(1)  # (N, k * block)
    if cut < v:
        places = torch.cat((places, torch.arange(cut, v).expand(n, -1)), 1)
    inside, at = values.gather(1, places).topk(k, dim=1)
    return inside, places.gather(1, at)
