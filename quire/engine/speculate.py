"""Guessing several tokens at once and checking the guesses in one step: the answer stays what it would have been, sooner.

A guess is only a suggestion. The next step computes the guessed tokens behind the known ones, and each place's own pick decides: where it
is the guess, the keys and values are there already; at the first place where it is not, the pick stands and the rest is forgotten. So every
token is drawn by the request's own sampler from the model's own logits, in order (Leviathan et al. 2023, with exact matching in place of
their acceptance rule: that keeps seeded samples as they are, too).

Two ways of guessing. `Lookup`: what stood behind the last few tokens the last time they occurred in this text (prompt look-up; Saxena
2023): it pays where answers repeat their prompt. `Draft`: a smaller model with the same vocabulary writes ahead.
How many tokens are guessed follows from how many came true lately and from what a guess costs by the clock (`Trust`, `Ledger`). A ledger
of the whole engine holds what guessing gave and took: once it is in the red, only a fiftieth of the tokens' time goes into further tries.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from ..errors import RecipeError
from ..nn.paged import Pages
from ..nn.transformer import Transformer
from ..types import Sampling
from .blocks import Blocks
from .request import Request
from .runner import FEW, Logits, Runner
from .scheduler import Piece

ROW = 0.08  # what one row more costs, as a share of a step, before it was measured: 0.04 (0.39B parameters) to 0.11 (4M)
KEEP = 0.75  # weight of what was known when one more guess is judged
TRY = 0.02  # of a token's time that may go into tries that do not pay
MOST = 2.0  # tokens' time that gains are remembered for: what a change from text that is guessed to text that is not can cost
KNOWN = 3  # measurements before they are believed

Clock = Callable[[], float]


def _usual(seconds: deque[float]) -> float:
    """A quarter of the measurements lie below: other work only ever adds."""
    return sorted(seconds)[len(seconds) // 4]


class Guesser(Protocol):
    ledger: Ledger

    def guess(self, requests: Sequence[Request]) -> None:
        """Fill `guessed` of requests whose tokens are all computed but the last."""

    def judge(self, request: Request, guessed: int, right: int) -> None:
        """`right` of the `guessed` tokens of a request came true."""

    def forget(self, request: Request) -> None:
        """The request is done or put aside."""


class Ledger:
    """What guessing costs and what it gave, in tokens' time: that of a step without guesses, shared by the requests in it.

    What is usual of the latest few is booked: a step that other work delayed says nothing about guessing. `clock` gives them.
    `balance` is for all requests of an engine, so that a new one does not pay again for what others have tried.
    """

    def __init__(self) -> None:
        self.clock: Clock = time.perf_counter
        self.balance = 0.0
        self._plain: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=9))  # requests in a step -> its seconds
        self._more: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=9))  # guesses in a step -> seconds they added
        self._steps: dict[int, float] = {}  # what is usual of both
        self._added: dict[int, float] = {}
        self._began: float | None = None
        self.size = 1  # requests that write in the latest step

    def begins(self, size: int) -> None:
        """A step begins in which `size` requests write."""
        self.size, self._began = max(1, size), self.clock()

    def ran(self, pieces: Sequence[Piece]) -> None:
        """The step is computed. One that also read a prompt is not measured."""
        began, self._began = self._began, None
        guessed = sum(len(piece.request.guessed) for piece in pieces)
        if began is None or len(pieces) != self.size or sum(piece.count for piece in pieces) != self.size + guessed:
            return
        seconds = self.clock() - began
        if not guessed:
            plain = self._plain[self.size]
            plain.append(seconds)
            if len(plain) >= KNOWN:
                self._steps[self.size] = _usual(plain)
            self._book(TRY * self.size)
        elif self.ready:
            more = self._more[guessed]
            more.append(max(0.0, seconds - self._step))
            if len(more) >= KNOWN:
                self._added[guessed] = _usual(more)

    @property
    def ready(self) -> bool:
        """Whether a step of as many requests was measured; before, nothing is guessed."""
        return self.size in self._steps

    @property
    def _step(self) -> float:
        """Seconds of a step without guesses; 0 before one of this size was measured, as where a guess waited for its step."""
        return self._steps.get(self.size, 0.0)

    def price(self, seconds: float) -> float:
        """Seconds in tokens' time; 0 where the clock stands still."""
        return seconds * self.size / self._step if self._step > 0 else 0.0

    def cost(self, guessed: int) -> float:
        """What checking so many guesses of each request costs: the first row more may cost several times what a further one does."""
        rows = guessed * self.size
        seconds = self._added.get(rows)
        if seconds is None:
            near = min(self._added, key=lambda known: abs(known - rows), default=0)
            seconds = max(0.0, self._added.get(near, 0.0) + ROW * self._step * (rows - near))
        return self.price(seconds / self.size)

    def _book(self, tokens: float) -> None:
        self.balance = min(MOST, self.balance + tokens)

    def spend(self, seconds: float) -> None:
        """A draft took so long."""
        self._book(-self.price(seconds))

    def judge(self, guessed: int, right: int) -> float:
        """Books what a request's guesses gave; returns it."""
        gain = right - self.cost(guessed)
        self._book(gain)
        return gain


