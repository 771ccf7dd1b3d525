"""Function calling: forms of calls, held to their schemas with a model of random weights, and read back piece by piece."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import quire
from quire.binding import Contract
from quire.engine.calls import HERMES, LLAMA, MISTRAL, WHOLE, Form, Reader, Turn, parse
from quire.engine.engine import Engine
from quire.engine.tools import Calling, form_of, read_tools, with_objects
from quire.errors import DataError, RecipeError
from quire.text.template import CHATML, Template
from quire.text.tokenizer import Tokenizer
from quire.text.training import SpecialTokens, train
from quire.types import Chunk, Completion, Message, Sampling
from tests.small import TEXTS, tokenizer, write_model

TEMPLATES = Path(__file__).parent.parent / "text" / "templates"


def tool(name: str, parameters: Any = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": f"Does {name}.", "parameters": parameters}}


WEATHER = tool(
    "weather",
    {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 8}, "unit": {"$ref": "#/$defs/unit"}},
        "required": ["city", "unit"],
        "additionalProperties": False,
        "$defs": {"unit": {"enum": ["C", "F"]}},
    },
)
ADD = tool(
    "add",
    {
        "type": "object",
        "properties": {"numbers": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3}},
        "required": ["numbers"],
        "additionalProperties": False,
    },
)
NOW = tool("now")
TOOLS = [WEATHER, ADD, NOW]
SCHEMAS = {one["function"]["name"]: one["function"]["parameters"] for one in TOOLS}
MESSAGES = [Message("user", "What is the weather in Rome?")]


def template(name: str) -> Template:
    return Template((TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return quire.load(str(write_model(tmp_path_factory.mktemp("models") / "m", template=True, context=4096)))


@pytest.fixture(scope="module")
def marked() -> Tokenizer:
    """With Mistral's mark as a special token."""
    special = SpecialTokens({"bos": "<s>", "eos": "</s>", "pad": "</s>"}, ("[TOOL_CALLS]",))
    return train("bpe", TEXTS, 280, special=special)


def contract(name: str | None, words: Tokenizer | None = None) -> Contract:
    return Contract(words or tokenizer("causal"), template(name) if name is not None else None)


def run(model: Any, calling: Calling, seeds: int, max_tokens: int = 900) -> list[tuple[Completion, Turn, list[dict[str, Any]]]]:
    """Answers of the model, each also read as a stream."""
    engine = Engine(model, memory=64 << 20)
    ids = [*model.chat_ids(MESSAGES, calling.shown), *calling.prefix]
    found = []
    for seed in range(seeds):
        sampling = Sampling(max_tokens=max_tokens, temperature=1, seed=seed)
        request = engine.submit(ids, sampling, constraint=calling.constraint(), stop_ids=model.contract.turn_end)
        reader = calling.reader()
        chunks = list(engine.stream(request))
        deltas = [delta for chunk in chunks for delta in reader.push(chunk)]
        answer = Completion(
            "".join(chunk.text for chunk in chunks), tuple(i for chunk in chunks for i in chunk.ids), chunks[-1].finish_reason or "stop", 0
        )
        turn = calling.read(answer)
        assert same(reader.turn(), turn)
        said, put = joined(deltas)
        assert said == (turn.content or "") and [call["function"] for call in put] == [call["function"] for call in turn.told]
        found.append((answer, turn, deltas))
    return found


def same(one: Turn, other: Turn) -> bool:
    """But for the ids of calls."""
    bare = [[[call["function"] for call in calls] for calls in (turn.tool_calls, turn.told)] for turn in (one, other)]
    return bare[0] == bare[1] and (one.content, one.finish_reason, one.broken) == (other.content, other.finish_reason, other.broken)


