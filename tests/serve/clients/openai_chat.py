"""The `openai` package against a server: python openai_chat.py URL. Prints {feature: true, or what was wrong}."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from typing import Any, Literal

import openai
from openai import OpenAI
from pydantic import BaseModel, TypeAdapter

client = OpenAI(base_url=f"{sys.argv[1]}/v1", api_key=sys.argv[2] if len(sys.argv) > 2 else "none", max_retries=0)
HELLO: Any = [{"role": "user", "content": "hello"}]
# Small enough for a tiny model's context, with a word a token or less.
SKY: Any = {
    "type": "function",
    "function": {
        "name": "sky",
        "strict": True,
        "parameters": {"type": "object", "properties": {"at": {"enum": ["a", "b"]}}, "required": ["at"]},
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "now"}}


class Wild(BaseModel):
    yes: bool


class Animal(BaseModel):
    kind: Literal["cat", "dog"]
    wild: bool


def strict(answer: BaseModel) -> None:
    """The package reads answers leniently; its own types, read strictly, say whether the form is right."""
    TypeAdapter(type(answer)).validate_python(answer.to_dict(mode="json"))


def chat(**more: Any) -> Any:
    answer = client.chat.completions.create(model="chat", messages=more.pop("messages", HELLO), **{"max_tokens": 80, "seed": 1, **more})
    if not more.get("stream"):
        strict(answer)
    return answer


def whole() -> None:
    answer = chat(n=2, max_tokens=6)
    assert len(answer.choices) == 2 and answer.choices[1].index == 1 and answer.system_fingerprint
    assert answer.choices[0].message.content != answer.choices[1].message.content
    assert answer.usage.completion_tokens <= 12 and answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    again = chat(n=2, max_tokens=6)
    assert [choice.message.content for choice in again.choices] == [choice.message.content for choice in answer.choices]


def stream() -> None:
    chunks = list(chat(stream=True, max_tokens=6, stream_options={"include_usage": True}))
    for chunk in chunks:
        strict(chunk)
    answer = chat(max_tokens=6)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == answer.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == answer.usage.completion_tokens


def stream_helper() -> None:
    asked: Any = {"model": "chat", "messages": HELLO, "max_tokens": 80, "seed": 1, "logprobs": True}
    with client.chat.completions.stream(**asked, response_format=Animal) as events:
        seen = {event.type for event in events}
    final = events.get_final_completion()
    assert {"chunk", "content.delta", "content.done", "logprobs.content.delta", "logprobs.content.done"} <= seen, seen
    assert isinstance(final.choices[0].message.parsed, Animal)


def logprobs() -> None:
    facts = chat(max_tokens=4, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert len(facts) == 4 and all(len(fact.top_logprobs) == 3 and fact.logprob <= 0 for fact in facts)
    assert all(fact.bytes == list(fact.token.encode()) for fact in facts if "\ufffd" not in fact.token)


def stop_strings() -> None:
    text = chat(max_tokens=12, temperature=0).choices[0].message.content
    assert len(text) > 4, text
    cut = chat(max_tokens=12, temperature=0, stop=[text[3:5]]).choices[0]
    assert cut.finish_reason == "stop" and cut.message.content == text[: text.index(text[3:5])]


def called(answer: Any, name: str) -> Any:
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls" and choice.message.content is None, choice
    call = choice.message.tool_calls[0]
    assert call.type == "function" and call.function.name == name
    return call


def tools() -> None:
    named: Any = {"type": "function", "function": {"name": "sky"}}
    call = called(chat(tools=[CLOCK, SKY], tool_choice=named), "sky")
    assert json.loads(call.function.arguments)["at"] in ("a", "b")
    called(chat(tools=[SKY], tool_choice="required", parallel_tool_calls=False), "sky")
    answer = chat(tools=[SKY], max_tokens=4, tool_choice="none")
    assert not answer.choices[0].message.tool_calls and answer.choices[0].message.content
    auto = chat(tools=[SKY], max_tokens=4)
    assert auto.usage.prompt_tokens > answer.usage.prompt_tokens, "with auto the model is shown the tools"
    back = [*HELLO, called(chat(tools=[SKY], tool_choice=named), "sky")]
    turns = [HELLO[0], {"role": "assistant", "tool_calls": [back[1]]}, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    assert chat(messages=turns, tools=[SKY], max_tokens=4).usage.prompt_tokens > auto.usage.prompt_tokens


def allowed_tools() -> None:
    for name in ("sky", "now"):
        only: Any = {"mode": "required", "tools": [{"type": "function", "function": {"name": name}}]}
        answer = chat(tools=[CLOCK, SKY], tool_choice={"type": "allowed_tools", "allowed_tools": only}, parallel_tool_calls=False)
        called(answer, name)


def tools_stream() -> None:
    chunks = list(chat(tools=[SKY], tool_choice="required", parallel_tool_calls=False, stream=True))
    for chunk in chunks:
        strict(chunk)
    pieces = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert pieces[0].id and pieces[0].function.name == "sky" and chunks[-1].choices[0].finish_reason == "tool_calls"
    whole = called(chat(tools=[SKY], tool_choice="required", parallel_tool_calls=False), "sky")
    assert "".join(piece.function.arguments or "" for piece in pieces) == whole.function.arguments


def parse() -> None:
    answer = client.chat.completions.parse(model="chat", messages=HELLO, response_format=Animal, max_tokens=60, seed=1)
    message = answer.choices[0].message
    assert isinstance(message.parsed, Animal) and Animal.model_validate_json(message.content or "") == message.parsed
    chat(messages=[*HELLO, message, *HELLO], max_tokens=2)  # what came back can be sent again


def parse_tools() -> None:
    tool = openai.pydantic_function_tool(Wild, name="wild")
    answer = client.chat.completions.parse(model="chat", messages=HELLO, tools=[tool], tool_choice="required", max_tokens=80, seed=1)
    calls = answer.choices[0].message.tool_calls
    assert calls and isinstance(calls[0].function.parsed_arguments, Wild)
    turns = [*HELLO, answer.choices[0].message, {"role": "tool", "tool_call_id": calls[0].id, "content": "yes"}]
    chat(messages=turns, max_tokens=2)


def response_format() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    form: Any = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, "strict": True}}
    assert json.loads(chat(response_format=form).choices[0].message.content)["a"] in (1, 2)
    bias = {str(id): -100 for id in range(1)}
    answer = chat(response_format={"type": "json_object"}, max_tokens=8, logit_bias=bias).choices[0]
    assert answer.message.content.lstrip().startswith("{")


def errors() -> None:
    for kind, more in (
        (openai.BadRequestError, {"temperature": 3}),
        (openai.BadRequestError, {"store": True}),
        (openai.BadRequestError, {"messages": [{"role": "user", "content": "a " * 600}]}),
    ):
        try:
            chat(**more)
        except kind as error:
            assert error.param == next(iter(more)) and error.code and error.type == "invalid_request_error", error
        else:
            raise AssertionError(f"{more} was taken")
    try:
        client.chat.completions.create(model="nothing", messages=HELLO)
    except openai.NotFoundError as error:
        assert error.code == "model_not_found"


def models() -> None:
    assert "chat" in [model.id for model in client.models.list()] and client.models.retrieve("chat").id == "chat"


FEATURES: list[Callable[[], None]] = [
    models,
    whole,
    stream,
    stream_helper,
    logprobs,
    stop_strings,
    tools,
    allowed_tools,
    tools_stream,
    parse,
    parse_tools,
    response_format,
    errors,
]


def tried(feature: Callable[[], None]) -> bool | str:
    try:
        feature()
    except Exception:
        return traceback.format_exc()[-1500:]
    return True


if __name__ == "__main__":
    print(json.dumps({feature.__name__: tried(feature) for feature in FEATURES}))
