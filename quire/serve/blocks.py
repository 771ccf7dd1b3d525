"""Anthropic's messages: what they are made of, and the same conversation as chat templates know it.

A message is a list of blocks (a text alone is shorthand for one). Templates know turns instead: so the texts of a turn are joined as they
are, its calls stand behind its text, each result becomes a turn of its own, and turns of one role in a row become one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from .bodies import Body, kinds, listed, refusable
from .errors import Refused

MOST_BLOCKS = 1024
MOST_TOOLS = 128
_TEXT_ONLY = "this server reads text only"
_THEIRS = "this server runs no tools; give tools with an input_schema and run them where you are"
_LASTS = "how long beginnings are kept follows from the memory"


class Cache(Body):
    """A mark for the cache of beginnings, which finds every beginning here, marked or not."""

    type: Literal["ephemeral"]
    ttl: refusable(_LASTS, "5m") = None  # type: ignore[valid-type]
    scope: refusable("beginnings are shared within one key alone") = None  # type: ignore[valid-type]


class Text(Body):
    type: Literal["text"]
    text: str
    cache_control: Cache | None = None
    citations: refusable("this server cites nothing", []) = None  # type: ignore[valid-type]


class ToolUse(Body):
    type: Literal["tool_use"]
    id: str = Field(min_length=1, max_length=256)
    name: str = Field(min_length=1, max_length=256)
    input: dict[str, Any]
    cache_control: Cache | None = None
    caller: refusable("tools are called by the model directly", {"type": "direct"}) = None  # type: ignore[valid-type]
    toolset_name: refusable(_THEIRS) = None  # type: ignore[valid-type]


_IMAGES = dict.fromkeys(("image", "document", "search_result", "container_upload", "audio"), _TEXT_ONLY)
_THOUGHTS = dict.fromkeys(("thinking", "redacted_thinking"), "thoughts are no part of a conversation here; leave these blocks out")
_RESULTS = dict.fromkeys(("tool_reference", "browser_state", "server_tool_use", "mcp_tool_use", "mcp_tool_result", "compaction"), _THEIRS)


def _of_text(text: str) -> list[Any]:
    return [{"type": "text", "text": text}]


def texts() -> Any:
    """A text, or a list of blocks of text."""
    return listed(_TEXTS, MOST_BLOCKS, _of_text)


_TEXTS = kinds({"text": Text}, {**_IMAGES, **_RESULTS})


class ToolResult(Body):
    type: Literal["tool_result"]
    tool_use_id: str = Field(min_length=1, max_length=256)
    content: texts() = Field(default_factory=list)  # type: ignore[valid-type]
    is_error: bool | None = Field(None, description="The model reads it as 'Error: ' before the content.")
    cache_control: Cache | None = None
    toolset_name: refusable(_THEIRS) = None  # type: ignore[valid-type]


_BLOCKS = kinds({"text": Text, "tool_use": ToolUse, "tool_result": ToolResult}, {**_IMAGES, **_THOUGHTS, **_RESULTS})


class MessageTurn(Body):
    role: Literal["user", "assistant", "system"]
    content: listed(_BLOCKS, MOST_BLOCKS, _of_text)  # type: ignore[valid-type]


class Tool(Body):
    type: Literal["custom"] | None = None
    name: str = Field(min_length=1, max_length=64)
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = Field(None, description="Inputs are held to the schema in any case.")
    cache_control: Cache | None = None
    allowed_callers: refusable("tools are called by the model directly", ["direct"]) = None  # type: ignore[valid-type]
    defer_loading: refusable("every tool is shown to the model", False) = None  # type: ignore[valid-type]
    eager_input_streaming: refusable("inputs are always streamed as they are written", True) = None  # type: ignore[valid-type]
    input_examples: refusable("write examples into the description", []) = None  # type: ignore[valid-type]

    def shown(self) -> dict[str, Any]:
        """As chat templates know it."""
        function: dict[str, Any] = {"name": self.name, "parameters": self.input_schema}
        if self.description is not None:
            function = {"name": self.name, "description": self.description, "parameters": self.input_schema}
        return {"type": "function", "function": function}


TOOL = kinds({"custom": Tool}, dict.fromkeys(("mcp_toolset", "advisor_20260301"), _THEIRS), "custom")


class Auto(Body):
    type: Literal["auto", "any"]
    disable_parallel_tool_use: bool | None = None


class Named(Body):
    type: Literal["tool"]
    name: str = Field(max_length=64)
    disable_parallel_tool_use: bool | None = None


class Never(Body):
    type: Literal["none"]


CHOICES: dict[str, type[Body]] = {"auto": Auto, "any": Auto, "tool": Named, "none": Never}


def conversation(system: Sequence[Text], turns: Sequence[MessageTurn]) -> list[dict[str, Any]]:
    """Turns as `types.Message` has its fields. Raises Refused for blocks where they do not belong."""
    rows: list[dict[str, Any]] = []
    if system:
        rows.append(_row("system", _joined(system)))
    called: set[str] = set()
    for number, turn in enumerate(turns):
        place = f"messages.{number}.content"
        for block in turn.content:
            if (isinstance(block, ToolUse) and turn.role != "assistant") or (isinstance(block, ToolResult) and turn.role != "user"):
                raise Refused(400, f"'{place}': a block '{block.type}' does not belong to the role '{turn.role}'.", param=place)
        if turn.role == "user":
            added = _of_user(turn.content, called, place)
        else:
            calls = [_call(block) for block in turn.content if isinstance(block, ToolUse)]
            called |= {call["id"] for call in calls}
            added = [_row(turn.role, _joined(turn.content), calls)]
        for row in added:
            if not row["content"] and not row["tool_calls"] and row["role"] != "tool":
                raise Refused(400, f"'{place}' is empty; a message must say something.", param=place)
            _append(rows, row)
    return rows


def _of_user(content: Sequence[Any], called: set[str], place: str) -> list[dict[str, Any]]:
    """Results first, each a turn of its own; then what the user says."""
    rows: list[dict[str, Any]] = []
    texts = [block for block in content if isinstance(block, Text)]
    for number, block in enumerate(content):
        if not isinstance(block, ToolResult):
            continue
        if number > len(rows):
            raise Refused(400, f"'{place}': blocks 'tool_result' must stand before those of text.", param=place)
        if block.tool_use_id not in called:
            message = f"'{place}.{number}.tool_use_id' is '{block.tool_use_id[:80]}'; no 'tool_use' before it has this id."
            raise Refused(400, message, param=f"{place}.{number}.tool_use_id")
        row = _row("tool", ("Error: " if block.is_error else "") + _joined(block.content))
        rows.append({**row, "tool_call_id": block.tool_use_id})
    return rows + ([_row("user", _joined(texts))] if texts or not rows else [])


def _append(rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
    """Turns of one role in a row are one turn."""
    if not rows or row["role"] not in ("user", "assistant") or rows[-1]["role"] != row["role"]:
        rows.append(row)
        return
    before = rows[-1]
    content = "\n\n".join(text for text in (before["content"], row["content"]) if text)
    rows[-1] = {**before, "content": content, "tool_calls": before["tool_calls"] + row["tool_calls"]}


def _joined(blocks: Sequence[Any]) -> str:
    return "".join(block.text for block in blocks if isinstance(block, Text))


def _row(role: str, content: str, calls: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    return {"role": role, "content": content, "tool_calls": list(calls), "tool_call_id": None}


def _call(block: ToolUse) -> dict[str, Any]:
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": json.dumps(block.input)}}
