"""OpenAI's client against /v1/responses: `python openai_responses.py URL MODEL` prints what works, as one JSON object."""

from __future__ import annotations

import json
import sys

import openai
from pydantic import BaseModel

TOOL = {
    "type": "function",
    "name": "light",
    "description": "Switch it.",
    "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": False},
    "strict": True,
}
NAMED = {"type": "function", "name": "light"}


class Light(BaseModel):
    on: bool


def main(url: str, model: str) -> dict[str, bool]:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    common = {"model": model, "input": "hello", "max_output_tokens": 12, "temperature": 0}
    done: dict[str, bool] = {}

    whole = client.responses.create(**common)
    done["create"] = whole.status == "incomplete" and whole.incomplete_details.reason == "max_output_tokens" and len(whole.output_text) > 0
    done["usage"] = whole.usage.output_tokens == 12 and whole.usage.total_tokens == 12 + whole.usage.input_tokens
    done["store is false"] = whole.store is False

    events = list(client.responses.create(**common, stream=True))
    kinds = [event.type for event in events]
    done["events"] = kinds[:4] == ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    done["events"] &= [event.sequence_number for event in events] == list(range(len(events)))
    done["stream"] = "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    done["stream"] &= events[-1].response.output_text == whole.output_text and kinds[-1] == "response.incomplete"

    facts = client.responses.create(**common, include=["message.output_text.logprobs"], top_logprobs=2)
    listed = facts.output[0].content[0].logprobs
    done["logprobs"] = len(listed) == 12 and all(len(fact.top_logprobs) == 2 for fact in listed)

    asked = {**common, "max_output_tokens": 140, "tools": [TOOL], "tool_choice": NAMED, "parallel_tool_calls": False}
    called = client.responses.create(**asked)
    call = called.output[0]
    done["functions"] = called.status == "completed" and call.name == "light" and isinstance(json.loads(call.arguments)["on"], bool)
    with client.responses.stream(**asked) as stream:
        pieces = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        final = stream.get_final_response()
    done["functions in streams"] = "".join(pieces) == final.output[0].arguments and final.output[0].parsed_arguments is not None

    output = {"type": "function_call_output", "call_id": call.call_id, "output": "it is on"}
    after = client.responses.create(**{**common, "input": [{"role": "user", "content": "hello"}, *called.output, output]})
    done["a function's round"] = after.output[0].type == "message"

    parsed = client.responses.parse(**{**common, "max_output_tokens": 100}, text_format=Light)
    done["parse"] = isinstance(parsed.output_parsed, Light)
    with client.responses.stream(**{**common, "max_output_tokens": 100}, text_format=Light) as stream:
        final = stream.get_final_response()
    done["parse in streams"] = isinstance(final.output_parsed, Light)

    try:
        client.responses.create(**common, previous_response_id=whole.id)
    except openai.BadRequestError as error:
        done["refusals by name"] = error.param == "previous_response_id"
    return done


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
