"""What each row of `quire generate` asks for: a text or a conversation, with the sampling and the form that the row or the options name.

A row of JSONL may hold every field of `Sampling` (temperature, max_tokens, stop ...), `schema` and `regex`: they hold for that row alone.
Names by which other tools call these are refused, since what is not known is passed through to the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import cache
from json import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, QuireError, RecipeError
from ..types import Sampling
from .lines import Row, text_of
from .offline import Ask

if TYPE_CHECKING:
    from ..engine.answers import Asked
    from ..model import Decoder, Seq2Seq

_SAMPLED = tuple(field.name for field in fields(Sampling))
_FORMS = ("schema", "regex")
_OTHERS = {  # what others call it: what it is here
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "stop_token_ids": "stop_ids",
    "response_format": "schema",
    "tools": "",
    "tool_choice": "",
}


def given_forms(schema: Path | None, regex: str | None) -> dict[str, Any]:
    """What the options ask of every answer."""
    forms: dict[str, Any] = {} if regex is None else {"regex": regex}
    if schema is not None:
        try:
            forms["schema"] = loads(text_of(schema))
        except ValueError as error:
            raise RecipeError(f"--schema {schema} is no JSON: {error}") from None
    return forms


def read_asks(model: Decoder | Seq2Seq, rows: Sequence[Row], sampling: Sampling, forms: dict[str, Any]) -> tuple[list[Row], list[Ask]]:
    """The rows without what they say of their own answer, and that. All are checked here, before any is answered: errors name the row."""
    from ..model import Decoder

    make = _maker(model)
    left, asks = [], []
    for row in rows:
        try:
            if row.turns and not isinstance(model, Decoder):
                raise DataError("`messages` are for decoders that chat; this model is none. Give a prompt.")
            own = _own(row)
            how = _sampling(sampling, own, model.config.vocab)
            named = {name: own[name] for name in _FORMS if own.get(name) is not None} or forms
            asks.append(Ask(row.text, how, make(dumps(named, sort_keys=True)), row.turns, own))
        except QuireError as error:
            raise type(error)(f"{row.where}: {error}" if row.where else str(error)) from None
        left.append(replace(row, rest={name: value for name, value in row.rest.items() if name not in own}))
    return left, asks


def _own(row: Row) -> dict[str, Any]:
    other = next((name for name in row.rest if name in _OTHERS), None)
    if other is not None:
        known = f"it is called '{_OTHERS[other]}' here" if _OTHERS[other] else "rows call no tools; leave it out"
        raise DataError(f"the field '{other}' is not read: {known}.")
    if "messages" in row.rest:
        raise DataError("the row has a prompt and messages; give one of them.")
    return {name: row.rest[name] for name in (*_SAMPLED, *_FORMS) if name in row.rest}


def _sampling(sampling: Sampling, own: dict[str, Any], vocab: int) -> Sampling:
    from ..decode.sampler import check

    given = {name: own[name] for name in _SAMPLED if own.get(name) is not None}
    for name, value in given.items():
        if name == "stop" and isinstance(value, str):
            given[name] = (value,)
        elif name == "logit_bias" and isinstance(value, dict):  # keys of JSON are texts
            given[name] = tuple((int(token) if token.isdecimal() else token, bias) for token, bias in value.items())
        elif isinstance(value, list):
            given[name] = tuple(value)
    how = replace(sampling, **given)
    check(how, vocab)
    return how


def _maker(model: Decoder | Seq2Seq) -> Callable[[str], Asked]:
    """Forms of answers from their JSON, each compiled once."""
    from ..engine.answers import form
    from ..model import Decoder

    @cache
    def make(text: str) -> Asked:
        named = loads(text)
        if named and not isinstance(model, Decoder):
            raise RecipeError(f"'{next(iter(named))}' is for decoders; this model is none. Leave it out.")
        return form(model.contract, model.config.vocab, named)

    return make
