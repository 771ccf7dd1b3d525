"""Function calling: tools shown to the model by its own template, calls held to each tool's schema, and read out of what it wrote.

    calling = Calling(model.contract, tools, tool_choice="auto", vocab=model.config.vocab)
    ids = model.chat_ids(messages, calling.shown) + calling.prefix
    request = engine.submit(ids, constraint=calling.constraint())
    turn = calling.read(engine.result(request))         # content, tool_calls as OpenAI's API has them, finish_reason

How a model writes a call is decided by the text of its template, never by its name. Three forms are known: `<tool_call>{...}</tool_call>`
(Hermes, Qwen, ChatML as Quire trains it), a bare object with "parameters" (Llama 3.1), and `[TOOL_CALLS] [...]` (Mistral). With a template
of another form, or without tools in it, `required` and a named tool still work, since then the whole answer is one JSON call; `auto` cannot
tell text from calls there and is refused.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..binding import Contract
from ..errors import DataError, RecipeError, nearest
from ..text.template import TOOL_USE, Template
from ..types import Chunk, Completion, FinishReason, Message
from .constrain import LIMITS, Grammar, compiled, json_schema
from .grammars import Limits, check_depth
from .request import Allowed, Constraint
from .trial import JSON

MOST_TOOLS = 128
LARGEST_TOOL = 16 << 10  # characters
ToolChoice = Literal["none", "auto", "required"] | Mapping[str, Any]


@dataclass(frozen=True)
class Tool:
    """A function that may be called; parameters: JSON schema of an object."""

    name: str
    parameters: Mapping[str, Any]
    shown: Mapping[str, Any]  # as it was given, for the template


def read_tools(tools: Sequence[Mapping[str, Any]]) -> tuple[Tool, ...]:
    """Tools as OpenAI's API has them. Raises RecipeError that names the one that is not so."""
    if len(tools) > MOST_TOOLS:
        raise RecipeError(f"there are {len(tools)} tools; at most {MOST_TOOLS} are allowed.")
    found: dict[str, Tool] = {}
    for number, shown in enumerate(tools):
        check_depth(shown, 2 * LIMITS.depth, f"tool {number}")
        function = shown.get("function") if isinstance(shown, Mapping) and shown.get("type") == "function" else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
            raise RecipeError(
                f"tool {number} is {json.dumps(shown)[:80]}; a tool is a dictionary with type 'function' and a function with name and "
                "parameters. A name has at most 64 letters, digits, _, . and -."
            )
        size = len(json.dumps(shown))
        if size > LARGEST_TOOL:
            raise RecipeError(f"the tool '{name}' has {size:,} characters; at most {LARGEST_TOOL:,} are allowed.")
        if name in found:
            raise RecipeError(f"two tools have the name '{name}'; names must differ.")
        parameters = function.get("parameters") or {"type": "object", "properties": {}, "additionalProperties": False}
        if not isinstance(parameters, Mapping) or parameters.get("type") != "object":
            raise RecipeError(f"""the parameters of the tool '{name}' must be a JSON schema with "type": "object".""")
        found[name] = Tool(name, parameters, shown)
    return tuple(found.values())


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


def form_of(template: Template | None) -> Form | None:
    """The form that a template writes calls in; None where it writes none, or in a way that is not known here."""
    if template is None:
        return None
    source = template.named.get(TOOL_USE, template).source
    if HERMES.opener in source and "<function=" not in source:
        return HERMES
    if MISTRAL.opener in source and "[ARGS]" not in source:
        return MISTRAL
    if re.search(r'\{"name": .{0,120}?"parameters": ', source, re.DOTALL):
        return LLAMA
    return None


@dataclass(frozen=True)
class Turn:
    """What an answer says and calls. tool_calls: whole ones only. broken: what began a call and is not a whole one."""

    content: str | None
    tool_calls: tuple[dict[str, Any], ...]
    finish_reason: FinishReason | Literal["tool_calls"]
    broken: str = ""


