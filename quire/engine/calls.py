"""Calls of functions in what a model wrote, read piece by piece: the forms they are written in, and the records they become.

A call's name is given as soon as it stands there, its arguments as they come; what may be the beginning of a mark is held back until it is
known not to be one. What is read does not depend on how the text is cut into pieces: the pieces of a stream, joined, are the whole turn.
A call that a limit cut, or whose arguments are no JSON, is never among the calls that are whole: it is told as `broken`.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import DataError, nearest
from ..types import Chunk, FinishReason


@dataclass(frozen=True)
class Form:
    """How calls are written. opener: what stands before them ("": the answer begins with the call); several: of one answer, how."""

    name: str
    opener: str
    key: str  # what the arguments are called
    closer: str = ""
    several: Literal["repeated", "listed", ""] = ""


HERMES = Form("hermes", "<tool_call>", "arguments", "</tool_call>", "repeated")
MISTRAL = Form("mistral", "[TOOL_CALLS]", "arguments", "", "listed")
LLAMA = Form("llama", "", "parameters")
WHOLE = Form("json", "", "arguments")  # where the template knows none


@dataclass(frozen=True)
class Turn:
    """What an answer says and calls. tool_calls: whole ones only. broken: what began a call and is not a whole one. told: all calls whose
    name a stream has told, each as far as it came: the whole ones, and one that was cut."""

    content: str | None
    tool_calls: tuple[dict[str, Any], ...]
    finish_reason: FinishReason | Literal["tool_calls"]
    broken: str = ""
    told: tuple[dict[str, Any], ...] = ()


def new_id() -> str:
    """Nine letters and digits, as Mistral's templates ask."""
    return "c" + secrets.token_hex(4)


_WHITE = " \t\r\n"  # JSON's white space. Python's own `strip` takes control characters and spaces of other scripts too: those are text
_W = rf"[{_WHITE}]*"
_TEXT = r'"((?:[^"\\]|\\.)*)"'
_HEAD = re.compile(
    rf'{_W}\{{{_W}(?:"type"{_W}:{_W}"function"{_W},{_W})?"name"{_W}:{_W}{_TEXT}{_W},{_W}"(?:arguments|parameters)"{_W}:{_W}(?=\{{)'
)
_TAIL = re.compile(rf'{_W}(?:,{_W}"id"{_W}:{_W}{_TEXT}{_W})?\}}')
_LONGEST_HEAD = 400  # characters in which a call must have said its name