def joined(deltas: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """What a client puts together from a stream."""
    content, calls = "", []
    for delta in deltas:
        content += delta.get("content", "")
        for part in delta.get("tool_calls", []):
            if part["index"] == len(calls):
                assert part["function"]["arguments"] == "" and part["type"] == "function"
                calls.append({"id": part["id"], "type": "function", "function": dict(part["function"])})
            else:
                assert set(part) == {"index", "function"} and part["index"] == len(calls) - 1
                calls[-1]["function"]["arguments"] += part["function"]["arguments"]
    return content, calls


def check_calls(turn: Turn) -> None:
    for call in turn.tool_calls:
        assert set(call) == {"id", "type", "function"} and call["type"] == "function" and len(call["id"]) == 9 and call["id"].isalnum()
        schema = SCHEMAS[call["function"]["name"]]
        value = json.loads(call["function"]["arguments"])
        jsonschema.Draft202012Validator(schema or {"type": "object", "maxProperties": 0}).validate(value)
    assert len({call["id"] for call in turn.tool_calls}) == len(turn.tool_calls)


# -- forms -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("qwen25", HERMES),
        ("llama3_tools", LLAMA),
        ("mistral_v3", MISTRAL),
        ("llama3", None),
        ("gemma", None),
        ("zephyr", None),
        ("mistral_v1", None),
    ],
)
def test_the_form_is_read_from_the_template(name: str, form: Form | None) -> None:
    assert form_of(template(name)) is form


def test_forms_that_are_not_known_are_not_taken_for_others() -> None:
    assert form_of(None) is None
    assert form_of(Template(CHATML)) is HERMES
    assert form_of(Template("<tool_call>\n<function={{ messages[0].role }}>")) is None
    assert form_of(Template("{{ messages }}", named={"tool_use": '"<tool_call>"'})) is HERMES


@pytest.mark.parametrize(
    ("form", "text", "content", "calls"),
    [
        (HERMES, '<tool_call>\n{"name": "add", "arguments": {"numbers": [1]}}\n</tool_call>', None, [("add", '{"numbers": [1]}')]),
        (HERMES, 'Let me see.\n<tool_call>{"name":"now","arguments":{}}</tool_call>', "Let me see.", [("now", "{}")]),
        (
            HERMES,
            '<tool_call>{"name": "now", "arguments": {}}</tool_call>\n<tool_call>\n{"name": "weather", "arguments": {"city": "a}\\"]{<"}}',
            None,
            [("now", "{}"), ("weather", '{"city": "a}\\"]{<"}')],
        ),
        (HERMES, "No <tool_cal here, a < b", "No <tool_cal here, a < b", []),
        (HERMES, "<tool_call>nothing of the kind", "<tool_call>nothing of the kind", []),
        (LLAMA, '{"name": "add", "parameters": {"numbers": []}}', None, [("add", '{"numbers": []}')]),
        (LLAMA, '{"type": "function", "name": "now", "parameters": {}}', None, [("now", "{}")]),
        (LLAMA, 'A set is written {"a", "b"}', 'A set is written {"a", "b"}', []),
        (LLAMA, '{"some": "object"}', '{"some": "object"}', []),
        (
            MISTRAL,
            '[TOOL_CALLS] [{"name": "now", "arguments": {}}, {"name": "add", "arguments": {"numbers": [2, 3]}, "id": "abcdefghi"}]',
            None,
            [("now", "{}"), ("add", '{"numbers": [2, 3]}')],
        ),
        (MISTRAL, "Nothing to call.", "Nothing to call.", []),
        (WHOLE, '{"name": "now", "arguments": {}}', None, [("now", "{}")]),
    ],
)
def test_calls_are_read_however_the_text_is_cut(form: Form, text: str, content: str | None, calls: list[tuple[str, str]]) -> None:
    names = ["add", "now", "weather"]
    turn = parse(text, form, names)
    assert [(call["function"]["name"], call["function"]["arguments"]) for call in turn.tool_calls] == calls
    assert turn.content == content and turn.finish_reason == ("tool_calls" if calls else "stop") and not turn.broken
    rng = random.Random(3)
    for _ in range(60):
        reader, deltas, at = Reader(form, names, {}, lambda: "c"), list[dict[str, Any]](), 0
        while at < len(text):
            size = rng.choice([1, 1, 2, 5, 30])
            deltas += reader.push(Chunk(text[at : at + size]))
            at += size
        deltas += reader.push(Chunk("", (), "stop"))
        said, put = joined(deltas)
        assert same(reader.turn(), turn) and said == (content or "")
        assert [(call["function"]["name"], call["function"]["arguments"]) for call in put] == calls


