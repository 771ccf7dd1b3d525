"""Fields of requests: tried as clients document them, and written down for docs/api.md by `python -m tests.serve.fields`.

Each field is declared, and one that is not done here is refused by its name. The tables of the page are made of the same declarations; each
stands between `<!-- fields of BODY -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from quire.serve.bodies import Body
from quire.serve.chat import Chat
from quire.serve.completions import Completions
from quire.serve.messages import Messages
from quire.serve.plain import Generate
from quire.serve.reading import Classify, Detokenize, Embeddings, Rerank, Tokenize
from quire.serve.responses import Responses
from tests.serve.conftest import ROOT, Running

PROBE = {"probe": 1}  # a value that asks for something, and that no field takes
Place = Callable[[dict[str, Any]], dict[str, Any]]  # the fields of a part -> a whole body with that part in it


def run(python: Path, script: str, *words: str) -> Any:
    """What a script of tests/serve/clients prints."""
    done = subprocess.run([python, ROOT / "tests/serve/clients" / script, *words], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def declared(body: type[Body]) -> set[str]:
    return {field.alias or name for name, field in body.model_fields.items()}


def try_fields(server: Running, path: str, documented: Mapping[str, list[str]], parts: Mapping[str, tuple[type[Body], Place]]) -> int:
    """parts: for each type of the client, the body that stands for it, and where it stands. Returns how many fields were refused."""
    tried = 0
    for name, (body, place) in parts.items():
        missing = set(documented[name]) - declared(body)
        assert not missing, f"{name}: the client documents {sorted(missing)}, which {body.__name__} does not know"
        for field, info in body.model_fields.items():
            if str(info.description or "").startswith("Not done here"):
                field = info.alias or field
                answer = server.post(path, place({field: PROBE}))
                assert answer.status_code == 400 and field in answer.text, (name, field, answer.text)
                tried += 1
    return tried


def try_kinds(server: Running, path: str, kinds: list[str], known: set[str], place: Place) -> None:
    """Every documented `type` that is not in `known` is refused by its name."""
    assert known <= set(kinds)
    for kind in set(kinds) - known:
        answer = server.post(path, place({"type": kind}))
        assert answer.status_code == 400 and f"'{kind}'" in answer.text, (kind, answer.text)


# -- the tables of docs/api.md -----------------------------------------------------------------------------------------------------

PAGE = ROOT / "docs" / "api.md"
ALL: tuple[type[Body], ...] = (
    Chat, Completions, Responses, Messages, Generate, Embeddings, Rerank, Classify, Tokenize, Detokenize,
)  # fmt: skip
REFUSED = "Not done here"
SHOWN_BEFORE = {"Turn", "StreamOptions", "StructuredOutputs"}  # parts of chat completions, which come first on the page
PLACE = re.compile(r"(<!-- fields of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
BOUNDS = (("minimum", "{} or more"), ("exclusiveMinimum", "more than {}"), ("maximum", "{} at most"), ("exclusiveMaximum", "less than {}"))
SEVERAL = {"a text": "texts", "an object": "objects", "a whole number": "whole numbers"}
Schema = dict[str, Any]


def tables(body: type[Body]) -> str:
    """What is honoured, and what is refused with the reason."""
    schema = body.model_json_schema()
    done, refused = [], []
    for name, needed, field in _fields(schema, schema.get("$defs", {}), "", set() if body is Chat else set(SHOWN_BEFORE)):
        text = str(field.get("description") or "").replace("|", "\\|")
        if text.startswith(REFUSED):
            refused.append(f"| `{name}` | {text.removeprefix(REFUSED).lstrip(':, ')} |")
        else:
            done.append(f"| `{name}`{' (needed)' if needed else ''} | {_allowed(field)} | {text} |")
    parts = ["\n".join(["| field | allowed | |", "|---|---|---|", *done])]
    if refused:
        parts.append("\n".join(["| refused | because |", "|---|---|", *refused]))
    return "\n" + "\n\n".join(parts) + "\n\n"


def _fields(schema: Schema, parts: Mapping[str, Schema], before: str, shown: set[str]) -> Iterator[tuple[str, bool, Schema]]:
    """(path, whether it is needed, its schema) of every field, and of the fields of what it holds, those of a part once."""
    for name, field in schema["properties"].items():
        path = f"{before}{name}"
        yield path, name in schema.get("required", ()), field
        inside = list(_inside(field, path))
        for place, part in inside:
            if part not in shown:
                shown.add(part)
                kind = parts[part]["properties"].get("type", {})
                word = "/".join(kind.get("enum", [kind.get("const")])) if len(inside) > 1 and ("enum" in kind or "const" in kind) else ""
                yield from _fields(parts[part], parts, f"{place.removesuffix('[]')}[{word}]." if word else f"{place}.", shown)


def _inside(field: Schema, path: str) -> Iterator[tuple[str, str]]:
    """(path, name) of the objects that a field may hold."""
    if "$ref" in field:
        yield path, field["$ref"].rpartition("/")[2]
    for other in (*field.get("anyOf", ()), *field.get("oneOf", ())):
        yield from _inside(other, path)
    if isinstance(field.get("items"), dict):
        yield from _inside(field["items"], f"{path}[]")


def _allowed(field: Schema) -> str:
    """What a field may hold, in words."""
    others = [other for other in (*field.get("anyOf", ()), *field.get("oneOf", ())) if other and other.get("type") != "null"]
    if others:
        return " or ".join(dict.fromkeys(map(_allowed, others)))
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    kind = field.get("type")
    if kind == "array":
        several = " or ".join(SEVERAL.get(one, one) for one in _allowed(field["items"]).split(" or "))
        return f"a list of {several.replace('a list of', 'lists of')}{_counted(field, 'Items', 'entries')}"
    if kind == "string":
        return f"a text{_counted(field, 'Length', 'characters')}"
    if kind in ("integer", "number"):
        if "minimum" in field and "maximum" in field:
            return f"{'a whole number' if kind == 'integer' else 'a number'} ({field['minimum']:g} to {field['maximum']:g})"
        bounds = [words.format(_number(field[name])) for name, words in BOUNDS if name in field]
        return " ".join(["a whole number" if kind == "integer" else "a number", *([f"({', '.join(bounds)})"] if bounds else [])])
    if kind == "boolean":
        return "`true`, `false`"
    return "an object" if kind == "object" or "$ref" in field else "anything"


def _number(value: float) -> str:
    whole = int(value)
    power = max(0, abs(whole).bit_length() - 1)
    return f"{'-' if whole < 0 else ''}2^{power}" if abs(whole) == 1 << power and power > 30 else f"{value:g}"


def _counted(field: Schema, of: str, what: str) -> str:
    least, most = field.get(f"min{of}", 0), field.get(f"max{of}")
    if most is None:
        return f" ({least} {what} or more)" if least else ""
    return f" ({least} to {most} {what})" if least else f" (at most {most} {what})"


def page(text: str) -> str:
    """The page with its tables as the bodies are now."""
    bodies = {body.__name__: body for body in ALL}
    return PLACE.sub(lambda found: found[1] + tables(bodies[found[2]]) + found[3], text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
