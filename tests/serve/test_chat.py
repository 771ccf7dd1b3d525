"""POST /v1/chat/completions against a real server: whole, streamed, every field of the API tried, and everything that is refused."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire.binding import Contract
from tests.serve.conftest import ROOT, Running

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "f"}}
OTHER = {"type": "function", "function": {"name": "other"}}


def asked(server: Running, **more: Any) -> Any:
    answer = server.post(CHAT, {"model": "chat", "messages": HELLO, "max_tokens": 12, "temperature": 0, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def said(server: Running, **more: Any) -> str:
    return asked(server, **more)["choices"][0]["message"]["content"]


def wrong(server: Running, **more: Any) -> dict[str, Any]:
    """The error that a body is refused with."""
    answer = server.post(CHAT, {"model": "chat", "messages": HELLO, "max_tokens": 4, **more})
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["type"] == "invalid_request_error" and error["message"]
    return error


def test_a_whole_answer_and_its_stream_are_the_same(server: Running) -> None:
    body = {"model": "chat", "messages": HELLO, "max_tokens": 12, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    whole = server.post(CHAT, body).json()
    events = server.events(CHAT, {**body, "stream": True, "stream_options": {"include_usage": True}})
    assert events[-1] == "[DONE]" and events[-2]["choices"] == []
    deltas = [event["choices"][0] for event in events[:-2]]
    [choice] = whole["choices"]
    assert "".join(delta["delta"].get("content") or "" for delta in deltas) == choice["message"]["content"]
    assert deltas[-1]["finish_reason"] == choice["finish_reason"] == "length"
    assert events[-2]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"] == 12
    streamed = [fact for delta in deltas if delta["logprobs"] for fact in delta["logprobs"]["content"]]
    assert [fact["token"] for fact in streamed] == [fact["token"] for fact in choice["logprobs"]["content"]]


# -- every field of the API --------------------------------------------------------------------------------------------------------


def _cached(server: Running, field: str) -> bool:
    """Are beginnings shared within one name and not with another?"""
    turns = [{"role": "user", "content": f"{field} " * 12}]
    found = [asked(server, messages=turns, **{field: name}) for name in (f"{field} a", f"{field} a", f"{field} b")]
    cached = [one["usage"]["prompt_tokens_details"]["cached_tokens"] for one in found]
    return cached[0] < cached[1] > cached[2]


def _called(answer: Any) -> list[list[str]]:
    return [[call["function"]["name"] for call in choice["message"].get("tool_calls", ())] for choice in answer["choices"]]


def _parallel(server: Running) -> bool:
    more: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 290, "temperature": 1, "seed": 3, "n": 8}
    several, one = (_called(asked(server, parallel_tool_calls=way, **more)) for way in (True, False))
    return max(map(len, several)) > 1 and max(map(len, one)) == 1


def _usage(server: Running) -> bool:
    body = {"model": "chat", "messages": HELLO, "max_tokens": 2, "stream": True}
    with_usage = server.events(CHAT, {**body, "stream_options": {"include_usage": True}})
    return "usage" in with_usage[-2] and "usage" not in server.events(CHAT, body)[-2]


# Each shows what its field does.
HONOURED: dict[str, Callable[[Running], bool]] = {
    "messages": lambda s: said(s) != said(s, messages=[{"role": "user", "content": "fox"}]),
    "model": lambda s: asked(s)["model"] == "chat",
    "frequency_penalty": lambda s: len(set(said(s, frequency_penalty=-2, max_tokens=40))) == 1 < len(set(said(s, max_tokens=40))),
    "presence_penalty": lambda s: said(s, presence_penalty=2, max_tokens=40) != said(s, max_tokens=40),
    "logit_bias": lambda s: said(s, logit_bias={"80": 100}) == said(s, logit_bias={"80": 100})[:1] * 12 != said(s),
    "logprobs": lambda s: len(asked(s, logprobs=True)["choices"][0]["logprobs"]["content"]) == 12,
    "top_logprobs": lambda s: len(asked(s, logprobs=True, top_logprobs=3)["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 3,
    "max_completion_tokens": lambda s: asked(s, max_tokens=None, max_completion_tokens=5)["usage"]["completion_tokens"] == 5,
    "max_tokens": lambda s: asked(s, max_tokens=3)["usage"]["completion_tokens"] == 3,
    "n": lambda s: len(asked(s, n=3)["choices"]) == 3,
    "parallel_tool_calls": _parallel,
    "prompt_cache_key": lambda s: _cached(s, "prompt_cache_key"),
    "safety_identifier": lambda s: _cached(s, "safety_identifier"),
    "user": lambda s: _cached(s, "user"),
    "response_format": lambda s: said(s, response_format={"type": "json_object"})[0] == "{",
    "seed": lambda s: said(s, seed=1, temperature=2) == said(s, seed=1, temperature=2) != said(s, seed=2, temperature=2),
    "stop": lambda s: said(s, stop=said(s)[4:6]) == said(s)[: said(s).index(said(s)[4:6])],
    "stream": lambda s: s.events(CHAT, {"model": "chat", "messages": HELLO, "max_tokens": 2, "stream": True})[-1] == "[DONE]",
    "stream_options": _usage,
    "temperature": lambda s: said(s, temperature=2, seed=1) != said(s),
    "top_p": lambda s: said(s, temperature=2, top_p=1e-6) == said(s),
    "tools": lambda s: asked(s, tools=[TOOL])["usage"]["prompt_tokens"] > asked(s)["usage"]["prompt_tokens"],
    "tool_choice": lambda s: _called(asked(s, tools=[OTHER, TOOL], tool_choice=TOOL, max_tokens=90, temperature=1, seed=1)) == [["f"]],
}
# Each is refused by its name, and null is taken.
REFUSED: dict[str, Any] = {
    "audio": {"format": "wav", "voice": "alloy"},
    "function_call": "auto",
    "functions": [{"name": "f"}],
    "metadata": {"a": "b"},
    "modalities": ["text", "audio"],
    "moderation": {"model": "m"},
    "prediction": {"type": "content", "content": "a"},
    "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "low",
    "service_tier": "flex",
    "store": True,
    "verbosity": "low",
    "web_search_options": {},
}
# The same of what stands in them: {type of the package: {field: a body that is refused by that field's name}}; None: honoured.
USER = {"role": "user", "content": "hello"}
PART = {"type": "text", "text": "hello"}
MARK = {"prompt_cache_breakpoint": {"mode": "explicit"}}
NAME: dict[str, Any] = {"messages": [{**USER, "name": "ann"}]}
CUSTOM: dict[str, Any] = {"tools": [{"type": "custom", "custom": {"name": "f"}}]}
INSIDE: dict[str, dict[str, dict[str, Any] | None]] = {
    "ChatCompletionDeveloperMessageParam": {"content": None, "role": None, "name": NAME},
    "ChatCompletionSystemMessageParam": {"content": None, "role": None, "name": NAME},
    "ChatCompletionUserMessageParam": {"content": None, "role": None, "name": NAME},
    "ChatCompletionToolMessageParam": {"content": None, "role": None, "tool_call_id": None},
    "ChatCompletionFunctionMessageParam": {
        "content": None,
        "role": {"messages": [{"role": "function", "content": "a"}]},
        "name": {"messages": [{"role": "tool", "tool_call_id": "a", "content": "a", "name": "f"}]},
    },
    "ChatCompletionAssistantMessageParam": {
        "role": None,
        "content": None,
        "tool_calls": None,
        "audio": {"messages": [{"role": "assistant", "content": "a", "audio": {"id": "a"}}]},
        "function_call": {"messages": [{"role": "assistant", "content": "a", "function_call": {"name": "f", "arguments": "{}"}}]},
        "name": {"messages": [{"role": "assistant", "content": "a", "name": "ann"}]},
        "refusal": {"messages": [{"role": "assistant", "content": "a", "refusal": "no"}]},
    },
    "ChatCompletionContentPartTextParam": {
        "text": None,
        "type": None,
        "prompt_cache_breakpoint": {"messages": [{"role": "user", "content": [{**PART, **MARK}]}]},
    },
    "ChatCompletionContentPartRefusalParam": {"refusal": None, "type": None},
    "ChatCompletionMessageFunctionToolCallParam": {"id": None, "function": None, "type": None},
    "chat_completion_message_function_tool_call_param.Function": {"arguments": None, "name": None},
    "ResponseFormatText": {"type": None},
    "ResponseFormatJSONObject": {"type": None},
    "ResponseFormatJSONSchema": {"json_schema": None, "type": None},
    "JSONSchema": {"name": None, "description": None, "schema": None, "strict": None},
    "ChatCompletionStreamOptionsParam": {
        "include_usage": None,
        "include_obfuscation": {"stream": True, "stream_options": {"include_obfuscation": True}},
    },
    "ChatCompletionAllowedToolChoiceParam": {"allowed_tools": None, "type": None},
    "ChatCompletionAllowedToolsParam": {"mode": None, "tools": None},
    "ChatCompletionNamedToolChoiceParam": {"function": None, "type": None},
    "chat_completion_named_tool_choice_param.Function": {"name": None},
    "ChatCompletionFunctionToolParam": {"function": None, "type": None},
    "FunctionDefinition": {"name": None, "description": None, "parameters": None, "strict": None},
}
# Refused as a whole by their type: {module or type: a body}.
WHOLLY: dict[str, dict[str, Any]] = {
    "ChatCompletionContentPartImageParam": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]},
    "ChatCompletionContentPartInputAudioParam": {
        "messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "a", "format": "wav"}}]}]
    },
    "chat_completion_content_part_param.File": {
        "messages": [{"role": "user", "content": [PART, {"type": "file", "file": {"file_id": "a"}}]}]
    },
    "ChatCompletionMessageCustomToolCallParam": {
        "messages": [{"role": "assistant", "tool_calls": [{"id": "a", "type": "custom", "custom": {"name": "f", "input": "a"}}]}]
    },
    "ChatCompletionCustomToolParam": CUSTOM,
    "ChatCompletionNamedToolChoiceCustomParam": {"tools": [TOOL], "tool_choice": {"type": "custom", "custom": {"name": "f"}}},
}
# Parts of what is refused, by the fields or types above.
BELOW = (
    *("PromptCacheBreakpoint", "FilePromptCacheBreakpoint", "ImageURL", "InputAudio", "FileFile", "Audio", "AudioParam", "VoiceID"),
    *("chat_completion_assistant_message_param.FunctionCall", "ChatCompletionFunctionCallOptionParam", "completion_create_params.Function"),
    *("Moderation", "ModerationPolicy", "ModerationPolicyInput", "ModerationPolicyOutput", "ChatCompletionPredictionContentParam"),
    *("ChatCompletionAudioParam", "Custom", "CustomFormatText", "CustomFormatGrammar", "CustomFormatGrammarGrammar", "PromptCacheOptions"),
    *("WebSearchOptions", "WebSearchOptionsUserLocation", "WebSearchOptionsUserLocationApproximate"),
)


@pytest.fixture(scope="module")
def fields(client_python: Callable[[str], Path]) -> dict[str, dict[str, bool]]:
    """The request types that OpenAI's package knows."""
    script = ROOT / "tests/serve/clients/openai_fields.py"
    found: dict[str, dict[str, bool]] = json.loads(subprocess.check_output([client_python("openai"), script]))["chat"]
    return found


