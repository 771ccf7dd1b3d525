"""Structured output: the constraint makes it valid, not luck, so the model here has random weights and draws at temperature 1."""

from __future__ import annotations

import datetime
import ipaddress
import json
import random
import re
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import quire
from quire.engine import constrain, grammars
from quire.engine.constrain import LIMITS, Grammar, choice, grammar, json_object, json_schema, later, regex
from quire.engine.engine import Engine
from quire.errors import ExtraError, RecipeError
from quire.text.tokenizer import Tokenizer
from quire.types import Completion, Sampling
from tests.small import tokenizer, write_model

PATIENT = replace(LIMITS, seconds=20)  # where time is not what is tested


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return quire.load(str(write_model(tmp_path_factory.mktemp("models") / "m", context=2048)))


def answers(model: Any, grammars: list[Grammar], max_tokens: int = 1800, exact: bool = False) -> list[Completion]:
    engine = Engine(model, memory=64 << 20, exact=exact)
    rng = random.Random(7)
    requests = []
    for number, one in enumerate(grammars):
        prompt = [rng.randrange(3, model.config.vocab) for _ in range(rng.randrange(1, 30))]
        requests.append(engine.submit(prompt, Sampling(max_tokens=max_tokens, temperature=1, seed=number), constraint=one))
    while engine.busy:
        engine.step()
    engine.blocks.check([])
    return [engine.result(request) for request in requests]


# -- random schemas ----------------------------------------------------------------------------------------------------------------


def random_schema(rng: random.Random, depth: int = 3) -> dict[str, Any]:
    simple = [_integer, _number, _string, _enum, _const, lambda rng: {"type": rng.choice(["boolean", "null"])}, _format]
    if depth == 0 or rng.random() < 0.3:
        return rng.choice(simple)(rng)
    kind = rng.choice(["object", "object", "object", "array", "anyOf", "types", "ref"])
    if kind == "object":
        names = rng.sample(["a", "b", "id", "größe", 'quo"te', "x y", "next", "list"], rng.randrange(1, 5))
        required = [name for name in names if rng.random() < 0.6]
        made: dict[str, Any] = {
            "type": "object",
            "properties": {name: random_schema(rng, depth - 1) for name in names},
            "required": required,
        }
        more: dict[str, Any] = rng.choice([{}, {}, {"patternProperties": {"^x[0-9]{1,3}$": {"type": "boolean"}}}])
        return made | more | {"additionalProperties": False}  # a key of any length may be longer than the answer
    if kind == "array":
        least = rng.randrange(3)
        made = {"type": "array", "items": random_schema(rng, depth - 1), "minItems": least, "maxItems": least + rng.randrange(3)}
        if rng.random() < 0.3:
            made |= {"prefixItems": [random_schema(rng, 0) for _ in range(rng.randrange(1, 3))]}
        return made
    if kind == "anyOf":
        return {"anyOf": [random_schema(rng, depth - 1) for _ in range(rng.randrange(1, 4))]}
    if kind == "types":
        return {"type": rng.sample(["boolean", "null", "integer"], 2), "maximum": 99, "minimum": -5}
    return {"$ref": "#/$defs/node"}


def _integer(rng: random.Random) -> dict[str, Any]:
    low = rng.randrange(-1000, 1000)
    return {"type": "integer", "minimum": low, rng.choice(["maximum", "exclusiveMaximum"]): low + rng.randrange(1, 5000)}


def _number(rng: random.Random) -> dict[str, Any]:
    low = rng.randrange(-50, 50) / 4
    return {"type": "number", "minimum": low, "maximum": low + rng.randrange(1, 9) / 4}


def _string(rng: random.Random) -> dict[str, Any]:
    least = rng.randrange(4)
    free = {"type": "string", "minLength": least, "maxLength": least + rng.randrange(12)}
    return rng.choice([free, {"type": "string", "pattern": rng.choice(["^[a-z]{2,5}$", "^(ab|c)+d$", r"^\d{3}-\d{4}$"])}])


def _enum(rng: random.Random) -> dict[str, Any]:
    return {"enum": rng.sample(["red", "GREEN", 1, 2.5, None, True, ["x"], {"k": 0}, "ü\n"], 3)}


