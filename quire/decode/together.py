"""Greedy decoding and sampling of many texts at once: what `loop` does for one, over rows that advance together.

Every row has its own sampler, so its text depends on its neighbours only as far as a product over more rows rounds differently. A row
that is finished is dropped, so nothing is computed for it. Greedy steps without penalties never leave the tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..errors import RecipeError
from ..types import Completion, FinishReason, Sampling, TokenLogprob
from .beam import best, padded
from .loop import HeldText, TextStream, Vocabulary, facts, room
from .rows import Rows, Way, Weights
from .sampler import Sampler, check, not_numbers

if TYPE_CHECKING:
    from ..nn.transformer import Transformer

_DROP = 8  # finished rows are dropped when they are one in so many: dropping copies the cache of the others


@dataclass(frozen=True)
class Rules:
    """What a model's folder says of every text it writes: ids that begin and end it, and ids that are never written."""

    forced_first: int | None = None
    forced_last: int | None = None
    forbidden: tuple[int, ...] = ()


@dataclass(slots=True)
class _Text:
    """One text on its way."""

    number: int
    sampler: Sampler
    stream: TextStream | None  # where a stop string may end it
    held: HeldText
    text: str = ""
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    reason: FinishReason | None = None


def write(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    tokenizer: Vocabulary,
    *,
    stop_ids: Sequence[int] = (),
    sources: Sequence[Sequence[int]] | None = None,
    rules: Rules = Rules(),
    way: Way = "lean",
    weights: Weights | None = None,
) -> list[Completion]:
    """One completion a prompt, each as `loop.decode` would write it alone.

    Prompts are one batch, so all must be of one length (an encoder-decoder's start id); sources may differ in length. `sampling.seed`
    seeds every row's own generator. weights: for several batches, made once (`rows.Weights`). Raises RecipeError,
    ContextError before any work; ModelError when the logits are not numbers.
    """
    check(sampling, model.config.vocab)
    if not prompts:
        return []
    if len({len(prompt) for prompt in prompts}) > 1:
        raise RecipeError("prompts of different lengths in one batch; allowed is one length. Group them by length.")
    most = min(room(len(prompt), model.config.context, "prompt") for prompt in prompts)
    for source in sources or ():
        room(len(source), model.config.context, "source", spare=0)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            texts = _Writer(model, prompts, sampling, tokenizer, frozenset(stop_ids) | frozenset(sampling.stop_ids), rules, most).run(
                sources, way, weights
            )
    finally:
        model.train(training)
    read = [len(row) for row in (prompts if sources is None else sources)]
    return [Completion(one.text, tuple(one.ids), one.reason or "length", count, tuple(one.logprobs)) for one, count in zip(texts, read)]


class _Writer:
    def __init__(
        self,
        model: Transformer,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        tokenizer: Vocabulary,
        stops: frozenset[int],
        rules: Rules,
        most: int,
    ) -> None:
        self.model, self.prompts, self.sampling, self.tokenizer, self.stops, self.rules = model, prompts, sampling, tokenizer, stops, rules
        self.limit = min(sampling.max_tokens, most)
        self.forbidden = tuple(id for id in rules.forbidden if id not in stops)
        vocab = model.config.vocab
        self.texts = [
            _Text(number, Sampler(sampling, vocab, prompt), tokenizer.stream() if sampling.stop else None, HeldText(sampling.stop))
            for number, prompt in enumerate(prompts)
        ]

    def run(self, sources: Sequence[Sequence[int]] | None, way: Way, weights: Weights | None) -> list[_Text]:
        device = self.model.embed.weight.device
        tokens, keep = (None, None) if sources is None else padded(sources, device)
        rows = Rows(self.model, torch.tensor([list(prompt) for prompt in self.prompts], device=device), 1, tokens, keep, way, weights)
        logits, here = rows.first, list(self.texts)
        for count in range(1, self.limit + 1):
            picks = self._picks(logits, here, count)
            for one, pick in zip(here, picks):
                if one.reason is None:
                    self._take(one, pick, count)
            left = [place for place, one in enumerate(here) if one.reason is None]
            if not left:
                break
            if (len(here) - len(left)) * _DROP >= len(here):
                rows.select(torch.tensor(left, device=device))
                here, picks = [here[place] for place in left], [picks[place] for place in left]
            logits = rows.step(torch.tensor(picks, device=device))
        for one in self.texts:
            if one.stream is None:
                one.text = self.tokenizer.decode(one.ids[:-1] if one.ids[-1] in self.stops else one.ids)
        return self.texts

    def _picks(self, logits: Tensor, here: list[_Text], count: int) -> list[int]:
        """The next id of each row from logits (N, V); a finished row's means nothing."""
        forced = self.rules.forced_last if count == self.limit and self.rules.forced_last is not None else None
        if forced is None and count == 1:
            forced = self.rules.forced_first
        if forced is not None:
            for one in here:
                one.sampler.note(forced)
            return [forced] * len(here)
        if here[0].sampler.plain and not self.sampling.logprobs:
            if self.forbidden:
                logits[:, self.forbidden] = -torch.inf
            if count <= self.sampling.min_tokens:
                logits[:, sorted(self.stops)] = -torch.inf
            values, ids = best(logits, 1)
            if not torch.isfinite(values).all():
                raise not_numbers()
            found: list[int] = ids[:, 0].tolist()
            return found
        banned = (*self.forbidden, *(self.stops if count <= self.sampling.min_tokens else ()))
        rows = logits.float().cpu().numpy()
        return [self._pick(one, row, banned) if one.reason is None else 0 for one, row in zip(here, rows)]

    def _pick(self, one: _Text, row: np.ndarray[tuple[int, ...], np.dtype[np.float32]], banned: tuple[int, ...]) -> int:
        pick = one.sampler.pick(row, banned)
        if self.sampling.logprobs:
            one.logprobs += facts(pick, self.tokenizer)
        return pick.id

    def _take(self, one: _Text, pick: int, count: int) -> None:
        """Adds an id to a text and looks for a reason to end it."""
        one.ids.append(pick)
        last: FinishReason | None = None
        if count == self.limit:
            last = "length" if self.limit == self.sampling.max_tokens else "context"
        if pick in self.stops:
            one.reason = "stop"
            if one.stream is not None:
                one.text += one.held.rest(one.stream.end())
        elif one.stream is None:
            one.reason = last
        else:
            text, stopped = one.held.push(one.stream.push(pick), heed=count >= self.sampling.min_tokens)
            one.text += text
            if not stopped and last is not None:
                tail, stopped = one.held.push(one.stream.end())
                one.text += tail + ("" if stopped else one.held.rest())
            one.reason = "stop" if stopped else last
