"""OpenAI's completions: POST /v1/completions, a text (or several, or ids) that is gone on with, whole or as a stream.

Source: the API reference of OpenAI, https://platform.openai.com/docs/api-reference/completions, with the additions that chat completions
have here. It is how base models are talked to, how evaluations score texts (`echo` with `logprobs`), how editors fill in (`suffix`), and
how an encoder-decoder is given what it reads.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field, PlainValidator
from starlette.responses import JSONResponse, Response

from .asks import Begun, End, Event, Logprob, Piece, Write
from .bodies import MOST_ANSWERS, at, refusable
from .chat import REASONS, Sampled, StreamOptions, StructuredOutputs, forms, tenant_of, too_many, usage_of
from .errors import Refused
from .front import Front
from .http import Stream, unless_left
from .models import Job, Worker

MOST_PROMPTS = 128
MOST_TOKENS = 16  # of an answer, where the request does not say


def _prompts(value: Any) -> list[str | list[int]]:
    """A text, ids, or a list of either, as a list. null is a text of which nothing is there yet."""
    if value is None or isinstance(value, str):
        return [value or ""]
    if not isinstance(value, list) or not value:
        raise at("", "allowed: a text, token ids, a list of texts or a list of lists of token ids")
    if not isinstance(value[0], str | list):
        return [_ids(value, "")]
    if len(value) > MOST_PROMPTS:
        raise at("", f"there are {len(value):,} prompts; at most {MOST_PROMPTS} are taken at once")
    for number, one in enumerate(value):
        if type(one) is not type(value[0]):
            raise at(str(number), "prompts are all texts or all lists of token ids")
    return value if isinstance(value[0], str) else [_ids(one, f"{number}.") for number, one in enumerate(value)]


def _ids(value: list[Any], place: str) -> list[int]:
    if not value:
        raise at(place.removesuffix("."), "a list of token ids is empty; give at least one")
    wrong = next((number for number, id in enumerate(value) if type(id) is not int or not 0 <= id < 1 << 31), None)
    if wrong is not None:
        raise at(f"{place}{wrong}", "a token id is a whole number, 0 or more")
    return value


Prompts = Annotated[Any, PlainValidator(_prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]] | None)]


class Completions(Sampled):
    model: str
    prompt: Prompts
    max_tokens: int | None = Field(None, ge=0, description=f"Without it {MOST_TOKENS}. 0: nothing is written, for `echo`.")
    n: int | None = Field(None, ge=1, le=MOST_ANSWERS)
    best_of: int | None = Field(None, ge=1, description="Not done here, unless it equals n.")
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=5)
    prompt_logprobs: refusable("send 'echo' with 'logprobs' to /v1/completions") = None  # type: ignore[valid-type]
    suffix: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    structured_outputs: StructuredOutputs | None = None
    user: str | None = Field(None, max_length=256, description="Answers of one user share cached beginnings with nobody else.")

    @property
    def most(self) -> int:
        return MOST_TOKENS if self.max_tokens is None else self.max_tokens

    def asks(self, tenant: str) -> list[Write]:
        """One for each prompt. Raises Refused for fields that contradict each other."""
        self._agree()
        # What writes nothing still asks for one token, which is thrown away: the engine reads a prompt in order to write.
        sampling = {**self.sampling(), "max_tokens": max(1, self.most)}
        if self.logprobs is not None:
            sampling["logprobs"] = max(1, self.logprobs)
        return [
            Write(
                prompt=prompt,
                sampling=sampling,
                n=self.n or 1,
                forms=forms(None, self.structured_outputs),
                prompt_logprobs=self.logprobs if self.echo else None,
                tenant=tenant_of(tenant, self.user),
                suffix=self.suffix,
                echo=bool(self.echo),
            )
            for prompt in self.prompt
        ]

    def _agree(self) -> None:
        if self.best_of is not None and self.best_of != (self.n or 1):
            message = (
                f"'best_of' is {self.best_of} and 'n' is {self.n or 1}: all answers are returned here, so ask for them with 'n' alone."
            )
            raise Refused(400, message, param="best_of", code="unsupported_field")
        if self.stream_options is not None and not self.stream:
            raise Refused(400, "'stream_options' says something of 'stream', which is not asked for. Leave it out.", param="stream_options")
        if self.suffix is not None and self.echo:
            raise Refused(
                400, "'suffix' with 'echo' is not done here: the prompt is not all that stands around the answer.", param="suffix"
            )
        if self.stream and self.echo and self.logprobs is not None:
            message = "'echo' with 'logprobs' is not streamed: what the prompt has is known as a whole. Leave 'stream' out."
            raise Refused(400, message, param="echo", code="unsupported_field")


@dataclass(frozen=True)
class Part:
    """One prompt of a request, on its way. text: of the prompt, where it is echoed."""

    worker: Worker
    job: Job
    begun: Begun
    text: str


class Parts:
    """Several jobs that are one answer."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self._tasks: list[asyncio.Task[None]] = []

    def close(self) -> None:
        for part in self.parts:
            part.job.close()
        for task in self._tasks:
            task.cancel()

    async def events(self) -> AsyncIterator[list[tuple[int, Event]]]:
        """(number of the prompt, event) of all as they come, those that are there together. Raises the first error of any."""
        if len(self.parts) == 1:
            async for batch in _batches(0, self.parts[0].job):
                yield batch
            return
        queue: asyncio.Queue[list[tuple[int, Event]] | Exception | None] = asyncio.Queue(1)  # a slow reader is seen by each job
        self._tasks = [asyncio.create_task(_hand_on(number, part.job, queue)) for number, part in enumerate(self.parts)]
        try:
            left = len(self._tasks)
            while left:
                found = await queue.get()
                if isinstance(found, Exception):
                    raise found
                if found is None:
                    left -= 1
                else:
                    yield found
        finally:
            self.close()
            await asyncio.gather(*self._tasks, return_exceptions=True)


