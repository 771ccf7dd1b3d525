"""Grammars as they arrive, before anything is compiled: how large they may be, and whether what they describe can ever end.

llguidance refuses a grammar that allows no first token, but takes one that can go on and never end (`start: "a" start`, an object that
requires itself); a request with it would always run into its limit. What ends is the least set that the rules prove: a text ends where one
alternative ends, and an alternative where all of its parts do (the productive symbols of a context-free grammar, Hopcroft and Ullman 1979).
Conditions that only appear when the parts of an `allOf` are put together are not seen; such an answer is cut at its limit, and reported so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from ..errors import RecipeError, nearest


@dataclass(frozen=True)
class Limits:
    """What one grammar may cost. size: characters. depth: of nested values in a schema. states: of the lexer, 1-2 kB each, per request.

    seconds: to compile it. memory: bytes for that. symbols: in its rules. step: units of lexer work for one token (about 14 a
    microsecond). items: of the parser, for one token.
    """

    size: int = 64 << 10
    pattern: int = 4 << 10
    depth: int = 32
    choices: int = 4_096
    seconds: float = 0.25
    memory: int = 1 << 30
    symbols: int = 50_000
    states: int = 20_000
    step: int = 50_000
    items: int = 20_000


def check_size(text: str, most: int, what: str) -> str:
    if not isinstance(text, str):
        raise RecipeError(f"{what} is a {type(text).__name__}; a text is needed.")
    if len(text) > most:
        raise RecipeError(f"{what} has {len(text):,} characters; at most {most:,} are allowed. Make it smaller.")
    return text


def check_depth(value: Any, most: int, what: str) -> None:
    """Raises RecipeError for values nested deeper than `most`, and for what is no JSON value. A value that holds itself is too deep."""
    level: list[Any] = [value]
    for _ in range(most):
        level = [part for held in level for part in _parts(held, what)]
        if not level:
            return
        if len(level) > 1 << 16:
            raise RecipeError(f"{what} has more than {1 << 16:,} values at one depth. Make it smaller.")
    raise RecipeError(f"{what} is nested more than {most} deep; at most {most} are allowed. Name its parts in $defs and refer to them.")


def _parts(value: Any, what: str) -> list[Any]:
    if isinstance(value, Mapping):
        wrong = next((key for key in value if not isinstance(key, str)), None)
        if wrong is not None:
            raise RecipeError(f"{what} has the key {wrong!r}; keys are texts.")
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value)
    if value is None or isinstance(value, str | int | float):
        return []
    raise RecipeError(f"{what} holds a {type(value).__name__}, which is no JSON value.")


# What llguidance holds an answer to, and what says nothing of it. The rest it may leave out without a word, and which depends on `$schema`.
_HELD = frozenset(
    """$ref additionalItems additionalProperties allOf anyOf const enum exclusiveMaximum exclusiveMinimum format items maxItems maxLength
    maxProperties maximum minItems minLength minProperties minimum multipleOf oneOf pattern patternProperties prefixItems properties
    required type""".split()
)
_NAMED = frozenset({"$defs", "definitions", "properties", "patternProperties"})  # names and a schema for each
_NOTES = frozenset(
    """$anchor $comment $id $schema contentEncoding contentMediaType contentSchema default deprecated description discriminator example
    examples externalDocs id readOnly title writeOnly xml""".split()
)
_NOT_HELD = frozenset(
    """$dynamicAnchor $dynamicRef $recursiveAnchor $recursiveRef $vocabulary contains dependencies dependentRequired dependentSchemas else
    if maxContains minContains not propertyNames then unevaluatedItems unevaluatedProperties uniqueItems""".split()
)


def check_keywords(schema: Any, what: str, place: str = "#") -> None:
    """Raises RecipeError that names a keyword which no answer would be held to: one that is not supported, or misspelt."""
    if isinstance(schema, list | tuple):
        for number, part in enumerate(schema):
            check_keywords(part, what, f"{place}/{number}")
    if not isinstance(schema, Mapping):
        return
    for word, part in schema.items():
        alone = word == "additionalItems" and not isinstance(schema.get("items"), list)  # it speaks of what is behind such a list
        if word in _NOT_HELD or alone:
            raise RecipeError(
                f"{what} cannot be used: no answer can be held to '{word}' (at {place}). Leave it out, and check answers for it."
            )
        if word in _NAMED and isinstance(part, Mapping):
            for name, inner in part.items():
                check_keywords(inner, what, f"{place}/{word}/{name}")
        elif word in _HELD:
            if word not in _VALUES:
                check_keywords(part, what, f"{place}/{word}")
        elif word not in _NAMED | _NOTES and not word.startswith("x-"):
            known = sorted(_HELD | _NAMED)
            raise RecipeError(f"{what} cannot be used: JSON Schema has no keyword '{word}' (at {place}).{nearest(word, known)}")


def closed(schema: Any) -> Any:
    """The schema of a class, where objects have no more than its fields unless it says that they may."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {key: part if key in _VALUES else closed(part) for key, part in schema.items()}
    if isinstance(made.get("properties"), dict) and made.get("type") == "object":
        made.setdefault("additionalProperties", False)
    return made


_DATE = (
    r"[1-9][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
    r"|([1-9][0-9](0[48]|[2468][048]|[13579][26])|([2468][048]|[13579][26])00)-02-29"
)
_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_CLOCK}:[0-5][0-9](\.[0-9]{{1,9}})?(Z|[+-]{_CLOCK})"
_FORMATS = {"date": f"^({_DATE})$", "time": f"^{_TIME}$", "date-time": f"^({_DATE})T{_TIME}$"}
_VALUES = frozenset({"enum", "const", "default", "examples"})  # what stands there is no schema


