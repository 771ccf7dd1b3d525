"""What the next step computes: for each request as many of its known tokens as the budget has room for.

Running requests come first, in the order of their arrival: they need one token each (or a few guessed ones) and somebody waits for each.
What is left of the budget reads prompts, part by part, first come, first served. When the pages are full, the request that came last
gives its blocks back and waits at the head of the line; it is computed again when there is room, from the longest prefix that is still
there. A request that can never fit is refused when it is submitted, so the first in line always gets through.

An encoder-decoder's source counts as tokens of the step in which its request begins, and is read whole: the first of a step may be longer
than what is left of the budget, the others wait.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .blocks import Blocks, extend
from .request import Request


@dataclass(frozen=True)
class Piece:
    """`count` tokens of a request, from place `start`."""

    request: Request
    start: int
    count: int


class Scheduler:
    """`budget` tokens and `most` requests a step.

    exact: a request is cut into the same pieces whatever else there is: its prompt at multiples of so many tokens, its answer one by one,
    also when it is computed again; and only whole such parts are shared. 0: pieces are as large as the budget allows.
    """

    def __init__(self, blocks: Blocks, budget: int, most: int, exact: int = 0) -> None:
        if exact and (exact % blocks.size or exact > budget):
            raise ValueError(
                f"exact parts of {exact} tokens need blocks of a divisor of it ({blocks.size}) and a budget for one ({budget})"
            )
        self.blocks, self.budget, self.most, self.exact = blocks, budget, most, exact
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.preemptions = 0

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    @property
    def requests(self) -> list[Request]:
        return [*self.running, *self.waiting]

    def plan(self) -> list[Piece]:
        """The pieces of the next step. Their blocks are taken; nothing else is changed by planning twice."""
        pieces: list[Piece] = []
        left, sources = self.budget, 0
        for request in list(self.running):
            if request.state != "running" or left <= 0:
                continue  # put aside by one before it, or no budget
            piece = self._piece(request, left)
            if piece is not None and self._hold(piece):
                pieces.append(piece)
                left -= piece.count
        pieces = [piece for piece in pieces if piece.request.state == "running"]  # a later request may have lost its blocks
        while left > 0 and self.waiting and len(self.running) < self.most:
            request = self.waiting[0]
            if request.after is not None and not request.after.done and request.after.computed < len(request.after.prompt):
                if not self._next_ready():
                    break
                continue
            source = request.unread
            piece = self._begin(request, max(1, left - source)) if source <= left or not sources else None
            if piece is None:
                break
            self.waiting.popleft()
            pieces.append(piece)
            left -= piece.count + source
            sources += source
        return pieces

    def _next_ready(self) -> bool:
        """Move a request that need not wait for another to the head of the line; False when there is none."""
        for place, request in enumerate(self.waiting):
            if request.after is None or request.after.done or request.after.computed >= len(request.after.prompt):
                del self.waiting[place]
                self.waiting.appendleft(request)
                return True
        return False

    def _piece(self, request: Request, left: int) -> Piece | None:
        start, prompt = request.computed, len(request.prompt)
        if self.exact:
            count = 1 if start >= prompt else min(prompt, (start // self.exact + 1) * self.exact) - start
            return Piece(request, start, count) if count <= left else None
        wanted = request.known - start
        if wanted > left:
            request.guessed.clear()
            return Piece(request, start, left)
        del request.guessed[left - wanted :]
        return Piece(request, start, wanted + len(request.guessed))

    def _begin(self, request: Request, left: int) -> Piece | None:
        """The first piece of a waiting request, with what others have computed of it; None when there is no room yet."""
        size = self.blocks.size
        extend(request.hashes, request.tokens(0, request.known), size, request.salt)
        most = (request.known - 1) // size  # at least one token is computed: somebody wants its logits
        if request.prompt_logprobs is not None:
            most = 0  # what was computed for others left no logits behind
        request.blocks = self.blocks.find(request.hashes[:most])
        if self.exact:
            whole = len(request.blocks) * size // self.exact * self.exact // size
            self.blocks.give_back(request.blocks[whole:])
            del request.blocks[whole:]
        request.computed = len(request.blocks) * size
        request.remembered = len(request.blocks)
        piece = self._piece(request, left)
        source = self.blocks.take(-(-request.unread // size)) if piece is not None else None
        request.source_blocks = source or []
        if piece is None or source is None or not self._grow(piece):
            self._give_back(request)
            return None
        request.cached = max(request.cached, request.computed)
        request.state = "running"
        self.running.append(request)
        return piece

    def _grow(self, piece: Piece) -> bool:
        """Take the blocks that a piece writes to; False when there are too few."""
        request = piece.request
        missing = -(-(piece.start + piece.count) // self.blocks.size) - len(request.blocks)
        if missing <= 0:
            return True
        taken = self.blocks.take(missing)
        if taken is None:
            return False
        request.blocks += taken
        return True

    def _hold(self, piece: Piece) -> bool:
        """Take blocks for a running request, putting aside those that came after it where needed; False when it is put aside itself."""
        while not self._grow(piece):
            last = max(self.running, key=lambda request: request.arrival)
            self.put_aside(last)
            if last is piece.request:
                return False
        return True

    def put_aside(self, request: Request) -> None:
        """Give a running request's blocks back and let it wait at the head of the line."""
        self.release(request)
        request.state = "waiting"
        request.guessed.clear()
        request.preempted += 1
        self.preemptions += 1
        self.waiting.appendleft(request)

    def release(self, request: Request) -> None:
        """Give back what a request holds, wherever it stands."""
        self._give_back(request)
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)

    def _give_back(self, request: Request) -> None:
        self.blocks.give_back(request.blocks)
        self.blocks.give_back(request.source_blocks)
        request.blocks, request.computed, request.remembered = [], 0, 0
        request.source_blocks, request.source_read = [], False

    def computed(self, piece: Piece, tokens: int) -> None:
        """`tokens` of a piece's tokens hold (guessed ones may not have); full blocks can be found by others from now on."""
        request, size = piece.request, self.blocks.size
        request.computed = piece.start + tokens
        known = min(request.computed, request.known)
        full = (min(known, len(request.prompt)) // self.exact * self.exact if self.exact else known) // size
        if full > request.remembered:
            extend(request.hashes, request.tokens(0, full * size), size, request.salt)
            for number in range(request.remembered, full):
                self.blocks.remember(request.blocks[number], request.hashes[number])
            request.remembered = full
