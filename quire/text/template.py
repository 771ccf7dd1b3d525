"""Chat templates: messages to token ids, and which of those ids the assistant is taught to write.

A template is rendered once, on text that remembers which characters the user wrote (`traced`). Only where the template itself wrote the
spelling of a special token does that token appear; the same spelling inside a message stays text. The ids are those that the reference
(`transformers`' apply_chat_template) gives for messages that spell no special token, since everything is encoded in one call.

The loss mask comes from `{% generation %}` marks. A template without them is rendered up to each of the assistant's turns: if that text and
its ids are a prefix of the whole conversation's, the rest of the turn is the assistant's. Where they are not, training would teach another
text than the model reads when it is used, and the row is refused with the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .. import durable
from ..errors import DataError, ModelError, nearest
from ..types import Message
from .chatml import CHATML as CHATML
from .definition import parse_json, read_optional
from .rows import Encoded
from .tokenizer import Tokenizer
from .traced import TRAINED, USER, from_user, marks_of, plain, without_marks

FILE = "chat_template.jinja"
NAMED = "additional_chat_templates"  # a folder of NAME.jinja, as transformers writes it
LARGEST_NAMED = 16
TOOL_USE = "tool_use"  # the name of the one that is meant where tools are given

# Parts that a conversation's turns can play. A template may build a special token out of one of these (`<|user|>`); out of any other
# string that comes with a message it may not.
ROLES = frozenset("system developer user assistant tool function ipython model environment".split())


@dataclass(frozen=True)
class Rendered:
    """text, and the stretches [start, end) of it that came from messages and tools, and that are the assistant's to write."""

    text: str
    spans: list[tuple[int, int]]
    generated: list[tuple[int, int]]


@dataclass(frozen=True)
class ChatTokens:
    """Token ids of a conversation, and for each whether the assistant is taught to write it."""

    ids: list[int]
    trained: list[bool]


@dataclass(frozen=True)
class _Row:
    """A rendering as the tokenizer takes it: `parts` are stretches of text and ids of special tokens that the template owns."""

    text: str
    marks: bytes
    parts: list[str | int]
    owned: list[tuple[int, int]]  # where those special tokens stand