def test_every_documented_field_is_honoured_or_refused(fields: dict[str, dict[str, bool]]) -> None:
    top = fields.pop("completion_create_params.CompletionCreateParamsStreaming")
    assert set(top) == set(HONOURED) | set(REFUSED) and not set(HONOURED) & set(REFUSED)
    for full, inside in fields.items():
        name = full.split(".")[-1]
        known = INSIDE.get(full) or INSIDE.get(name)
        if known is not None:
            assert set(inside) == set(known), full
        else:
            assert {full, name} & {*WHOLLY, *BELOW}, f"{full} is not known here: {sorted(inside)}"


@pytest.mark.parametrize("field", HONOURED)
def test_a_field_that_is_honoured_has_an_effect(server: Running, field: str) -> None:
    assert HONOURED[field](server)


def test_null_is_as_good_as_nothing(server: Running) -> None:
    for field in set(HONOURED) - {"messages", "model"}:
        assert asked(server, **{"max_tokens": 1, field: None})["choices"], field


def test_a_field_that_is_not_done_is_refused_by_name(server: Running) -> None:
    for field, value in REFUSED.items():
        assert wrong(server, **{field: value})["param"] == field
        asked(server, max_tokens=1, **{field: None})
    for inside in INSIDE.values():
        for field, body in inside.items():
            if body is not None:
                param = wrong(server, **body)["param"]
                assert param.split(".")[-1] == field, param
    for body in WHOLLY.values():
        assert wrong(server, **body)["param"].split(".")[-1] == "type"


