"""Forms, tools and several answers, asked for by name: what chat and generate say of what was written, and that a cut is never valid."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

import quire
from quire.engine.constrain import choice, json_schema
from quire.engine.engine import Engine
from quire.errors import ContextError, RecipeError
from quire.types import Message, Sampling
from tests.small import write_model

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
ASK = [Message("user", "Is it warm?")]


class Count(BaseModel):
    n: int


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return quire.load(str(write_model(tmp_path_factory.mktemp("models") / "m", template=True, context=2048)))


def test_a_form_by_name_gives_the_value(model: Any) -> None:
    answer = model.generate("def", schema=SCHEMA, max_tokens=60, seed=1)
    assert answer.valid and answer.parsed == json.loads(answer.text) and isinstance(answer.parsed["n"], int)
    said = model.chat(ASK, schema=Count, max_tokens=60, seed=2)
    assert said.valid and isinstance(said.parsed, Count)
    both = model.generate(["a", "b"], choice=["yes", "no"], max_tokens=10, seed=3)
    assert all(one.valid and one.parsed == one.text and one.text in ("yes", "no") for one in both)
    assert model.chat(ASK, regex=r"\d{4}-\d{2}", max_tokens=20).parsed[4] == "-"
    assert model.generate("x", grammar='start: "a" "b"', max_tokens=5).parsed == "ab"
    assert "".join(chunk.text for chunk in model.stream("x", grammar='start: "a" "b"', max_tokens=5)) == "ab"
    free = model.generate("x", max_tokens=3)
    assert (free.valid, free.parsed, free.tool_calls) == (None, None, ())


def test_what_is_cut_is_never_valid(model: Any) -> None:
    answer = model.generate("def", schema=SCHEMA, max_tokens=3, seed=1)
    assert (answer.finish_reason, answer.valid, answer.parsed) == ("length", False, None)
    digits = model.generate("def", regex=r"\d{1,9}", max_tokens=1, seed=1)  # could be read as it stands
    assert (digits.finish_reason, digits.valid) == ("length", False) and digits.text.isdigit()
    called = model.chat(ASK, tools=[WEATHER], tool_choice="required", max_tokens=6)
    assert (called.finish_reason, called.valid, called.tool_calls) == ("length", False, ())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"schema": SCHEMA, "regex": "a"}, "schema and regex are given"),
        ({"choice": "yes"}, "a choice is a list of texts"),
        ({"schema": {"type": "array", "uniqueItems": True}}, "uniqueItems"),
        ({"n": 0}, "n is 0; allowed: 1 and more"),
        ({"shema": SCHEMA}, "there is no 'shema'"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_any_work(more: dict[str, Any], message: str, model: Any) -> None:
    with pytest.raises(RecipeError, match=message):
        model.generate("x", **more)
    assert not model.engine.busy


def test_tools_by_name(model: Any) -> None:
    answer = model.chat(ASK, tools=[WEATHER], tool_choice="required", parallel=False, max_tokens=120, seed=4)
    [call] = answer.tool_calls
    assert answer.valid and answer.finish_reason == "stop" and answer.text == ""
    assert call["function"]["name"] == "weather" and json.loads(call["function"]["arguments"])["city"] in ("Rome", "Oslo")
    chunks = list(model.stream_chat(ASK, tools=[WEATHER], tool_choice="required", parallel=False, max_tokens=120, seed=4))
    deltas = [delta for chunk in chunks for delta in chunk.calls]
    assert "".join(delta["function"].get("arguments", "") for delta in deltas) == call["function"]["arguments"]
    assert "".join(chunk.text for chunk in chunks) == ""
    # the call goes back as it came, its arguments a text, and its answer with it
    past = [*ASK, Message("assistant", answer.text, answer.tool_calls), Message("tool", "warm", tool_call_id=call["id"])]
    assert model.chat(past, tools=[WEATHER], max_tokens=3).ids
    assert '"city": "' in model.contract.tokenizer.decode(model.chat_ids(past, [WEATHER])).partition("<tool_call>")[2]
    plain = model.chat(ASK, tools=[WEATHER], tool_choice="none", choice=["yes"], max_tokens=9)
    assert plain.prompt_tokens == len(model.chat_ids(ASK)) and plain.valid is not None
    with pytest.raises(RecipeError, match="held to one of them"):
        model.chat(ASK, tools=[WEATHER], choice=["yes"])
    with pytest.raises(RecipeError, match="there are no tools"):
        model.chat(ASK, tool_choice="required")


def test_several_answers_share_the_prompt(model: Any) -> None:
    prompt = "def parse_line(line): " * 4
    several = model.generate(prompt, n=4, max_tokens=8, seed=5, temperature=1.0)
    assert [one.ids for one in several] == [model.generate(prompt, max_tokens=8, seed=5 + k, temperature=1.0).ids for k in range(4)]
    assert len({one.ids for one in several}) > 1
    engine = Engine(model, memory=64 << 20, budget=32)
    before = engine.blocks.hits
    ids = model.contract.prompt(prompt)
    assert [one.ids for one in engine.generate([ids], Sampling(max_tokens=8, seed=5), n=4)] == [one.ids for one in several]
    assert engine.blocks.hits - before == 3 * ((len(ids) - 1) // 16)
    engine.blocks.check([])
    pairs = model.generate(["a", "b"], n=2, max_tokens=40, seed=1, schema=SCHEMA)
    assert len(pairs) == 4 and all(one.valid for one in pairs)
    assert model.generate("a", n=1, max_tokens=2, seed=1)[0] == model.generate("a", max_tokens=2, seed=1)
    with pytest.raises(ContextError):  # nothing of the first is begun where the second cannot be
        model.generate(["a", "b" * 5000], n=2)
    assert not model.engine.busy


def test_stop_ids_that_a_form_needs_are_text_until_it_is_whole(model: Any) -> None:
    tokenizer, vocab = model.contract.tokenizer, model.config.vocab
    ends = [token for token in range(vocab) if b"}" in tokenizer.token_bytes(token) or b"e" in tokenizer.token_bytes(token)]
    sampling = Sampling(max_tokens=60, seed=1, stop_ids=tuple(ends), min_tokens=2)
    answer = model.generate("def", sampling, schema=SCHEMA)
    assert answer.valid and answer.finish_reason == "stop"
    assert model.generate("def", sampling, choice=["yes", "yes, yes"]).valid
    # also where they are the model's own, if nothing else goes on
    for form, text in ((choice(tokenizer, ["e"], vocab=vocab), "e"), (json_schema(tokenizer, {"const": "e"}, vocab=vocab), '"e"')):
        engine = Engine(model, memory=16 << 20)
        request = engine.submit("def", Sampling(max_tokens=20, seed=1), constraint=form, stop_ids=range(3, vocab))
        while engine.busy:
            engine.step()
        assert engine.result(request).text == text and form.read(engine.result(request)).valid