def test_a_call_that_was_cut_is_no_call() -> None:
    reader = Reader(HERMES, ["now", "add"], {}, lambda: "c")
    whole = '<tool_call>{"name": "now", "arguments": {}}</tool_call>\n'
    reader.push(Chunk(whole + '<tool_call>{"name": "add", "arguments": {"numbers": [1', (), "length"))
    turn = reader.turn()
    assert [call["function"]["name"] for call in turn.tool_calls] == ["now"]
    assert turn.finish_reason == "length" and turn.broken == 'add{"numbers": [1'
    assert [call["function"]["arguments"] for call in turn.told] == ["{}", '{"numbers": [1']


@pytest.mark.parametrize("choice", ["required", "auto"])
def test_every_cut_of_an_answer_is_told_alike_whole_and_streamed(model: Any, choice: Any) -> None:
    calling = Calling(model.contract, TOOLS, choice, vocab=model.config.vocab)
    kinds = set()
    for most in range(1, 90, 4):
        for answer, turn, _ in run(model, calling, 2, most):  # which compares them
            assert choice == "auto" or turn.content is None
            kinds.add((answer.finish_reason, len(turn.told) - len(turn.tool_calls)))
    assert choice == "auto" or {("length", 0), ("length", 1)} <= kinds


def test_white_space_and_marks_that_lead_to_no_call_are_text() -> None:
    def content(text: str, reason: Any = "stop", form: Form = HERMES, **more: Any) -> str | None:
        found = set()
        for size in (1, 3, len(text)):
            reader = Reader(form, ["now"], {}, lambda: "c", **more)
            chunks = [*(Chunk(text[at : at + size]) for at in range(0, len(text), size)), Chunk("", (), reason)]
            deltas = [delta for chunk in chunks for delta in reader.push(chunk)]
            found.add(reader.turn().content)
            assert (reader.turn().content or "") == joined(deltas)[0]
        assert len(found) == 1
        return found.pop()

    call = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    for text in (
        "\x1c a \x85",
        " \n a\n ",
        "a \n<tool_call> no",
        "a<tool_call>b<tool_call>c",
        "a <tool_call>" + "{" + "x" * 500,
        "a <tool",
    ):
        assert content(text) == text and content(text, "length") == text
    assert content("\x1fa\xa0 \n" + call + " \n") == "\x1fa\xa0"
    assert content("a <tool_call>no\n" + call + "\n<tool", "length") == "a <tool_call>no"
    assert content(call + "\nb\n" + call) == "\nb"
    assert content("<tool_", "length", forced=True) is None
    assert content('\x1c{"name": "now"', form=LLAMA) == '\x1c{"name": "now"'
    assert content("[TOOL_CALLS] [oops", form=MISTRAL) == "[TOOL_CALLS] [oops"


def test_arguments_that_are_no_json_make_no_call() -> None:
    turn = parse('<tool_call>{"name": "now", "arguments": {"a": oops}}</tool_call>', HERMES, ["now"])
    assert turn.tool_calls == () and turn.broken == '{"a": oops}' and turn.finish_reason == "stop" and len(turn.told) == 1


def test_a_tool_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match="the model calls 'nov'; the tools are now, add. Did you mean 'now'?"):
        parse('{"name": "nov", "arguments": {}}', WHOLE, ["now", "add"])


# -- with a model ------------------------------------------------------------------------------------------------------------------


def test_required_calls_follow_their_schemas(model: Any) -> None:
    calling = Calling(model.contract, TOOLS, "required", vocab=model.config.vocab)
    assert calling.form is HERMES and calling.prefix == []
    found = run(model, calling, 12)
    for answer, turn, deltas in found:
        assert answer.finish_reason == "stop" and turn.finish_reason == "tool_calls" and turn.content is None and turn.tool_calls
        check_calls(turn)
        said, put = joined(deltas)
        assert not said and [call["function"] for call in put] == [call["function"] for call in turn.tool_calls]
    assert {call["function"]["name"] for _, turn, _ in found for call in turn.tool_calls} == {"weather", "add", "now"}


def test_one_call_at_a_time(model: Any) -> None:
    calling = Calling(model.contract, TOOLS, "required", parallel=False, vocab=model.config.vocab)
    assert all(len(turn.tool_calls) == 1 for _, turn, _ in run(model, calling, 12))