def test_values_that_ask_for_nothing_are_taken(server: Running) -> None:
    harmless = {"store": False, "service_tier": "auto", "modalities": ["text"], "metadata": {}, "function_call": "none"}
    assert asked(server, max_tokens=1, **harmless)["service_tier"] == "default"


# -- errors ------------------------------------------------------------------------------------------------------------------------


def test_errors_name_the_field_and_what_is_allowed(server: Running) -> None:
    image = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "a"}}]
    error = wrong(server, messages=[{"role": "user", "content": image}])
    assert error["param"] == "messages.0.content.1.type" and "reads text only" in error["message"]
    error = wrong(server, messages=[{"role": "user", "content": 5}])
    assert error["message"] == "'messages.0.content' should be a valid string or be a valid list; it is 5."
    assert "Did you mean 'temperature'" in wrong(server, temprature=1)["message"]
    error = wrong(server, messages=[{"role": "user", "contents": "a"}])
    assert error["param"] == "messages.0.contents" and "Did you mean 'content'" in error["message"]
    assert wrong(server, tool_choice="some")["param"] == "tool_choice"
    assert wrong(server, messages=[{"role": "user", "content": [{"type": "text"}]}])["param"] == "messages.0.content.0.text"
    assert wrong(server, messages=[{"role": "tool", "content": "a"}])["param"] == "messages.0.tool_call_id"
    assert wrong(server, response_format={"type": "text", "json_schema": {"name": "a"}})["param"] == "response_format.json_schema"
    assert wrong(server, response_format={"type": "json_object"}, tools=[TOOL])["param"] == "tools"
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [OTHER]}}
    assert wrong(server, tools=[TOOL], tool_choice=allowed)["param"] == "tool_choice.allowed_tools.tools.0.function.name"


