"""The `openai` package's completions against a server: python openai_completions.py URL. Prints {feature: true, or what was wrong}."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

import openai
from openai import OpenAI
from pydantic import TypeAdapter

client = OpenAI(base_url=f"{sys.argv[1]}/v1", api_key=sys.argv[2] if len(sys.argv) > 2 else "none", max_retries=0)


def complete(prompt: Any = "the quick brown", **more: Any) -> Any:
    answer = client.completions.create(**{"model": "base", "prompt": prompt, "seed": 1, **more})
    if not more.get("stream") and not more.get("echo"):  # an echoed prompt's first token has no probability: null, as OpenAI gives it
        TypeAdapter(type(answer)).validate_python(answer.to_dict(mode="json"))
    return answer


def texts(answer: Any) -> list[str]:
    return [choice.text for choice in answer.choices]


def text() -> None:
    answer = complete(n=2)
    assert answer.usage.completion_tokens <= 32 and len(set(texts(answer))) == 2 and answer.system_fingerprint
    assert texts(complete(n=2)) == texts(answer)


def several_prompts() -> None:
    answer = complete(["the quick", "fox"], n=2, max_tokens=4)
    one, other = complete("the quick", n=2, max_tokens=4), complete("fox", n=2, max_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert texts(answer) == texts(one) + texts(other)
    assert answer.usage.prompt_tokens == one.usage.prompt_tokens + other.usage.prompt_tokens


def token_ids() -> None:
    assert texts(complete([[70, 71], [72]], max_tokens=4)) == texts(complete([70, 71], max_tokens=4)) + texts(complete([72], max_tokens=4))


def stream() -> None:
    chunks = list(complete(["the quick", "fox"], stream=True, max_tokens=4, logprobs=2, stream_options={"include_usage": True}))
    for chunk in chunks:
        assert chunk.object == "text_completion" and chunk.id == chunks[0].id and chunk.system_fingerprint
    whole = complete(["the quick", "fox"], max_tokens=4, logprobs=2)
    for index, choice in enumerate(whole.choices):
        mine = [one for chunk in chunks for one in chunk.choices if one.index == index]
        assert "".join(one.text for one in mine) == choice.text and mine[-1].finish_reason == choice.finish_reason
        assert [place for one in mine if one.logprobs for place in one.logprobs.text_offset] == choice.logprobs.text_offset
    assert chunks[-1].usage == whole.usage


def echo_and_logprobs() -> None:
    answer = complete(echo=True, logprobs=1, max_tokens=1)
    [choice], facts = answer.choices, answer.choices[0].logprobs
    assert choice.text.startswith("the quick brown") and facts.token_logprobs[0] is None
    assert len(facts.tokens) == len(facts.text_offset) == len(facts.top_logprobs) == answer.usage.total_tokens
    assert all(max(top.values()) >= chance for top, chance in zip(facts.top_logprobs[1:], facts.token_logprobs[1:]))


def scoring() -> None:
    answer = complete(echo=True, logprobs=1, max_tokens=0)
    assert answer.choices[0].text == "the quick brown" and answer.usage.completion_tokens == 0
    longer = complete(echo=True, logprobs=1, max_tokens=1).choices[0].logprobs.token_logprobs
    assert answer.choices[0].logprobs.token_logprobs == longer[:-1]


def refusals() -> None:
    for more in ({"suffix": "x"}, {"best_of": 3}, {"logprobs": 6}, {"prompt": "a " * 600}):
        try:
            complete(**more)
        except openai.BadRequestError as error:
            assert next(iter(more)) in str(error), error
        else:
            raise AssertionError(f"{more} was taken")


def encoder_decoder() -> None:
    assert complete("the quick brown", model="t5", max_tokens=4).usage.completion_tokens <= 4


FEATURES: list[Callable[[], None]] = [
    text,
    several_prompts,
    token_ids,
    stream,
    echo_and_logprobs,
    scoring,
    refusals,
    encoder_decoder,
]


def tried(feature: Callable[[], None]) -> bool | str:
    try:
        feature()
    except Exception:
        return traceback.format_exc()[-1500:]
    return True


if __name__ == "__main__":
    print(json.dumps({feature.__name__: tried(feature) for feature in FEATURES}))
