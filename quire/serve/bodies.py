"""What request bodies have in common: every field is known and typed, honoured or refused by its name; none is passed over.

A field that an API documents and this server does not do is `refusable`: null, or a value that asks for nothing, is taken; anything else is
refused with the reason. An unknown field is refused too, with the nearest known one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

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
