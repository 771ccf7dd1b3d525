"""The plainest way to write on: POST /generate, as tutorials show it.

    {"prompt": "Once upon a time", "max_length": 50, "temperature": 0.7}  ->  {"generated_text": "...", ...}

`max_length` counts the prompt's tokens too, as it does in transformers (for an encoder-decoder: those of the answer alone, which begins
with one of its own); `max_new_tokens` counts only what is written. Without either the model writes until it stops or its context is full.
`generated_text` is what was written; with `return_full_text` the prompt stands before it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from .asks import Begun, End, Event, Piece, Write
from .bodies import MOST_STOPS, Body, Stop
from .errors import Refused
from .front import Front
from .http import Stream, unless_left
from .models import Job

REASONS = {"stop": "stop", "length": "length", "context": "length", "tool_calls": "stop"}


class Generate(Body):
    prompt: str
    model: str | None = Field(None, description="Which model; the first one where it is not said.")
    max_length: int | None = Field(None, ge=1, description="Tokens of the prompt and the answer together.")
    max_new_tokens: int | None = Field(None, ge=1, description="Tokens of the answer.")
    temperature: float | None = Field(None, ge=0, le=2)
    top_k: int | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    seed: int | None = Field(None, ge=0, lt=1 << 63)
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    stream: bool | None = None
    return_full_text: bool | None = None

    def ask(self, tenant: str) -> Write:
        """Raises Refused for fields that contradict each other."""
        if self.max_length is not None and self.max_new_tokens is not None:
            raise Refused(400, "'max_length' counts the prompt and 'max_new_tokens' does not. Give one.", param="max_length")
        names = ("temperature", "top_k", "top_p", "repetition_penalty", "seed")
        sampling: dict[str, Any] = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.max_new_tokens is not None:
            sampling["max_tokens"] = self.max_new_tokens
        if self.stop is not None:
            sampling["stop"] = [self.stop] if isinstance(self.stop, str) else self.stop
        return Write(prompt=self.prompt, sampling=sampling, longest=self.max_length, tenant=tenant)


def routes(front: Front) -> APIRouter:
    router = APIRouter()

    @router.post("/generate", summary="Write on")
    async def generate(body: Generate, request: Request) -> Response:
        worker, job, begun = await front.begin(request, body.model, body.ask(front.tenant(request)), {"longest": "max_length"})
        head = {"model": worker.name, "system_fingerprint": worker.facts["identity"]}
        before = body.prompt if body.return_full_text else ""
        if body.stream:
            return Stream(job, _lines(job, begun, head, before), front.failed(request))
        return JSONResponse(await unless_left(request, job, _whole(job, begun, head, before)))

    return router


async def _whole(job: Job, begun: Begun, head: dict[str, Any], before: str) -> dict[str, Any]:
    async with job:
        async for event in job:
            if isinstance(event, End):
                return _result(begun, event, head, before)
    raise RuntimeError("the answer has no end")


async def _lines(job: Job, begun: Begun, head: dict[str, Any], before: str) -> AsyncIterator[bytes]:
    """`{"text": piece}` as it is written, then the whole answer."""

    def line(event: Event) -> str:
        if isinstance(event, End):
            return f"data: {json.dumps(_result(begun, event, head, before))}\n\n"
        return f"data: {json.dumps({'text': event.text})}\n\n" if isinstance(event, Piece) and event.text else ""

    async with job:
        async for event in job:
            text = line(event)
            while (more := job.ready()) is not None:
                text += line(more)
            if text:
                yield text.encode()
    yield b"data: [DONE]\n\n"


def _result(begun: Begun, end: End, head: dict[str, Any], before: str) -> dict[str, Any]:
    usage = {"prompt_tokens": begun.prompt_tokens, "completion_tokens": end.tokens, "total_tokens": begun.prompt_tokens + end.tokens}
    return {"generated_text": before + end.text, "finish_reason": REASONS[end.reason], "usage": usage, **head}
