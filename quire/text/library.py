"""The `tokenizers` library behind one door: its panics, the texts it cannot take, and the twin in which no text spells a special token."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from ..errors import DataError, ModelError, nearest
from ..types import Message, Role
from . import definition as definitions
from .definition import Definition

if TYPE_CHECKING:
    import tokenizers


@contextlib.contextmanager
def library_errors(doing: str) -> Iterator[None]:
    """Turns what the tokenizers library raises into a ModelError. Its panics derive from BaseException and would pass `except Exception`.

    The library's own errors are of no class but `Exception` itself; others come from whoever feeds it texts, and pass.
    """
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        raise ModelError(
            f"{doing} failed in the tokenizers library: {error}. The tokenizer.json may be damaged, or hold a pattern that cannot be run."
        ) from error


def engine(definition: Definition) -> tuple[dict[str, str], tokenizers.Tokenizer]:
    """(secret spellings, the library's tokenizer of the twin). Refuses a file that the library reads with other ids than it says."""
    import tokenizers

    text, secret = definitions.twin(definition)
    with library_errors(f"opening {definition.origin}"):
        made = tokenizers.Tokenizer.from_str(text)
        for spelling, id in {**{token.content: token.id for token in definition.added}, **definition.special}.items():
            found = made.token_to_id(secret.get(spelling, spelling))
            if found != id:
                raise ModelError(
                    f"{definition.origin} gives {spelling!r} the id {id}, but the tokenizers library reads it as {found}. "
                    "Ids must go on without a gap after the vocabulary; every tool that reads this file would use other ids than it says."
                )
    return secret, made


def texts_of(texts: Iterable[object], wanted: Literal["texts", "texts or pairs", "pairs"] = "texts") -> list[Any]:
    """The rows that a method was given, as a list. Raises DataError that names a row which is no text (no pair of texts), and its type."""
    listed = "pairs" if wanted == "pairs" else "texts"
    if isinstance(texts, str | bytes):
        raise DataError(f"a list of {listed} is needed, not one text: write [{texts[:20]!r}{'...' if len(texts) > 20 else ''}].")
    if not isinstance(texts, Iterable):
        raise DataError(f"a list of {listed} is needed, not {type(texts).__name__}.")
    rows: list[Any] = list(texts)
    if wanted == "pairs" and isinstance(texts, tuple) and len(rows) == 2 and all(isinstance(row, str) for row in rows):
        raise DataError(f"a list of pairs is needed, not one pair: write [({rows[0][:20]!r}, {rows[1][:20]!r})].")
    for number, row in enumerate(rows):
        if wanted != "pairs" and isinstance(row, str):
            continue
        kinds: Any = (tuple, list) if wanted == "pairs" else tuple
        if wanted != "texts" and isinstance(row, kinds) and len(row) == 2 and all(isinstance(part, str) for part in row):
            continue
        what = {"texts": "a text", "pairs": "a pair of texts", "texts or pairs": "a text, or a tuple of two,"}[wanted]
        inside = f" of {', '.join(type(part).__name__ for part in list(row)[:4])}" if isinstance(row, tuple | list) else ""
        raise DataError(f"row {number}: {what} is needed, not {type(row).__name__}{inside}")
    return rows


def messages_of(messages: Iterable[object]) -> list[Message]:
    """The turns of a conversation, as a list; a turn may be a dictionary, as in OpenAI's API. Raises DataError that names a row which is
    no turn."""
    if isinstance(messages, str | bytes | Mapping | Message) or not isinstance(messages, Iterable):
        raise DataError(f'a list of messages is needed, not {str(messages)[:40]!r}: write [Message("user", "...")].')
    return [row if isinstance(row, Message) else _message(number, row) for number, row in enumerate(messages)]


def _message(number: int, row: object) -> Message:
    known = [field.name for field in fields(Message)]
    if not isinstance(row, Mapping):
        raise DataError(f"message {number}: a Message is needed, or a dictionary with role and content, not {type(row).__name__}")
    for name in row:
        if name not in known:
            raise DataError(f"message {number} has the field {name!r}; allowed: {', '.join(known)}.{nearest(str(name), known)}")
    role, content, calls = cast(Role, row.get("role")), row.get("content"), row.get("tool_calls")
    if role not in get_args(Role):
        raise DataError(f"message {number} has the role {role!r}; allowed: {', '.join(get_args(Role))}.")
    if content is None and calls:
        content = ""
    if not isinstance(content, str):
        raise DataError(f"message {number} has the content {str(content)[:40]!r}, which is no text.")
    return Message(role, content, tuple(calls or ()), row.get("tool_call_id"))


def check_text(text: str) -> None:
    if not isinstance(text, str):
        raise DataError(f"a text is needed, not {type(text).__name__}")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"character {error.start} is half of a surrogate pair (U+{ord(text[error.start]):04X}), which is no text. "
                'Read the file with errors="replace", or remove it.'
            ) from None