def test_a_body_that_is_no_json_object_is_told_so(server: Running) -> None:
    for text in ("", "5", "[1]", "{", "null", '{"model": NaN'):
        answer = server.client.post(CHAT, content=text, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_json"
    answer = server.client.post(CHAT, content=b"{}", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415 and "application/json" in answer.json()["error"]["message"]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "minimum": float("nan")}}}
    text = json.dumps({"model": "chat", "messages": HELLO, "tools": [tool]})
    answer = server.client.post(CHAT, content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and "NaN" in answer.json()["error"]["message"]


def test_one_over_each_limit_is_refused(server: Running) -> None:
    deep: Any = {"type": "string"}
    for _ in range(33):
        deep = {"type": "array", "items": deep}
    tools = [{"type": "function", "function": {"name": f"f{number}"}} for number in range(129)]
    large = {"type": "function", "function": {"name": "f", "description": "a" * (16 << 10)}}
    over: list[dict[str, Any]] = [
        {"n": 9},
        {"temperature": 2.01},
        {"top_p": 1.01},
        {"top_logprobs": 21, "logprobs": True},
        {"stop": ["a"] * 9},
        {"stop": "a" * 65},
        {"logit_bias": {str(number): 1 for number in range(1025)}},
        {"logit_bias": {"280": 1}},
        {"logit_bias": {"1": 100.5}},
        {"messages": HELLO * 1025},
        {"messages": [{"role": "user", "content": [PART] * 1025}]},
        {"messages": [{"role": "user", "content": "a " * 600}]},
        {"max_tokens": 513},
        {"tools": tools},
        {"tools": [large]},
        {"structured_outputs": {"json": deep}},
        {"structured_outputs": {"json": {"type": "object", "description": "a" * (64 << 10)}}},
        {"structured_outputs": {"regex": "a" * ((4 << 10) + 1)}},
        {"structured_outputs": {"choice": ["a"] * 4097}},
        {"user": "a" * 257},
        {"seed": 1 << 63},
    ]
    for body in over:
        wrong(server, **body)
    error = wrong(server, messages=[{"role": "user", "content": "a " * 600}])
    assert error["code"] == "context_length_exceeded" and error["param"] == "messages" and "512" in error["message"]
    assert wrong(server, max_tokens=None, max_completion_tokens=513)["param"] == "max_completion_tokens"


def test_a_model_without_turns_says_so(server: Running) -> None:
    for model, why in (("base", "no chat template"), ("t5", "no conversations"), ("bert", "does not write")):
        error = wrong(server, model=model)
        assert why in error["message"] and "/" not in error["message"].replace("/v1/", ""), "no path of the server is told"


# -- what users write stays text ---------------------------------------------------------------------------------------------------


def test_the_spelling_of_a_special_token_stays_text(server: Running, folders: dict[str, Path]) -> None:
    tokenizer = Contract.open(folders["chat"]).tokenizer
    empty = asked(server, messages=[{"role": "user", "content": ""}], max_tokens=1)["usage"]["prompt_tokens"]
    assert {"<|im_start|>", "<|im_end|>", "<|endoftext|>"} <= set(tokenizer.special_tokens)
    for spelling in tokenizer.special_tokens:
        written = len(tokenizer.encode(spelling))
        assert written > 1
        for content in (spelling, [{"type": "text", "text": spelling}]):
            turns = [{"role": "user", "content": content}]
            assert asked(server, messages=turns, max_tokens=1)["usage"]["prompt_tokens"] == empty + written
        plain, spelt = (
            asked(server, tools=[{"type": "function", "function": {"name": "f", "description": text}}], max_tokens=1)["usage"]
            for text in ("", spelling)
        )
        assert spelt["prompt_tokens"] > plain["prompt_tokens"] + 1
