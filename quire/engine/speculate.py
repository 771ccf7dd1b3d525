"""Guessing several tokens at once and checking the guesses in one step: the answer stays what it would have been, sooner.

A guess is only a suggestion. The next step computes the guessed tokens behind the known ones, and each place's own pick decides: where it
is the guess, the keys and values are there already; at the first place where it is not, the pick stands and the rest is forgotten. So every
token is drawn by the request's own sampler from the model's own logits, in order (Leviathan et al. 2023, with exact matching in place of
their acceptance rule: that keeps seeded samples as they are, too).

Two ways of guessing. `Lookup`: what stood behind the last few tokens the last time they occurred in this text (prompt look-up; Saxena
2023): it pays where answers repeat their prompt. `Draft`: a smaller model with the same vocabulary writes ahead.
How many tokens are guessed follows from how many came true lately and from what a guess costs, so that text that cannot be guessed costs
next to nothing.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from ..errors import RecipeError
from ..nn.paged import Pages
from ..nn.transformer import Transformer
from ..types import Sampling
from .blocks import Blocks
from .request import Request
from .runner import FEW, Runner
from .scheduler import Piece

ROW = 0.08  # what one row more costs, as a share of a step: 0.04 (0.39B parameters) to 0.11 (4M)
KEEP = 0.75  # weight of what was known when one more guess is judged
PAUSE, LONGEST = 8, 128  # tokens between two tries: at first, and after tries that kept failing


class Guesser(Protocol):
    def guess(self, requests: Sequence[Request]) -> None:
        """Fill `guessed` of requests whose tokens are all computed but the last."""

    def judge(self, request: Request, guessed: int, right: int) -> None:
        """`right` of the `guessed` tokens of a request came true."""

    def forget(self, request: Request) -> None:
        """The request is done or put aside."""


class Trust:
    """How many tokens to guess, from the share of guesses that came true lately.

    The k-th guess counts only where those before it are right as well, so it pays while share ** k is more than what it costs. Where not
    even the first one pays, one is tried now and then, each time after a longer pause until it pays again.
    """

    def __init__(self, most: int) -> None:
        self.most, self.share = most, 0.7
        self.rest, self.pause = 0, PAUSE

    def wanted(self, price: float = 0.0) -> int:
        """price: what making a guess costs, as a share of a step."""
        rested = self.rest == 1
        if self.rest:
            self.rest -= 1
            if self.rest:
                return 0
        count = 0
        while count < self.most and self.share ** (count + 1) >= price + ROW:
            count += 1
        if count:
            self.pause = PAUSE
            return count
        self.rest, self.pause = self.pause, min(2 * self.pause, LONGEST)
        return 1 if rested else 0

    def judge(self, guessed: int, right: int) -> None:
        self.share = 1 - (1 - self.share) * KEEP**right
        if right < guessed:
            self.share *= KEEP


class Lookup:
    """Guesses what followed the last `longest` .. `shortest` tokens the last time they stood in the text."""

    def __init__(self, most: int = 8, longest: int = 4, shortest: int = 2) -> None:
        self.most, self.sizes = most, range(longest, shortest - 1, -1)
        self._texts: dict[Request, list[int]] = {}
        self._places: dict[Request, dict[tuple[int, ...], int]] = {}  # run of tokens -> the place behind it
        self._seen: dict[Request, int] = {}
        self._trust: dict[Request, Trust] = {}

    def guess(self, requests: Sequence[Request]) -> None:
        for request in requests:
            text = self._texts.setdefault(request, [])
            text += request.tokens(len(text), request.known)
            found, room = self._find(request, text), request.limit - len(request.answer) - 1
            if found and room > 0:
                wanted = self._trust.setdefault(request, Trust(self.most)).wanted()
                request.guessed = text[found : found + min(wanted, room)]

    def _find(self, request: Request, text: Sequence[int]) -> int:
        """The place behind the latest earlier occurrence of the text's end; 0 when there is none. Notes the runs that are new."""
        places, end = self._places.setdefault(request, {}), len(text)
        found = next((places[key] for size in self.sizes if (key := tuple(text[-size:])) in places and end > size), 0)
        for place in range(self._seen.get(request, 0) + 1, end + 1):
            for size in self.sizes:
                if size <= place:
                    places[tuple(text[place - size : place])] = place
        self._seen[request] = end
        return found

    def judge(self, request: Request, guessed: int, right: int) -> None:
        if request in self._trust:
            self._trust[request].judge(guessed, right)

    def forget(self, request: Request) -> None:
        for table in (self._texts, self._places, self._seen, self._trust):
            table.pop(request, None)


