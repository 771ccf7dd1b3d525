"""OpenAI's responses: POST /v1/responses, whole or as a stream, without a store.

Source: the API reference of OpenAI, https://platform.openai.com/docs/api-reference/responses. Nothing is kept between two requests: every
response says "store": false, and what would need a store (previous_response_id, conversation, background ...) is refused by its name, so
is asking to store. Each request brings its whole conversation.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from .asks import Begun, End, Event, Logprob, Piece, Write
from .bodies import Body, kinds, listed, refusable
from .chat import listing
from .errors import Refused
from .front import Front
from .http import Stream, unless_left
from .items import FUNCTION, MOST_TOOLS, NamedFunction, choice, conversation, items
from .models import Job, Worker

_NO_STORE = "nothing is stored here; send the whole conversation as input"
_LOGPROBS = "message.output_text.logprobs"


class TextSchema(Body):
    type: Literal["json_schema"]
    name: str = Field(min_length=1, max_length=64)
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = Field(None, description="Answers are held to the schema in any case.")


class Plain(Body):
    type: Literal["text", "json_object"]


class TextOptions(Body):
    format: kinds({"text": Plain, "json_object": Plain, "json_schema": TextSchema}, {}) | None = None  # type: ignore[valid-type]
    verbosity: refusable("say in a message how long the answer should be", "medium") = None  # type: ignore[valid-type]


class ResponseStreamOptions(Body):
    include_obfuscation: refusable("events are not padded here", False) = None  # type: ignore[valid-type]


class Responses(Body):
    model: str
    input: items()  # type: ignore[valid-type]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    tools: listed(FUNCTION, MOST_TOOLS) | None = None  # type: ignore[valid-type]
    tool_choice: choice() | None = None  # type: ignore[valid-type]
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    include: Annotated[list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]], Field(max_length=16)] | None = Field(
        None, description="reasoning.encrypted_content is of items that no answer has here, so it adds nothing."
    )
    top_logprobs: int | None = Field(None, ge=0, le=20)
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    truncation: refusable("nothing is cut out of a conversation here; a prompt that is too long is refused", "disabled") = None  # type: ignore[valid-type]
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = Field(None, max_length=16)
    user: str | None = Field(None, max_length=256, description="Answers of one user share cached beginnings with nobody else.")
    safety_identifier: str | None = Field(None, max_length=256, description="As user.")
    prompt_cache_key: str | None = Field(None, max_length=256, description="As user.")
    store: refusable("nothing is stored here", False) = None  # type: ignore[valid-type]
    previous_response_id: refusable(_NO_STORE) = None  # type: ignore[valid-type]
    conversation: refusable(_NO_STORE) = None  # type: ignore[valid-type]
    background: refusable("nothing goes on in the background; stream the answer", False) = None  # type: ignore[valid-type]
    background_options: refusable("nothing goes on in the background") = None  # type: ignore[valid-type]
    prompt: refusable("there are no stored prompts; give instructions and input") = None  # type: ignore[valid-type]
    reasoning: refusable("the effort of a model cannot be set", {}, {"effort": "none"}, {"effort": None}) = None  # type: ignore[valid-type]
    max_tool_calls: refusable("it counts calls of built-in tools, and there are none") = None  # type: ignore[valid-type]
    context_management: refusable("nothing is cut out of a conversation here", []) = None  # type: ignore[valid-type]
    service_tier: refusable("there is one tier", "auto", "default") = None  # type: ignore[valid-type]
    prompt_cache_retention: refusable("how long beginnings are kept follows from the memory", "in_memory", "in-memory") = None  # type: ignore[valid-type]
    prompt_cache_options: refusable("beginnings are found again without being marked", {"mode": "implicit"}, {}) = None  # type: ignore[valid-type]
    moderation: refusable("this server has no moderation model") = None  # type: ignore[valid-type]
    image: refusable("this server reads text only") = None  # type: ignore[valid-type]
    access_programs: refusable("there are no such programs here") = None  # type: ignore[valid-type]

    def ask(self, tenant: str) -> Write:
        """Raises Refused for fields that contradict each other."""
        if self.top_logprobs and not self.logprobs:
            raise Refused(400, f"'top_logprobs' needs 'include': [\"{_LOGPROBS}\"].", param="top_logprobs")
        if self.stream_options is not None and not self.stream:
            raise Refused(400, "'stream_options' needs 'stream': true.", param="stream_options")
        chosen: Any = self.tool_choice.type if self.tool_choice is not None else "auto"
        if isinstance(self.tool_choice, NamedFunction):
            chosen = {"type": "function", "function": {"name": self.tool_choice.name}}
        given = {"max_tokens": self.max_output_tokens, "temperature": self.temperature, "top_p": self.top_p}
        given["logprobs"] = max(1, self.top_logprobs or 0) if self.logprobs else None
        whose = (tenant, self.user, self.safety_identifier, self.prompt_cache_key)
        return Write(
            messages=conversation(self.instructions, self.input),
            sampling={name: value for name, value in given.items() if value is not None},
            forms=self.form(),
            tools=[tool.shown() for tool in self.tools or ()],
            tool_choice=chosen,
            parallel=self.parallel_tool_calls is not False,
            tenant="\0".join(part for part in whose if part),
        )

    @property
    def logprobs(self) -> bool:
        return _LOGPROBS in (self.include or ())

    def form(self) -> dict[str, Any]:
        """The form that the answer must have, as `engine.answers` names it."""
        format = self.text.format if self.text is not None else None
        if isinstance(format, TextSchema):
            return {"schema": format.schema_}
        return {"schema": {"type": "object"}} if format is not None and format.type == "json_object" else {}

    def told(self, worker: Worker) -> dict[str, Any]:
        """What a response repeats of its request: the values that hold, also where none were given."""
        defaults = worker.facts["defaults"]
        format = self.text.format.model_dump(by_alias=True, exclude_none=True) if self.text and self.text.format else {"type": "text"}
        chosen = self.tool_choice
        return {
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "max_tool_calls": None,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "previous_response_id": None,
            "prompt_cache_key": self.prompt_cache_key,
            "reasoning": {"effort": None, "summary": None},
            "safety_identifier": self.safety_identifier,
            "service_tier": "default",
            "background": False,
            "store": False,
            "temperature": defaults["temperature"] if self.temperature is None else self.temperature,
            "text": {"format": format},
            "tool_choice": "auto" if chosen is None else chosen.model_dump() if isinstance(chosen, NamedFunction) else chosen.type,
            "tools": [tool.told() for tool in self.tools or ()],
            "top_logprobs": self.top_logprobs or 0,
            "top_p": defaults["top_p"] if self.top_p is None else self.top_p,
            "truncation": "disabled",
            "user": self.user,
        }


# -- answers -----------------------------------------------------------------------------------------------------------------------


class Answer:
    """What is said, item by item: the events of a stream, and the response that they add up to.

    A call that a limit has cut is told as far as it came, as an incomplete item, in the stream and in the response alike.
    """

    def __init__(self, id: str, head: dict[str, Any], begun: Begun, count: int | None) -> None:
        """head: what the response repeats of its request; count: alternatives to each token's log-probability (None: no such facts)."""
        self._id, self._head, self._begun, self._count = id, {"id": f"resp_{id}", "object": "response", **head}, begun, count
        self._items: list[dict[str, Any]] = []
        self._said: list[str] = []  # pieces of the open item
        self._facts: list[dict[str, Any]] = []  # of the open item
        self._held: list[Logprob] = []  # of tokens whose text is not decided yet
        self._open: str | int | None = None  # "text", or the number of a call
        self._end: End | None = None
        self._number = -1

    def start(self) -> str:
        response = self.response("in_progress")
        return self._event("response.created", response=response) + self._event("response.in_progress", response=response)

    def hear(self, event: Event) -> str:
        """The lines of an event."""
        if isinstance(event, End):
            return self._finish(event)
        if not isinstance(event, Piece):
            return ""
        if self._count is not None:
            self._held += event.logprobs
        if event.calls and event.calls[0]["index"] == self._open:  # more of a call stands before what is said behind it
            return "".join(map(self._call, event.calls)) + self._text(event.text)
        return self._text(event.text) + "".join(map(self._call, event.calls))

    def failed(self, error: Refused) -> str:
        """The last event of a stream that breaks."""
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        return self._event("response.failed", response={**self.response("failed"), "error": {"code": code, "message": error.message}})

    def response(self, status: str) -> dict[str, Any]:
        usage = None if self._end is None else self._usage(self._end)
        why = {"reason": "max_output_tokens"} if status == "incomplete" else None
        output = [item for item in self._items if item["type"] == "message" or item["status"] != "in_progress"]
        done = int(time.time()) if status == "completed" else None
        facts = {"status": status, "error": None, "incomplete_details": why, "output": output, "usage": usage, "completed_at": done}
        return {**self._head, **facts}

    @property
    def status(self) -> str:
        """Of the response, after the last event."""
        return "incomplete" if self._end is not None and self._end.reason in ("length", "context") else "completed"

    def _finish(self, end: End) -> str:
        self._end = end
        if self._held and self._open == "text":
            lines = self._text("", last=True)
        else:
            lines = self._begin_text() if not self._items else ""
        cut = end.cut if isinstance(self._open, int) else self.status == "incomplete"
        lines += self._close("incomplete" if cut else "completed")
        return lines + self._event(f"response.{self.status}", response=self.response(self.status))

    def _text(self, text: str, last: bool = False) -> str:
        if not text and not last:
            return ""
        lines = "" if self._open == "text" else self._begin_text()
        facts, self._held = [listing(fact, self._count or 0) for fact in self._held], []
        self._said.append(text)
        self._facts += facts
        self._number += 1
        data = (
            f'"content_index": 0, "delta": {json.dumps(text)}, "item_id": "{self._items[-1]["id"]}", "logprobs": {json.dumps(facts)}, '
            f'"output_index": {len(self._items) - 1}, "sequence_number": {self._number}'
        )  # a line of text costs little: it is written by hand
        return f'{lines}event: response.output_text.delta\ndata: {{"type": "response.output_text.delta", {data}}}\n\n'

    def _call(self, call: dict[str, Any]) -> str:
        lines, function = "", call["function"]
        self._held.clear()  # what these tokens say is no text
        if "id" in call:
            fields = {"type": "function_call", "call_id": call["id"], "name": function["name"], "arguments": ""}
            lines = self._begin(call["index"], {"id": f"fc_{self._id}_{len(self._items)}", **fields})
        piece = function.get("arguments") or ""
        self._said.append(piece)
        return lines + (self._event("response.function_call_arguments.delta", **self._place(), delta=piece) if piece else "")

    def _begin_text(self) -> str:
        lines = self._begin("text", {"id": f"msg_{self._id}_{len(self._items)}", "type": "message", "role": "assistant", "content": []})
        return lines + self._event("response.content_part.added", **self._place(), content_index=0, part=self._part())

    def _begin(self, what: str | int, item: dict[str, Any]) -> str:
        lines = self._close("completed")
        self._open, self._said, self._facts = what, [], []
        self._items.append({**item, "status": "in_progress"})
        return lines + self._event("response.output_item.added", output_index=len(self._items) - 1, item=self._items[-1])

    def _close(self, status: str) -> str:
        """Ends the open item."""
        if self._open is None:
            return ""
        item, said, place = self._items[-1], "".join(self._said), self._place()
        if self._open == "text":
            part = self._part()
            item = {**item, "content": [part], "status": status}
            lines = self._event("response.output_text.done", **place, content_index=0, text=said, logprobs=self._facts)
            lines += self._event("response.content_part.done", **place, content_index=0, part=part)
        else:
            item = {**item, "arguments": said, "status": status}
            lines = self._event("response.function_call_arguments.done", **place, name=item["name"], arguments=said)
        self._items[-1], self._open = item, None
        return lines + self._event("response.output_item.done", output_index=place["output_index"], item=item)

    def _part(self) -> dict[str, Any]:
        return {"type": "output_text", "text": "".join(self._said), "annotations": [], "logprobs": self._facts}

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1}

    def _event(self, kind: str, /, **fields: Any) -> str:
        self._number += 1
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields, 'sequence_number': self._number})}\n\n"

    def _usage(self, end: End) -> dict[str, Any]:
        prompt = self._begun.prompt_tokens
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": end.cached, "cache_write_tokens": 0},
            "output_tokens": end.tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + end.tokens,
        }