def _const(rng: random.Random) -> dict[str, Any]:
    return {"const": rng.choice(["fixed", 12, {"deep": [1, {"er": None}]}, []])}


def _format(rng: random.Random) -> dict[str, Any]:
    return {"type": "string", "format": rng.choice(["date", "ipv4", "ipv6", "uuid"])}


# A list that may go on, as trees and linked lists are written.
NODE = {
    "type": "object",
    "properties": {"v": {"type": "boolean"}, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}},
    "required": ["v", "next"],
    "additionalProperties": False,
}


def check_random_schemas(model: Any, count: int) -> None:
    rng = random.Random(20)
    schemas = [random_schema(rng) | {"$defs": {"node": NODE}} for _ in range(count)]
    vocab = model.config.vocab
    made = [json_schema(model.contract.tokenizer, schema, vocab=vocab, limits=PATIENT) for schema in schemas]
    found = answers(model, made)
    for schema, one, answer in zip(schemas, made, found, strict=True):
        assert answer.finish_reason == "stop", (schema, answer.text)
        value = json.loads(answer.text)
        jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(value)
        parsed = one.read(answer)
        assert parsed.valid and json.dumps(parsed.value) == json.dumps(value), parsed


def test_random_schemas_are_followed(model: Any) -> None:
    check_random_schemas(model, 60)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_random_schemas_are_followed(model: Any) -> None:
    check_random_schemas(model, 1000)


def test_regex_and_choice_are_followed(model: Any) -> None:
    tokens, vocab = model.contract.tokenizer, model.config.vocab
    patterns = ["[a-z]{3,9}", r"\d{4}-\d{2}-\d{2}", "(ab|c){1,4}é?!", r"[^\n]{1,40}\.", "yes|no|perhaps", r"\p{Greek}{2}"]
    texts = ["yes", "yes, but", 'a "quoted" \\ one', "für Größe 🙂\n", "\x00"]
    made = [regex(tokens, pattern, vocab=vocab) for pattern in patterns] + [choice(tokens, texts, vocab=vocab) for _ in range(20)]
    found = answers(model, made, 400)
    assert all(answer.finish_reason == "stop" and one.read(answer).valid for answer, one in zip(found, made, strict=True))
    for pattern, answer in zip(patterns[:5], found):
        assert re.fullmatch(pattern, answer.text), (pattern, answer.text)
    drawn = [answer.text for answer in found[len(patterns) :]]
    assert set(drawn) <= set(texts) and len(set(drawn)) > 2


def test_grammars_in_both_spellings(model: Any) -> None:
    tokens, vocab = model.contract.tokenizer, model.config.vocab
    lark = grammar(tokens, 'start: SIGN? digit ("+" digit)*\ndigit: /[0-9]/\nSIGN: "-"', vocab=vocab)
    gbnf = grammar(tokens, 'root ::= ("a" | "b") [0-9] tail?\ntail ::= "." root', vocab=vocab)
    for one, pattern in ((lark, r"-?\d(\+\d)*"), (gbnf, r"[ab]\d(\.[ab]\d)*")):
        (answer,) = answers(model, [one], 300)
        assert re.fullmatch(pattern, answer.text) and one.read(answer).valid


def test_a_cut_answer_is_not_valid(model: Any) -> None:
    tokens, vocab = model.contract.tokenizer, model.config.vocab
    made = [json_schema(tokens, {"type": "string", "minLength": 500}, vocab=vocab), regex(tokens, "[qz]{6}[qz]*", vocab=vocab)]
    for one, answer in zip(made, answers(model, made, 6), strict=True):
        parsed = one.read(answer)
        assert answer.finish_reason == "length"
        # The second could be read as it stands; it was cut all the same.
        assert not parsed.valid and parsed.value is None and "cut by max_tokens after 6 tokens" in parsed.why


