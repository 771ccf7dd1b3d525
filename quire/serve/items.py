"""What OpenAI's responses are made of: items of input and tools, and the same conversation as chat templates know it.

What one turn says and calls are several items there and one turn here: calls stand behind the text of the assistant that comes before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from .bodies import MOST_MESSAGES, Body, kinds, listed, refusable
from .errors import Refused

MOST_PARTS = 1024
MOST_TOOLS = 128
_TEXT_ONLY = "this server reads text only"
_THEIRS = "this server runs no tools; give functions and run them where you are"
_DIRECT = "functions are called by the model directly"
_LASTS = "every beginning is found again, and how long it is kept follows from the memory"

Status = Literal["in_progress", "completed", "incomplete"]
Id = Annotated[str, Field(max_length=256)]


class InputText(Body):
    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: refusable(_LASTS, {"mode": "explicit"}) = None  # type: ignore[valid-type]


class OutputText(Body):
    type: Literal["output_text"]
    text: str
    annotations: refusable("this server cites nothing", []) = None  # type: ignore[valid-type]
    logprobs: list[Any] | None = Field(None, description="As they came with an answer; they change nothing.")


class Refusal(Body):
    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        return self.refusal


_NO_TEXT = dict.fromkeys(("input_image", "input_file", "input_audio", "computer_screenshot"), _TEXT_ONLY)


_PARTS = kinds({"input_text": InputText, "output_text": OutputText, "refusal": Refusal}, _NO_TEXT)


def _of_text(text: str) -> list[Any]:
    return [{"type": "input_text", "text": text}]


class MessageItem(Body):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: listed(_PARTS, MOST_PARTS, _of_text)  # type: ignore[valid-type]
    id: Id | None = None
    status: Status | None = None
    phase: refusable("turns have no phases here") = None  # type: ignore[valid-type]


class CallItem(Body):
    type: Literal["function_call"]
    call_id: str = Field(min_length=1, max_length=256)
    name: str = Field(min_length=1, max_length=256)
    arguments: str
    id: Id | None = None
    status: Status | None = None
    async_: refusable("nothing goes on in the background", False) = Field(None, alias="async")  # type: ignore[valid-type]
    caller: refusable(_DIRECT, {"type": "direct"}) = None  # type: ignore[valid-type]
    namespace: refusable("functions have no namespaces here") = None  # type: ignore[valid-type]


class OutputItem(Body):
    type: Literal["function_call_output"]
    call_id: str = Field(min_length=1, max_length=256)
    output: listed(kinds({"input_text": InputText}, _NO_TEXT), MOST_PARTS, _of_text)  # type: ignore[valid-type]
    id: Id | None = None
    status: Status | None = None
    caller: refusable(_DIRECT, {"type": "direct"}) = None  # type: ignore[valid-type]
    name: refusable("the call says which function it was") = None  # type: ignore[valid-type]
    namespace: refusable("functions have no namespaces here") = None  # type: ignore[valid-type]


_OTHER_ITEMS = {
    "item_reference": "nothing is stored here; send the item itself",
    "reasoning": "thoughts are no part of a conversation here; leave these items out",
    "compaction": "nothing is cut out of a conversation here",
}


_ITEM = kinds({"message": MessageItem, "function_call": CallItem, "function_call_output": OutputItem}, _OTHER_ITEMS, "message")


def items() -> Any:
    """A text is shorthand for one message of the user."""
    return listed(_ITEM, MOST_MESSAGES, lambda text: [{"role": "user", "content": text}], least=1)


class FunctionTool(Body):
    type: Literal["function"]
    name: str = Field(min_length=1, max_length=64)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = Field(None, description="Arguments are held to the schema in any case.")
    async_: refusable("nothing goes on in the background", False) = Field(None, alias="async")  # type: ignore[valid-type]
    allowed_callers: refusable(_DIRECT, ["direct"]) = None  # type: ignore[valid-type]
    defer_loading: refusable("every function is shown to the model", False) = None  # type: ignore[valid-type]
    output_schema: refusable("say in the description what the function gives back") = None  # type: ignore[valid-type]

    def shown(self) -> dict[str, Any]:
        """As chat templates know it."""
        given = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": {name: value for name, value in given.items() if value is not None}}

    def told(self) -> dict[str, Any]:
        """As the response repeats it."""
        given = {"type": "function", "name": self.name, "description": self.description, "parameters": self.parameters}
        return {**given, "strict": self.strict is not False}


_HOSTED = "file_search web_search web_search_preview computer computer_use_preview code_interpreter image_generation mcp local_shell shell"
FUNCTION = kinds({"function": FunctionTool}, dict.fromkeys(_HOSTED.split(), _THEIRS))


class NamedFunction(Body):
    type: Literal["function"]
    name: str = Field(max_length=64)


_SUBSET = {"allowed_tools": "give only the tools that may be called", **dict.fromkeys(_HOSTED.split(), _THEIRS)}
_WORDS = ("none", "auto", "required")


class Word(Body):
    type: Literal["none", "auto", "required"]


def choice() -> Any:
    """A word, or an object; a word is an object's type alone."""

    def whole(value: Any) -> Any:
        if isinstance(value, str) and value not in _WORDS:
            raise ValueError(f"it is '{value[:40]}'; allowed: {', '.join(_WORDS)}, or a named function")
        return {"type": value} if isinstance(value, str) else value

    known: dict[str, type[Body]] = {**dict.fromkeys(_WORDS, Word), "function": NamedFunction}
    shown = Literal["none", "auto", "required"] | NamedFunction
    return Annotated[kinds(known, _SUBSET), BeforeValidator(whole, json_schema_input_type=shown)]


def conversation(instructions: str | None, items: Sequence[Any]) -> list[dict[str, Any]]:
    """Turns as `types.Message` has its fields. Raises Refused for an output without its call."""
    rows = [_row("system", instructions)] if instructions else []
    called: set[str] = set()
    for number, item in enumerate(items):
        if isinstance(item, MessageItem):
            role = "system" if item.role == "developer" else item.role
            rows.append(_row(role, "".join(part.text for part in item.content)))
        elif isinstance(item, CallItem):
            called.add(item.call_id)
            if not rows or rows[-1]["role"] != "assistant":
                rows.append(_row("assistant", ""))
            call = {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": item.arguments}}
            rows[-1]["tool_calls"].append(call)
        else:
            if item.call_id not in called:
                place = f"input.{number}.call_id"
                raise Refused(400, f"'{place}' is '{item.call_id[:80]}'; no 'function_call' before it has this id.", param=place)
            rows.append({**_row("tool", "".join(part.text for part in item.output)), "tool_call_id": item.call_id})
    return rows


def _row(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content, "tool_calls": [], "tool_call_id": None}
