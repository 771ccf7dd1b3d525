"""Guessing several tokens at once and checking the guesses in one step: the answer stays what it would have been, sooner.

A guess is only a suggestion. The next step computes the guessed tokens behind the known ones, and each place's own pick decides: where it
is the guess, the keys and values are there already; at the first place where it is not, the pick stands and the rest is forgotten. So every
token is drawn by the request's own sampler from the model's own logits, in order (Leviathan et al. 2023, with exact matching in place of
their acceptance rule: that keeps seeded samples as they are, too).

Two ways of guessing. `Lookup`: what stood behind the last few tokens the last time they occurred in this text (prompt look-up; Saxena
2023): it pays where answers repeat their prompt. `Draft`: a smaller model with the same vocabulary writes ahead.
How many tokens are guessed follows from how many came true lately, so that text that cannot be guessed costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from ..errors import RecipeError
from ..nn.paged import Pages
from ..nn.transformer import Transformer
from ..types import Sampling
from .blocks import Blocks
from .request import Request
from .runner import Runner
from .scheduler import Piece


class Guesser(Protocol):
    def guess(self, requests: Sequence[Request]) -> None:
        """Fill `guessed` of requests whose tokens are all computed but the last."""

    def judge(self, request: Request, guessed: int, right: int) -> None:
        """`right` of the `guessed` tokens of a request came true."""

    def forget(self, request: Request) -> None:
        """The request is done or put aside."""


class Trust:
    """How many tokens to guess: one more than came true lately, none after guesses that failed, with a try now and then."""

    def __init__(self, most: int) -> None:
        self.most, self.now, self.rest = most, most, 0

    def wanted(self) -> int:
        if self.rest > 0:
            self.rest -= 1
            return 0
        return self.now

    def judge(self, guessed: int, right: int) -> None:
        if right == guessed:
            self.now = min(self.most, 2 * max(1, self.now))
        elif right:
            self.now = right + 1
        else:
            self.now = max(1, self.now // 2)
            self.rest = 8 // self.now - 1  # the surer it is to fail, the longer the pause


class Lookup:
    """Guesses what followed the last `longest` .. `shortest` tokens the last time they stood in the text."""

    def __init__(self, most: int = 8, longest: int = 4, shortest: int = 2) -> None:
        self.most, self.sizes = most, range(longest, shortest - 1, -1)
        self._places: dict[Request, dict[tuple[int, ...], int]] = {}  # run of tokens -> the place behind it
        self._seen: dict[Request, int] = {}
        self._trust: dict[Request, Trust] = {}

    def guess(self, requests: Sequence[Request]) -> None:
        for request in requests:
            text = request.tokens(0, request.known)
            found = self._find(request, text)
            wanted = min(
                self._trust.setdefault(request, Trust(self.most)).wanted() if found else 0, request.limit - len(request.answer) - 1
            )
            request.guessed = list(text[found : found + wanted]) if wanted > 0 else []

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
        for table in (self._places, self._seen, self._trust):
            table.pop(request, None)


class Draft:
    """A smaller model of the same vocabulary writes up to `most` tokens ahead, greedily, over pages of its own."""

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
        self._shadows: dict[Request, Request] = {}
        self._trust: dict[Request, Trust] = {}

    def guess(self, requests: Sequence[Request]) -> None:
        shadows = []
        for request in requests:
            room = min(request.limit - len(request.answer) - 1, self.model.config.context - request.known - 1)
            wanted = min(self._trust.setdefault(request, Trust(self.most)).wanted(), room)
            shadow = self._follow(request)
            if wanted > 0 and self._hold(shadow, request.known + wanted):
                shadows.append((shadow, request, wanted))
        while shadows:
            pieces = [Piece(shadow, shadow.computed, shadow.known - shadow.computed) for shadow, _, _ in shadows]
            for piece, logits in zip(pieces, self.runner.run(pieces), strict=True):
                piece.request.computed = piece.start + piece.count
                piece.request.answer.append(int(logits[-1].argmax()))
            left = []
            for shadow, request, wanted in shadows:
                written = shadow.known - request.known
                if written >= wanted:
                    request.guessed = shadow.answer[-written:]
                else:
                    left.append((shadow, request, wanted))
            shadows = left

    def _follow(self, request: Request) -> Request:
        """The draft's copy of a request, taken back to where the two agree."""
        shadow = self._shadows.get(request)
        if shadow is None:
            greedy = Sampling(temperature=0.0, max_tokens=request.limit)
            shadow = self._shadows[request] = replace(
                request, sampling=greedy, answer=[], guessed=[], computed=0, blocks=[], hashes=[], chunks=[], prompt_logprobs=None
            )
        agreed = 0
        while agreed < min(len(shadow.answer), len(request.answer)) and shadow.answer[agreed] == request.answer[agreed]:
            agreed += 1
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
        if request in self._trust:
            self._trust[request].judge(guessed, right)

    def forget(self, request: Request) -> None:
        self._trust.pop(request, None)
        shadow = self._shadows.pop(request, None)
        if shadow is not None:
            self.blocks.give_back(shadow.blocks)