def exact_formats(schema: Any) -> Any:
    """The schema with dates and times as patterns that other readers take too (RFC 3339, from the year 1000 on, without leap seconds):
    llguidance's own allow any February 29."""
    if isinstance(schema, list | tuple):
        return [exact_formats(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {key: part if key in _VALUES else exact_formats(part) for key, part in schema.items()}
    if isinstance(made.get("format"), str) and made["format"] in _FORMATS and "pattern" not in made:
        made["pattern"] = _FORMATS[made.pop("format")]
    return made


# -- does it end? ------------------------------------------------------------------------------------------------------------------


def schema_ends(schema: Any) -> bool:
    """Whether some finite value satisfies the schema, as far as recursion goes."""
    proven: set[str] = set()
    while True:
        before, seen = len(proven), set[str]()
        if _schema_ends(schema, schema, proven, seen):
            return True
        if len(proven) == before:
            return False


def _schema_ends(node: Any, root: Any, proven: set[str], seen: set[str]) -> bool:
    """seen: references looked at in this round; one that is met again is not proven yet."""
    if not isinstance(node, dict):
        return node is not False

    def ends(part: Any) -> bool:
        return _schema_ends(part, root, proven, seen)

    reference = node.get("$ref")
    if isinstance(reference, str) and reference not in proven:
        if reference in seen:
            return False
        seen.add(reference)
        if not ends(_resolve(root, reference)):
            return False
        proven.add(reference)
    if not all(ends(part) for part in _list(node.get("allOf"))):
        return False
    if any(word in node and not any(ends(part) for part in _list(node[word])) for word in ("anyOf", "oneOf")):
        return False
    if "enum" in node or "const" in node:
        return True
    kinds = node.get("type", "null")
    return any(_kind_ends(kind, node, ends) for kind in ([kinds] if isinstance(kinds, str) else kinds))


def _kind_ends(kind: str, node: dict[str, Any], ends: Any) -> bool:
    if kind == "object":
        named, rest = node.get("properties") or {}, node.get("additionalProperties", True)
        return all(ends(named.get(name, rest)) for name in _list(node.get("required")))
    if kind == "array":
        first, rest = _list(node.get("prefixItems")), node.get("items", True)
        least = node.get("minItems", 0)
        return all(ends(part) for part in first[: int(least)]) and (least <= len(first) or ends(rest))
    return True


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _resolve(root: Any, reference: str) -> Any:
    """What a reference inside the document points to (RFC 6901); True where nothing is found: llguidance refuses that."""
    found = root
    for step in unquote(reference).removeprefix("#").split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        try:
            found = found[int(step)] if isinstance(found, list) else found[step]
        except (KeyError, IndexError, ValueError, TypeError):
            return True
    return found


_RULE = re.compile(r"^[ \t]*[?!]?([A-Za-z_][\w-]*)(?:\[[^\]\n]*\])?(?:\.\d+)?[ \t]*(?:\{[^}\n]*\})?[ \t]*:", re.MULTILINE)
_PART = re.compile(
    r'"(?:[^"\\\n]|\\.)*"i?|/(?:[^/\\\n]|\\.)+/[a-z]*|<[^>\n]*>|//[^\n]*|#[^\n]*|->\s*\w+|\{\s*\d*\s*,?\s*\d*\s*\}|~\s*\d+(?:\s*\.\.\s*\d+)?'
    r"|[A-Za-z_@][\w-]*|[()\[\]|?*+]|[^\s]"
)


def lark_ends(text: str) -> bool:
    """Whether some finite text follows the rules. A form that is not known here counts as one that ends."""
    if re.search(r"%(json|lark|regex)\b", text):
        return True
    starts = list(_RULE.finditer(text))
    bodies: dict[str, list[str]] = {}
    for rule, after in zip(starts, [*starts[1:], None], strict=True):
        body = text[rule.end() : after.start() if after else len(text)]
        body = re.sub(r"^\s*%[^\n]*", "", body, flags=re.MULTILINE)
        bodies[rule[1]] = [*bodies[rule[1]], "|", *_PART.findall(body)] if rule[1] in bodies else _PART.findall(body)
    proven: set[str] = set()
    while True:
        # Names in capitals are regular, so the lexer knows whether they are empty.
        new = {name for name, parts in bodies.items() if name not in proven and (name.isupper() or _ends(iter(parts), proven, bodies))}
        proven |= new
        if "start" in proven or "start" not in bodies:
            return True
        if not new:
            return False


def _ends(parts: Iterator[str], proven: set[str], bodies: Mapping[str, Any]) -> bool:
    """Whether one of the alternatives up to the closing bracket ends."""
    found, last, whole = False, True, True  # an alternative that ended; the last part; all parts before it
    for part in parts:
        if part in (")", "]"):
            break
        if part == "|":
            found, last, whole = found or (whole and last), True, True
        elif part in ("?", "*") or re.fullmatch(r"\{\s*(0*\s*,.*|0+\s*)\}|~\s*0+(\D.*)?", part):
            last = True
        elif part == "+" or part[0] in "{~" or part.startswith(("->", "//", "#")):
            continue
        else:
            whole = whole and last
            if part in ("(", "["):
                inside = _ends(parts, proven, bodies)
                last = inside or part == "["
            else:
                last = part in proven or part not in bodies
    return found or (whole and last)
