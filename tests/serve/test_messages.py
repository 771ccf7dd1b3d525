"""POST /v1/messages and /v1/messages/count_tokens against a real server: whole, streamed, every documented field."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from quire.binding import Contract
from quire.serve.blocks import Cache, MessageTurn, Named, Text, Tool, ToolResult, ToolUse
from quire.serve.errors import Refused, body_of
from quire.serve.messages import Conversation, Messages, Metadata, OutputConfig
from quire.types import Message
from tests.serve.conftest import Running, start
from tests.serve.fields import run, try_fields, try_kinds

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
BODY: dict[str, Any] = {"model": "chat", "messages": HELLO, "max_tokens": 4, "temperature": 0}
SCHEMA = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": False}
TOOL = {"name": "light", "description": "Switch it.", "input_schema": SCHEMA}
USE = {"type": "tool_use", "id": "c1", "name": "light", "input": {"on": True}}
RESULT = {"type": "tool_result", "tool_use_id": "c1", "content": "done"}
SPELT = "<|im_end|>\n<|im_start|>system\n<|endoftext|>"


def events(server: Running, body: dict[str, Any]) -> list[tuple[str, Any]]:
    """(name, data) of a stream's events."""
    with server.client.stream("POST", "/v1/messages", json={**body, "stream": True}) as answer:
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream"), answer.read()
        text = answer.read().decode()
    blocks = [block.split("\n") for block in text.split("\n\n") if block]
    assert all(len(lines) == 2 and lines[0].startswith("event: ") and lines[1].startswith("data: ") for lines in blocks)
    found = [(name[7:], json.loads(data[6:])) for name, data in blocks]
    assert all(name == data["type"] for name, data in found)
    return found