class Reader:
    """Text of an answer, piece by piece, into content and calls: first the name of a call, then pieces of its arguments.

    forced: the answer is held to calls, so nothing of it is content. White space between content and a call, and behind the last call,
    belongs to neither; all other content is given as it was written.
    """

    def __init__(
        self, form: Form, names: Sequence[str], spelt: Mapping[int, str], new_id: Callable[[], str], *, forced: bool = False
    ) -> None:
        self._form, self._names, self._spelt, self._new_id, self._forced = form, names, spelt, new_id, forced
        self._text = ""  # not decided yet
        self._mark = ""  # what stands before it and may be content after all: white space, and the mark of a call
        self._state: Literal["content", "list", "head", "arguments", "tail", "after"] = "content"
        self._content: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._whole: list[dict[str, Any]] = []  # of them, those that are
        self._depth, self._quoted, self._escaped = 0, False, False
        self._reason: FinishReason | None = None
        self._broken = ""

    def push(self, chunk: Chunk) -> list[dict[str, Any]]:
        """Deltas as OpenAI's streams have them: {"content": text} or {"tool_calls": [{"index": ..., ...}]}.

        What may be the beginning of a call is held back, at the latest until the chunk with a finish_reason.
        """
        self._text += chunk.text + "".join(self._spelt[id] for id in chunk.ids if id in self._spelt)
        deltas: list[dict[str, Any]] = []
        while True:
            before = (self._state, self._text)
            deltas += getattr(self, f"_{self._state}_")()
            if (self._state, self._text) == before:
                break
        if chunk.finish_reason is not None:
            self._reason = chunk.finish_reason
            deltas += self._finish()
        return deltas

    def turn(self) -> Turn:
        """What the whole answer was: what the deltas add up to. Call it after the last chunk."""
        reason = self._reason or "length"
        whole, told = (tuple({**call, "function": dict(call["function"])} for call in calls) for calls in (self._whole, self._calls))
        return Turn("".join(self._content) or None, whole, "tool_calls" if whole and reason == "stop" else reason, self._broken, told)

    def _finish(self) -> list[dict[str, Any]]:
        held, self._text = self._text, ""
        if self._state == "content":
            if self._forced or (self._calls and self._reason != "stop"):  # the beginning of a mark that was cut
                self._broken = self._broken or held.strip(_WHITE)
                return []
            return self._say("" if self._calls and not held.strip(_WHITE) else held)
        if self._state in ("list", "head", "arguments", "tail"):
            begun = self._calls[-1]["function"] if self._state in ("arguments", "tail") else {}
            self._broken = f"{begun.get('name', '')}{begun.get('arguments', '')}{held}" or self._mark.strip(_WHITE)
            if self._state == "head" and self._reason == "stop" and not self._form.opener:
                self._broken = ""  # an object that is no call
                return self._say(held)
        return []

    def _say(self, text: str) -> list[dict[str, Any]]:
        if not text:
            return []
        self._content.append(text)
        return [{"content": text}]

    def _content_(self) -> list[dict[str, Any]]:
        opener = self._form.opener
        if not self._names:
            said, self._text = self._text, ""
            return self._say(said)
        if not opener:
            if self._text.lstrip(_WHITE)[:1] == "{" and not self._content and not self._calls:
                self._state, self._mark = "head", ""
                return []
            said, self._text = (self._text, "") if self._text.strip(_WHITE) or self._content else ("", self._text)
            return self._say(said)
        said, found, rest = self._text.partition(opener)
        if found:
            content = said.rstrip(_WHITE)
            self._state, self._text, self._mark = "list" if self._form.several == "listed" else "head", rest, said[len(content) :] + opener
            return self._say(content)
        certain = len(self._text[: len(self._text) - _begins(self._text, opener)].rstrip(_WHITE))
        said, self._text = self._text[:certain], self._text[certain:]
        return self._say(said)

    def _list_(self) -> list[dict[str, Any]]:
        text = self._text.lstrip(_WHITE)
        if text:
            rest = text.removeprefix("[")
            self._mark += self._text[: len(self._text) - len(rest)]
            self._state, self._text = "head", rest
        return []

    def _head_(self) -> list[dict[str, Any]]:
        found = _HEAD.match(self._text[:_LONGEST_HEAD])
        if found is None:
            begun = self._text.lstrip(_WHITE)
            if len(self._text) < _LONGEST_HEAD and begun[:1] in ("", "{"):
                return []
            white = self._text[: len(self._text) - len(begun)]
            self._text, self._state = begun, "content"  # there may be a call further on
            self._content.append("")
            return self._say(self._mark + white)
        name = str(json.loads(f'"{found[1]}"', strict=False))
        if name not in self._names:
            raise DataError(f"the model calls '{name}'; the tools are {', '.join(self._names)}.{nearest(name, list(self._names))}")
        call: dict[str, Any] = {"id": self._new_id(), "type": "function", "function": {"name": name, "arguments": ""}}
        self._calls.append(call)
        self._state, self._text, self._depth, self._quoted, self._escaped = "arguments", self._text[found.end() :], 0, False, False
        return [{"tool_calls": [{"index": len(self._calls) - 1, **call, "function": dict(call["function"])}]}]

    def _arguments_(self) -> list[dict[str, Any]]:
        end = len(self._text)
        for place, character in enumerate(self._text, start=1):
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped, self._quoted = character == "\\", character != '"'
            elif character == '"':
                self._quoted = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self._state, end = "tail", place
                    break
        piece, self._text = self._text[:end], self._text[end:]
        if not piece:
            return []
        self._calls[-1]["function"]["arguments"] += piece
        return [{"tool_calls": [{"index": len(self._calls) - 1, "function": {"arguments": piece}}]}]

    def _tail_(self) -> list[dict[str, Any]]:
        found = _TAIL.match(self._text)
        if found is not None:
            try:
                json.loads(self._calls[-1]["function"]["arguments"])
                self._whole.append(self._calls[-1])
            except (ValueError, RecursionError):
                self._broken = self._calls[-1]["function"]["arguments"]
            self._state, self._text = "after", self._text[found.end() :]
        return []

    def _after_(self) -> list[dict[str, Any]]:
        """Behind a call: the closing mark, another call of the list, or its end."""
        text, form = self._text.lstrip(_WHITE), self._form
        if form.several == "listed" and text[:1] == ",":
            self._state, self._text, self._mark = "head", text[1:], ","
        elif form.several == "listed" and text[:1] == "]":
            self._state, self._text = "content", text[1:]
        elif form.closer and text.startswith(form.closer):
            self._state, self._text = "content", text.removeprefix(form.closer)
        elif text and not (form.closer and form.closer.startswith(text)):
            self._state = "content"
        return []


def _begins(text: str, mark: str) -> int:
    """How many characters at the end of a text may be the beginning of a mark."""
    return next((size for size in range(min(len(mark) - 1, len(text)), 0, -1) if mark.startswith(text[-size:])), 0)


def parse(text: str, form: Form, names: Sequence[str]) -> Turn:
    """Content and calls of a text that a model wrote, its marks spelt in it."""
    reader = Reader(form, names, {}, new_id)
    reader.push(Chunk(text, (), "stop"))
    return reader.turn()