class Trust:
    """How many tokens to guess for a request, from the share of its guesses that came true lately.

    The k-th guess counts only where those before it are right as well: so many are made as leave most of the sum of share ** k when their
    cost is taken off. Where nothing is left, they are tried when the ledger allows. A request whose guesses have earned more than they cost
    goes on even where the ledger is in the red, as it is when a draft had a long prompt to read.
    """

    def __init__(self, most: int, ledger: Ledger, share: float = 0.7) -> None:
        self.most, self.ledger, self.share, self.earned = most, ledger, share, 0.0

    def wanted(self, seconds: float = 0.0) -> int:
        """seconds: what making a guess takes."""
        ledger = self.ledger
        if not ledger.ready or (ledger.balance < 0 and self.earned <= 0):
            return 0
        each, hope, chance, best, gain = ledger.price(seconds), 0.0, 1.0, 0, -float("inf")
        for count in range(1, self.most + 1):
            chance *= self.share
            hope += chance
            if (left := hope - ledger.cost(count) - count * each) > gain:
                best, gain = count, left
        return best if gain >= 0 or ledger.balance >= 0 else 0

    def judge(self, guessed: int, right: int, seconds: float = 0.0) -> None:
        self.earned = min(MOST, self.earned + self.ledger.judge(guessed, right) - guessed * self.ledger.price(seconds))
        self.share = 1 - (1 - self.share) * KEEP**right
        if right < guessed:
            self.share *= KEEP


class Trusts:
    """The trust in each request's guesses; a new one begins with what the guesses of those before it were worth."""

    def __init__(self, most: int, ledger: Ledger) -> None:
        self.most, self.ledger, self.share = most, ledger, 0.7
        self._of: dict[Request, Trust] = {}

    def __getitem__(self, request: Request) -> Trust:
        if request not in self._of:
            self._of[request] = Trust(self.most, self.ledger, self.share)
        return self._of[request]

    def judge(self, request: Request, guessed: int, right: int, seconds: float = 0.0) -> None:
        if (trust := self._of.get(request)) is not None:
            trust.judge(guessed, right, seconds)
        else:  # it ended with this step
            self.ledger.judge(guessed, right)

    def forget(self, request: Request) -> None:
        if (trust := self._of.pop(request, None)) is not None:
            self.share = (self.share + trust.share) / 2