class Draft:
    """A smaller model of the same vocabulary writes up to `most` tokens ahead, greedily, over pages of its own.

    What a token of it costs is measured beside what a step of the model costs, by `clock`: a draft that is not much faster than its model
    is asked only now and then.
    """

    def __init__(self, model: Transformer, vocab: int, blocks: int, size: int, most: int = 4) -> None:
        if model.config.vocab != vocab or model.config.kind != "decoder":
            raise RecipeError(
                f"the draft model has a vocabulary of {model.config.vocab}, the model one of {vocab}. "
                "A draft must be a decoder with the same tokenizer."
            )
        self.model, self.most = model.eval(), most
        weight = model.embed.weight
        self.pages = Pages(model.config, blocks, size, weight.dtype, weight.device)
        self.blocks, self.runner = Blocks(blocks, size), Runner(model, self.pages)
        self.clock: Callable[[], float] = time.perf_counter
        self._rounds, self._steps = deque[float](maxlen=9), deque[float](maxlen=9)  # seconds: of the draft for a token, of the model
        self._handed: float | None = None  # when guesses were handed over whose step has not been timed
        self._shadows: dict[Request, Request] = {}
        self._trust: dict[Request, Trust] = {}

    @property
    def price(self) -> float:
        """A token of the draft as a share of a step of the model; 0 before both were measured."""
        if not self._rounds or not self._steps:
            return 0.0
        step = statistics.median(self._steps)
        return statistics.median(self._rounds) / step if step > 0 else 0.0

    def guess(self, requests: Sequence[Request]) -> None:
        shadows, price = [], self.price
        for request in requests:
            room = min(request.limit - len(request.answer) - 1, self.model.config.context - request.known - 1)
            wanted = min(self._trust.setdefault(request, Trust(self.most)).wanted(price), room)
            if wanted > 0 and self._hold(shadow := self._follow(request), request.known + wanted):
                shadows.append((shadow, request, wanted))
        drafted = bool(shadows)
        while shadows:
            began = self.clock()
            short = self._write([shadow for shadow, _, _ in shadows])
            if short:
                self._rounds.append(self.clock() - began)
            left = []
            for shadow, request, wanted in shadows:
                written = shadow.known - request.known
                if written >= wanted:
                    request.guessed = shadow.answer[-written:]
                else:
                    left.append((shadow, request, wanted))
            shadows = left
        self._handed = self.clock() if drafted else None

    def _write(self, shadows: Sequence[Request]) -> bool:
        """One token more of each; True when that was one step, without a text to be read first."""
        short = True
        while behind := [shadow for shadow in shadows if FEW < shadow.known - shadow.computed <= 16 * FEW]:
            # a short prompt, or what was passed over in a pause, as rows of the native step; a long prompt is read at once
            short = False
            self.runner.run([Piece(shadow, shadow.computed, FEW) for shadow in behind])
            for shadow in behind:
                shadow.computed += FEW
        pieces = [Piece(shadow, shadow.computed, shadow.known - shadow.computed) for shadow in shadows]
        for piece, logits in zip(pieces, self.runner.run(pieces), strict=True):
            piece.request.computed = piece.start + piece.count
            piece.request.answer.append(int(logits[-1].argmax()))
        return short and all(piece.count <= FEW for piece in pieces)

    def _follow(self, request: Request) -> Request:
        """The draft's copy of a request, taken back to where the two agree."""
        shadow = self._shadows.get(request)
        if shadow is None:
            greedy = Sampling(temperature=0.0, max_tokens=request.limit)
            shadow = self._shadows[request] = replace(
                request, sampling=greedy, answer=[], guessed=[], computed=0, blocks=[], hashes=[], chunks=[], prompt_logprobs=None
            )
        agreed = min(len(shadow.answer), len(request.answer))
        while shadow.answer[:agreed] != request.answer[:agreed]:  # only the guesses of last time can differ: a few turns
            agreed -= 1
        shadow.computed = min(shadow.computed, len(request.prompt) + agreed, request.known - 1)
        shadow.answer = list(request.answer)
        return shadow

    def _hold(self, shadow: Request, tokens: int) -> bool:
        missing = -(-tokens // self.blocks.size) - len(shadow.blocks)
        taken = self.blocks.take(max(0, missing))
        if taken is None:
            return False
        shadow.blocks += taken
        return True

    def judge(self, request: Request, guessed: int, right: int) -> None:
        if self._handed is not None:
            self._steps.append((self.clock() - self._handed) / (1 + ROW * guessed))
            self._handed = None
        if request in self._trust:
            self._trust[request].judge(guessed, right)

    def forget(self, request: Request) -> None:
        self._trust.pop(request, None)
        shadow = self._shadows.pop(request, None)
        if shadow is not None:
            self.blocks.give_back(shadow.blocks)