def test_a_named_tool_is_called_once(model: Any) -> None:
    calling = Calling(model.contract, TOOLS, {"type": "function", "function": {"name": "weather"}}, vocab=model.config.vocab)
    for _, turn, _ in run(model, calling, 6):
        check_calls(turn)
        assert [call["function"]["name"] for call in turn.tool_calls] == ["weather"]


def test_auto_leaves_text_free_and_holds_calls(model: Any) -> None:
    calling = Calling(model.contract, TOOLS, "auto", vocab=model.config.vocab)
    for _, turn, deltas in run(model, calling, 6, 40):
        check_calls(turn)
        assert joined(deltas)[0] == (turn.content or "")
    # Text first, then a call: from the mark on, only what a tool allows may come.
    constraint, words = calling.constraint(), model.contract.tokenizer
    assert constraint is not None and constraint.complete
    for token in words.encode('Well.\n<tool_call>{"name": "'):
        allowed = constraint.allowed()
        assert allowed is not None and allowed[token]
        constraint.accept(token)
    allowed = constraint.allowed()
    assert allowed is not None and not constraint.complete
    first = {words.decode([int(token)])[0] for token in allowed.nonzero()[0]}
    assert first == {"w", "a", "n"}


def test_none_shows_and_asks_nothing(model: Any) -> None:
    calling = Calling(model.contract, TOOLS, "none")
    assert calling.shown == [] and calling.constraint() is None
    text = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    assert calling.read(Completion(text, (), "stop", 0)) == Turn(text, (), "stop")


def test_a_cut_answer_is_reported(model: Any) -> None:
    calling = Calling(model.contract, TOOLS, "required", vocab=model.config.vocab)
    for answer, turn, _ in run(model, calling, 3, 12):
        assert answer.finish_reason == "length" and turn.finish_reason == "length" and turn.tool_calls == () and turn.broken


@pytest.mark.parametrize(("name", "form"), [("llama3_tools", LLAMA), ("llama3", WHOLE), (None, WHOLE)])
def test_other_templates_call_too(model: Any, name: str | None, form: Form) -> None:
    calling = Calling(contract(name), TOOLS, "required", vocab=model.config.vocab)
    assert calling.form is form
    for answer, turn, _ in run(model, calling, 4):
        check_calls(turn)
        assert len(turn.tool_calls) == 1 and set(json.loads(answer.text)) == {"name", form.key}


@pytest.mark.parametrize("name", ["llama3", None])
def test_auto_needs_a_template_that_says_how(name: str | None) -> None:
    with pytest.raises(RecipeError, match=r"does not say how calls are written .*Use tool_choice 'required' or a named tool"):
        Calling(contract(name), TOOLS, "auto")
    assert Calling(contract(name), [], "auto").constraint() is None


def test_a_mark_that_is_one_special_token(marked: Tokenizer) -> None:
    mark = marked.special_tokens["[TOOL_CALLS]"]
    calling = Calling(contract("mistral_v3", marked), TOOLS, "required")
    assert calling.form is MISTRAL and calling.prefix == [mark]
    text = ' [{"name": "now", "arguments": {}}, {"name": "add", "arguments": {"numbers": [7]}}]'
    constraint = calling.constraint()
    assert constraint is not None
    for token in marked.encode(text):
        constraint.accept(token)
    assert constraint.complete and constraint.closed
    turn = calling.read(Completion(text, tuple(marked.encode(text)), "stop", 0))  # the mark stands in the prompt
    assert [call["function"]["name"] for call in turn.tool_calls] == ["now", "add"]

    auto = Calling(contract("mistral_v3", marked), TOOLS, "auto", parallel=False)
    assert auto.prefix == []
    free = auto.constraint()
    assert free is not None and free.allowed() is None and free.complete
    for token in [*marked.encode("Well: "), mark]:
        free.accept(token)
    assert free.allowed() is not None and not free.complete
    for token in marked.encode('[{"name": "now", "arguments": {}}'):
        free.accept(token)
    allowed = free.allowed()
    assert allowed is not None and not allowed[marked.encode(",")[0]] and allowed[marked.encode("]")[0]]
    ids = (*marked.encode("Well: "), mark, *marked.encode('[{"name": "now", "arguments": {}}]'))
    turn = auto.read(Completion('Well: [{"name": "now", "arguments": {}}]', ids, "stop", 0))
    assert turn.tool_calls[0]["function"] == {"name": "now", "arguments": "{}"} and turn.content == "Well:"