class Template:
    """A chat template in jinja2, with the special tokens that it may name (`bos_token`, `eos_token` ...)."""

    def __init__(
        self,
        source: str,
        special: Mapping[str, str] | None = None,
        *,
        origin: str = "the chat template",
        named: Mapping[str, str] | None = None,
    ) -> None:
        """special: {role: spelling}, as `Tokenizer.special`. named: further templates by name; `tool_use` is taken where tools are given.

        Raises ModelError for a template that cannot be read or asks for too much.
        """
        from .budget import LARGEST_SOURCE
        from .sandbox import Sandbox

        if len(source) > LARGEST_SOURCE:
            raise ModelError(f"{origin} has {len(source):,} characters; at most {LARGEST_SOURCE:,} are allowed")
        self.source = source
        self.special = dict(special or {})
        self.origin = origin
        if len(named or {}) > LARGEST_NAMED:
            raise ModelError(f"{origin} comes with {len(named or {})} named ones; at most {LARGEST_NAMED} are allowed")
        self.named = {name: Template(text, special, origin=f"{origin} named {name!r}") for name, text in sorted((named or {}).items())}
        self._sandbox = Sandbox()
        try:
            self._template = self._sandbox.from_string(source)
        except (Exception, RecursionError) as error:  # the parser, the compiler and Python's own compiler each raise their own
            raise ModelError(f"{origin} cannot be used: {_words(error)}") from error

    @classmethod
    def open(cls, folder: Path | str, tokenizer: Tokenizer) -> Template | None:
        """The template of a model folder: chat_template.jinja (further ones in additional_chat_templates), else those in
        tokenizer_config.json; None where there is none."""
        folder = Path(folder)
        source = read_optional(folder / FILE, 2**20)
        origin = str(folder / FILE)
        if source is not None:
            files = sorted((folder / NAMED).glob("*.jinja"))[: LARGEST_NAMED + 1]
            return cls(source, tokenizer.special, origin=origin, named={file.stem: read_optional(file, 2**20) or "" for file in files})
        text = read_optional(folder / "tokenizer_config.json", 2**24)
        origin = f"the chat_template in {folder / 'tokenizer_config.json'}"
        listed = _listed(parse_json(text.encode("utf-8"), origin), origin) if text is not None else {}
        source = listed.pop("default", None)
        return None if source is None else cls(source, tokenizer.special, origin=origin, named=listed)

    def save(self, folder: Path | str) -> None:
        """Writes chat_template.jinja and additional_chat_templates, where transformers looks for them."""
        folder = durable.make_folder(folder)
        durable.write_text(folder / FILE, self.source)
        for name, template in self.named.items():
            durable.write_text(durable.make_folder(folder / NAMED) / f"{name}.jinja", template.source)

    def canonical(self) -> bytes:
        """The same bytes for the same templates: what is hashed."""
        parts = [self.source, *(f"\0{name}\0{template.source}" for name, template in self.named.items())]
        return "".join(parts).encode("utf-8", "surrogatepass")

    def _chosen(self, tools: Sequence[Mapping[str, Any]]) -> Template:
        return self.named.get(TOOL_USE, self) if tools else self

    @cached_property
    def marks_generation(self) -> bool:
        """Does the template say itself what the assistant writes?"""
        return re.search(r"\{%[-+]?\s*generation\b", self.source) is not None

    # -- rendering -----------------------------------------------------------------------------------------------------------------

    def render(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = False,
        *,
        options: Mapping[str, Any] | None = None,
        now: datetime | None = None,
    ) -> Rendered:
        """The text of a conversation. options: further variables that this template knows; now: the time `strftime_now` tells.

        Raises DataError when the template refuses these messages, or would need more than its budget for them.
        """
        chosen = self._chosen(tools)
        text = chosen._render(_messages(messages), tools, add_generation_prompt, options, now or datetime.now())
        marks = marks_of(text)
        return Rendered(plain(text), _runs(marks, USER), _runs(marks, TRAINED))

    def _render(
        self,
        messages: list[dict[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        prompt: bool,
        options: Mapping[str, Any] | None,
        now: datetime,
    ) -> str:
        try:
            traced = {
                **{f"{role}_token": spelling for role, spelling in self.special.items()},
                **(from_user(dict(options)) if options else {}),
                "messages": [_trace(message) for message in messages],
                "tools": from_user(list(tools)) or None,
                "documents": None,
                "add_generation_prompt": prompt,
            }
        except (TypeError, RecursionError) as error:
            raise DataError(f"messages, tools and options must be JSON values: {_words(error)}") from error
        text = self._run(traced, now)
        # Once more on ordinary strings: had the marks changed what the template does, it would show here.
        if self._run({name: without_marks(value) for name, value in traced.items()}, now) != plain(text):
            raise DataError(f"{self.origin} treats these messages in a way that cannot be followed character by character")
        return text

    def _run(self, variables: Mapping[str, Any], now: datetime) -> str:
        import jinja2
        from jinja2.exceptions import SecurityError

        from .budget import Budget, BudgetError

        try:
            return self._sandbox.run(self._template, variables, Budget(now))
        except BudgetError as error:
            raise DataError(f"{self.origin} needs too much for these messages: {error}") from error
        except (SecurityError, MemoryError) as error:
            raise ModelError(f"{self.origin} does what a template may not do: {_words(error)}") from error
        except jinja2.TemplateError as error:
            raise DataError(f"{self.origin} refuses these messages: {_words(error)}") from error
        except (Exception, RecursionError) as error:
            raise DataError(f"{self.origin} fails on these messages: {type(error).__name__}: {_words(error)}") from error

    # -- tokens --------------------------------------------------------------------------------------------------------------------

    def encode(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Message | Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = False,
        *,
        mask: bool | None = None,
        options: Mapping[str, Any] | None = None,
        now: datetime | None = None,
    ) -> ChatTokens:
        """Ids of a conversation. mask: also say which are trained; by default only without a generation prompt, that is for training.

        Raises DataError when the template refuses the messages, when it would make a special token out of their text, or when it has no
        generation marks and this row does not prove what the assistant writes.
        """
        chosen = self._chosen(tools)
        if chosen is not self:
            return chosen.encode(tokenizer, messages, tools, add_generation_prompt, mask=mask, options=options, now=now)
        turns, now = _messages(messages), now or datetime.now()
        row = self._row(tokenizer, self._render(turns, tools, add_generation_prompt, options, now))
        masked = mask if mask is not None else not add_generation_prompt
        found = tokenizer.encode_parts(row.parts, offsets=masked)  # places take longer than the ids, and only a mask needs them
        if not masked:
            return ChatTokens(found.ids, [False] * len(found.ids))
        if self.marks_generation:
            return ChatTokens(found.ids, _trained(tokenizer, row, row.marks, found))
        marks = bytearray(len(row.text))
        for number, turn in enumerate(turns):
            if turn["role"] == "assistant":
                before = self._row(tokenizer, self._render(turns[:number], tools, True, options, now))
                through = plain(self._render(turns[: number + 1], tools, False, options, now))
                _check_prefix(tokenizer, row, found, before, through, number)
                start, end = len(before.text), _end_of_turn(row, len(before.text), len(through))
                marks[start:end] = bytes([TRAINED]) * (end - start)
        return ChatTokens(found.ids, _trained(tokenizer, row, bytes(marks), found))

    def continued(
        self, tokenizer: Tokenizer, messages: Sequence[Message | Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        """Ids of a conversation up to the end of its last message's text, which the assistant has begun and goes on with.

        Raises DataError where the template does not write that text as it is, right where an answer begins.
        """
        chosen = self._chosen(tools)
        turns, now = _messages(messages), datetime.now()
        before = plain(chosen._render(turns[:-1], tools, True, None, now))
        through = chosen._render(turns, tools, False, None, now)
        whole, last, begun = plain(through), turns[-1], str(turns[-1].get("content") or "")
        gap = len(whole) - len(whole[len(before) :].lstrip())  # some templates write white space between the two
        start = next((at for at in (len(before), gap) if whole.startswith(before) and whole.startswith(begun, at)), None)
        if last["role"] != "assistant" or last.get("tool_calls") or not begun or start is None:
            raise DataError(
                f"{self.origin} cannot go on with a last message that the assistant has begun: it does not write that message, as it "
                "is, at the place where an answer begins. End with a message of the user."
            )
        return list(tokenizer.encode_parts(chosen._row(tokenizer, through[: start + len(begun)]).parts).ids)

    def _row(self, tokenizer: Tokenizer, text: str) -> _Row:
        """Divides a rendering at the special tokens that the template wrote."""
        whole, marks = plain(text), marks_of(text)
        pattern = _pattern(tokenizer)
        parts: list[str | int] = []
        owned: list[tuple[int, int]] = []
        at = 0
        for start, end in _special_places(pattern, whole):
            users = sum(mark & USER for mark in marks[start:end])
            if users == end - start:
                continue
            if users:
                raise DataError(
                    f"{self.origin} would make the special token {whole[start:end]!r} out of what a message says "
                    f"({whole[max(0, start - 20) : end + 20]!r}). Change that message."
                )
            if start < at:
                continue  # inside the one before: the library takes the first
            parts += [whole[at:start], tokenizer.special_tokens[whole[start:end]]]
            owned.append((start, end))
            at = end
        parts.append(whole[at:])
        return _Row(whole, marks, [part for part in parts if part != ""], owned)


def _messages(messages: Sequence[Message | Mapping[str, Any]]) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        if isinstance(message, Message):
            if message.role not in ROLES:
                allowed = sorted(ROLES)
                like = nearest(str(message.role), allowed)
                raise DataError(f"message {number} has the role {message.role!r}; allowed: {', '.join(allowed)}.{like}")
            turn: dict[str, Any] = {"role": message.role, "content": message.content}
            if message.tool_calls:
                turn["tool_calls"] = list(message.tool_calls)
            if message.tool_call_id is not None:
                turn["tool_call_id"] = message.tool_call_id
        elif isinstance(message, Mapping):
            turn = dict(message)
        else:
            raise DataError(f"message {number} is a {type(message).__name__}; a Message or a dictionary with role and content is needed")
        if not isinstance(turn.get("role"), str):
            raise DataError(f"message {number} has the role {turn.get('role')!r}; it must be a word such as 'user' or 'assistant'")
        turns.append(turn)
    if not turns:
        raise DataError("there are no messages to put into the template")
    return turns


def _trace(message: dict[str, Any]) -> dict[str, Any]:
    traced: dict[str, Any] = from_user(message)
    if message["role"] in ROLES:
        traced["role"] = plain(message["role"])
    return traced


def _listed(settings: Any, origin: str) -> dict[str, str]:
    """{name: template} in a tokenizer_config.json: one string, the default, or a list of named ones with a `default` among them."""
    found = settings.get("chat_template") if isinstance(settings, dict) else None
    if found is None:
        return {}
    named: dict[str, Any] = {"default": found}
    if isinstance(found, list):
        named = {entry["name"]: entry.get("template") for entry in found if isinstance(entry, dict) and isinstance(entry.get("name"), str)}
        if "default" not in named:
            raise ModelError(f"{origin} is a list of {sorted(named)} without one named 'default'")
    for name, source in named.items():
        if not isinstance(source, str):
            raise ModelError(f"{origin} must be text, not {json.dumps(source)[:60]}")
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
            raise ModelError(f"{origin} has the name {name[:80]!r}; a name is of letters, digits, _ and -")
    return named


def _words(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text if len(text) <= 500 else text[:500] + "..."


def _runs(marks: bytes, mark: int) -> list[tuple[int, int]]:
    """The stretches of characters that carry a mark."""
    bits = marks.translate(bytes(value & mark for value in range(256)))
    return [found.span() for found in re.finditer(bytes([mark]) + b"+", bits)]


def _pattern(tokenizer: Tokenizer) -> re.Pattern[str]:
    """The longest special token at each place, overlapping ones too."""
    spellings = sorted(tokenizer.special_tokens, key=len, reverse=True)
    return re.compile("(?=(" + "|".join(map(re.escape, spellings)) + "))" if spellings else r"(?!)()")


def _special_places(pattern: re.Pattern[str], text: str) -> list[tuple[int, int]]:
    return [found.span(1) for found in pattern.finditer(text)]


def _trained(tokenizer: Tokenizer, row: _Row, marks: bytes, found: Encoded) -> list[bool]:
    """A token is trained when all of its characters are; a special token may have swallowed spaces beside it, which do not count."""
    places = np.array(found.offsets, dtype=np.int64).reshape(-1, 2)
    places[:, 1] = np.maximum(places[:, 1], places[:, 0] + 1)  # a token without characters (the mark before a word) belongs to what follows
    for number, place in zip((at for at, id in enumerate(found.ids) if tokenizer.is_special(id) and id != tokenizer.unk), row.owned):
        places[number] = place
    trained = np.frombuffer(marks, dtype=np.uint8) & TRAINED != 0
    before = np.concatenate([[0], np.cumsum(trained)])  # trained characters before each place
    places = np.minimum(places, len(trained))
    start, end = places.T
    all_of_it: list[bool] = ((before[end] - before[start] == end - start) & (end > start)).tolist()
    return all_of_it


def _check_prefix(tokenizer: Tokenizer, row: _Row, found: Encoded, before: _Row, through: str, number: int) -> None:
    """Proves on this row that what stands before and through the assistant's turn `number` is a prefix, in text and in ids."""
    if not row.text.startswith(before.text) or not row.text.startswith(through) or len(through) < len(before.text):
        at = _difference(row.text, through if row.text.startswith(before.text) else before.text)
        raise DataError(
            f"message {number}: the template writes the beginning differently once the conversation goes on (at character {at}: "
            f"{row.text[at : at + 30]!r}), so it cannot be told what the assistant writes there. Use a template with generation marks."
        )
    ids = tokenizer.encode_parts(before.parts).ids
    if found.ids[: len(ids)] != ids:
        raise DataError(
            f"message {number}: the tokens before the place where the assistant begins to write are not those of the prompt alone "
            f"({row.text[len(before.text) :][:30]!r}), so the model would be trained on other tokens than it reads when it is used. "
            "White space on both sides of that place does it: end the prompt with one line end, begin the answer with a word."
        )


def _difference(one: str, other: str) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def _end_of_turn(row: _Row, start: int, end: int) -> int:
    """Where the assistant stops: what the template writes after the special token that closes the turn is never generated."""
    closing = [place for place in row.owned if start <= place[0] and place[1] <= end]
    if closing and not any(mark & USER for mark in row.marks[closing[-1][1] : end]):
        return closing[-1][1]
    return end