FORMATS: dict[str, Any] = {
    "date": datetime.date.fromisoformat,
    "date-time": lambda text: datetime.datetime.fromisoformat(text.replace("Z", "+00:00")),
    "time": lambda text: datetime.time.fromisoformat(text.replace("Z", "+00:00")),
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "uuid": uuid.UUID,
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_what_their_names_say(name: str) -> None:
    words, rng = tokenizer("causal"), random.Random(5)
    begun = json_schema(words, {"type": "string", "format": name}, limits=PATIENT)
    for _ in range(100):
        one, ids = begun.fresh(), list[int]()
        while not one.closed:
            ids.append(int(rng.choice(np.flatnonzero(one.allowed()))))
            one.accept(ids[-1])
        FORMATS[name](json.loads(words.decode(ids)))


def test_leap_years() -> None:
    one = json_schema(tokenizer("causal"), {"type": "string", "format": "date"})
    for year, leap in ((2000, True), (1900, False), (2024, True), (2023, False), (2096, True), (2100, False), (4000, True)):
        assert one.accepts(f'"{year}-02-29"') == leap and one.accepts(f'"{year}-02-28"')
    assert one.accepts('"2023-12-31"') and not one.accepts('"2023-11-31"')
    literal = json_schema(tokenizer("causal"), {"const": {"format": "date"}})
    assert literal.read_text('{"format": "date"}').value == {"format": "date"}


def test_json_object_is_an_object_or_reported_as_cut(model: Any) -> None:
    made = [json_object(model.contract.tokenizer, vocab=model.config.vocab) for _ in range(20)]
    found = answers(model, made, 300)
    for one, answer in zip(made, found, strict=True):
        parsed = one.read(answer)
        assert parsed.valid == (answer.finish_reason == "stop")
        assert not parsed.valid or isinstance(json.loads(answer.text), dict)
    assert any(answer.finish_reason == "stop" for answer in found)


def test_pydantic_class_in_and_out(model: Any) -> None:
    from typing import Literal

    import pydantic

    class Item(pydantic.BaseModel):
        name: str = pydantic.Field(max_length=5)
        count: int = pydantic.Field(ge=1, le=9)
        colour: Literal["red", "blue"] | None

    class Order(pydantic.BaseModel):
        items: list[Item] = pydantic.Field(min_length=1, max_length=2)

    one = json_schema(model.contract.tokenizer, Order, vocab=model.config.vocab)
    (answer,) = answers(model, [one])
    value = one.read(answer).value
    assert isinstance(value, Order) and 1 <= value.items[0].count <= 9

    class Even(pydantic.BaseModel):
        n: int

        @pydantic.field_validator("n")
        @classmethod
        def even(cls, n: int) -> int:
            if n % 2:
                raise ValueError("odd")
            return n

    strict = json_schema(model.contract.tokenizer, Even)
    assert strict.read_text('{"n": 2}').value == Even(n=2)
    refused = strict.read_text('{"n": 3}')
    assert not refused.valid and "odd" in refused.why


# -- what one grammar does to others -----------------------------------------------------------------------------------------------


def test_constrained_and_free_requests_side_by_side(model: Any) -> None:
    """A request's answer does not depend on a neighbour that is constrained."""
    plain = Sampling(max_tokens=20, temperature=0)
    alone = Engine(model, memory=16 << 20, exact=True).generate(["The quick"], plain)[0]
    engine = Engine(model, memory=16 << 20, exact=True)
    free = engine.submit("The quick", plain)
    bound = engine.submit("The quick", plain, constraint=choice(model.contract.tokenizer, ["yes", "no"], vocab=model.config.vocab))
    while engine.busy:
        engine.step()
    assert engine.result(free).ids == alone.ids and engine.result(bound).text in ("yes", "no")


def test_states_of_one_request_are_not_taken_from_another() -> None:
    """llguidance's copies share their lexer: with copies the sixth of these runs out of states, and so would every later one."""
    small = replace(LIMITS, states=2_000)
    first = regex(tokenizer("causal"), "(a|b)*a(a|b){14}", limits=small)
    for seed in range(12):
        one, rng = first.fresh(), random.Random(seed)
        for _ in range(150):
            one.accept(int(rng.choice(np.flatnonzero(one.allowed()))))


def test_a_grammar_that_grows_too_complex_fails_its_request_alone(model: Any) -> None:
    tokens, vocab = model.contract.tokenizer, model.config.vocab
    tight = regex(tokens, "(a|b)*a(a|b){14}", vocab=vocab, limits=replace(LIMITS, states=60))
    engine = Engine(model, memory=16 << 20)
    bad = engine.submit("x", Sampling(max_tokens=300, seed=1), constraint=tight)
    good = engine.submit("x", Sampling(max_tokens=300, seed=1), constraint=choice(tokens, ["one"], vocab=vocab))
    while engine.busy:
        engine.step()
    assert engine.result(good).text == "one"
    with pytest.raises(RecipeError, match="the regex is too complex to follow: .*states"):
        engine.result(bad)


def test_special_tokens_are_never_text(model: Any) -> None:
    tokens = model.contract.tokenizer
    one = regex(tokens, r"[\s\S]+")
    assert one.allowed().sum() > 100 and not one.allowed()[list(tokens.special_tokens.values())].any()
    with pytest.raises(RecipeError, match="the token 0 does not follow the regex"):
        one.accept(0)
    assert one.accepts("<|im_end|>")  # as letters
    with pytest.raises(RecipeError, match=r"the grammar cannot be used|cannot be followed"):
        grammar(tokens, "start: <|im_end|>")


def test_the_mask_has_the_rows_of_the_head() -> None:
    tokens = tokenizer("causal")
    assert regex(tokens, "a", vocab=512).allowed().shape == (512,)
    assert regex(tokens, "a", vocab=270).allowed().sum() == 1


def test_states_of_a_grammar() -> None:
    tokens = tokenizer("causal")
    one = regex(tokens, "ab?")
    a, b = tokens.encode("a")[0], tokens.encode("b")[0]
    assert not one.complete and not one.closed
    one.accept(a)
    assert one.complete and not one.closed and one.allowed()[b]
    one.accept(b)
    assert one.complete and one.closed and not one.allowed().any()
    assert not one.fresh().complete


# -- refusals ----------------------------------------------------------------------------------------------------------------------


def one_of(depth: int) -> dict[str, Any]:
    """Alternatives that can be told apart, twice as many at each depth."""
    if depth == 0:
        return {"type": "integer"}
    parts = [
        {"type": "object", "properties": {"k": {"const": f"{depth}{x}"}, "v": one_of(depth - 1)}, "required": ["k", "v"]} for x in "ab"
    ]
    return {"oneOf": [part | {"additionalProperties": False} for part in parts]}


def alike(depth: int) -> dict[str, Any]:
    return {"type": "integer"} if depth == 0 else {"oneOf": [alike(depth - 1), {"type": "array", "items": alike(depth - 1)}]}


def chain(word: str, count: int) -> dict[str, Any]:
    parts: dict[str, Any] = {f"d{i}": {word: [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(count)}
    return {"$defs": parts | {f"d{count}": {"type": "object"}}, "$ref": "#/$defs/d0"}


def nested(depth: int) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        made = {"type": "array", "items": made}
    return made


SELF = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
TORTURE: list[tuple[Any, Any]] = [
    *((json_schema, one_of(depth)) for depth in (4, 6, 8, 10, 12)),
    *((json_schema, alike(depth)) for depth in (4, 8, 12)),
    *((json_schema, chain(word, count)) for word in ("allOf", "anyOf", "oneOf") for count in (10, 30, 200)),
    (json_schema, SELF),
    (json_schema, {"$ref": "#"}),
    (json_schema, {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
    (json_schema, nested(30)),
    (json_schema, nested(500)),
    (json_schema, {"type": "integer", "multipleOf": 1234567}),
    (json_schema, {"type": "number", "multipleOf": 0.00000123}),
    (json_schema, {"type": "integer", "minimum": -(10**300), "maximum": 10**300}),
    (json_schema, {"type": "string", "maxLength": 10**9}),
    (json_schema, {"type": "string", "minLength": 10**6}),
    (json_schema, {"type": "string", "pattern": "(a+)+b"}),
    (json_schema, {"type": "string", "pattern": "^(a?){500}a{500}$"}),
    (json_schema, {"type": "array", "items": {"type": "integer"}, "minItems": 10**6}),
    (json_schema, {"type": "array", "items": {"type": "integer"}, "maxItems": 10**9}),
    (json_schema, {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(2000)}}),
    (json_schema, {"type": "object", "minProperties": 10**6}),
    (json_schema, {"type": "object", "patternProperties": {f"^{'ab' * i}.*": {} for i in range(40)}}),
    (json_schema, {"enum": [f"{i:x}" * 4 for i in range(3000)]}),
    (json_schema, {"$ref": "http://localhost:1/schema.json"}),
    (json_schema, {"type": "integer", "x-guidance": {"lenient": True}, "unknown": 1}),
    (regex, "(a+)+b"),
    (regex, "(.*a){25}"),
    (regex, "a{1000000}"),
    (regex, "(a{1000}){1000}"),
    (regex, "((a{0,100}){0,100}){0,100}"),
    (regex, "(a?){500}a{500}"),
    (regex, "(x+x+)+y"),
    (regex, "(a|b)*a(a|b){1000}"),
    (regex, r"(\p{L}{0,1000}\p{N}){50}"),
    (regex, "(" * 2000 + "a" + ")" * 2000),
    (grammar, 'start: "a" start'),
    (grammar, 'start: start start | "a"'),
    (grammar, 'start: a a a a a a a a\na: a a | "a" | '),
    (grammar, "\n".join(["start: r0", *(f"r{i}: r{i + 1} r{i + 1}" for i in range(30)), 'r30: "a"'])),
    (grammar, "start: " + "(" * 5000 + '"a"' + ")" * 5000),
    (grammar, 'start: x{1,100000}\nx: "a" | "b" x'),
    (grammar, "root ::= " + "[a-z] " * 8000),
]


def test_the_torture_list_is_refused_or_compiled_in_time() -> None:
    """Time is the limit's, half a second to begin the process anew after one that was stopped, and what a busy machine adds."""
    assert len(TORTURE) >= 50
    json_object(tokenizer("causal"))  # the process has begun, the trie is made
    slowest, refused = 0.0, 0
    for make, asked in TORTURE:
        begun = time.perf_counter()
        try:
            made = make(tokenizer("causal"), asked)
            rng = random.Random(0)
            for _ in range(30):  # and what it takes to follow it is bounded too
                if made.closed:
                    break
                before = time.perf_counter()
                made.accept(int(rng.choice(np.flatnonzero(made.allowed()))))
                assert time.perf_counter() - before < 0.5, asked
        except RecipeError as error:
            refused += 1
            assert re.match(r"the (JSON schema|regex|grammar) \w+", str(error)) and len(str(error)) < 600
        slowest = max(slowest, time.perf_counter() - begun)
    assert slowest < 2.5 and 10 < refused < len(TORTURE) - 10, (slowest, refused)


@pytest.mark.parametrize(
    ("make", "asked", "said"),
    [
        (json_schema, SELF, "no text that it allows ever ends"),
        (json_schema, {"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "no text that it allows ever ends"),
        (json_schema, {"anyOf": [SELF, {"allOf": [{"$ref": "#/anyOf/0"}]}]}, "no text that it allows ever ends"),
        (json_schema, {"$ref": "#"}, "ever ends|allows no text"),
        (json_schema, {"type": "array", "uniqueItems": True}, "uniqueItems"),
        (json_schema, {"not": {}}, "not"),
        (json_schema, alike(4), "oneOf"),
        (json_schema, {"type": "strin"}, "strin"),
        (json_schema, {"enum": []}, "Unsatisfiable"),
        (json_schema, {"type": "string", "format": "colour"}, "Unknown format: colour"),
        (json_schema, {"type": "integer", "minimum": 5, "maximum": 4}, "minimum .5. is greater than maximum .4."),
        (json_schema, {"$ref": "#/$defs/gone"}, "gone"),
        (json_schema, {"$ref": "http://localhost:1/schema.json"}, "http://localhost:1/schema.json"),
        (json_schema, {"type": "integer", "multipleOf": 1234567}, r"takes more than 0\.25 s to compile"),
        (json_schema, {"enum": ["x" * 70_000]}, r"has \d\d,\d\d\d characters; at most 65,536"),
        (json_schema, nested(33), "nested more than 32 deep; at most 32"),
        (json_schema, "a text", "a dictionary or a Pydantic class"),
        (json_schema, {"const": {1, 2}}, "holds a set"),
        (json_schema, {"const": float("nan")}, "no JSON"),
        (regex, "[a", "unclosed character class"),
        (regex, "(?=x)y", "look-around"),
        (regex, "", "empty text only"),
        (regex, r"[^\s\S]", "no text at all|cannot be used"),
        (regex, "a" * 5000, "5,000 characters; at most 4,096"),
        (regex, 7, "the regex is a int"),
        (grammar, 'start: "a" start', "no text that it allows ever ends"),
        (grammar, 'start: x+\nx: y "a"\ny: [x] "b" x', "no text that it allows ever ends"),
        (grammar, 'root ::= "a" root', "no text that it allows ever ends"),
        (grammar, "start: foo", "unknown name"),
        (choice, [], "a list of texts"),
        (choice, "yes", "a list of texts"),
        (choice, ["a", ""], "none of them empty"),
        (choice, [str(i) for i in range(5000)], "5,000 texts; at most 4,096"),
    ],
)
def test_what_is_refused_is_named(make: Any, asked: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        make(tokenizer("causal"), asked)


@pytest.mark.parametrize(
    ("make", "asked"),
    [
        (json_schema, {"$defs": {"node": NODE}, "$ref": "#/$defs/node"}),
        (json_schema, {"type": "object", "properties": {"a": {"$ref": "#"}}}),
        (json_schema, {"type": ["object", "null"], "properties": {"a": {"$ref": "#"}}, "required": ["a"]}),
        (json_schema, {"type": "array", "items": {"$ref": "#"}}),
        (grammar, 'start: a+\na: ("b" a)? "c"'),
        (grammar, 'start: "(" start ")"\n  | X\nX: /x+/'),
        (grammar, 'start: "x" item{0,2}\nitem: "(" item? ")"'),
    ],
)
def test_recursion_that_ends_is_taken(make: Any, asked: Any) -> None:
    make(tokenizer("causal"), asked, limits=PATIENT)


def test_a_schema_that_holds_itself_is_refused() -> None:
    schema: dict[str, Any] = {"type": "array"}
    schema["items"] = schema
    with pytest.raises(RecipeError, match="nested more than 32 deep"):
        json_schema(tokenizer("causal"), schema)


def test_a_vocabulary_that_cannot_write_it() -> None:
    from quire.text.training import train

    letters = train("char", ["abc abc"], 40)
    with pytest.raises(RecipeError, match="no token of this vocabulary|cannot be followed"):
        json_object(letters)
    one = regex(letters, "a[xyz]")
    with pytest.raises(RecipeError, match="the regex cannot be followed: no token of this vocabulary continues the text"):
        one.accept(letters.encode("a")[0])
        one.allowed()


def mutated(value: Any, rng: random.Random) -> Any:
    """A schema with something wrong here and there."""
    words = [
        "type",
        "$ref",
        "#",
        "items",
        "minItems",
        "enum",
        "allOf",
        "oneOf",
        "pattern",
        "format",
        "multipleOf",
        "object",
        "(a",
        "minimum",
    ]
    odd = [None, True, -1, 1e308, 10**30, "", {}, [], "\ud800", "\x00", [[]], {"": {}}]
    if rng.random() < 0.15:
        return rng.choice([*odd, *words, {rng.choice(words): rng.choice(odd)}])
    if isinstance(value, dict):
        made = {rng.choice(words) if rng.random() < 0.06 else key: mutated(part, rng) for key, part in value.items()}
        return made | ({rng.choice(words): rng.choice([*odd, *words])} if rng.random() < 0.2 else {})
    return [mutated(part, rng) for part in value] if isinstance(value, list) else value


def scratched(text: str, rng: random.Random) -> str:
    letters = list(text)
    for _ in range(rng.randrange(1, 6)):
        place = rng.randrange(len(letters) + 1)
        letters[place : place + rng.randrange(3)] = rng.choice(
            [*'()[]{}|*+?"/\\^$.:%@<>~&\n 19ax,-=', "\ud800", "%json {", "{1,", "start:", "\\p{"]
        )
    return "".join(letters)


def test_damaged_grammars_are_refused_or_compiled() -> None:
    rng, words = random.Random(9), tokenizer("causal")
    texts = {make: [asked for kind, asked in TORTURE if kind is make and len(asked) < 200] for make in (regex, grammar)}
    taken = 0
    for number in range(1500):
        make = (json_schema, regex, grammar)[number % 3]
        asked = (
            mutated(random_schema(rng) | {"$defs": {"node": NODE}}, rng) if make is json_schema else scratched(rng.choice(texts[make]), rng)
        )
        try:
            make(words, asked)
            taken += 1
        except RecipeError as error:
            assert "ended the process" not in str(error) and "Panic" not in str(error), (asked, error)
    assert 100 < taken < 1350


def test_a_stop_string_may_cut_an_answer(model: Any) -> None:
    form = regex(model.contract.tokenizer, "[ab]{20}", vocab=model.config.vocab)
    engine = Engine(model, memory=16 << 20)
    request = engine.submit("x", Sampling(max_tokens=40, seed=3, stop=("ab", "ba")), constraint=form)
    while engine.busy:
        engine.step()
    answer = engine.result(request)
    assert answer.finish_reason == "stop" and not form.read(answer).valid and "does not follow the regex" in form.read(answer).why


@pytest.mark.needs_data
@pytest.mark.parametrize("name", ["gpt2", "llama2", "tiktoken"])
def test_real_vocabularies(data_folder: Path, name: str) -> None:
    """Tokens of many bytes, of half a character, with a space before: the text is of the form all the same, and masks are quick."""
    words, rng = Tokenizer.open(data_folder / "tokenizers" / name), random.Random(2)
    begun = json_schema(words, random_schema(rng, 2) | {"$defs": {"node": NODE}}, limits=PATIENT)
    times = []
    for _ in range(20):
        schema = {"type": "object", "properties": {"große Stadt": {"type": "string", "maxLength": 6}, "n": random_schema(rng, 1)}}
        form = json_schema(
            words, schema | {"required": ["große Stadt"], "$defs": {"node": NODE}, "additionalProperties": False}, limits=PATIENT
        )
        stream, text = words.stream(), ""
        while not form.closed:
            before = time.perf_counter()
            allowed = form.allowed()
            times.append(time.perf_counter() - before)
            token = int(rng.choice(np.flatnonzero(allowed)))
            form.accept(token)
            text += stream.push(token)
        text += stream.end()
        jsonschema.validate(json.loads(text), schema | {"$defs": {"node": NODE}})
        assert form.read_text(text).valid
    assert begun.vocab > 30_000 and sorted(times)[len(times) // 2] < 0.01


# -- off the loop ------------------------------------------------------------------------------------------------------------------


def test_others_go_on_while_a_grammar_is_compiled() -> None:
    tokens = tokenizer("causal")
    json_object(tokens)
    gaps: list[float] = []
    done = threading.Event()

    def ticker() -> None:
        last = time.perf_counter()
        while not done.wait(0.005):
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    thread = threading.Thread(target=ticker)
    thread.start()
    futures = [later(json_schema, tokens, {"type": "integer", "multipleOf": 1234567 + i}) for i in range(3)]
    futures.append(later(choice, tokens, ["a", "b"]))
    assert all("0.25 s" in str(future.exception()) for future in futures[:3]) and futures[3].result().allowed().any()
    done.set()
    thread.join()
    assert max(gaps) < 0.2, max(gaps)


def test_the_trial_imports_no_torch() -> None:
    code = "import sys, quire.engine.trial; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == ["False", "False"]


def test_a_trial_that_dies_is_replaced() -> None:
    tokens = tokenizer("causal")
    regex(tokens, "first")
    child = constrain._trial()._child
    assert child is not None
    child.kill()
    child.wait()
    assert regex(tokens, "second").accepts("second")


def test_compiled_grammars_are_remembered_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constrain, "_KEPT", 3)
    for number in range(6):
        regex(tokenizer("causal"), f"kept{number}")
    assert [key[1] for key in constrain._compiled] == ["kept3", "kept4", "kept5"]
    monkeypatch.setattr(constrain, "_KEPT_SIZE", 1_000)
    regex(tokenizer("causal"), "k" * 440)
    assert [key[1][:4] for key in constrain._compiled] == ["kkkk"]


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ExtraError, match=r"structured output needs the package 'llguidance'.*pip install 'quire\[structured\]'"):
        regex(tokenizer("causal"), "a")


# -- keywords ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "integer", "maximun": 3}, r"no keyword 'maximun' \(at #\)\. Did you mean 'maximum'\?"),
        ({"type": "string", "max_length": 3}, r"no keyword 'max_length' .*Did you mean 'maxLength'\?"),
        ({"type": "object", "propertys": {"a": {}}}, r"no keyword 'propertys' .*Did you mean 'properties'\?"),
        ({"fooBar": 1}, r"no keyword 'fooBar' \(at #\)\.$"),
        ({"properties": {"a": {"items": {"nullable": True}}}}, r"no keyword 'nullable' \(at #/properties/a/items\)"),
        ({"anyOf": [{}, {"minimun": 1}]}, r"no keyword 'minimun' \(at #/anyOf/1\)"),
        ({"$defs": {"a": {"requird": []}}}, r"no keyword 'requird' \(at #/\$defs/a\)"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "dependentRequired": {}}, "no answer can be held to 'dependentRequired'"),
        ({"prefixItems": [{}], "additionalItems": False}, "no answer can be held to 'additionalItems'"),
    ],
)
def test_keywords_that_would_be_left_out_are_named(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        json_schema(tokenizer("causal"), schema)


def test_what_only_describes_and_what_is_named_like_anything_may_stand_there() -> None:
    words = tokenizer("causal")
    notes = {"title": "t", "description": "d", "default": {"maximun": 1}, "examples": [{"fooBar": 1}], "$comment": "c", "deprecated": True}
    more = {"readOnly": True, "writeOnly": True, "$id": "https://a.b/c", "$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema = {**notes, **more, "x-order": {"a": 1}, "type": "object", "properties": {"fooBar": {"const": {"maximun": 1}}}}
    assert json_schema(words, schema).accepts('{"fooBar": {"maximun": 1}}')


@pytest.mark.parametrize("word", sorted(grammars._NOT_HELD))
def test_what_is_not_held_is_what_the_library_does_not_hold(word: str) -> None:
    """In the draft that has the keyword it is refused there; elsewhere it is left out."""
    parts = {
        "$vocabulary": {},
        "$dynamicRef": "#a",
        "$recursiveRef": "#",
        "$dynamicAnchor": "a",
        "$recursiveAnchor": True,
        "uniqueItems": True,
    }
    value = parts.get(word, 1 if word in ("minContains", "maxContains") else {})
    import llguidance

    matcher = llguidance.LLMatcher
    try:
        source = matcher.grammar_from_json_schema(json.dumps({word: value}))
        found = matcher(constrain.vocabulary(tokenizer("causal")), source, log_level=0)
    except ValueError as error:
        assert word in str(error)
        return
    assert word in found.get_error() or word == "$vocabulary"


def test_a_class_has_its_own_fields_alone_and_its_validators_raise_what_they_like() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Part(pydantic.BaseModel):
        size: int

        @pydantic.field_validator("size")
        @classmethod
        def small(cls, size: int) -> int:
            if size > 9:
                raise RuntimeError("too large for us")
            return size

    class Open(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="allow")
        parts: list[Part]
        named: dict[str, int] = {}

    words = tokenizer("causal")
    one, several = json_schema(words, Part), json_schema(words, Open)
    assert one.accepts('{"size": 3}') and not one.accepts('{"size": 3, "more": 1}')
    assert several.accepts('{"parts": [{"size": 3}], "named": {"a": 1}, "more": 1}')
    assert not several.accepts('{"parts": [{"size": 3, "more": 1}]}')
    parsed = one.read_text('{"size": 30}')
    assert not parsed.valid and parsed.why == "RuntimeError: too large for us"
