"""OpenAI's chat completions: POST /v1/chat/completions, whole or as a stream.

Source: the API reference of OpenAI, https://platform.openai.com/docs/api-reference/chat. Beside its fields stand those that vLLM and
llama.cpp's server add to it under the same names (top_k, min_p, typical_p, repetition_penalty, min_tokens, stop_token_ids,
structured_outputs).
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BeforeValidator, Field
from starlette.responses import JSONResponse, Response

from .asks import Begun, End, Event, Logprob, Piece, Write
from .bodies import MOST_ANSWERS, MOST_BIASES, MOST_MESSAGES, MOST_STOPS, Body, Stop, at, refusable
from .conversation import ToolChoice, Tools, Turn, chosen, message
from .errors import Refused
from .front import Front
from .http import Stream, unless_left
from .models import Job

REASONS = {"stop": "stop", "length": "length", "context": "length", "tool_calls": "tool_calls"}


class JsonSchema(Body):
    """name and description are labels, as in a schema itself: the answer is held to the schema, and the model is shown neither."""

    name: str = Field(max_length=64)
    description: str | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool | None = Field(None, description="Answers are held to the schema either way.")


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(Body):
    json_: dict[str, Any] | None = Field(None, alias="json")
    regex: str | None = None
    choice: Annotated[list[str], Field(max_length=4096)] | None = None
    grammar: str | None = None


class StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: refusable("events are not padded here", False) = None  # type: ignore[valid-type]


def _few(value: Any) -> Any:
    """Counted before anything is read: of a dictionary Pydantic reads all first, and keeps an error for each."""
    if isinstance(value, dict) and len(value) > MOST_BIASES:
        raise at("", f"there are {len(value):,} biases; at most {MOST_BIASES:,} are allowed")
    return value


class Sampled(Body):
    """The fields by which OpenAI's writing routes choose tokens."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    logit_bias: Annotated[Annotated[dict[str, float], Field(max_length=MOST_BIASES)] | None, BeforeValidator(_few)] = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    min_tokens: int | None = Field(None, ge=0)
    stop_token_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=64)] | None = None

    def sampling(self) -> dict[str, Any]:
        """The fields of `types.Sampling` that were given. Raises Refused for biases of what is no id."""
        names = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "min_p", "typical_p", "repetition_penalty", "min_tokens")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.seed is not None:
            given["seed"] = self.seed % (1 << 63)
        if self.top_k is not None:
            given["top_k"] = max(0, self.top_k)  # -1 is vLLM's word for off
        if self.stop is not None:
            given["stop"] = [self.stop] if isinstance(self.stop, str) else self.stop
        if self.stop_token_ids is not None:
            given["stop_ids"] = self.stop_token_ids
        if self.logit_bias:
            given["logit_bias"] = [[_id(name), _bias(value)] for name, value in self.logit_bias.items()]
        return given


def _id(name: str) -> int:
    if not name.isascii() or not name.isdigit() or len(name) > 9:
        raise Refused(400, f"'logit_bias' has the key '{name[:40]}'; keys are token ids.", param="logit_bias", code="invalid_value")
    return int(name)


def _bias(value: float) -> float:
    if not -100 <= value <= 100:
        raise Refused(400, f"'logit_bias' holds {value}; allowed: -100 to 100.", param="logit_bias", code="invalid_value")
    return value


_KEPT = "equal beginnings are shared as long as the memory lasts, without being marked"


