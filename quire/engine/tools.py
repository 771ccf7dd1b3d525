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
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..binding import Contract
from ..errors import DataError, RecipeError, nearest
from ..text.template import TOOL_USE, Template
from ..types import Chunk, Completion, Message
from .calls import HERMES, LLAMA, MISTRAL, WHOLE, Form, Reader, Turn, new_id
from .constrain import LIMITS, Grammar, compiled, json_schema
from .grammars import Limits, check_depth, exact_formats
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
        new_id: Callable[[], str] = new_id,
    ) -> None:
        self._known, self._new_id = read_tools(tools), new_id
        names = [tool.name for tool in self._known]
        named = _named(tool_choice, names)
        self.shown: list[dict[str, Any]] = [] if tool_choice == "none" else [dict(tool.shown) for tool in self._known]
        found = form_of(contract.template)
        self.form = found or WHOLE
        self.prefix: list[int] = []  # ids behind the prompt, with which the answer has begun
        self._grammar: Grammar | None = None
        self._forced = False  # to call, and nothing else
        self._tokenizer = tokenizer = contract.tokenizer
        self._opener = tokenizer.special_tokens.get(self.form.opener)
        self._spelt = {id: text for text, id in tokenizer.special_tokens.items() if text in (self.form.opener, self.form.closer)}
        if not self.shown:
            if tool_choice not in ("none", "auto"):
                said = f"tool_choice is {tool_choice!r}, and there are no tools. Give some, or leave tool_choice out."
                raise RecipeError(said, field="tool_choice")
            return
        if found is None and tool_choice == "auto":
            raise RecipeError(
                "this model's chat template does not say how calls are written (known: <tool_call>, [TOOL_CALLS], an object with name and "
                "parameters), so a call could not be told from text. Use tool_choice 'required' or a named tool.",
                field="tool_choice",
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
        self._waits, self._forced = auto and self._opener is not None, not auto

    def constraint(self) -> Constraint | None:
        """For one request; None where nothing is asked of its answer."""
        if self._grammar is None:
            return None
        grammar = self._grammar.fresh()
        return Awaited(self._opener, grammar) if self._waits and self._opener is not None else grammar

    def reader(self) -> Reader:
        """For one streamed answer."""
        names = [tool.name for tool in self._known] if self.shown else []
        reader = Reader(self.form, names, self._spelt, self._new_id, forced=self._forced)
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
            f'tool_choice is {choice!r:.80}; allowed: none, auto, required, {{"type": "function", "function": {{"name": ...}}}}.',
            field="tool_choice",
        )
    if name not in names:
        there = f"the tools are {', '.join(names) or 'none'}.{nearest(name, list(names))}"
        raise RecipeError(f"tool_choice names '{name}'; {there}", field="tool_choice")
    return name


def _rules(form: Form, tools: Sequence[Tool], auto: bool, parallel: bool, special: Collection[str]) -> str:
    """The grammar of an answer, in Lark. What is in `special` is no text: an opener there stands before what this describes, a closer is
    left out, and calls that would each begin with such an opener are not repeated."""
    lines = ["body: " + " | ".join(f"body{number}" for number in range(len(tools))), r"TEXT: /(.|\n)*/"]
    for number, tool in enumerate(tools):
        head = json.dumps(f'{{"name": {json.dumps(tool.name)}, "{form.key}": ')
        schema = json.dumps({**exact_formats(tool.parameters), "x-guidance": JSON}, ensure_ascii=False)
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