class Lookup:
    """Guesses what followed the last `longest` .. `shortest` tokens the last time they stood in the text."""

    def __init__(self, most: int = 8, longest: int = 4, shortest: int = 2) -> None:
        self.most, self.sizes = most, range(longest, shortest - 1, -1)
        self._texts: dict[Request, list[int]] = {}
        self._places: dict[Request, dict[tuple[int, ...], int]] = {}  # run of tokens -> the place behind it
        self._seen: dict[Request, int] = {}
        self.ledger = Ledger()
        self._trust = Trusts(most, self.ledger)

    def guess(self, requests: Sequence[Request]) -> None:
        self.ledger.begins(len(requests))
        for request in requests:
            text = self._texts.setdefault(request, [])
            text += request.tokens(len(text), request.known)
            found, room = self._find(request, text), request.limit - len(request.answer) - 1
            if found and room > 0:
                wanted = self._trust[request].wanted()
                behind = text[found:]  # where less stands there than is wanted, it repeats
                request.guessed = [behind[number % len(behind)] for number in range(min(wanted, room))]

    def _find(self, request: Request, text: Sequence[int]) -> int:
        """The place behind the latest earlier occurrence of the text's end; 0 when there is none. Notes the runs that are new."""
        places, end, found = self._places.setdefault(request, {}), len(text), 0
        for place in range(self._seen.get(request, 0) + 1, end + 1):
            for size in self.sizes:
                if size <= place:
                    key = tuple(text[place - size : place])
                    if place == end and not found:
                        found = places.get(key, 0)
                    places[key] = place
        self._seen[request] = end
        return found

    def judge(self, request: Request, guessed: int, right: int) -> None:
        self._trust.judge(request, guessed, right)

    def forget(self, request: Request) -> None:
        self._trust.forget(request)
        for table in (self._texts, self._places, self._seen):
            table.pop(request, None)


class Draft:
    """A smaller model of the same vocabulary writes up to `most` tokens ahead, greedily, over pages of its own.

    What it takes, reading the prompt and what was passed over included, is measured beside a step of the model: a draft that is not much
    faster than its model is asked hardly ever.
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
        self.ledger = Ledger()
        self._calls = deque[float](maxlen=9)  # seconds of a call of few rows
        self.seconds = 0.0  # what is usual; 0 before one was measured
        self._shadows: dict[Request, Request] = {}
        self._trust = Trusts(most, self.ledger)

    def guess(self, requests: Sequence[Request]) -> None:
        self.ledger.begins(len(requests))
        shadows, each = [], self.seconds / max(1, len(requests))
        for request in requests:
            room = min(request.limit - len(request.answer) - 1, self.model.config.context - request.known - 1)
            wanted = min(self._trust[request].wanted(each), room)
            if wanted > 0 and self._hold(shadow := self._follow(request), request.known + wanted):
                shadows.append((shadow, request, wanted))
        while shadows:
            self._write([shadow for shadow, _, _ in shadows])
            left = []
            for shadow, request, wanted in shadows:
                written = shadow.known - request.known
                if written >= wanted:
                    request.guessed = shadow.answer[-written:]
                else:
                    left.append((shadow, request, wanted))
            shadows = left
        if requests:
            self.ledger.begins(len(requests))

    def _write(self, shadows: Sequence[Request]) -> None:
        """One token more of each."""
        while behind := [shadow for shadow in shadows if FEW < shadow.known - shadow.computed <= 16 * FEW]:
            # a short prompt, or what was passed over in a pause, as rows of the native step; a long prompt is read at once
            self._run([Piece(shadow, shadow.computed, FEW) for shadow in behind])
            for shadow in behind:
                shadow.computed += FEW
        pieces = [Piece(shadow, shadow.computed, shadow.known - shadow.computed) for shadow in shadows]
        for piece, logits in zip(pieces, self._run(pieces), strict=True):
            piece.request.computed = piece.start + piece.count
            piece.request.answer.append(int(logits[-1].argmax()))

    def _run(self, pieces: Sequence[Piece]) -> list[Logits]:
        """A call of the draft, booked at what such a call usually takes; a text that is read at once at what it took."""
        began = self.ledger.clock()
        found = self.runner.run(pieces)
        seconds = self.ledger.clock() - began
        if all(piece.count <= FEW for piece in pieces):
            self._calls.append(seconds)
            self.seconds = seconds = _usual(self._calls)
        self.ledger.spend(seconds)
        return found

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
        self._trust.judge(request, guessed, right, self.seconds / self.ledger.size)

    def forget(self, request: Request) -> None:
        self._trust.forget(request)
        shadow = self._shadows.pop(request, None)
        if shadow is not None:
            self.blocks.give_back(shadow.blocks)
