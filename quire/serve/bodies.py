"""What request bodies have in common: every field is known and typed, honoured or refused by its name; none is passed over.

A field that an API documents and this server does not do is `refusable`: null, or a value that asks for nothing, is taken; anything else is
refused with the reason. An unknown field is refused too, with the nearest known one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Union

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ..errors import nearest
from .errors import Refused

MOST_ANSWERS = 8
MOST_MESSAGES = 1024
MOST_STOPS, LONGEST_STOP = 8, 64
MOST_BIASES = 1024
MOST_ROWS = 10_000

Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]


class Body(BaseModel):
    """A JSON object whose fields are all known."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True, protected_namespaces=())
    read: ClassVar[str] = ""

    @model_validator(mode="before")
    @classmethod
    def _all_known(cls, value: Any) -> Any:
        """An unknown field is told first, and with the nearest name, which Pydantic's own check cannot say."""
        if isinstance(value, dict):
            known = {field.alias or name for name, field in cls.model_fields.items()}
            unknown = next((name for name in value if name not in known and name not in cls.model_fields), None)
            if unknown is not None:
                raise at(str(unknown)[:80], nearest(str(unknown)[:80], sorted(known)), "unknown_field")
        return value


def at(place: str, message: str, kind: str = "not_allowed") -> PydanticCustomError:
    """What is wrong with `place` below the value that a validator looks at ("type", "3.type"; "": the value itself)."""
    return PydanticCustomError(kind, "{message}", {"place": place, "message": message})


def refusable(reason: str, *harmless: Any) -> Any:
    """A documented field that is not done here. harmless: values that ask for nothing, so they are taken; null always is."""

    def check(value: Any) -> Any:
        if value is None or any(value == one and type(value) is type(one) for one in harmless):
            return value
        raise at("", reason, "unsupported_field")

    taken = f" (taken: {', '.join(map(json.dumps, harmless))})" if harmless else ""
    return Annotated[Any, BeforeValidator(check), Field(description=f"Not done here: {reason}{taken}")]


def kinds(known: Mapping[str, type[Body]], others: Mapping[str, str], default: str | None = None) -> Any:
    """An object that is one of several by its `type`. others: documented types that are not done here, each with the reason; default:
    the type of an object that names none."""

    def kind(value: Any) -> Any:
        return value.get("type", default) if isinstance(value, dict) else getattr(value, "type", None)

    def tag(value: Any) -> str:
        """A branch's name stands in the places of errors, so it is one that no field can have."""
        found = kind(value)
        return f"<{found}>" if isinstance(found, str) and found in known else "<>"

    def refuse(value: Any) -> Any:
        found, allowed = kind(value), ", ".join(known)
        if not isinstance(value, dict):
            raise at("", f"it must be an object with one of the types {allowed}")
        if isinstance(found, str) and found in others:
            raise at("type", f"'{found}' is not done here: {others[found]}")
        raise at("type", f"{found!r:.60} is not done here; allowed: {allowed}")

    union: Any = Annotated[Any, BeforeValidator(refuse), Tag("<>")]
    for name, body in known.items():
        union = Union[union, Annotated[body, Tag(f"<{name}>")]]  # noqa: UP007
    return Annotated[union, Discriminator(tag)]


def listed(part: Any, most: int, of_text: Callable[[str], list[Any]] | None = None, least: int = 0) -> Any:
    """A list of parts. of_text: what a text alone is shorthand for."""
    made: Any = Annotated[list[part], Field(min_length=least, max_length=most)]
    if of_text is None:
        return made

    def whole(value: Any) -> Any:
        return of_text(value) if isinstance(value, str) else value

    return Annotated[made, BeforeValidator(whole, json_schema_input_type=str | made)]


_NOTHING = object()
_WISH = re.compile(r"[A-Z][a-z]+ should (.*?)(?: after validation, not .*)?", re.DOTALL)  # "List should have at least 1 item ..."


def refused(error: ValidationError | Sequence[Mapping[str, Any]], body: Any = _NOTHING) -> Refused:
    """What is wrong with a body, as the client is told it: of several things the first, and of a union the branch that went deepest.

    body: what was read; with it, the names that Pydantic gives to the branches of unions are told from the names of fields.
    """
    errors = error.errors(include_url=False) if isinstance(error, ValidationError) else list(error)
    places = [_place(one, body) for one in errors]
    top = places[0][:1]
    place = max((other for other in places if other[:1] == top), key=len)
    same = [one for one, other in zip(errors, places) if other == place]
    same = [one for one in same if not one["type"].endswith("_type")] or same  # the branch of a union that was meant
    first, param = same[0], ".".join(place)[:200] or None
    kind, message = first["type"], str(first["msg"])
    if kind == "json_invalid":
        return Refused(400, f"the body is no JSON: {first.get('ctx', {}).get('error', 'it cannot be read')}.", code="invalid_json")
    if param is None and not isinstance(first.get("input"), bytes):
        given = "empty or null" if first.get("input") is None else _shown(first["input"])
        return Refused(400, f"the body is {given}; it must be a JSON object.", code="invalid_json")
    if isinstance(first.get("input"), bytes):
        return Refused(400, "the body must be a JSON object, sent with Content-Type: application/json.", code="invalid_json")
    if kind in ("extra_forbidden", "unknown_field"):
        return Refused(400, f"unknown field '{param}'.{message if kind == 'unknown_field' else ''}", param=param, code="unknown_field")
    if kind == "missing":
        return Refused(400, f"the field '{param}' is missing.", param=param, code="missing_field")
    if kind == "unsupported_field":
        return Refused(400, f"'{param}' is not done here: {message}.", param=param, code=kind)
    if kind in ("not_allowed", "value_error"):
        return Refused(400, f"'{param}': {message.removeprefix('Value error, ').removesuffix('.')}.", param=param, code="invalid_value")
    wishes = dict.fromkeys(str(one["msg"]).replace("valid dictionary or object to extract fields from", "JSON object") for one in same)
    plain = [_WISH.fullmatch(wish) for wish in wishes]
    if all(plain):
        said = f"'{param}' should " + " or ".join(wish[1] for wish in plain[:3] if wish)
    else:
        said = f"'{param}': {message[:1].lower()}{message[1:]}"
    return Refused(400, f"{said}; it is {_shown(first.get('input'))}.", param=param, code="invalid_value")


def _place(error: Mapping[str, Any], body: Any) -> list[str]:
    """Where in the body an error is: the names and numbers on the way, without those of a union's branches."""
    path = error["loc"][1:] if error["loc"][:1] == ("body",) else error["loc"]
    if body is _NOTHING:
        place = [str(part) for part in path]
    else:
        place, here = [], body
        for number, part in enumerate(path):
            if (isinstance(here, dict) and part in here) or (isinstance(here, list) and isinstance(part, int) and part < len(here)):
                here = here[part]
                place.append(str(part))
            elif error["type"] == "missing" and number == len(path) - 1:
                place.append(str(part))
    more = error.get("ctx", {}).get("place")
    return [*place, *more.split(".")] if more else place


def _shown(value: Any) -> str:
    """A value as an error shows it: short, whatever was sent."""
    if isinstance(value, dict | list | tuple):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, str):
        return repr(value[:80]) + ("..." if len(value) > 80 else "")
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number of very many digits"
    return repr(value)[:80]
