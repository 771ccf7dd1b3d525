"""A conversation as OpenAI's chat completions have it: turns, the parts of their content, tools, and which of them may be called.

Source: the API reference of OpenAI, https://platform.openai.com/docs/api-reference/chat/create, and its Python package's request types.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from .bodies import Body, at, refusable
from .errors import Refused

MOST_TOOLS = 128
MOST_PARTS = 1024
_TEXT_ONLY = "this server reads text only"


def _text_part(value: Any) -> Any:
    if isinstance(value, dict) and isinstance(kind := value.get("type"), str) and kind not in ("text", "refusal"):
        raise at("type", f"{_TEXT_ONLY}, so a part may have the type 'text' or 'refusal', and this one has {kind[:40]!r}")
    return value


class TextPart(Body):
    type: Literal["text", "refusal"]
    text: str | None = None
    refusal: str | None = None
    prompt_cache_breakpoint: refusable("beginnings are shared wherever they are equal, without marks") = None  # type: ignore[valid-type]


class FunctionCall(Body):
    name: str
    arguments: str
    parsed_arguments: Any = Field(None, description="The openai package adds it to a call that it has parsed; `arguments` is what is read.")


class ToolCall(Body):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None  # as pieces of a stream have it, so that those can be sent back
    custom: refusable("custom tools are not known here; use functions") = None  # type: ignore[valid-type]


class Turn(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[Annotated[TextPart, BeforeValidator(_text_part)]], Field(max_length=MOST_PARTS)] | None = None
    name: refusable("names of speakers are not rendered by chat templates; write them into the content") = None  # type: ignore[valid-type]
    tool_calls: Annotated[list[ToolCall], Field(max_length=MOST_TOOLS)] | None = None
    tool_call_id: str | None = None
    refusal: refusable("a refusal is text like any other; put it in content") = None  # type: ignore[valid-type]
    annotations: refusable("only text is read of an earlier answer", []) = None  # type: ignore[valid-type]
    parsed: Any = Field(None, description="The openai package adds it to an answer that it has parsed; `content` is what is read.")
    audio: refusable(_TEXT_ONLY) = None  # type: ignore[valid-type]
    function_call: refusable("it was replaced by tool_calls; use that") = None  # type: ignore[valid-type]


class Function(Body):
    name: str = Field(min_length=1, max_length=64)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = Field(None, description="Calls are held to their schema either way.")


class Tool(Body):
    type: Literal["function"]
    function: Function
    custom: refusable("custom tools are not known here; use functions") = None  # type: ignore[valid-type]


class Named(Body):
    name: str


class NamedTool(Body):
    type: Literal["function"]
    function: Named


class Allowed(Body):
    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1, max_length=MOST_TOOLS)


class Choice(Body):
    """One function that must be called, or those that may be."""

    type: Literal["function", "allowed_tools"]
    function: Named | None = None
    allowed_tools: Allowed | None = None
    custom: refusable("custom tools are not known here; use functions") = None  # type: ignore[valid-type]


Tools = Annotated[list[Tool], Field(max_length=MOST_TOOLS)]
ToolChoice = Literal["none", "auto", "required"] | Choice


def message(turn: Turn, number: int) -> dict[str, Any]:
    """A turn as `types.Message` has its fields. Raises Refused for parts that do not belong together."""
    place = f"messages.{number}"
    content = turn.content
    if isinstance(content, list):
        content = "".join(_said(part, f"{place}.content.{index}") for index, part in enumerate(content))
    if content is None and not (turn.role == "assistant" and turn.tool_calls):
        raise Refused(400, f"'{place}.content' is missing.", param=f"{place}.content", code="missing_field")
    if (turn.role == "tool") != (turn.tool_call_id is not None):
        raise Refused(400, f"'{place}.tool_call_id' belongs to the role 'tool', which needs it.", param=f"{place}.tool_call_id")
    if turn.tool_calls and turn.role != "assistant":
        raise Refused(400, f"'{place}.tool_calls' belongs to the role 'assistant'.", param=f"{place}.tool_calls")
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": call.function.arguments}}
        for call in turn.tool_calls or ()
    ]
    role = "system" if turn.role == "developer" else turn.role
    return {"role": role, "content": content or "", "tool_calls": calls, "tool_call_id": turn.tool_call_id}


def _said(part: TextPart, place: str) -> str:
    """The text of a part, which has it under the name of its type."""
    said = part.text if part.type == "text" else part.refusal
    other = part.refusal if part.type == "text" else part.text
    if said is None or other is not None:
        raise Refused(
            400, f"'{place}' has the type '{part.type}', so '{part.type}' and it alone holds its text.", param=f"{place}.{part.type}"
        )
    return said


def chosen(tools: Sequence[Tool], choice: ToolChoice | None) -> tuple[list[dict[str, Any]], str | dict[str, Any]]:
    """(the tools that the model is shown, which of them it must call). Tools that are not allowed are not shown at all."""
    shown = [tool.model_dump(include={"type", "function"}, exclude_unset=True) for tool in tools]
    if not isinstance(choice, Choice):
        return shown, choice or "auto"
    given = choice.function if choice.type == "function" else choice.allowed_tools
    other = choice.allowed_tools if choice.type == "function" else choice.function
    if given is None or other is not None:
        message = f"'tool_choice' has the type '{choice.type}', so '{choice.type}' and it alone says which."
        raise Refused(400, message, param=f"tool_choice.{choice.type}")
    if isinstance(given, Named):
        return shown, {"type": "function", "function": {"name": given.name}}
    names = [tool.function.name for tool in tools]
    allowed = [tool.function.name for tool in given.tools]
    for number, name in enumerate(allowed):
        if name not in names:
            message = f"'tool_choice' allows '{name[:80]}'; the tools are: {', '.join(names) or 'none'}."
            raise Refused(400, message, param=f"tool_choice.allowed_tools.tools.{number}.function.name")
    return [tool for tool, name in zip(shown, names) if name in allowed], given.mode
