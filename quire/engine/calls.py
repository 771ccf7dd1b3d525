"""Calls of functions in what a model wrote, read piece by piece: the forms they are written in, and the records they become.

A call's name is given as soon as it stands there, its arguments as they come; what may be the beginning of a mark is held back until it is
known not to be one. A call that a limit cut, or whose arguments are no JSON, is never among the calls: it is told as `broken`.
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
    """What an answer says and calls. tool_calls: whole ones only. broken: what began a call and is not a whole one."""

    content: str | None
    tool_calls: tuple[dict[str, Any], ...]
    finish_reason: FinishReason | Literal["tool_calls"]
    broken: str = ""


def new_id() -> str:
    """Nine letters and digits, as Mistral's templates ask."""
    return "c" + secrets.token_hex(4)


_TEXT = r'"((?:[^"\\]|\\.)*)"'
_HEAD = re.compile(rf'\s*\{{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*{_TEXT}\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{{)')
_TAIL = re.compile(rf'\s*(?:,\s*"id"\s*:\s*{_TEXT}\s*)?\}}')
_LONGEST_HEAD = 400  # characters in which a call must have said its name


class Reader:
    """Text of an answer, piece by piece, into content and calls: first the name of a call, then pieces of its arguments."""

    def __init__(self, form: Form, names: Sequence[str], spelt: Mapping[int, str], new_id: Callable[[], str]) -> None:
        self._form, self._names, self._spelt, self._new_id = form, names, spelt, new_id
        self._text = ""  # not decided yet
        self._state: Literal["content", "list", "head", "arguments", "tail", "after"] = "content"
        self._content: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._whole = 0  # calls that are
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
        """What the whole answer was. Call it after the last chunk."""
        reason = self._reason or "length"
        content = "".join(self._content).strip()
        calls = tuple({**call, "function": dict(call["function"])} for call in self._calls[: self._whole])
        return Turn(content or None, calls, "tool_calls" if calls and reason == "stop" else reason, self._broken)

    def _finish(self) -> list[dict[str, Any]]:
        held, self._text = self._text, ""
        if self._state == "content":
            return self._say(held)
        if self._state in ("list", "head", "arguments", "tail"):
            begun = self._calls[-1]["function"] if self._state in ("arguments", "tail") else {}
            self._broken = f"{begun.get('name', '')}{begun.get('arguments', '')}{held}"
            if self._state == "head" and self._reason == "stop" and not self._form.opener:
                self._broken = ""  # an object that is no call
                return self._say(held)
        return []

    def _say(self, text: str) -> list[dict[str, Any]]:
        if not text or (self._calls and text.isspace()):
            return []
        self._content.append(text)
        return [{"content": text}]

    def _content_(self) -> list[dict[str, Any]]:
        opener = self._form.opener
        if not self._names:
            said, self._text = self._text, ""
            return self._say(said)
        if not opener:
            if self._text.lstrip()[:1] == "{" and not self._content and not self._calls:
                self._state = "head"
                return []
            said, self._text = (self._text, "") if self._text.strip() or self._content else ("", self._text)
            return self._say(said)
        said, found, rest = self._text.partition(opener)
        if found:
            self._state, self._text = "list" if self._form.several == "listed" else "head", rest
            return self._say(said.rstrip())
        certain = len(self._text[: len(self._text) - _begins(self._text, opener)].rstrip())  # white space before a call belongs to neither
        said, self._text = self._text[:certain], self._text[certain:]
        return self._say(said)

    def _list_(self) -> list[dict[str, Any]]:
        text = self._text.lstrip()
        if text:
            self._state, self._text = "head", text.removeprefix("[")
        return []

    def _head_(self) -> list[dict[str, Any]]:
        found = _HEAD.match(self._text)
        if found is None:
            if len(self._text) > _LONGEST_HEAD or (self._text.strip() and self._text.strip()[0] != "{"):
                text, self._text, self._state = self._form.opener + self._text, "", "content"
                self._content.append("")
                return self._say(text)
            return []
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
            except (ValueError, RecursionError):
                self._broken = self._calls.pop()["function"]["arguments"]
            self._whole = len(self._calls)
            self._state, self._text = "after", self._text[found.end() :]
        return []

    def _after_(self) -> list[dict[str, Any]]:
        """Behind a call: the closing mark, another call of the list, or its end."""
        text, form = self._text.lstrip(), self._form
        if form.several == "listed" and text[:1] == ",":
            self._state, self._text = "head", text[1:]
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