async def _batches(number: int, job: Job) -> AsyncIterator[list[tuple[int, Event]]]:
    async for event in job:
        batch = [(number, event)]
        while (more := job.ready()) is not None:
            batch.append((number, more))
        yield batch


async def _hand_on(number: int, job: Job, queue: asyncio.Queue[Any]) -> None:
    try:
        async for batch in _batches(number, job):
            await queue.put(batch)
        await queue.put(None)
    except Exception as error:
        await queue.put(error)


async def begin(front: Front, request: Request, body: Completions) -> Parts:
    """All prompts of a request, in line together. Raises Refused when one of them is, and none is left in line then."""
    asks = body.asks(front.tenant(request))
    tasks = [asyncio.ensure_future(front.begin(request, body.model, ask, {"forms": "structured_outputs"})) for ask in asks]
    try:
        begun = await asyncio.gather(*tasks)
        refused = too_many(body.most, begun[0][0].facts["context"])
        if refused is not None:
            raise refused
    except BaseException:
        for task in tasks:
            task.cancel()
        for done in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(done, BaseException):
                done[1].close()
        raise
    texts = ["" if not body.echo else given if isinstance(given, str) else "".join(one[2].pieces) for given, one in zip(body.prompt, begun)]
    return Parts([Part(*one, text) for one, text in zip(begun, texts)])


# -- answers -----------------------------------------------------------------------------------------------------------------------


@dataclass
class Listing:
    """Log-probabilities of one answer in the form of this API, with the place of each token in the text that is returned.

    count: alternatives. stops: whether text may be held back because a stop string may begin in it. said: characters of the text so far.
    """

    count: int
    stops: bool
    said: int = 0
    _place: int = field(default=0, init=False)

    def prompt(self, text: str, pieces: Sequence[str], facts: Sequence[Logprob | None]) -> dict[str, list[Any]]:
        """Of an echoed prompt: nothing stands before its first token, so that has no probability."""
        places, place = [], 0
        for piece in pieces:
            places.append(min(place, len(text)))
            place += len(piece)
        self.said = len(text)
        return {
            "tokens": [piece if fact is None else _name(fact, fact.id, fact.text) for piece, fact in zip(pieces, facts)],
            "token_logprobs": [None if fact is None else fact.logprob for fact in facts],
            "top_logprobs": [None if fact is None else self._top(fact) for fact in facts],
            "text_offset": places,
        }

    def answer(self, text: str, facts: Sequence[Logprob]) -> dict[str, list[Any]]:
        """Of the next tokens, which say `text`."""
        places = []
        for fact in facts:
            # Half a character says nothing yet; what a stop string might be, says it later and has its place all the same.
            self._place = max(self._place, self.said) if self.stops else self.said
            places.append(self._place)
            self._place += 0 if "\ufffd" in fact.text else len(fact.text)
        self.said += len(text)
        return {
            "tokens": [_name(fact, fact.id, fact.text) for fact in facts],
            "token_logprobs": [fact.logprob for fact in facts],
            "top_logprobs": [self._top(fact) for fact in facts],
            "text_offset": places,
        }

    def _top(self, fact: Logprob) -> dict[str, float]:
        """The likeliest tokens and the one that came, each under a name of its own."""
        rows = [(fact.id, _name(fact, fact.id, fact.text), fact.logprob)]  # it keeps the name that stands among the tokens
        rows += [(id, _name(fact, id, text), value) for id, text, value in fact.top[: self.count] if id != fact.id]
        found: dict[str, float] = {}
        for id, name, value in rows:
            found[name if name not in found else f"token_id:{id}"] = value
        return dict(sorted(found.items(), key=lambda row: -row[1]))


