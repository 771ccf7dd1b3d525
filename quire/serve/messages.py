"""Anthropic's messages: POST /v1/messages, whole or as a stream, and POST /v1/messages/count_tokens.

Source: the API reference of Anthropic, https://platform.claude.com/docs/en/api/messages. Three points. Sampling that is not given is the
model's own. A last message of the assistant is the beginning of the answer, where the model's template lets an answer begin so. What is
named in the header anthropic-beta opens fields of the body alone, and each field is judged by itself.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from pydantic_core import from_json
from starlette.responses import JSONResponse, Response

from .asks import Begun, End, Event, Piece, Tokens, Write
from .blocks import CHOICES, MOST_TOOLS, TOOL, Cache, MessageTurn, conversation, texts
from .bodies import MOST_MESSAGES, MOST_STOPS, Body, Stop, kinds, listed, refusable
from .errors import Refused
from .front import Front
from .http import Stream, unless_left
from .models import Job

_STORES_NOTHING = "nothing is stored here"


class JsonFormat(Body):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Body):
    format: JsonFormat | None = None
    effort: refusable("the effort of a model cannot be set") = None  # type: ignore[valid-type]
    task_budget: refusable("an answer has max_tokens") = None  # type: ignore[valid-type]


class Metadata(Body):
    user_id: str | None = Field(None, max_length=256, description="Answers of one user share cached beginnings with nobody else.")


class Conversation(Body):
    """What a message is written from, and what is counted."""

    model: str
    messages: Annotated[list[MessageTurn], Field(min_length=1, max_length=MOST_MESSAGES)]
    system: texts() = Field(default_factory=list)  # type: ignore[valid-type]
    tools: listed(TOOL, MOST_TOOLS) = Field(default_factory=list)  # type: ignore[valid-type]
    tool_choice: kinds(CHOICES, {}) | None = None  # type: ignore[valid-type]
    cache_control: Cache | None = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = Field(None, description="As output_config.format.")
    thinking: refusable("models think in their answer here, or not at all", {"type": "disabled"}) = None  # type: ignore[valid-type]
    speed: refusable("there is one speed", "standard") = None  # type: ignore[valid-type]
    mcp_servers: refusable("this server calls no others; give tools with an input_schema", []) = None  # type: ignore[valid-type]
    context_management: refusable("nothing is cut out of a conversation here") = None  # type: ignore[valid-type]
    compaction: refusable("nothing is cut out of a conversation here") = None  # type: ignore[valid-type]
    betas: refusable("features in trial are named in a header, not in the body", []) = None  # type: ignore[valid-type]
    user_profile_id: refusable("there are no profiles here; give metadata.user_id") = None  # type: ignore[valid-type]
    workspace_id: refusable("there are no workspaces here; keys say who asks") = None  # type: ignore[valid-type]

    def form(self) -> dict[str, Any]:
        """The form that the answer must have, as `engine.answers` names it."""
        given = [one for one in (self.output_config and self.output_config.format, self.output_format) if one]
        if len(given) > 1:
            raise Refused(400, "'output_format' and 'output_config.format' both give a form. Give one.", param="output_format")
        return {"schema": given[0].schema_} if given else {}

    def fields(self) -> dict[str, Any]:
        """The fields of a `Tokens` that say what is read. Raises Refused for what does not belong together."""
        rows = conversation(self.system, self.messages)
        tools, choice = [tool.shown() for tool in self.tools], self.tool_choice
        kind = choice.type if choice is not None else "auto"
        if kind in ("any", "tool") and not tools:
            raise Refused(400, f"'tool_choice' is '{kind}', and there are no tools.", param="tool_choice")
        named = {"type": "function", "function": {"name": choice.name}} if kind == "tool" and choice is not None else None
        continued = rows[-1]["role"] == "assistant"
        if continued:
            self._may_continue(rows[-1], bool(tools) and kind != "none")
        return {
            "messages": rows,
            "tools": tools,
            "tool_choice": named or {"any": "required"}.get(kind, kind),
            "continued": continued,
        }

    def _may_continue(self, last: dict[str, Any], tools: bool) -> None:
        """Raises Refused for a last message of the assistant that no answer can go on with."""
        place, why = f"messages.{len(self.messages) - 1}", None
        if last["tool_calls"]:
            why = "calls tools; give their results in a message of the user"
        elif tools:
            why = 'is the beginning of the answer, in which tools cannot be called then: give "tool_choice": {"type": "none"}'
        elif self.form():
            why = "is the beginning of the answer, and 'output_config.format' holds a whole one: leave one of them out"
        elif last["content"] != last["content"].rstrip():
            why = "is the beginning of the answer and ends with white space, which belongs to the next token: leave it out"
        if why is not None:
            raise Refused(400, f"'{place}', the last message, {why}.", param=place)


class Messages(Conversation):
    max_tokens: int = Field(ge=1)
    stream: bool | None = None
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    stop_sequences: Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    metadata: Metadata | None = None
    service_tier: refusable("there is one tier", "auto", "standard_only") = None  # type: ignore[valid-type]
    container: refusable("this server runs no code") = None  # type: ignore[valid-type]
    inference_geo: refusable("answers are written where this server is") = None  # type: ignore[valid-type]
    diagnostics: refusable(_STORES_NOTHING, {"previous_message_id": None}, {}) = None  # type: ignore[valid-type]
    thread: refusable(_STORES_NOTHING) = None  # type: ignore[valid-type]
    fallbacks: refusable("the model that is asked answers, or none", []) = None  # type: ignore[valid-type]
    fallback_credit_token: refusable("nothing is billed here") = None  # type: ignore[valid-type]
    billing_policy: refusable("nothing is billed here") = None  # type: ignore[valid-type]

    def ask(self, tenant: str) -> Write:
        given = {"max_tokens": self.max_tokens, "temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        user = self.metadata.user_id if self.metadata is not None else None
        return Write(
            **self.fields(),
            sampling={name: value for name, value in {**given, "stop": self.stop_sequences}.items() if value is not None},
            forms=self.form(),
            parallel=not getattr(self.tool_choice, "disable_parallel_tool_use", None),
            tenant="\0".join(part for part in (tenant, user) if part),
        )


# -- answers -----------------------------------------------------------------------------------------------------------------------


class Answer:
    """What is said, block by block: the lines of a stream, and the message that they add up to.

    A call that a limit has cut is told as far as it came, in the stream and in the whole message alike.
    """

    def __init__(self, id: str, model: str, begun: Begun, stops: Sequence[str]) -> None:
        self._head = {"id": f"msg_{id}", "type": "message", "role": "assistant", "model": model}
        self._begun, self._stops = begun, stops
        self._blocks: list[dict[str, Any]] = []  # text and JSON as lists of pieces
        self._open: str | int | None = None  # "text", or the number of a call
        self._end: End | None = None

    def start(self) -> str:
        message: dict[str, Any] = {**self._head, "content": [], "stop_reason": None, "stop_sequence": None}
        usage = {"input_tokens": self._begun.prompt_tokens, "output_tokens": 0}  # what was cached is known later, and told at the end
        return _event("message_start", message={**message, "usage": usage})

    def hear(self, event: Event) -> str:
        """The lines of an event."""
        if isinstance(event, End):
            self._end = event
            delta = dict(zip(("stop_reason", "stop_sequence"), self._stopped(event)))
            return self._close() + _event("message_delta", delta=delta, usage=self._usage(event)) + _event("message_stop")
        if not isinstance(event, Piece):
            return ""
        if event.calls and event.calls[0]["index"] == self._open:  # more of a call stands before what is said behind it
            return "".join(map(self._call, event.calls)) + self._text(event.text)
        return self._text(event.text) + "".join(map(self._call, event.calls))

    def message(self) -> dict[str, Any]:
        """After the last event."""
        assert self._end is not None
        content = list[dict[str, Any]]()
        for block in self._blocks:
            said = "".join(block["said"])
            if block["type"] == "text":
                content.append({"type": "text", "text": said})
            else:  # of one that was cut the values that are whole, as Anthropic's own client puts a stream's pieces together
                given = from_json(said or "{}", allow_partial=True)
                content.append({"type": "tool_use", "id": block["id"], "name": block["name"], "input": given})
        reason, sequence = self._stopped(self._end)
        usage = {**self._usage(self._end), "service_tier": "standard"}
        return {**self._head, "content": content, "stop_reason": reason, "stop_sequence": sequence, "usage": usage}

    def _text(self, text: str) -> str:
        if not text:
            return ""
        lines = "" if self._open == "text" else self._begin("text", {"type": "text", "text": ""})
        self._blocks[-1]["said"].append(text)
        return lines + self._delta(f'"text_delta", "text": {json.dumps(text)}')

    def _call(self, call: dict[str, Any]) -> str:
        lines, function = "", call["function"]
        if "id" in call:
            lines = self._begin(call["index"], {"type": "tool_use", "id": call["id"], "name": function["name"], "input": {}})
        piece = function.get("arguments") or ""
        self._blocks[-1]["said"].append(piece)
        return lines + (self._delta(f'"input_json_delta", "partial_json": {json.dumps(piece)}') if piece else "")

    def _begin(self, what: str | int, block: dict[str, Any]) -> str:
        lines = self._close()
        self._open = what
        self._blocks.append({**block, "said": []})
        return lines + _event("content_block_start", index=len(self._blocks) - 1, content_block=block)

    def _close(self) -> str:
        if self._open is None:
            return ""
        self._open = None
        return _event("content_block_stop", index=len(self._blocks) - 1)

    def _delta(self, delta: str) -> str:
        """A line of text costs little: it is written by hand."""
        data = f'{{"type": "content_block_delta", "index": {len(self._blocks) - 1}, "delta": {{"type": {delta}}}}}'
        return f"event: content_block_delta\ndata: {data}\n\n"

    def _stopped(self, end: End) -> tuple[str, str | None]:
        if end.reason == "stop":
            return ("stop_sequence", end.stop) if end.stop in self._stops else ("end_turn", None)
        return {"length": "max_tokens", "context": "model_context_window_exceeded", "tool_calls": "tool_use"}[end.reason], None

    def _usage(self, end: End) -> dict[str, Any]:
        """What was found in the cache is not counted as input, as Anthropic counts; filling the cache costs nothing here."""
        counts = {"input_tokens": self._begun.prompt_tokens - end.cached, "cache_creation_input_tokens": 0}
        return {**counts, "cache_read_input_tokens": end.cached, "output_tokens": end.tokens}


def _event(name: str, **fields: Any) -> str:
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n"


def routes(front: Front) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/messages", summary="The next message of a conversation, in Anthropic's form")
    async def create(body: Messages, request: Request) -> Response:
        _headers(request)
        id = front.id(request)
        worker, job, begun = await front.begin(request, body.model, body.ask(front.tenant(request)))
        answer = Answer(id, worker.name, begun, body.stop_sequences or ())
        if body.stream:
            return Stream(job, _lines(job, answer), front.failed(request), {"request-id": id})
        return JSONResponse(await unless_left(request, job, _whole(job, answer)), headers={"request-id": id})

    @router.post("/v1/messages/count_tokens", summary="How many tokens a conversation has")
    async def count(body: Conversation, request: Request) -> Response:
        _headers(request)
        body.form()
        _, found = await front.found(request, body.model, Tokens(**body.fields()))
        return JSONResponse({"input_tokens": found.tokens}, headers={"request-id": front.id(request)})

    return router


def _headers(request: Request) -> None:
    """Raises Refused for the headers that ask for something. anthropic-version is taken: there is one."""
    for name, field in (("anthropic-user-profile-id", "user_profile_id"), ("anthropic-workspace-id", "workspace_id")):
        if name in request.headers:
            raise Refused(400, f"'{field}' (the header {name}) is not done here: there are neither profiles nor workspaces.", param=field)


async def _whole(job: Job, answer: Answer) -> dict[str, Any]:
    async with job:
        async for event in job:
            answer.hear(event)
    return answer.message()


async def _lines(job: Job, answer: Answer) -> AsyncIterator[bytes]:
    yield answer.start().encode()
    async with job:
        async for event in job:
            text = answer.hear(event)
            while (more := job.ready()) is not None:
                text += answer.hear(more)
            if text:
                yield text.encode()
