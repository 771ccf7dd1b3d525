"""Anthropic's client against a server: `python anthropic_messages.py URL MODEL` prints what works, as one JSON object."""

from __future__ import annotations

import json
import sys

import anthropic
from pydantic import BaseModel

TOOL = {
    "name": "light",
    "description": "Switch it.",
    "input_schema": {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": False},
}
ONCE = {"type": "tool", "name": "light", "disable_parallel_tool_use": True}


class Light(BaseModel):
    on: bool


def main(url: str, model: str) -> dict[str, bool]:
    client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    hello = [{"role": "user", "content": "hello"}]
    common = {"model": model, "messages": hello, "max_tokens": 12, "extra_body": {"temperature": 0}}
    done: dict[str, bool] = {}

    whole = client.messages.create(**common)
    done["create"] = whole.type == "message" and whole.content[0].type == "text" and whole.stop_reason == "max_tokens"
    done["usage"] = whole.usage.output_tokens == 12 and whole.usage.input_tokens + whole.usage.cache_read_input_tokens > 0
    done["request id"] = bool(whole._request_id)

    with client.messages.stream(**common) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    done["stream"] = text == whole.content[0].text == final.content[0].text and final.stop_reason == "max_tokens"
    done["usage in streams"] = final.usage.output_tokens == 12 and final.usage.cache_read_input_tokens is not None

    kinds = [event.type for event in client.messages.create(**common, stream=True)]
    first, rest = kinds[:2], kinds[-3:]
    done["events"] = first == ["message_start", "content_block_start"] and rest == ["content_block_stop", "message_delta", "message_stop"]

    counted = client.messages.count_tokens(model=model, messages=hello)
    done["count_tokens"] = counted.input_tokens == whole.usage.input_tokens + whole.usage.cache_read_input_tokens

    asked = {**common, "max_tokens": 140, "tools": [TOOL], "tool_choice": ONCE}
    called = client.messages.create(**asked)
    use = called.content[0]
    done["tools"] = called.stop_reason == "tool_use" and use.name == "light" and isinstance(use.input["on"], bool)
    with client.messages.stream(**asked) as stream:
        partial = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    done["tools in streams"] = json.loads("".join(partial)) == final.content[0].input and final.stop_reason == "tool_use"

    result = {"type": "tool_result", "tool_use_id": use.id, "content": "it is on"}
    turns = [*hello, {"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
    after = client.messages.create(**{**common, "messages": turns})
    done["tool results"] = after.role == "assistant"

    parsed = client.messages.parse(**{**common, "max_tokens": 100}, output_format=Light)
    done["parse"] = isinstance(parsed.parsed_output, Light)

    begun = client.messages.create(**{**common, "messages": [*hello, {"role": "assistant", "content": "The quick"}]})
    done["prefill"] = begun.stop_reason == "max_tokens"

    try:
        client.messages.create(**{**common, "model": "nowhere"})
    except anthropic.NotFoundError as error:
        done["errors"] = error.body["error"]["type"] == "not_found_error" and error.request_id == error.body["request_id"]
    try:
        client.messages.create(**common, thinking={"type": "enabled", "budget_tokens": 1024})
    except anthropic.BadRequestError as error:
        done["refusals by name"] = "thinking" in str(error)
    return done


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