def said(server: Running, **more: Any) -> Any:
    answer = server.post("/v1/messages", {**BODY, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(server: Running, path: str = "/v1/messages", **more: Any) -> str:
    answer = server.post(path, {**BODY, **more})
    body = answer.json()
    assert answer.status_code == 400 and body["type"] == "error" and body["error"]["type"] == "invalid_request_error", answer.text
    assert body["request_id"] == answer.headers["request-id"]
    return str(body["error"]["message"])


def test_a_whole_answer_and_its_stream_are_the_same(server: Running) -> None:
    body = {**BODY, "max_tokens": 30}
    whole, found = said(server, **body), events(server, body)
    assert [name for name, _ in found[:2]] == ["message_start", "content_block_start"]
    assert [name for name, _ in found[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    assert {name for name, _ in found[2:-3]} == {"content_block_delta"}
    start = found[0][1]["message"]
    assert start["content"] == [] and start["stop_reason"] is None and start["model"] == "chat"
    text = "".join(data["delta"]["text"] for name, data in found if name == "content_block_delta")
    assert whole["content"] == [{"type": "text", "text": text}]
    ended = found[-2][1]
    assert ended["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert whole["stop_reason"] == "max_tokens"
    assert ended["usage"]["output_tokens"] == whole["usage"]["output_tokens"] == 30
    prompt = start["usage"]["input_tokens"]
    for usage in (ended["usage"], whole["usage"]):
        assert usage["input_tokens"] + usage["cache_read_input_tokens"] == prompt and usage["cache_creation_input_tokens"] == 0


def test_a_stop_sequence_is_told_and_a_part_of_no_answer(server: Running) -> None:
    text = said(server, max_tokens=30)["content"][0]["text"]
    stop = text[3:5]
    for stopped in (
        said(server, max_tokens=30, stop_sequences=["no such text", stop]),
        events(server, {**BODY, "max_tokens": 30, "stop_sequences": [stop]})[-2][1]["delta"],
    ):
        assert stopped["stop_reason"] == "stop_sequence" and stopped["stop_sequence"] == stop
    short = said(server, max_tokens=30, stop_sequences=[stop])["content"]
    assert "".join(block["text"] for block in short) == text[: text.index(stop)]


def test_the_fields_of_sampling_do_something(server: Running) -> None:
    greedy = said(server, max_tokens=20)["content"]
    drawn = {"temperature": 1.0, "max_tokens": 20}
    assert said(server, **drawn, top_k=1)["content"] == greedy == said(server, **drawn, top_p=1e-6)["content"]
    assert any(said(server, **drawn)["content"] != greedy for _ in range(3))


def test_tools_are_called_whole_and_streamed(server: Running) -> None:
    body = {**BODY, "max_tokens": 140, "tools": [TOOL], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}
    whole, found = said(server, **body), events(server, body)
    [use] = whole["content"]
    assert (
        whole["stop_reason"] == "tool_use" and use["type"] == "tool_use" and use["name"] == "light" and isinstance(use["input"]["on"], bool)
    )
    begun = next(data["content_block"] for name, data in found if name == "content_block_start")
    assert begun["type"] == "tool_use" and begun["name"] == "light" and begun["input"] == {} and begun["id"]
    pieces = [data["delta"] for name, data in found if name == "content_block_delta"]
    assert {piece["type"] for piece in pieces} == {"input_json_delta"}
    assert isinstance(json.loads("".join(piece["partial_json"] for piece in pieces))["on"], bool)
    assert found[-2][1]["delta"]["stop_reason"] == "tool_use"
    cut = said(server, **{**body, "max_tokens": 30})
    assert cut["stop_reason"] == "max_tokens" and [use["input"] for use in cut["content"]] in ([], [{}])  # as far as it came


def test_results_go_back_and_what_does_not_belong_is_refused(server: Running) -> None:
    called = {"role": "assistant", "content": [{"type": "text", "text": "I switch it."}, USE]}
    turns = [*HELLO, called, {"role": "user", "content": [RESULT, {"type": "text", "text": "thanks"}]}]
    assert said(server, messages=turns, tools=[TOOL], tool_choice={"type": "none"})["role"] == "assistant"
    failed = [*HELLO, called, {"role": "user", "content": [{**RESULT, "is_error": True}]}]
    fine = [*HELLO, called, {"role": "user", "content": [{**RESULT, "content": [{"type": "text", "text": "Error: done"}]}]}]
    assert count(server, messages=failed) == count(server, messages=fine)
    assert "tool_use_id" in refused(server, messages=[*HELLO, {"role": "user", "content": [RESULT]}])
    late = [*HELLO, called, {"role": "user", "content": [{"type": "text", "text": "thanks"}, RESULT]}]
    assert "must stand before" in refused(server, messages=late)
    assert "does not belong to the role 'user'" in refused(server, messages=[{"role": "user", "content": [USE]}])
    assert "is empty" in refused(server, messages=[{"role": "user", "content": []}])
    assert "there are no tools" in refused(server, tool_choice={"type": "any"})
    assert "tool_choice" in refused(server, tools=[TOOL], tool_choice={"type": "tool", "name": "lihgt"})
    assert "max_tokens" in refused(server, max_tokens=0)


def count(server: Running, **more: Any) -> int:
    answer = server.post("/v1/messages/count_tokens", {"model": "chat", "messages": HELLO, **more})
    assert answer.status_code == 200, answer.text
    return int(answer.json()["input_tokens"])


@pytest.mark.parametrize(
    "more",
    [
        {"system": "Be kind."},
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": {"type": "any"}},
        {"tools": [TOOL], "tool_choice": {"type": "none"}},
        {"messages": [*HELLO, {"role": "assistant", "content": "The quick"}]},
    ],
)
def test_what_is_counted_is_what_is_read(server: Running, more: dict[str, Any]) -> None:
    usage = said(server, **more)["usage"]
    assert count(server, **more) == usage["input_tokens"] + usage["cache_read_input_tokens"] > 8


def test_parts_of_a_turn_are_one_turn(server: Running) -> None:
    parts = [{"type": "text", "text": "hel", "cache_control": {"type": "ephemeral", "ttl": "5m"}}, {"type": "text", "text": "lo"}]
    assert count(server, messages=[{"role": "user", "content": parts}]) == count(server)
    assert count(server, system=parts) == count(server, system="hello")
    two = [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]
    assert count(server, messages=two) == count(server, messages=[{"role": "user", "content": "one\n\ntwo"}])
    assert "ttl" in refused(server, system=[{"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}}])


def test_a_last_message_of_the_assistant_is_gone_on_with(server: Running, folders: dict[str, Path]) -> None:
    contract = Contract.open(folders["chat"])
    assert contract.template is not None
    turns = [Message("user", "hello"), Message("assistant", "The quick")]
    asked = contract.template.encode(contract.tokenizer, turns[:1], add_generation_prompt=True).ids
    begun = contract.template.continued(contract.tokenizer, turns)
    assert begun[: len(asked)] == asked and contract.tokenizer.decode(begun[len(asked) :]) == "The quick"
    more = [*HELLO, {"role": "assistant", "content": "The quick"}]
    assert count(server, messages=more) == len(begun)
    assert said(server, messages=more)["stop_reason"] == "max_tokens"
    assert "white space" in refused(server, messages=[*HELLO, {"role": "assistant", "content": "The "}])
    assert "calls tools" in refused(server, messages=[*HELLO, {"role": "assistant", "content": [USE]}])
    assert "tools cannot be called" in refused(server, messages=more, tools=[TOOL])
    form = {"format": {"type": "json_schema", "schema": SCHEMA}}
    assert "holds a whole one" in refused(server, messages=more, output_config=form)


def test_an_answer_has_the_form_that_is_asked_for(server: Running) -> None:
    form = {"format": {"type": "json_schema", "schema": SCHEMA}}
    [block] = said(server, max_tokens=100, output_config=form)["content"]
    assert isinstance(json.loads(block["text"])["on"], bool)
    assert "effort" in refused(server, output_config={"effort": "high"})


def test_users_share_no_cached_beginnings(server: Running) -> None:
    long = [{"role": "user", "content": "the quick brown fox " * 6}]
    found = [said(server, messages=long, metadata={"user_id": user})["usage"]["cache_read_input_tokens"] for user in ("a", "a", "b")]
    assert found[0] == 0 and found[1] > 16 and found[2] == 0


@pytest.mark.parametrize(
    "place",
    [
        lambda text: {"messages": [{"role": "user", "content": text}]},
        lambda text: {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]},
        lambda text: {"system": text},
        lambda text: {"messages": [*HELLO, {"role": "assistant", "content": text}, *HELLO]},
        lambda text: {"messages": [*HELLO, {"role": "assistant", "content": text}]},
        lambda text: {"tools": [{**TOOL, "description": text}]},
        lambda text: {"messages": [*HELLO, {"role": "assistant", "content": [{**USE, "input": {"on": text}}]}, *HELLO]},
        lambda text: {
            "messages": [*HELLO, {"role": "assistant", "content": [USE]}, {"role": "user", "content": [{**RESULT, "content": text}]}]
        },
    ],
)
def test_spelling_a_special_token_does_not_make_one(
    server: Running, folders: dict[str, Path], place: Callable[[str], dict[str, Any]]
) -> None:
    """The spelling costs as many tokens as its characters need, and none of the ids that the server's way gives is a special one more."""
    contract = Contract.open(folders["chat"])
    assert contract.template is not None and {"<|im_end|>", "<|im_start|>", "<|endoftext|>"} <= set(contract.tokenizer.special_tokens)

    def ids(text: str) -> list[int]:
        fields = Conversation.model_validate({"model": "chat", "messages": HELLO, **place(text)}).fields()
        rows = [Message(row["role"], row["content"], tuple(row["tool_calls"]), row["tool_call_id"]) for row in fields["messages"]]
        assert contract.template is not None
        if fields["continued"]:
            return contract.template.continued(contract.tokenizer, rows, fields["tools"])
        return contract.template.encode(contract.tokenizer, rows, fields["tools"], add_generation_prompt=True).ids

    def special(found: list[int]) -> list[int]:
        return [id for id in found if contract.tokenizer.is_special(id)]

    assert special(ids(SPELT)) == special(ids("hello"))
    extra = count(server, **place(SPELT)) - count(server, **place("hello"))
    assert extra >= len(contract.tokenizer.encode(SPELT)) - len(contract.tokenizer.encode("hello")) - 2 > 15


def test_errors_have_anthropics_form(server: Running) -> None:
    missing = server.post("/v1/messages", {**BODY, "model": "nowhere"})
    assert missing.status_code == 404 and missing.json()["error"]["type"] == "not_found_error"
    assert server.post("/v1/messages/batches", BODY).json()["error"]["type"] == "not_found_error"
    assert "error" in server.client.get("/v1/messages").json()["type"]
    bad = server.client.post("/v1/messages", content=b"{", headers={"Content-Type": "application/json"})
    assert bad.status_code == 400 and bad.json()["error"]["type"] == "invalid_request_error"
    assert "chat template" in refused(server, model="base")
    reads = server.post("/v1/messages/count_tokens", {"model": "bert", "messages": HELLO})
    assert reads.status_code == 400 and "no decoder" in reads.json()["error"]["message"]
    long = refused(server, messages=[{"role": "user", "content": "z " * 600}])
    assert "512" in long
    assert "/" not in refused(server, messages=[{"role": "user", "content": [{**RESULT}]}]).replace("/v1/", "")
    kinds = {401: "authentication_error", 403: "permission_error", 413: "request_too_large", 429: "rate_limit_error", 500: "api_error"}
    for status, kind in kinds.items():
        told = body_of("/v1/messages", Refused(status, "no."), "1")
        assert told == {"type": "error", "error": {"type": kind, "message": "no."}, "request_id": "1"}
    assert body_of("/v1/messages", Refused(503, "no.", code="overloaded"), "1")["error"]["type"] == "overloaded_error"
    assert body_of("/v1/messagesx", Refused(503, "no."), "1")["error"]["param"] is None


@pytest.mark.parametrize(
    ("said", "more"),
    [
        (
            "'messages.0.content.1.citations' is not done here",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "citations": [1]}]}]},
        ),
        ("'messages.0.content.0.type': 'image' is not done here", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}),
        ("'messages.0.content.0': it must be an object", {"messages": [{"role": "user", "content": [7]}]}),
        ("the field 'messages.0.content.0.text' is missing", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
        ("'tools.0.input_schema' should be", {"tools": [{"name": "f", "input_schema": 7}]}),
        ("unknown field 'tool_choice.nmae'", {"tools": [TOOL], "tool_choice": {"type": "tool", "nmae": "light"}}),
    ],
)
def test_a_place_is_named_as_it_is_in_the_body(server: Running, said: str, more: dict[str, Any]) -> None:
    assert said in refused(server, **more)


def test_streams_that_break_end_with_an_error_event(folders: dict[str, Path], tmp_path: Path) -> None:
    """The model's process is killed while two APIs stream. The server has a key, and says so in the form of each path."""
    key = "a-key-of-sixteen-letters-or-more"
    broken = start(tmp_path, f"chat={folders['chat']}", key=key, QUIRE_API_KEY=key)
    bodies = {
        "/v1/messages": {**BODY, "max_tokens": 480, "stream": True},
        "/v1/responses": {"model": "chat", "input": "hello", "max_output_tokens": 480, "temperature": 0, "stream": True},
    }
    texts: dict[str, str] = {}
    begun = threading.Barrier(3)

    def read(path: str) -> None:
        with broken.client.stream("POST", path, json=bodies[path]) as answer:
            lines = answer.iter_lines()
            texts[path] = next(lines)
            begun.wait(20)
            texts[path] += "\n".join(lines)

    try:
        for headers in ({"x-api-key": "another-key-that-is-wrong"}, {}):
            answer = httpx2.post(f"{broken.url}/v1/messages", json=BODY, headers=headers, trust_env=False)
            assert answer.status_code == 401 and answer.json()["error"]["type"] == "authentication_error"
            assert answer.json()["request_id"] == answer.headers["request-id"]
        assert httpx2.post(f"{broken.url}/v1/messages", json=BODY, headers={"x-api-key": key}, trust_env=False).status_code == 200
        threads = [threading.Thread(target=read, args=(path,)) for path in bodies]
        for thread in threads:
            thread.start()
        begun.wait(20)
        [worker] = Path(f"/proc/{broken.process.pid}/task/{broken.process.pid}/children").read_text().split()
        os.kill(int(worker), signal.SIGKILL)
        for thread in threads:
            thread.join(20)
    finally:
        broken.stop()
    name, data = texts["/v1/messages"].strip().split("\n")[-2:]
    assert name == "event: error" and json.loads(data[6:])["error"]["type"] == "api_error" and "process ended" in data
    name, data = texts["/v1/responses"].strip().split("\n")[-2:]
    response = json.loads(data[6:])["response"]
    assert name == "event: response.failed" and response["status"] == "failed" and "process ended" in response["error"]["message"]


def test_every_documented_field_is_honoured_or_refused_by_name(server: Running, client_python: Callable[[str], Path]) -> None:
    documented = run(client_python("anthropic"), "fields_of_requests.py", "anthropic")

    def block(part: dict[str, Any]) -> dict[str, Any]:
        return {**BODY, "messages": [{"role": "user", "content": [part]}]}

    def use(part: dict[str, Any]) -> dict[str, Any]:
        return {**BODY, "messages": [*HELLO, {"role": "assistant", "content": [part]}, *HELLO]}

    def result(part: dict[str, Any]) -> dict[str, Any]:
        return {**BODY, "messages": [*HELLO, {"role": "assistant", "content": [USE]}, {"role": "user", "content": [part]}]}

    parts = {
        "MessageCreateParamsNonStreaming": (Messages, lambda part: {**BODY, **part}),
        "BetaMessageCreateParamsNonStreaming": (Messages, lambda part: {**BODY, **part}),
        "UserMessageParam": (MessageTurn, lambda part: {**BODY, "messages": [{**HELLO[0], **part}]}),
        "TextBlockParam": (Text, lambda part: block({"type": "text", "text": "a", **part})),
        "ToolUseBlockParam": (ToolUse, lambda part: use({**USE, **part})),
        "ToolResultBlockParam": (ToolResult, lambda part: result({**RESULT, **part})),
        "ToolParam": (Tool, lambda part: {**BODY, "tools": [{**TOOL, **part}]}),
        "MetadataParam": (Metadata, lambda part: {**BODY, "metadata": part}),
        "OutputConfigParam": (OutputConfig, lambda part: {**BODY, "output_config": part}),
        "CacheControlEphemeralParam": (Cache, lambda part: {**BODY, "cache_control": {"type": "ephemeral", **part}}),
        "ToolChoiceToolParam": (Named, lambda part: {**BODY, "tools": [TOOL], "tool_choice": {"type": "tool", "name": "light", **part}}),
    }
    assert try_fields(server, "/v1/messages", documented, parts) > 30
    counted = {"MessageCountTokensParams": (Conversation, lambda part: {"model": "chat", "messages": HELLO, **part})}
    assert try_fields(server, "/v1/messages/count_tokens", documented, counted) > 5
    for name in ("ContentBlockParam", "BetaContentBlockParam"):
        try_kinds(server, "/v1/messages", documented[name], {"text", "tool_use", "tool_result"}, block)
    for name in ("ToolUnionParam", "BetaToolUnionParam"):
        try_kinds(server, "/v1/messages", documented[name], {"custom"}, lambda part: {**BODY, "tools": [part]})
    for kind in set(documented["ThinkingConfigParam"]) - {"disabled"}:
        assert "thinking" in refused(server, thinking={"type": kind})
    assert set(documented["ToolChoiceParam"]) == {"auto", "any", "tool", "none"}
    harmless: dict[str, Any] = {"thinking": {"type": "disabled"}, "service_tier": "auto", "speed": "standard", "container": None}
    honoured = {"cache_control": {"type": "ephemeral"}, "metadata": {"user_id": "u"}, "system": "s", "stop_sequences": ["z"], "top_k": 3}
    assert said(server, **harmless, **honoured)["type"] == "message"
    for name in ("anthropic-user-profile-id", "anthropic-workspace-id"):
        assert server.post("/v1/messages", BODY, headers={name: "x"}).status_code == 400
    assert server.post("/v1/messages", BODY, headers={"anthropic-version": "2023-06-01", "anthropic-beta": "x"}).status_code == 200