def routes(front: Front) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/responses", summary="The next turn of a conversation, as items")
    async def create(body: Responses, request: Request) -> Response:
        names = {"prompt": "input", "forms": "text.format", "max_tokens": "max_output_tokens"}
        worker, job, begun = await front.begin(request, body.model, body.ask(front.tenant(request)), names)
        head = {"created_at": int(time.time()), "model": worker.name, **body.told(worker)}
        answer = Answer(front.id(request), head, begun, (body.top_logprobs or 0) if body.logprobs else None)
        if body.stream:
            return Stream(job, _lines(job, answer), _failed(front, request, answer))
        # ASCII, since the schemas that are repeated may hold what is no Unicode
        return Response(json.dumps(await unless_left(request, job, _whole(job, answer))), media_type="application/json")

    return router


def _failed(front: Front, request: Request, answer: Answer) -> Callable[[Exception], bytes]:
    return lambda error: answer.failed(front.refusal(request, error)).encode()


async def _whole(job: Job, answer: Answer) -> dict[str, Any]:
    async with job:
        async for event in job:
            answer.hear(event)
    return answer.response(answer.status)


async def _lines(job: Job, answer: Answer) -> AsyncIterator[bytes]:
    yield answer.start().encode()
    async with job:
        async for event in job:
            text = answer.hear(event)
            while (more := job.ready()) is not None:
                text += answer.hear(more)
            if text:
                yield text.encode()
