"""The plain loop: one sequence, one token at a time, over a key/value cache. What every faster way of decoding is measured against.

Feed the prompt, then repeat: pick from the last position's logits, turn the id into text, look for a reason to stop, feed the id.
Text that may be the beginning of a stop string is held back until it is known not to be one, so a stop string never shows, not even
in part. Nothing is cut silently: a prompt that leaves no room for one token is refused with the numbers before any work is done, and a
text that reaches the model's last position ends with the reason "context".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from ..errors import ContextError
from ..nn.attention import AttnContext
from ..nn.cache import Cache
from ..types import Chunk, Completion, FinishReason, Sampling, TokenLogprob
from .sampler import Floats, Pick, Sampler, check
from .step import Step, understands

if TYPE_CHECKING:
    from ..nn.transformer import Transformer


_SMALL = 3_000_000  # parameters

Way = Literal["lean", "plain", "uncached"]


class TextStream(Protocol):
    """Ids in, whole characters out (`text.tokenizer.StreamDecoder` is one)."""

    def push(self, token: int, /) -> str: ...
    def end(self) -> str: ...


class Vocabulary(Protocol):
    """What the loop needs of a tokenizer."""

    def decode(self, ids: list[int], /, special: bool = False) -> str: ...
    def stream(self) -> TextStream: ...


def decode(
    model: Transformer,
    prompt: Sequence[int],
    sampling: Sampling,
    tokenizer: Vocabulary,
    *,
    stop_ids: Sequence[int] = (),
    source: Sequence[int] | None = None,
    way: Way = "lean",
) -> Iterator[Chunk]:
    """Continues `prompt`, a token and so a `Chunk` at a time; the last chunk carries the reason it ended.

    An encoder-decoder reads `source` and continues `prompt` (its start id) on the decoder's side. `stop_ids` (the model's own, added to
    those of `sampling`) end the text and are not part of it, though their id is in the last chunk's `ids`. `min_tokens` forbids them, and
    leaves stop strings unheeded, until so many tokens are there. `way`: "lean" uses `Step` where it understands the model, "plain" never
    does, "uncached" reads everything anew for each token.
    Raises ContextError, RecipeError before any work; ModelError when the logits are not numbers.
    """
    config = model.config
    check(sampling, config.vocab)
    limit = room(len(prompt), config.context, "prompt")
    if source is not None:
        room(len(source), config.context, "source", spare=0)
    most = min(sampling.max_tokens, limit)
    return _decode(model, list(prompt), sampling, tokenizer, frozenset(stop_ids) | frozenset(sampling.stop_ids), source, most, way)


def room(tokens: int, context: int, what: str, spare: int = 1) -> int:
    """How many tokens fit behind `tokens`. Raises ContextError with the numbers when there are none, or nothing to read."""
    if tokens == 0:
        raise ContextError(f"The {what} is empty: give at least one token to continue from.")
    if tokens + spare > context:
        raise ContextError(
            f"The {what} has {tokens} tokens; the model has {context} positions"
            + (", and the answer needs at least one" if spare else "")
            + f". Shorten the {what} by {tokens + spare - context} or more tokens."
        )
    return context - tokens


def _decode(
    model: Transformer,
    prompt: list[int],
    sampling: Sampling,
    tokenizer: Vocabulary,
    stop_ids: frozenset[int],
    source: Sequence[int] | None,
    most: int,
    way: Way,
) -> Iterator[Chunk]:
    sampler = Sampler(sampling, model.config.vocab, prompt)
    stream, held = tokenizer.stream(), HeldText(sampling.stop)
    training = model.training
    model.eval()  # dropout would make another model of it
    try:
        forward = Forward(model, len(prompt) + most, source, way)
        logits = forward(prompt)
        for count in range(1, most + 1):
            early = count < sampling.min_tokens
            pick = sampler.pick(logits, stop_ids if count <= sampling.min_tokens else ())
            reason: FinishReason | None = None
            if pick.id in stop_ids:
                reason, text = "stop", held.rest(stream.end())
            else:
                text, stopped = held.push(stream.push(pick.id), heed=not early)
                if stopped:
                    reason = "stop"
                elif count == most:
                    reason = "length" if most == sampling.max_tokens else "context"
                    tail, stopped = held.push(stream.end())
                    text, reason = text + tail + held.rest(), "stop" if stopped else reason
            yield Chunk(text, (pick.id,), reason, facts(pick, tokenizer) if sampling.logprobs else ())
            if reason is not None:
                return
            logits = forward([pick.id])
    finally:
        model.train(training)


def complete(chunks: Iterator[Chunk], prompt_tokens: int) -> Completion:
    """The whole text of a stream. `ids` are all the picked ones: those that spelled a stop string or ended the text are among them."""
    parts = list(chunks)
    return Completion(
        text="".join(part.text for part in parts),
        ids=tuple(token for part in parts for token in part.ids),
        finish_reason=parts[-1].finish_reason or "length",
        prompt_tokens=prompt_tokens,
        logprobs=tuple(fact for part in parts for fact in part.logprobs),
    )


class Forward:
    """Logits of the position after the ids read so far, as numpy (V,) float32. One row."""

    def __init__(self, model: Transformer, capacity: int, source: Sequence[int] | None = None, way: Way = "lean") -> None:
        self.model = model
        weight = model.embed.weight
        self.device = weight.device
        self.cache = None if way == "uncached" else Cache(model.config, 1, capacity, weight.dtype, weight.device)
        self.step = Step(model, self.cache) if self.cache is not None and way == "lean" and understands(model) else None
        # One token through a small model is over before a second thread has woken: it is computed by the caller's alone.
        self.small = weight.device.type == "cpu" and self.cache is not None and model.config.parameters() < _SMALL
        self.ids: list[int] = []
        self.memory: Tensor | None = None
        if source is not None:
            with torch.inference_mode():
                self.memory = model.encode(self._tokens(source))

    def _tokens(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor([ids], dtype=torch.long, device=self.device)  # (1, T)

    def __call__(self, ids: Sequence[int]) -> Floats:
        """Reads `ids` behind the earlier ones. The mode is entered for each call: a generator must not leave it on for its caller."""
        threads = torch.get_num_threads()
        alone = self.small and len(ids) == 1 and threads > 1
        if alone:
            torch.set_num_threads(1)
        try:
            with torch.inference_mode():
                return self._read(ids)
        finally:
            if alone:
                torch.set_num_threads(threads)

    def _read(self, ids: Sequence[int]) -> Floats:
        if self.step is not None and len(ids) == 1:
            row: Floats = self.step(ids[0]).numpy()
            return row
        if self.cache is None:
            self.ids += ids
            ids = self.ids
        hidden = self.model.decode(self._tokens(ids), AttnContext(cache=self.cache), memory=self.memory)
        assert self.model.head is not None
        row = self.model.head(hidden[:, -1])[0].float().cpu().numpy()
        return row


class HeldText:
    """Text on its way out, held back where it may be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.held = ""
        self.found: str | None = None  # the stop string that came

    def push(self, text: str, heed: bool = True) -> tuple[str, bool]:
        """(what may be shown, whether a stop string was found). The earliest one counts; what follows it is dropped.

        With `heed` false nothing stops, and nothing said so far can be part of a later stop string.
        """
        if not self.stops:
            return text, False
        text, self.held = self.held + text, ""
        if not heed:
            return text, False
        found = [(place, stop) for stop in self.stops if (place := text.find(stop)) >= 0]
        if found:
            place, self.found = min(found)
            return text[:place], True
        keep = max(_overlap(text, stop) for stop in self.stops)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def rest(self, text: str = "") -> str:
        """What is still held, followed by `text`: it can no longer become a stop string. One that `text` completes is left out."""
        shown, stopped = self.push(text)
        rest, self.held = self.held, ""
        return shown if stopped else shown + rest


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, shorter than it."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-size:]):
            return size
    return 0


def facts(pick: Pick, tokenizer: Vocabulary) -> tuple[TokenLogprob, ...]:
    top = tuple((token, tokenizer.decode([token], special=True), logprob) for token, logprob in pick.top)
    return (TokenLogprob(pick.id, tokenizer.decode([pick.id], special=True), pick.logprob, top),)
