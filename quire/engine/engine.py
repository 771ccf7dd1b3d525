"""Many requests at once: plan a step, run it, pick a token for each request, say what is decided. Synchronous, on the caller's thread.

    engine = Engine(quire.load("model"))
    request = engine.submit("Once upon a time", Sampling(max_tokens=64))
    for chunk in engine.stream(request): ...

`step()` computes one step for all requests; `stream` and `generate` call it until theirs are done. What goes wrong with one request (logits
that are no numbers, memory for its prompt) ends that one alone, with its error; the others go on.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

from .. import machine
from ..binding import Contract
from ..decode.loop import HeldText, complete, facts, room
from ..decode.sampler import Sampler, logprobs
from ..errors import ContextError, ModelError, QuireError, RecipeError
from ..nn.config import LMHead
from ..nn.paged import Pages, bytes_per_block
from ..nn.transformer import Transformer
from ..types import Chunk, Completion, FinishReason, Sampling, TokenLogprob
from .blocks import Blocks
from .request import Constraint, Request
from .runner import Logits, Runner
from .scheduler import Piece, Scheduler
from .speculate import Draft, Guesser, Lookup

BLOCK = 16  # positions of a block
EXACT = 128  # tokens of a prompt that are read at once when answers must not depend on their neighbours


class Loaded(Protocol):
    """What `quire.load` returns for a decoder or an encoder-decoder."""

    @property
    def model(self) -> Transformer: ...
    @property
    def contract(self) -> Contract: ...
    @property
    def identity(self) -> str: ...
    @property
    def defaults(self) -> Sampling: ...


class Engine:
    """`memory`: bytes for keys and values (None: a gigabyte or a quarter of what is free, but room for one text of full length).

    budget: tokens a step; a larger one reads prompts faster, a smaller one lets those that write wait less. most: requests a step.
    exact: an answer does not depend on its neighbours to the last bit, at the price of computing every request alone. share: a beginning
    that several requests have in common is computed once. guess: "lookup" guesses tokens from the text itself, a smaller model of the
    same vocabulary writes them ahead; answers stay the same.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        memory: int | None = None,
        budget: int = 512,
        most: int = 64,
        exact: bool = False,
        share: bool = True,
        guess: Literal["lookup"] | Transformer | None = None,
    ) -> None:
        self.model, self.contract, self.identity, self.defaults = loaded.model.eval(), loaded.contract, loaded.identity, loaded.defaults
        config, weight = self.model.config, self.model.embed.weight
        if config.decoder is None or not isinstance(config.head, LMHead):
            raise RecipeError(
                f"the engine writes with a vocabulary head; this model has none (its kind: {config.kind}). For vectors, labels and "
                "ranks of many callers there is EncoderEngine."
            )
        self.context, self.reads = config.context, config.encoder is not None
        per_block = bytes_per_block(config, BLOCK, weight.element_size())
        one = -(-self.context // BLOCK) * (2 if self.reads else 1)
        if memory is None:
            memory = max(one * per_block, min(1 << 30, machine.memory()[1] // 4))
        count = min(most * one, memory // per_block)
        if count < 1:
            raise RecipeError(f"memory is {memory} bytes; one block of {BLOCK} positions of this model takes {per_block}. Give more.")
        self.pages = Pages(config, count, BLOCK, weight.dtype, weight.device)
        self.blocks = Blocks(count, BLOCK)
        self.scheduler = Scheduler(self.blocks, max(budget, EXACT if exact else 1), most, EXACT if exact else 0)
        self.runner = Runner(self.model, self.pages, exact)
        self.exact, self.share = exact, share
        self.guesser: Guesser | None = None
        if guess is not None:
            if exact:
                raise RecipeError("exact answers are computed token by token, so guessing cannot help: leave `guess` or `exact` out.")
            if self.reads and not isinstance(guess, str):
                raise RecipeError('a draft model guesses for decoders; for an encoder-decoder give guess="lookup".')
            self.guesser = Lookup() if isinstance(guess, str) else Draft(guess, config.vocab, count, BLOCK)
        self._arrivals = itertools.count()
        self._lock = threading.RLock()  # several threads may ask; one step is computed at a time
        self._weights = self._version()

    def _version(self) -> int:
        """Changes when weights are changed in place: what was computed with others must not be shared."""
        return sum(0 if p.is_inference() else p._version for p in self.model.parameters())

    # -- asking ------------------------------------------------------------------------------------------------------------------

    def submit(self, prompt: str | Sequence[int], sampling: Sampling | None = None, **more: Any) -> Request:
        """Puts a request in line; arguments and errors as `request`."""
        request = self.request(prompt, sampling, **more)
        self.add(request)
        return request

    def add(self, request: Request) -> None:
        """Puts a request that `request` made in line."""
        with self._lock:
            if (version := self._version()) != self._weights:
                self.blocks.forget()
                self._weights = version
            request.state = "waiting"
            self.scheduler.add(request)

    def request(
        self,
        prompt: str | Sequence[int],
        sampling: Sampling | None = None,
        *,
        constraint: Constraint | None = None,
        tenant: str = "",
        stop_ids: Sequence[int] = (),
        prompt_logprobs: int | None = None,
        after: Request | None = None,
    ) -> Request:
        """A request that is not in line yet. Raises ContextError, RecipeError, DataError for what cannot be done, before any work.

        prompt: a text, or ids; an encoder-decoder reads it and writes from its start id on. tenant: only requests of one tenant share what
        was computed for a common beginning. prompt_logprobs: also report the prompt's own log-probabilities, with so many alternatives.
        after: begins when that one's prompt is computed.
        """
        sampling = sampling or self.defaults
        if not isinstance(sampling, Sampling):
            raise RecipeError(f"sampling is {str(sampling)[:80]}; allowed: a Sampling. For beams there are model.translate and summarize.")
        vocab = self.model.config.vocab
        ids, source = self._ids(prompt)
        if prompt_logprobs is not None and (source is not None or not 0 <= prompt_logprobs <= vocab):
            raise RecipeError(f"prompt_logprobs is {prompt_logprobs}; allowed: 0 to {vocab}, and for decoders alone.")
        sampler = Sampler(sampling, vocab, ids)  # checks the values
        mask = None if constraint is None else constraint.allowed()
        if mask is not None and len(mask) != vocab:
            raise RecipeError(f"the constraint was made for {len(mask)} ids; this model has {vocab}: give it vocab={vocab}.")
        limit = min(sampling.max_tokens, room(len(ids), self.context, "prompt"))
        held = -(-(len(ids) + limit) // BLOCK) + -(-len(source or ()) // BLOCK)
        if held > self.blocks.count:
            fit = self.blocks.count * BLOCK
            raise ContextError(
                f"the prompt has {len(source or ids)} tokens and the answer may have {limit}; the engine's memory holds {fit} in all. "
                "Shorten one of them, or give the engine more memory."
            )
        ends = frozenset(token for token in (*(self.contract.stop_ids or ()), *stop_ids) if token < vocab)
        return Request(
            prompt=ids,
            sampling=sampling,
            limit=limit,
            full="length" if limit == sampling.max_tokens else "context",
            stop_ids=ends | {token for token in sampling.stop_ids if token < vocab},
            ends=ends,
            sampler=sampler,
            stream=self.contract.tokenizer.target.stream(),
            held=HeldText(tuple(sampling.stop) + self.contract.stop_strings),
            arrival=next(self._arrivals),
            tenant=(tenant if self.share else f"{id(sampler)}").encode(),
            source=source,
            constraint=constraint,
            prompt_logprobs=prompt_logprobs,
            after=after,
        )

    def _ids(self, prompt: str | Sequence[int]) -> tuple[list[int], list[int] | None]:
        """(ids to be continued, ids of the encoder's side)."""
        if isinstance(prompt, str):
            ids = self.contract.whole(prompt) if self.reads else self.contract.prompt(prompt)
        else:
            ids = list(prompt)
        vocab = self.model.config.vocab
        wrong = next((token for token in ids if not isinstance(token, int) or not 0 <= token < vocab), None)
        if wrong is not None:
            raise RecipeError(f"the prompt holds the id {wrong!r}; this model's ids go from 0 to {vocab - 1}.")
        if not self.reads:
            return ids, None
        room(len(ids), self.context, "source", spare=0)
        start = self.contract.decoder_start
        if start is None:
            raise ModelError("this model does not say with which id its decoder starts. Set decoder_start_token_id in its config.json.")
        return [start], ids

    def generate(
        self,
        prompts: Sequence[str | Sequence[int]],
        sampling: Sampling | None = None,
        *,
        n: int = 1,
        constraint: Callable[[], Constraint | None] = lambda: None,
        stop_ids: Sequence[int] = (),
    ) -> list[Completion]:
        """Continues every prompt; the answers in their order. The first error of a request is raised when all are done.

        n: so many answers to each prompt, side by side, with seeds that count up; the prompt is computed once. constraint: makes one for
        each answer. What cannot be done is refused before any work.
        """
        if n < 1:
            raise RecipeError(f"n is {n}; allowed: 1 and more.")
        how, requests = sampling or self.defaults, list[Request]()
        for prompt in prompts:
            first = None
            for number in range(n):
                seeded = how if how.seed is None else replace(how, seed=how.seed + number)
                request = self.request(prompt, seeded, constraint=constraint(), stop_ids=stop_ids, after=first)
                requests.append(request)
                first = first or request
        try:
            for request in requests:
                self.add(request)
            while not all(request.done for request in requests):
                self.step()
        finally:
            for request in requests:
                self.abort(request)
        return [self.result(request) for request in requests]

    def stream(self, request: Request) -> Iterator[Chunk]:
        """What a request says, while all others go on too; one that is not in line yet is put there. Leaving the loop early aborts it."""
        if request.state == "new":
            self.add(request)
        try:
            while True:
                while request.told < len(request.chunks):
                    request.told += 1
                    yield request.chunks[request.told - 1]
                if request.done:
                    break
                self.step()
        finally:
            self.abort(request)
        if request.error is not None:
            raise request.error

    def result(self, request: Request) -> Completion:
        """The whole answer of a finished request. Raises its error."""
        if request.error is not None:
            raise request.error
        return complete(iter(request.chunks), len(request.source or request.prompt))

    def abort(self, request: Request) -> None:
        """Forget a request and free what it holds; nothing happens to one that is done."""
        with self._lock:
            if not request.done:
                self._finish(request)

    def _finish(self, request: Request) -> None:
        self.scheduler.release(request)
        request.state = "finished"
        if self.guesser is not None:
            self.guesser.forget(request)

    @property
    def busy(self) -> bool:
        return bool(self.scheduler.running or self.scheduler.waiting)

    # -- one step ----------------------------------------------------------------------------------------------------------------

    def step(self) -> int:
        """Computes one step; returns how many tokens it computed (0: nothing to do)."""
        with self._lock:
            return self._step()

    def _step(self) -> int:
        if self.guesser is not None:
            self.guesser.guess([r for r in self.scheduler.running if r.known == r.computed + 1 and r.answer and not r.guessed])
        pieces = self.scheduler.plan()
        if not pieces:
            return 0
        count = sum(piece.count + piece.request.unread for piece in pieces)
        computed = self._run(pieces)
        if self.guesser is not None:
            self.guesser.ledger.ran(pieces)
        for piece, logits in computed:
            if isinstance(logits, Exception):
                self._fail(piece.request, logits)
                continue
            try:
                self._commit(piece, logits)
            except QuireError as error:
                self._fail(piece.request, error)
        return count

    def _run(self, pieces: list[Piece]) -> list[tuple[Piece, Logits | Exception]]:
        """All pieces at once; where that fails, each alone, so that only those that fail alone are lost."""
        try:
            return list(zip(pieces, self.runner.run(pieces), strict=True))
        except (RuntimeError, QuireError, MemoryError) as error:
            if len(pieces) == 1:
                return [(pieces[0], error)]
            return [self._run([piece])[0] for piece in pieces]

    def _fail(self, request: Request, error: Exception) -> None:
        self._finish(request)
        request.error = error

    def _commit(self, piece: Piece, logits: Logits) -> None:
        """Takes the logits of a piece: the prompt's own facts, then one token, and more where guessed ones come true."""
        request, end = piece.request, piece.start + piece.count
        if request.prompt_logprobs is not None and piece.start < len(request.prompt):
            logits = self._prompt_facts(piece, logits)
        if end < request.known:
            self.scheduler.computed(piece, piece.count)
            return
        guessed, request.guessed = request.guessed, []
        held = request.known - piece.start  # tokens of the piece that were known
        self.scheduler.computed(piece, held)
        right = 0
        for number, row in enumerate(logits):
            token = self._pick(request, row)
            if request.done or number >= len(guessed) or guessed[number] != token:
                break
            right += 1  # the guess came true: its keys and values are there already
        if guessed and self.guesser is not None:
            self.guesser.judge(request, len(guessed), right)
        if right and not request.done:
            self.scheduler.computed(piece, held + right)

    def _prompt_facts(self, piece: Piece, logits: Logits) -> Logits:
        """Notes the log-probabilities of the prompt's tokens; returns the rows that are left, those behind the prompt."""
        request, prompt = piece.request, len(piece.request.prompt)
        assert request.prompt_logprobs is not None
        if piece.start == 0 and not request.prompt_facts:
            request.prompt_facts.append(None)  # nothing stands before the first
        decode = self.contract.tokenizer.decode
        for number in range(max(0, min(piece.count, prompt - 1 - piece.start))):
            place = piece.start + number + 1
            if len(request.prompt_facts) > place:
                continue  # computed again after it was put aside
            token = request.prompt[place]
            value, top = logprobs(logits[number], token, request.prompt_logprobs)
            named = tuple((other, decode([other], special=True), chance) for other, chance in top)
            request.prompt_facts.append(TokenLogprob(token, decode([token], special=True), value, named))
        return logits[max(0, request.known - 1 - piece.start) :]

    def _pick(self, request: Request, row: Logits) -> int:
        """The next token of a request from its logits (V,), and what follows from it: text, a reason to end."""
        count = len(request.answer) + 1
        early = count < request.sampling.min_tokens
        constraint = request.constraint
        may_end = constraint is None or constraint.complete  # what a form still needs is text, a stop id or not
        banned = request.stop_ids if may_end and count <= request.sampling.min_tokens else frozenset()
        if constraint is not None:
            row = _allowed(row, constraint, request)
        pick = request.sampler.pick(row, banned)
        request.answer.append(pick.id)
        reason: FinishReason | None = None
        if may_end and pick.id in request.stop_ids:
            reason, text = "stop", request.held.rest(request.stream.end())
        else:
            if constraint is not None:
                constraint.accept(pick.id)
            text, stopped = request.held.push(request.stream.push(pick.id), heed=not early)
            if stopped or (constraint is not None and constraint.closed):
                reason = "stop"
            elif count == request.limit:
                reason = request.full
            if reason is not None and not stopped:
                tail, stopped = request.held.push(request.stream.end())
                text, reason = text + tail + request.held.rest(), "stop" if stopped else reason
        listed = facts(pick, self.contract.tokenizer.target) if request.sampling.logprobs else ()
        request.chunks.append(Chunk(text, (pick.id,), reason, listed))
        if reason is not None:
            request.reason = reason
            self._finish(request)
        return pick.id


def _allowed(row: Logits, constraint: Constraint, request: Request) -> Logits:
    """Logits with what the constraint rules out at minus infinity.

    A stop id may come where the answer is whole. Before, the caller's are text like any other, since the form may need them, and the
    model's own are ruled out unless nothing else goes on.
    """
    allowed = constraint.allowed()
    if allowed is None:
        return row
    text, allowed = allowed, allowed.copy()
    allowed[list(request.stop_ids if constraint.complete else request.ends)] = constraint.complete
    if not allowed.any():
        allowed = text
    masked = row.copy()
    masked[~allowed] = -float("inf")
    return masked
