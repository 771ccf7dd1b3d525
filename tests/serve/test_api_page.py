"""docs/api.md is true: each example is sent and its answer has the form that is shown; tables, routes and codes are those of the server."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.serve.conftest import ROOT, Running, start
from tests.serve.fields import PAGE, page
from tests.small import write_model
from tests.tasks.readers import write
from tests.test_docs import Block, blocks

TEXT = PAGE.read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8000"
FIXED = {"object", "type", "role", "model", "finish_reason", "stop_reason", "status", "code", "param", "state", "kind", "store"}


@dataclass(frozen=True)
class Example:
    """A request that the page shows, and the block behind it: JSON, lines of a stream, or nothing. status: what the page says of it."""

    line: int
    method: str
    path: str
    body: Any
    shown: Block | None

    @property
    def status(self) -> int:
        found = json.loads(self.shown.text) if self.shown is not None and self.shown.language == "json" else {}
        return 400 if isinstance(found, dict) and found.get("error") else 200


def examples() -> list[Example]:
    """Every `shell` block is one curl, whose options are those that are read here."""
    found, all = [], blocks(PAGE)
    for block, behind in zip(all, [*all[1:], None]):
        if block.language == "shell":
            words = shlex.split(block.text.replace("\\\n", " "))
            assert words[0] == "curl", block
            body = json.loads(words[words.index("--json") + 1]) if "--json" in words else None
            rest = [word for number, word in enumerate(words) if number and word not in ("-N", "--json") and words[number - 1] != "--json"]
            assert len(rest) == 1 and rest[0].startswith(ADDRESS), f"{PAGE.name}:{block.line} has words that are not read: {rest}"
            shown = behind if behind is not None and behind.language in ("json", "text") else None
            found.append(Example(block.line, "GET" if body is None else "POST", rest[0].removeprefix(ADDRESS), body, shown))
    return found


EXAMPLES = examples()


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The page's server: one that chats, one that makes vectors, one that labels."""
    root = tmp_path_factory.mktemp("page")
    (root / "labels").mkdir()
    write(root / "labels", "SequenceClassification", labels=["negative", "positive"])
    models = {"chat": write_model(root / "chat", template=True, context=512), "encoder": write_model(root / "encoder", "bert")}
    running = start(root, *(f"{name}={folder}" for name, folder in {**models, "labels": root / "labels"}.items()))
    yield running
    running.stop()


def same_form(shown: Any, found: Any, place: str) -> None:
    """Equal keys and kinds of values all the way down; equal values where an API fixes them."""
    if isinstance(shown, dict):
        assert isinstance(found, dict) and set(shown) == set(found), f"{place}: the page shows {sorted(shown)}, the answer has {found}"
        for name, value in shown.items():
            if name in FIXED and isinstance(value, str):
                assert value == found[name], f"{place}.{name}: the page shows {value!r}, the answer has {found[name]!r}"
            same_form(value, found[name], f"{place}.{name}")
    elif isinstance(shown, list):
        assert isinstance(found, list) and bool(shown) == bool(found), f"{place}: {found}"
        for number, (one, other) in enumerate(zip(shown, found)):
            same_form(one, other, f"{place}.{number}")
    elif isinstance(shown, int | float) and not isinstance(shown, bool):
        assert isinstance(found, int | float), f"{place}: {found}"
    else:
        assert type(shown) is type(found), f"{place}: the page shows {shown!r}, the answer has {found!r}"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: f"{one.line}-{one.path}")
def test_an_example_is_answered_as_shown(shown: Running, example: Example) -> None:
    answer = shown.client.request(example.method, example.path, json=example.body)
    assert answer.status_code == example.status, answer.text
    if example.shown is None:
        return
    if example.shown.language == "json":
        same_form(json.loads(example.shown.text), answer.json(), f"{PAGE.name}:{example.shown.line}")
    elif "data: " in example.shown.text:
        events = iter([line for line in answer.text.splitlines() if line.startswith(("data: ", "event: "))])
        for line in filter(lambda line: line.startswith(("data: ", "event: ")), example.shown.text.splitlines()):
            assert any(_same_line(line, found) for found in events), f"{PAGE.name} shows {line}, which no event is (in this order)"
    else:
        for line in example.shown.text.splitlines():
            assert line.rpartition(" ")[0] in answer.text, line


def test_a_stop_string_cuts_a_form_and_says_stop(shown: Running) -> None:
    example = next(one for one in EXAMPLES if one.body is not None and "response_format" in one.body)
    [whole] = shown.post(example.path, example.body).json()["choices"]
    [cut] = shown.post(example.path, {**example.body, "stop": "ci"}).json()["choices"]
    assert json.loads(whole["message"]["content"])["city"] in ("Rome", "Oslo")
    assert cut["message"]["content"] == '{"' and cut["finish_reason"] == "stop"


def _same_line(shown: str, found: str) -> bool:
    if not (shown.startswith("data: {") and found.startswith("data: {")):
        return shown == found
    try:
        same_form(json.loads(shown[6:]), json.loads(found[6:]), "")
    except AssertionError:
        return False
    return True


def test_the_tables_of_fields_are_current() -> None:
    assert page(TEXT) == TEXT, "the fields have changed: python -m tests.serve.fields"


def test_every_route_has_a_row_and_an_example(shown: Running) -> None:
    routes = {path.replace("{name}", "NAME") for path in shown.client.get("/openapi.json").json()["paths"]}
    rows = set(re.findall(r"^\| `(?:GET|POST) (/\S*)`", TEXT, flags=re.MULTILINE))
    assert routes | {"/openapi.json", "/"} == rows
    asked = {example.path.partition("?")[0].replace("/v1/models/chat", "/v1/models/NAME") for example in EXAMPLES}
    assert rows - asked <= {"/"}, f"without an example: {rows - asked}"


def test_every_code_of_an_error_is_explained() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "quire" / "serve").glob("*.py")))
    codes = set(re.findall(r'\bcode ?= ?"([a-z_]+)"', source)) | set(re.findall(r'_refused\(.+?, "([a-z_]+)"\)', source))
    rows = set(re.findall(r"^\| \d{3}[^|]*\| `([a-z_]+)` \|", TEXT, flags=re.MULTILINE))
    assert codes == rows


def test_the_page_names_files_that_are_there() -> None:
    for name in re.findall(r"`(tests/[\w/.]+)`", TEXT):
        assert (ROOT / Path(name)).exists(), name
