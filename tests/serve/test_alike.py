"""Of one seed a whole answer and a stream say the same, wherever a limit cuts them; and parts of characters are told as bytes."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from pydantic_core import from_json

from tests.serve.conftest import Running

HELLO = [{"role": "user", "content": "hi"}]
LIGHT = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}, "room": {"type": "string", "maxLength": 6}},
    "required": ["on", "room"],
}


def seeds(choices: tuple[str, ...]) -> list[tuple[str, int, int]]:
    """(choice, seed, max_tokens): long answers, and cuts at any place."""
    draw = random.Random(5)
    return [(choice, draw.randrange(1 << 30), draw.choice([*range(1, 100), 180])) for choice in choices for _ in range(14)]


def whole(server: Running, path: str, body: dict[str, Any]) -> Any:
    answer = server.post(path, body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_chat(server: Running) -> None:
    tools, cut = [{"type": "function", "function": {"name": "light", "parameters": LIGHT}}], 0
    for choice, seed, most in seeds(("required", "auto", "none")):
        body = {
            "model": "chat",
            "messages": HELLO,
            "tools": tools,
            "tool_choice": choice,
            "temperature": 1,
            "seed": seed,
            "max_tokens": most,
        }
        [told] = whole(server, "/v1/chat/completions", body)["choices"]
        content, reason, calls = "", None, list[list[str]]()
        for event in server.events("/v1/chat/completions", {**body, "stream": True})[:-1]:
            delta, reason = event["choices"][0]["delta"], event["choices"][0]["finish_reason"]
            content += delta.get("content") or ""
            for piece in delta.get("tool_calls", ()):
                if "id" in piece:
                    calls.append([piece["function"]["name"], ""])
                calls[piece["index"]][1] += piece["function"].get("arguments", "")
        listed = [[call["function"]["name"], call["function"]["arguments"]] for call in told["message"].get("tool_calls", ())]
        assert (told["message"]["content"] or "", listed, told["finish_reason"]) == (content, calls, reason), body
        assert choice != "required" or not content
        cut += bool(calls) and reason == "length"
    assert cut


def test_messages(server: Running) -> None:
    tools = [{"name": "light", "input_schema": LIGHT}]
    for choice, _, most in seeds(("any", "auto")):
        body = {"model": "chat", "messages": HELLO, "tools": tools, "tool_choice": {"type": choice}, "temperature": 0, "max_tokens": most}
        told, blocks, reason = whole(server, "/v1/messages", body), list[Any](), None
        for event in server.events("/v1/messages", {**body, "stream": True}):
            if event["type"] == "content_block_start":
                blocks.append([event["content_block"]["type"], ""])
            elif event["type"] == "content_block_delta":
                blocks[-1][1] += event["delta"].get("text", "") + event["delta"].get("partial_json", "")
            elif event["type"] == "message_delta":
                reason = event["delta"]["stop_reason"]
        made = [[kind, said if kind == "text" else from_json(said or "{}", allow_partial=True)] for kind, said in blocks]
        assert [[block["type"], block.get("text", block.get("input"))] for block in told["content"]] == made, body
        assert told["stop_reason"] == reason


def test_responses(server: Running) -> None:
    tools = [{"type": "function", "name": "light", "parameters": LIGHT}]
    for choice, _, most in seeds(("required", "auto")):
        body = {"model": "chat", "input": "hi", "tools": tools, "tool_choice": choice, "temperature": 0, "max_output_tokens": max(16, most)}
        told = whole(server, "/v1/responses", body)
        items = [event["item"] for event in server.events("/v1/responses", {**body, "stream": True}) if event["type"].endswith("item.done")]
        bare = [
            [(one["type"], one.get("arguments"), one.get("content"), one["status"]) for one in found] for found in (told["output"], items)
        ]
        assert bare[0] == bare[1], body


@pytest.mark.parametrize("stream", [True, False])
def test_tokens_that_are_parts_of_characters_have_their_bytes(server: Running, stream: bool) -> None:
    body: dict[str, Any] = {"model": "chat", "messages": HELLO, "temperature": 1, "seed": 2, "max_tokens": 60, "logprobs": True}
    body |= {"top_logprobs": 20, "stream": stream}
    if stream:
        found = [event["choices"][0]["logprobs"] for event in server.events("/v1/chat/completions", body)[:-1]]
        facts = [fact for one in found if one for fact in one["content"]]
    else:
        facts = whole(server, "/v1/chat/completions", body)["choices"][0]["logprobs"]["content"]
    odd = [one for fact in facts for one in (fact, *fact["top_logprobs"]) if "\ufffd" in one["token"]]
    assert odd and all(one["bytes"] and bytes(one["bytes"]) != one["token"].encode() for one in odd)
    assert len({bytes(one["bytes"]) for one in odd}) > 3
    text = whole(server, "/v1/chat/completions", {**body, "stream": False})["choices"][0]["message"]["content"]
    assert b"".join(bytes(fact["bytes"]) for fact in facts).decode("utf-8", "replace").startswith(text)


def test_completions_lose_no_alternative(server: Running) -> None:
    body = {"model": "base", "prompt": "fox é", "temperature": 1, "seed": 2, "max_tokens": 60, "logprobs": 5, "echo": True}
    facts = whole(server, "/v1/completions", body)["choices"][0]["logprobs"]
    assert any(name.startswith("bytes:\\x") for top in facts["top_logprobs"] if top for name in top)
    for token, chance, top in zip(facts["tokens"], facts["token_logprobs"], facts["top_logprobs"]):
        assert top is None or (top[token] == chance and 5 <= len(top) <= 6), json.dumps(top)
