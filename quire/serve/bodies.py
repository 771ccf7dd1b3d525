"""What request bodies have in common: every field is known and typed, honoured or refused by its name; none is passed over.

A field that an API documents and this server does not do is `refusable`: null, or a value that asks for nothing, is taken; anything else is
refused with the reason. An unknown field is refused too, with the nearest known one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Union

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError

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


def refusable(reason: str, *harmless: Any) -> Any:
    """A documented field that is not done here. harmless: values that ask for nothing, so they are taken; null always is."""

    def check(value: Any) -> Any:
        if value is None or any(value == one and type(value) is type(one) for one in harmless):
            return value
        raise ValueError(reason)

    return Annotated[Any, BeforeValidator(check), Field(description=f"Not done here: {reason}")]


def kinds(known: Mapping[str, type[Body]], others: Mapping[str, str], default: str | None = None) -> Any:
    """An object that is one of several by its `type`. others: documented types that are not done here, each with the reason; default:
    the type of an object that names none."""

    def kind(value: Any) -> Any:
        return value.get("type", default) if isinstance(value, dict) else getattr(value, "type", None)

    def tag(value: Any) -> str:
        found = kind(value)
        return found if isinstance(found, str) and found in known else "type"

    def refuse(value: Any) -> Any:
        found = kind(value)
        if isinstance(found, str) and found in others:
            raise ValueError(f"'{found}' is not done here: {others[found]}")
        raise ValueError(f"{found!r:.60} is not done here; allowed: {', '.join(known)}")

    union: Any = Annotated[Any, BeforeValidator(refuse), Tag("type")]
    for name, body in known.items():
        union = Union[union, Annotated[body, Tag(name)]]  # noqa: UP007
    return Annotated[union, Discriminator(tag)]


def listed(part: Any, most: int, of_text: Callable[[str], list[Any]] | None = None, least: int = 0) -> Any:
    """A list of parts. of_text: what a text alone is shorthand for."""
    made: Any = Annotated[list[part], Field(min_length=least, max_length=most)]
    if of_text is None:
        return made

    def whole(value: Any) -> Any:
        return of_text(value) if isinstance(value, str) else value

    return Annotated[made, BeforeValidator(whole, json_schema_input_type=str | made)]


def refused(error: ValidationError | Sequence[Mapping[str, Any]], known: Sequence[str] = ()) -> Refused:
    """The first thing that is wrong with a body, as the client is told it."""
    first = (error.errors(include_url=False) if isinstance(error, ValidationError) else list(error))[0]
    place = [str(part) for part in first["loc"] if part not in ("body",)]
    param = ".".join(place) or None
    if first["type"] == "extra_forbidden":
        return Refused(400, f"unknown field '{param}'.{nearest(place[-1], list(known))}", param=param, code="unknown_field")
    if first["type"] == "missing":
        return Refused(400, f"the field '{param}' is missing.", param=param, code="missing_field")
    if first["type"] == "json_invalid":
        return Refused(400, f"the body is no JSON: {first.get('ctx', {}).get('error', 'it cannot be read')}.", code="invalid_json")
    message = first["msg"].removeprefix("Value error, ")
    value = repr(first.get("input"))
    said = f" (it is {value[:80]}{'...' if len(value) > 80 else ''})" if first["type"] != "value_error" else ""
    return Refused(400, f"'{param}': {message}{said}." if param else f"{message}.", param=param, code="invalid_value")