class Chat(Sampled):
    model: str
    messages: list[Turn] = Field(min_length=1, max_length=MOST_MESSAGES)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1, le=MOST_ANSWERS)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    prompt_logprobs: refusable("send 'echo' with 'logprobs' to /v1/completions") = None  # type: ignore[valid-type]
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    user: str | None = Field(None, max_length=256, description="Answers of one user share cached beginnings with nobody else.")
    safety_identifier: str | None = Field(None, max_length=256, description="As user.")
    prompt_cache_key: str | None = Field(None, max_length=256, description="As user.")
    service_tier: refusable("there is one tier", "auto", "default") = None  # type: ignore[valid-type]
    store: refusable("nothing is stored here", False) = None  # type: ignore[valid-type]
    metadata: refusable("nothing is stored here, so there is nothing to describe", {}) = None  # type: ignore[valid-type]
    modalities: refusable("this server writes text only", ["text"]) = None  # type: ignore[valid-type]
    audio: refusable("this server writes text only") = None  # type: ignore[valid-type]
    prediction: refusable("predicted outputs are not used; start the server with --guess lookup") = None  # type: ignore[valid-type]
    reasoning_effort: refusable("the effort of a model cannot be set", "none") = None  # type: ignore[valid-type]
    verbosity: refusable("say in a message how long the answer should be") = None  # type: ignore[valid-type]
    web_search_options: refusable("this server fetches nothing from the network") = None  # type: ignore[valid-type]
    moderation: refusable("this server has no moderation model") = None  # type: ignore[valid-type]
    prompt_cache_options: refusable(_KEPT, {}, {"mode": "implicit"}) = None  # type: ignore[valid-type]
    prompt_cache_retention: refusable(_KEPT, "in_memory", "in-memory") = None  # type: ignore[valid-type]
    functions: refusable("they were replaced by tools; use that") = None  # type: ignore[valid-type]
    function_call: refusable("it was replaced by tool_choice; use that", "none") = None  # type: ignore[valid-type]

    def ask(self, tenant: str) -> Write:
        """Raises Refused for fields that contradict each other."""
        if self.max_tokens is not None and self.max_completion_tokens is not None and self.max_tokens != self.max_completion_tokens:
            raise Refused(400, "'max_tokens' and 'max_completion_tokens' say different things. Give one.", param="max_tokens")
        for name, other in (("top_logprobs", "logprobs"), ("stream_options", "stream"), ("parallel_tool_calls", "tools")):
            if getattr(self, name) is not None and not getattr(self, other):
                raise Refused(400, f"'{name}' says something of '{other}', which is not asked for. Leave it out.", param=name)
        tools, choice = chosen(self.tools or (), self.tool_choice)
        held = forms(self.response_format, self.structured_outputs)
        if held and tools and choice != "none":
            said = (
                "an answer is held to its form or calls tools, not both. Leave out 'tools', or 'response_format' and 'structured_outputs'."
            )
            raise Refused(400, said, param="tools")
        sampling = self.sampling()
        most = self.max_completion_tokens or self.max_tokens
        if most is not None:
            sampling["max_tokens"] = most
        if self.logprobs:
            sampling["logprobs"] = max(1, self.top_logprobs or 0)
        return Write(
            messages=[message(turn, number) for number, turn in enumerate(self.messages)],
            sampling=sampling,
            n=self.n or 1,
            forms=held,
            tools=tools,
            tool_choice=choice,
            parallel=self.parallel_tool_calls is not False,
            tenant=tenant_of(tenant, self.user, self.safety_identifier, self.prompt_cache_key),
        )


def forms(format: ResponseFormat | None, structured: StructuredOutputs | None) -> dict[str, Any]:
    """The form that an answer must have, as `engine.answers` names it."""
    found: dict[str, Any] = {}
    if format is not None and format.type != "json_schema" and format.json_schema is not None:
        message = f"'response_format.json_schema' belongs to the type 'json_schema', and the type is '{format.type}'."
        raise Refused(400, message, param="response_format.json_schema")
    if format is not None and format.type == "json_object":
        found["schema"] = {"type": "object"}
    if format is not None and format.type == "json_schema":
        if format.json_schema is None:
            raise Refused(400, "'response_format.json_schema' is missing.", param="response_format.json_schema")
        found["schema"] = format.json_schema.schema_
    if structured is not None:
        given = {"schema": structured.json_, "regex": structured.regex, "choice": structured.choice, "grammar": structured.grammar}
        found |= {name: value for name, value in given.items() if value is not None}
        if format is not None and format.type != "text":
            raise Refused(400, "'response_format' and 'structured_outputs' both give a form. Give one.", param="structured_outputs")
    return found


def tenant_of(key: str, *named: str | None) -> str:
    """Whose cached beginnings may be shared: the key's, and among its own those of one user. No name reaches another key's."""
    return f"{key}\0{json.dumps(named)}" if any(named) else key


def too_many(most: int | None, context: int, name: str = "max_tokens") -> Refused | None:
    """An answer cannot have more tokens than the model has positions, whatever the prompt."""
    if most is None or most <= context:
        return None
    return Refused(400, f"'{name}' is {most:,}; this model has {context:,} positions in all.", param=name, code="invalid_value")


# -- answers -----------------------------------------------------------------------------------------------------------------------


