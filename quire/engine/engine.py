"""Many requests at once: plan a step, run it, pick a token for each request, say what is decided. Synchronous, on the caller's thread.

    engine = Engine(quire.load("model"))
    request = engine.submit("Once upon a time", Sampling(max_tokens=64))
    for chunk in engine.stream(request): ...

`step()` computes one step for all requests; `stream` and `generate` call it until theirs are done. What goes wrong with one request (logits
that are no numbers, memory for its prompt, an error of its constraint) ends that one alone, with its error; the others go on.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

from .. import machine
from ..binding import Contract
from ..decode.loop import HeldText, complete, room
from ..decode.sampler import Sampler
from ..errors import ContextError, ModelError, RecipeError
from ..nn.config import LMHead
from ..nn.paged import Pages, bytes_per_block
from ..nn.transformer import Transformer
from ..types import Chunk, Completion, Sampling
from . import asking
from .blocks import Blocks
from .picking import pick, prompt_facts
from .request import Constraint, Request
from .runner import Logits, Runner
from .scheduler import Piece, Scheduler
from .speculate import Draft, Guesser, Lookup
from .weights import Weights, seen

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
    same vocabulary writes them ahead; answers stay the same. Raises RecipeError for values that these cannot have.
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
        guess: Literal["lookup"] | Transformer | Loaded | None = None,
    ) -> None:
        asking.opened(loaded)
        budget, most = asking.whole("budget", budget, 1), asking.whole("most", most, 1)
        self.exact, self.share = asking.flag("exact", exact), asking.flag("share", share)
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
        if memory is not None:
            memory = asking.whole("memory", memory, 1, more=" of bytes (1 << 30 is a gigabyte), or None")
        else:
            memory = max(one * per_block, min(1 << 30, machine.memory()[1] // 4))
        count = min(most * one, memory // per_block)
        if count < 1:
            raise RecipeError(f"memory is {memory} bytes; one block of {BLOCK} positions of this model takes {per_block}. Give more.")
        self.pages = Pages(config, count, BLOCK, weight.dtype, weight.device)
        self.blocks = Blocks(count, BLOCK)
        self.scheduler = Scheduler(self.blocks, max(budget, EXACT if exact else 1), most, EXACT if exact else 0)
        self.runner = Runner(self.model, self.pages, exact)
        self.guesser: Guesser | None = None
        if guess is not None:
            draft = asking.draft(guess, exact, self.reads)
            self.guesser = Lookup() if draft is None else Draft(draft, config.vocab, count, BLOCK)
        self._arrivals = itertools.count()
        self._lock = threading.RLock()  # several threads may ask; one step is computed at a time
        self._weights = Weights(self.model)

    # -- asking ------------------------------------------------------------------------------------------------------------------

    def submit(self, prompt: str | Sequence[int], sampling: Sampling | None = None, **more: Any) -> Request:
        """Puts a request in line; arguments and errors as `request`."""
        request = self.request(prompt, sampling, **more)
        self.add(request)
        return request

    def add(self, *requests: Request) -> None:
        """Puts requests that `request` made in line. Raises RecipeError for those of another engine and those that were in line before,
        ModelError where the weights have another number type by now, or lie on another device."""
        with self._lock:
            self._follow_weights()
            for request in requests:
                self._check_own(request)
                if request.state != "new":
                    raise RecipeError(f"the request is {request.state} already; each is put in line once. Make a new one.")
                if request.after is not None and request.after.state == "new":
                    raise RecipeError("the request that `after` names is not in line, so it would be waited for without end. Add it first.")
                request.state = "waiting"
                self.scheduler.add(request)

    def forget(self) -> None:
        """What was computed or copied of the weights is not used for requests to come. For weights that change unseen: see `weights`."""
        with self._lock:
            self.blocks.forget()
            self.runner = Runner(self.model, self.pages, self.exact)  # native code has copies of the small ones
            self._weights = Weights(self.model)

    def _follow_weights(self) -> None:
        """What was computed with other weights must not be shared, and what the model no longer holds not be used."""
        if self._weights.still(self.model):
            return
        kind, _ = seen(self.model)
        if kind != self._weights.kind:
            raise ModelError(
                f"the model's weights are {kind} now; they were {self._weights.kind} when this engine was made, and its memory is for "
                "those. Make a new engine (an opened model makes one after `del model.engine`)."
            )
        self.forget()

    def _check_own(self, request: Request) -> None:
        if not isinstance(request, Request) or request.engine is not self:
            raise RecipeError(f"{str(request)[:60]} was not made by this engine: give a request to the engine that made it.")

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
        sampling = self.defaults if sampling is None else sampling
        if not isinstance(sampling, Sampling):
            raise RecipeError(f"sampling is {str(sampling)[:80]}; allowed: a Sampling. For beams there are model.translate and summarize.")
        vocab = self.model.config.vocab
        ids, source = self._ids(prompt)
        front = self._front(prompt_logprobs)
        if prompt_logprobs is not None:
            prompt_logprobs = asking.whole("prompt_logprobs", prompt_logprobs, 0, vocab, ", and for decoders alone", self.reads)
        sampler = Sampler(sampling, vocab, ids)  # checks the values
        more, salt = asking.stops(stop_ids, self.contract, vocab), asking.tenant_salt(tenant)
        if after is not None:
            self._check_own(after)
        limit = min(sampling.max_tokens, room(len(ids), self.context, "prompt"))
        held = -(-(len(front) + len(ids) + limit) // BLOCK) + -(-len(source or ()) // BLOCK)
        if held > self.blocks.count:
            fit = self.blocks.count * BLOCK
            raise ContextError(
                f"the prompt has {len(source or ids)} tokens and the answer may have {limit}; the engine's memory holds {fit} in all. "
                "Shorten one of them, or give the engine more memory."
            )
        ends = frozenset(token for token in (*(self.contract.stop_ids or ()), *more) if token < vocab)
        if constraint is not None:
            asking.check_constraint(constraint, vocab)
            asking.claim(constraint)
        return Request(
            engine=self,
            prompt=[*front, *ids],
            sampling=sampling,
            limit=limit,
            full="length" if limit == sampling.max_tokens else "context",
            stop_ids=ends | frozenset(sampling.stop_ids),
            ends=ends,
            sampler=sampler,
            stream=self.contract.tokenizer.target.stream(),
            held=HeldText(tuple(sampling.stop) + self.contract.stop_strings),
            arrival=(arrival := next(self._arrivals)),
            tenant=salt if self.share else f"{arrival}".encode(),
            source=source,
            constraint=constraint,
            prompt_logprobs=prompt_logprobs,
            after=after,
        )

    def _front(self, prompt_logprobs: int | None) -> list[int]:
        """The ids of a soft prompt, which stand before a request's own. Raises ModelError for what cannot be served with one."""
        front = [] if self.model.front is None else self.model.front.ids
        if front and (self.reads or prompt_logprobs is not None):
            raise ModelError("a soft prompt is on this model: its engine serves decoders alone, and reports nothing about prompts.")
        return front

    def _ids(self, prompt: str | Sequence[int]) -> tuple[list[int], list[int] | None]:
        """(ids to be continued, ids of the encoder's side)."""
        ids = asking.prompt_ids(prompt, self.contract, self.model.config.vocab, self.reads)
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
        n, how, requests = asking.whole("n", n, 1), self.defaults if sampling is None else sampling, list[Request]()
        for prompt in asking.several(prompts):
            first = None
            for number in range(n):
                seeded = replace(how, seed=how.seed + number) if number and how.seed is not None else how
                request = self.request(prompt, seeded, constraint=constraint(), stop_ids=stop_ids, after=first)
                requests.append(request)
                first = first or request
        try:
            self.add(*requests)
            while not all(request.done for request in requests):
                self.step()
        finally:
            for request in requests:
                self.abort(request)
        return [self.result(request) for request in requests]

    def stream(self, request: Request) -> Iterator[Chunk]:
        """What a request says, while all others go on too; one that is not in line yet is put there. Leaving the loop early aborts it, and
        so does dropping what this returns. Raises its error at the end."""
        self._check_own(request)
        chunks = self._stream(request)
        next(chunks)  # a generator that has not begun is not told when it is dropped
        return chunks

    def _stream(self, request: Request) -> Iterator[Chunk]:
        try:
            yield Chunk("")  # for `stream` alone
            if request.state == "new":
                self.add(request)
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
        """The whole answer of a finished request. Raises its error, and RecipeError for one that is not finished."""
        self._check_own(request)
        if request.error is not None:
            raise request.error
        if not request.done:
            raise RecipeError(
                f"the request is {request.state}; its answer is not whole yet. Call step() until it is done, or use stream()."
            )
        return complete(iter(request.chunks), len(request.source or request.prompt))

    def abort(self, request: Request) -> None:
        """Forget a request and free what it holds; its error then says so. Nothing happens to one that is done."""
        self._check_own(request)
        with self._lock:
            if not request.done:
                written = len(request.answer)
                self._fail(request, RecipeError(f"the request was aborted after {written} tokens of its answer, which is not whole."))

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
            if piece.request.done:
                continue  # aborted in this very step, by a constraint of another request
            if isinstance(logits, Exception):
                self._fail(piece.request, logits)
                continue
            try:
                self._commit(piece, logits)
            except Exception as error:  # also what a constraint of the caller's raises: it is that request's alone
                self._fail(piece.request, error)
        return count

    def _run(self, pieces: list[Piece]) -> list[tuple[Piece, Logits | Exception]]:
        """All pieces at once; where that fails, each alone, so that only those that fail alone are lost."""
        try:
            return list(zip(pieces, self.runner.run(pieces), strict=True))
        except Exception as error:
            if len(pieces) == 1:
                return [(pieces[0], error)]
            return [self._run([piece])[0] for piece in pieces]

    def _fail(self, request: Request, error: Exception) -> None:
        request.error = error  # before it counts as done: another thread may look
        self._finish(request)

    def _commit(self, piece: Piece, logits: Logits) -> None:
        """Takes the logits of a piece: the prompt's own facts, then one token, and more where guessed ones come true."""
        request, end = piece.request, piece.start + piece.count
        if request.prompt_logprobs is not None and piece.start < len(request.prompt):
            logits = prompt_facts(piece, logits, self.contract.tokenizer.target)
        if end < request.known:
            self.scheduler.computed(piece, piece.count)
            return
        guessed, request.guessed = request.guessed, []
        held = request.known - piece.start  # tokens of the piece that were known
        self.scheduler.computed(piece, held)
        right = 0
        for number, row in enumerate(logits):
            token = pick(request, row, self.contract.tokenizer.target)
            if request.reason is not None:
                self._finish(request)
            if request.done or number >= len(guessed) or guessed[number] != token:
                break
            right += 1  # the guess came true: its keys and values are there already
        if guessed and self.guesser is not None:
            self.guesser.judge(request, len(guessed), right)
        if right and not request.done:
            self.scheduler.computed(piece, held + right)