def test_marks_that_are_special_tokens_on_both_sides() -> None:
    words = train("bpe", TEXTS, 300, special=SpecialTokens({"bos": "<s>", "eos": "</s>"}, ("<tool_call>", "</tool_call>")))
    opener, closer = words.special_tokens["<tool_call>"], words.special_tokens["</tool_call>"]
    body = '{"name": "now", "arguments": {}}'
    calling = Calling(contract("qwen25", words), TOOLS, "required")
    constraint = calling.constraint()
    assert constraint is not None and calling.prefix == [opener]
    for token in words.encode(body):
        constraint.accept(token)
    assert constraint.closed
    free = Calling(contract("qwen25", words), TOOLS, "auto")
    ids = [*words.encode("One: "), opener, *words.encode(body), closer, opener, *words.encode(body), closer]
    turn = free.read(Completion(words.decode(ids), tuple(ids), "stop", 0))
    assert turn.content == "One:" and len(turn.tool_calls) == 2
    reader = free.reader()
    stream = words.stream()
    for token in ids:
        reader.push(Chunk(stream.push(token), (token,)))
    reader.push(Chunk(stream.end(), (), "stop"))
    assert same(reader.turn(), turn)


# -- what is refused ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tools", "choice", "said"),
    [
        ([{"name": "now"}], "auto", r"tool 0 is .\"name\": \"now\".; a tool is a dictionary with type 'function'"),
        ([NOW, tool("a b")], "auto", "tool 1 is .*at most 64 letters"),
        ([tool("x", {"type": "string"})], "auto", 'the parameters of the tool \'x\' must be a JSON schema with "type": "object"'),
        ([NOW, NOW], "auto", "two tools have the name 'now'"),
        ([tool(f"t{number}") for number in range(129)], "auto", "there are 129 tools; at most 128"),
        ([tool("x", {"type": "object", "title": "t" * 20_000})], "auto", "the tool 'x' has 20,1.. characters; at most 16,384"),
        ([NOW, tool("x", {"type": "object", "not": {}})], "auto", "the parameters of the tool 'x': .*not"),
        ([tool("x", {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})], "auto", "the tool 'x': .*ever ends"),
        ([tool("x", {"type": "object", "properties": {"a": {"type": "integer", "multipleOf": 1234567}}})], "auto", "'x': .*0.25 s"),
        (TOOLS, {"type": "function", "function": {"name": "whether"}}, "tool_choice names 'whether'; .*Did you mean 'weather'?"),
        (TOOLS, "always", "tool_choice is 'always'; allowed: none, auto, required"),
        ([], "required", "there are no tools"),
    ],
)
def test_what_is_refused_is_named(tools: Any, choice: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Calling(contract("qwen25"), tools, choice)


def test_many_tools_fit() -> None:
    calling = Calling(contract("qwen25"), [tool(f"t{number}", WEATHER["function"]["parameters"]) for number in range(60)], "required")
    assert calling.constraint() is not None and len(read_tools(calling.shown)) == 60


# -- around --------------------------------------------------------------------------------------------------------------------------


def test_calls_go_back_into_the_template(model: Any) -> None:
    calling = Calling(model.contract, TOOLS, "required", parallel=False, vocab=model.config.vocab)
    (_, turn, _) = run(model, calling, 1)[0]
    call = turn.tool_calls[0]
    before = Message("assistant", "", tool_calls=(call,))
    answered = [*MESSAGES, before, Message("tool", "fine", tool_call_id=call["id"])]
    ids = model.chat_ids(with_objects(answered), calling.shown)
    assert f'<tool_call>{{"name": "{call["function"]["name"]}", "arguments": ' in model.contract.tokenizer.decode(ids)
    assert with_objects([before])[0].tool_calls[0]["function"]["arguments"] == json.loads(call["function"]["arguments"])
    broken = Message("assistant", "", tool_calls=({"function": {"name": "now", "arguments": "{"}},))
    with pytest.raises(DataError, match="earlier call of 'now' are no JSON"):
        with_objects([broken])