def routes(front: Front) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/chat/completions", summary="The next turn of a conversation")
    async def chat(body: Chat, request: Request) -> Response:
        names = {"prompt": "messages", "forms": "response_format" if body.structured_outputs is None else "structured_outputs"}
        worker, job, begun = await front.begin(request, body.model, body.ask(front.tenant(request)), names)
        name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
        if (refused := too_many(getattr(body, name), worker.facts["context"], name)) is not None:
            job.close()
            raise refused
        head = {"id": f"chatcmpl-{front.id(request)}", "created": int(time.time()), "model": worker.name}
        head["system_fingerprint"] = worker.facts["identity"]
        if body.service_tier is not None:
            head["service_tier"] = "default"
        count = (body.top_logprobs or 0) if body.logprobs else None
        if body.stream:
            usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            return Stream(job, _lines(job, begun, head, usage, count), front.failed(request))
        return JSONResponse(await unless_left(request, job, _whole(job, begun, head, count)))

    return router


async def _whole(job: Job, begun: Begun, head: Mapping[str, Any], count: int | None) -> dict[str, Any]:
    ends: dict[int, End] = {}
    facts: dict[int, list[Logprob]] = {}
    async with job:
        async for event in job:
            if isinstance(event, Piece):
                facts.setdefault(event.choice, []).extend(event.logprobs)
            elif isinstance(event, End):
                ends[event.choice] = event
    choices = []
    for number, end in sorted(ends.items()):
        said: dict[str, Any] = {"role": "assistant", "content": end.text if end.text or not end.tool_calls else None, "refusal": None}
        if end.tool_calls:
            said["tool_calls"] = end.tool_calls
        listed = None if count is None else listings(facts.get(number, ()), count)
        choices.append({"index": number, "message": said, "logprobs": listed, "finish_reason": REASONS[end.reason]})
    return {**head, "object": "chat.completion", "choices": choices, "usage": usage_of(begun, ends.values())}


async def _lines(job: Job, begun: Begun, head: Mapping[str, Any], usage: bool, count: int | None) -> AsyncIterator[bytes]:
    """A line of text costs little: what is the same in all of them is written once."""
    common = json.dumps({**head, "object": "chat.completion.chunk"})[:-1]
    nothing = ', "usage": null}\n\n' if usage else "}\n\n"
    started: set[int] = set()
    ends: list[End] = []

    def line(choice: int, delta: dict[str, Any], reason: str | None, facts: Sequence[Logprob] = ()) -> str:
        listed = (
            "null" if count is None or not facts else json.dumps({"content": [listing(fact, count) for fact in facts], "refusal": None})
        )
        end = "null" if reason is None else f'"{reason}"'
        return (
            f'data: {common}, "choices": [{{"index": {choice}, "delta": {json.dumps(delta)}, "logprobs": {listed}, '
            f'"finish_reason": {end}}}]{nothing}'
        )

    def lines(event: Event) -> str:
        if isinstance(event, Piece):
            delta: dict[str, Any] = {"content": event.text} if event.text or event.logprobs else {}
            if event.calls:
                delta["tool_calls"] = list(event.calls)
            first = event.choice not in started
            if first:
                started.add(event.choice)
                delta = {"role": "assistant", "content": None if event.calls else "", **delta}
            return line(event.choice, delta, None, event.logprobs) if delta else ""
        if isinstance(event, End):
            ends.append(event)
            return line(event.choice, {}, REASONS[event.reason])
        return ""

    async with job:
        async for event in job:
            text = lines(event)
            while (more := job.ready()) is not None:
                text += lines(more)
            if text:
                yield text.encode()
    if usage:
        yield f'data: {common}, "choices": [], "usage": {json.dumps(usage_of(begun, ends))}}}\n\n'.encode()
    yield b"data: [DONE]\n\n"


def listings(facts: Sequence[Logprob], count: int) -> dict[str, Any]:
    return {"content": [listing(fact, count) for fact in facts], "refusal": None}


def listing(fact: Logprob, count: int) -> dict[str, Any]:
    """One token's log-probability in OpenAI's form."""
    top = [{"token": text, "logprob": value, "bytes": [*fact.bytes(id, text)]} for id, text, value in fact.top[:count]]
    return {"token": fact.text, "logprob": fact.logprob, "bytes": [*fact.bytes(fact.id, fact.text)], "top_logprobs": top}


def usage_of(begun: Begun, ends: Any) -> dict[str, Any]:
    ends = list(ends)
    written = sum(end.tokens for end in ends)
    cached = max((end.cached for end in ends if end.choice == 0), default=0)
    return {
        "prompt_tokens": begun.prompt_tokens,
        "completion_tokens": written,
        "total_tokens": begun.prompt_tokens + written,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