class Calling:
    """What one conversation's answers need so that tools can be called.

    tool_choice: none, auto (the model decides), required (at least one call), or {"type": "function", "function": {"name": ...}} (just that
    one). parallel: several calls in one answer, where the form has it. Raises RecipeError for tools, choices and schemas that cannot be.
    """

    def __init__(
        self,
        contract: Contract,
        tools: Sequence[Mapping[str, Any]],
        tool_choice: ToolChoice = "auto",
        *,
        parallel: bool = True,
        vocab: int | None = None,
        limits: Limits = LIMITS,
        new_id: Callable[[], str] = lambda: "c" + secrets.token_hex(4),  # nine characters, as Mistral's templates ask
    ) -> None:
        self._known, self._new_id = read_tools(tools), new_id
        names = [tool.name for tool in self._known]
        named = _named(tool_choice, names)
        self.shown: list[dict[str, Any]] = [] if tool_choice == "none" else [dict(tool.shown) for tool in self._known]
        found = form_of(contract.template)
        self.form = found or WHOLE
        self.prefix: list[int] = []  # ids behind the prompt, with which the answer has begun
        self._grammar: Grammar | None = None
        self._tokenizer = tokenizer = contract.tokenizer
        self._opener = tokenizer.special_tokens.get(self.form.opener)
        self._spelt = {id: text for text, id in tokenizer.special_tokens.items() if text in (self.form.opener, self.form.closer)}
        if not self.shown:
            if tool_choice not in ("none", "auto"):
                raise RecipeError(f"tool_choice is {tool_choice!r}, and there are no tools. Give some, or leave tool_choice out.")
            return
        if found is None and tool_choice == "auto":
            raise RecipeError(
                "this model's chat template does not say how calls are written (known: <tool_call>, [TOOL_CALLS], an object with name and "
                "parameters), so a call could not be told from text. Use tool_choice 'required' or a named tool."
            )
        allowed = [tool for tool in self._known if named in (None, tool.name)]
        for tool in allowed:
            try:
                json_schema(tokenizer, tool.parameters, vocab=vocab, limits=limits)
            except RecipeError as error:
                raise RecipeError(f"the parameters of the tool '{tool.name}': {error}") from error
        auto = tool_choice == "auto"
        if self._opener is not None and not auto:
            self.prefix = [self._opener]
        rules = _rules(self.form, allowed, auto, parallel and named is None, tokenizer.special_tokens)
        self._grammar = compiled(tokenizer, "lark", rules, "the grammar of these tools", vocab, limits)
        self._waits = auto and self._opener is not None

    def constraint(self) -> Constraint | None:
        """For one request; None where nothing is asked of its answer."""
        if self._grammar is None:
            return None
        grammar = self._grammar.fresh()
        return Awaited(self._opener, grammar) if self._waits and self._opener is not None else grammar

    def reader(self) -> Reader:
        """For one streamed answer."""
        reader = Reader(self.form, [tool.name for tool in self._known] if self.shown else [], self._spelt, self._new_id)
        if self.prefix:
            reader.push(Chunk("", tuple(self.prefix)))
        return reader

    def read(self, answer: Completion) -> Turn:
        """What a whole answer says and calls. Raises DataError for a call of a tool that is not there."""
        reader = self.reader()
        if any(id in self._spelt for id in answer.ids):  # marks that are special tokens are not in the text: put them in their places
            stream, left = self._tokenizer.stream(), len(answer.text)
            for id in answer.ids:
                piece = stream.push(id)[:left]
                left -= len(piece)
                reader.push(Chunk(piece, (id,)))
            reader.push(Chunk(stream.end()[:left], (), answer.finish_reason))
        else:
            reader.push(Chunk(answer.text, (), answer.finish_reason))
        return reader.turn()


def _named(choice: ToolChoice, names: Sequence[str]) -> str | None:
    if choice in ("none", "auto", "required"):
        return None
    function = choice.get("function") if isinstance(choice, Mapping) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise RecipeError(
            f'tool_choice is {choice!r:.80}; allowed: none, auto, required, {{"type": "function", "function": {{"name": ...}}}}.'
        )
    if name not in names:
        raise RecipeError(f"tool_choice names '{name}'; the tools are {', '.join(names) or 'none'}.{nearest(name, list(names))}")
    return name


def _rules(form: Form, tools: Sequence[Tool], auto: bool, parallel: bool, special: Collection[str]) -> str:
    """The grammar of an answer, in Lark. What is in `special` is no text: an opener there stands before what this describes, a closer is
    left out, and calls that would each begin with such an opener are not repeated."""
    lines = ["body: " + " | ".join(f"body{number}" for number in range(len(tools))), r"TEXT: /(.|\n)*/"]
    for number, tool in enumerate(tools):
        head = json.dumps(f'{{"name": {json.dumps(tool.name)}, "{form.key}": ')
        schema = json.dumps({**tool.parameters, "x-guidance": JSON}, ensure_ascii=False)
        lines += [f'body{number}: {head} arguments{number} "}}"', f"arguments{number}: %json {schema}"]
    if not form.several:
        return "\n".join([*lines, r"OTHER: /[^{](.|\n)*/", "start: body | OTHER |" if auto else "start: body"])
    opener = "" if form.opener in special else json.dumps(form.opener)
    if form.several == "listed":
        call = '" "? "[" body ' + ('(", " body)* ' if parallel else "") + '"]"'
    else:
        call = '"\\n"? body' + (f' "\\n"? {json.dumps(form.closer)}' if form.closer not in special else "")
        if parallel and opener:
            call += f' ("\\n"? {opener} {call})*'
    if auto and opener:
        return "\n".join([*lines, f"open[lazy]: TEXT {opener}", f"start: TEXT | open {call}"])
    return "\n".join([*lines, f"start: {opener} {call}"])


class Awaited:
    """Free until one token is written, then held to a grammar: a call after a special token."""

    def __init__(self, opener: int, grammar: Grammar) -> None:
        self._opener, self._grammar, self._begun = opener, grammar, False

    def allowed(self) -> Allowed | None:
        return self._grammar.allowed() if self._begun else None

    def accept(self, token: int) -> None:
        if self._begun:
            self._grammar.accept(token)
        else:
            self._begun = token == self._opener

    @property
    def complete(self) -> bool:
        return not self._begun or self._grammar.complete

    @property
    def closed(self) -> bool:
        return self._begun and self._grammar.closed


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


def with_objects(messages: Iterable[Message]) -> list[Message]:
    """Messages whose calls have their arguments as objects: what templates print. OpenAI's API has them as a text of JSON."""
    found = []
    for message in messages:
        calls = []
        for call in message.tool_calls:
            function = dict(call.get("function") or {})
            if isinstance(function.get("arguments"), str):
                try:
                    function["arguments"] = json.loads(function["arguments"])
                except ValueError as error:
                    raise DataError(f"the arguments of an earlier call of '{function.get('name')}' are no JSON: {error}.") from error
            calls.append({**call, "function": function})
        found.append(replace(message, tool_calls=tuple(calls)))
    return found


def parse(text: str, form: Form, names: Sequence[str]) -> Turn:
    """Content and calls of a text that a model wrote, its marks spelt in it."""
    reader = Reader(form, names, {}, lambda: "c" + secrets.token_hex(4))
    reader.push(Chunk(text, (), "stop"))
    return reader.turn()