def _name(fact: Logprob, id: int, text: str) -> str:
    """How OpenAI writes a token: its text, or its bytes where it is a part of a character."""
    return text if id not in fact.odd else "bytes:" + "".join(f"\\x{byte:02x}" for byte in fact.odd[id])


def routes(front: Front) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/completions", summary="A text that is gone on with")
    async def completions(body: Completions, request: Request) -> Response:
        parts = await begin(front, request, body)
        worker = parts.parts[0].worker
        head = {"id": f"cmpl-{front.id(request)}", "object": "text_completion", "created": int(time.time()), "model": worker.name}
        head["system_fingerprint"] = worker.facts["identity"]
        if body.stream:
            return Stream(parts, _lines(parts, body, head), front.failed(request))
        return JSONResponse(await unless_left(request, parts, _whole(parts, body, head)))

    return router


async def _whole(parts: Parts, body: Completions, head: Mapping[str, Any]) -> dict[str, Any]:
    pieces: dict[tuple[int, int], list[Piece]] = {}
    ends: dict[tuple[int, int], End] = {}
    async for batch in parts.events():
        for number, event in batch:
            if isinstance(event, Piece):
                pieces.setdefault((number, event.choice), []).append(event)
            elif isinstance(event, End):
                ends[number, event.choice] = event
    choices = []
    for index, ((number, choice), end) in enumerate(sorted(ends.items())):
        part, said = parts.parts[number], pieces.get((number, choice), []) if body.most else []
        listed: dict[str, list[Any]] | None = None
        if body.logprobs is not None:
            listing, listed = Listing(body.logprobs, body.stop is not None), {}
            if body.echo:
                _add(listed, listing.prompt(part.text, part.begun.pieces, ends[number, 0].prompt))
            for piece in said:
                _add(listed, listing.answer(piece.text, piece.logprobs))
        text = part.text + "".join(piece.text for piece in said)
        choices.append({"index": index, "text": text, "logprobs": listed, "finish_reason": REASONS[end.reason] if body.most else "length"})
    return {**head, "choices": choices, "usage": _usage(parts, ends, body.most)}


def _add(to: dict[str, list[Any]], more: Mapping[str, list[Any]]) -> None:
    for name, values in more.items():
        to.setdefault(name, []).extend(values)


async def _lines(parts: Parts, body: Completions, head: Mapping[str, Any]) -> AsyncIterator[bytes]:
    common = json.dumps(head)[:-1]
    usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    nothing = ', "usage": null}\n\n' if usage else "}\n\n"
    count, answers = body.logprobs, body.n or 1
    listings: dict[tuple[int, int], Listing] = {}
    ends: dict[tuple[int, int], End] = {}

    def line(key: tuple[int, int], text: str, facts: Sequence[Logprob], reason: str | None) -> str:
        listed = "null" if count is None or not facts else json.dumps(listings[key].answer(text, facts))
        end = "null" if reason is None else f'"{reason}"'
        return (
            f'data: {common}, "choices": [{{"index": {key[0] * answers + key[1]}, "text": {json.dumps(text)}, "logprobs": {listed}, '
            f'"finish_reason": {end}}}]{nothing}'
        )

    def lines(number: int, event: Event) -> str:
        if isinstance(event, Piece) and body.most:
            key = (number, event.choice)
            before = "" if key in listings or not body.echo else line_of_prompt(key)
            listings.setdefault(key, Listing(count or 0, body.stop is not None))
            return before + (line(key, event.text, event.logprobs, None) if event.text or event.logprobs else "")
        if isinstance(event, End):
            key = (number, event.choice)
            before = line_of_prompt(key) if body.echo and key not in listings else ""
            ends[key] = event
            return before + line(key, "", (), REASONS[event.reason] if body.most else "length")
        return ""

    def line_of_prompt(key: tuple[int, int]) -> str:
        return line(key, parts.parts[key[0]].text, (), None)

    async for batch in parts.events():
        text = "".join(lines(number, event) for number, event in batch)
        if text:
            yield text.encode()
    if usage:
        yield f'data: {common}, "choices": [], "usage": {json.dumps(_usage(parts, ends, body.most))}}}\n\n'.encode()
    yield b"data: [DONE]\n\n"


def _usage(parts: Parts, ends: Mapping[tuple[int, int], End], most: int) -> dict[str, Any]:
    """Of all prompts together. A token that was written and thrown away counts for nothing."""
    of = [usage_of(part.begun, [end for key, end in ends.items() if key[0] == number]) for number, part in enumerate(parts.parts)]
    prompt, written = sum(one["prompt_tokens"] for one in of), sum(one["completion_tokens"] for one in of) if most else 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": sum(one["prompt_tokens_details"]["cached_tokens"] for one in of)},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
