"""Conversations out of records: messages, ShareGPT, instructions. Their order is checked, for a template renders any order without a word.

A conversation may begin with a system turn; then user and assistant take turns, and the assistant ends it. An assistant's turn that calls
tools is followed by their answers (`tool`), these by the assistant. Source of the message form: OpenAI's chat API.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args

from ..errors import nearest
from ..types import Message, Role
from .problems import shown
from .values import Wrong, listed, text

ROLES: tuple[str, ...] = get_args(Role)
SHAREGPT = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_call": "assistant",
}
_KEYS = {"role", "content", "tool_calls", "tool_call_id", "name"}  # a `weight` or `train` of a turn would be lost: it is refused


def messages(value: Any, name: str) -> tuple[Message, ...]:
    """Turns of the form {role, content, tool_calls?, tool_call_id?}. Raises Wrong."""
    found = []
    for number, turn in enumerate(listed(value, name, "turns {role, content}"), start=1):
        where = f"{name}[{number}]"
        _turn(turn, where, ("role",), _KEYS)
        role = turn["role"]
        if role not in ROLES:
            like = nearest(str(role), list(ROLES)) or (
                " Such names are ShareGPT's: 'from' and 'value' of 'conversations'." if str(role) in SHAREGPT else ""
            )
            raise Wrong(f"'{where}' has the role {shown(role)}; allowed: {', '.join(ROLES)}.{like}")
        calls = _calls(turn.get("tool_calls"), f"{where}.tool_calls")
        if calls and role != "assistant":
            raise Wrong(f"'{where}' is a {role} turn with tool_calls; only the assistant calls tools.")
        content = turn.get("content")
        content = "" if content is None and calls else text(content, f"{where}.content", empty=bool(calls) or role == "tool")
        answers = turn.get("tool_call_id")
        if answers is not None and (role != "tool" or not isinstance(answers, str)):
            raise Wrong(f"'{where}' has the tool_call_id {shown(answers)}; a text, and only a tool's turn has one.")
        found.append(Message(role, content, calls, answers))
    return ordered(found, name)


def sharegpt(value: Any, name: str, system: str | None = None) -> tuple[Message, ...]:
    """Turns of the form {from, value}. Raises Wrong."""
    found = [] if system is None else [Message("system", system)]
    for number, turn in enumerate(listed(value, name, "turns {from, value}"), start=1):
        where = f"{name}[{number}]"
        _turn(turn, where, ("from", "value"), {"from", "value"})
        speaker = turn["from"]
        if not isinstance(speaker, str) or speaker not in SHAREGPT:
            like = nearest(str(speaker), list(SHAREGPT))
            raise Wrong(f"'{where}' is from {shown(speaker)}; allowed: {', '.join(SHAREGPT)}.{like}")
        said = text(turn["value"], f"{where}.value", empty=SHAREGPT[speaker] == "tool")
        if speaker == "function_call":
            found.append(Message("assistant", "", _calls(said, f"{where}.value")))
        else:
            found.append(Message(SHAREGPT[speaker], said))  # type: ignore[arg-type]
    return ordered(found, name)


def _turn(turn: Any, where: str, needed: tuple[str, ...], known: set[str]) -> None:
    if not isinstance(turn, Mapping):
        raise Wrong(f"'{where}' is {shown(turn)}; an object with {' and '.join(needed)} is needed.")
    for key in needed:
        if key not in turn:
            raise Wrong(f"'{where}' has no '{key}'; its keys are {shown(list(turn))}.")
    more = [key for key, value in turn.items() if key not in known and value is not None]
    if more:
        raise Wrong(f"'{where}' has '{more[0]}', which no template is given. Known: {', '.join(sorted(known))}. Take it out of the data.")


def ordered(turns: list[Message], name: str) -> tuple[Message, ...]:
    """The turns, when they follow one another as a conversation does. Raises Wrong."""
    open_calls: list[Any] = []  # the ids (None: it has none) of calls that no tool has answered yet
    before = ""
    for number, turn in enumerate(turns, start=1):
        where, role = f"'{name}[{number}]'", turn.role
        if role == "system":
            if before:
                raise Wrong(f"{where} is a system turn after {_a(before)} turn; only the first turn may be one.")
        elif role == "tool":
            if not open_calls:
                raise Wrong(f"{where} is a tool's answer, and no call of the assistant before it waits for one.")
            at = next((at for at, one in enumerate(open_calls) if None in (one, turn.tool_call_id) or one == turn.tool_call_id), None)
            if at is None:
                raise Wrong(f"{where} answers the call {shown(turn.tool_call_id)}; the calls that wait are {shown(open_calls)}.")
            del open_calls[at]
        elif open_calls:
            raise Wrong(f"{where} is {_a(role)} turn, but {len(open_calls)} calls before it have no tool's answer.")
        elif role == "user":
            if before in ("user", "tool"):
                raise Wrong(f"{where} is a user turn after {_a(before)} turn; the assistant answers first. Join the two, or mend the row.")
        elif before not in ("user", "tool"):
            what = f"after {_a(before)} turn" if before else "at the beginning"
            raise Wrong(f"{where} is an assistant turn {what}; a user turn (or a tool's answer) comes before it.")
        if role == "assistant":
            open_calls = [call.get("id") for call in turn.tool_calls]
        before = role
    if before != "assistant":
        last = f"ends with {_a(before)} turn" if before else "has no turns"
        raise Wrong(f"'{name}' {last}; the assistant must have the last word, for that is what is learned.")
    return tuple(turns)


def _a(role: str) -> str:
    return f"{'an' if role == 'assistant' else 'a'} {role}"


def _calls(value: Any, name: str) -> tuple[dict[str, Any], ...]:
    """Tool calls as the API has them: {type, id?, function: {name, arguments: JSON text}}; in data also bare functions and JSON text."""
    if isinstance(value, str):
        value = _json(value, name)
    if isinstance(value, Mapping):
        value = [value]
    found = []
    for number, call in enumerate([] if value is None else listed(value, name, "tool calls"), start=1):
        where = f"{name}[{number}]"
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
            raise Wrong(f"'{where}' is {shown(call)}; a call is {{function: {{name, arguments}}}}.")
        arguments = function.get("arguments", {})
        parsed = _json(arguments, f"{where}.function.arguments") if isinstance(arguments, str) else arguments
        if not isinstance(parsed, Mapping):
            raise Wrong(f"'{where}.function.arguments' is {shown(arguments)}; an object, or JSON of one, is needed.")
        said = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        one: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": said}}
        identity = call.get("id") if function is not call else None
        found.append(one if identity is None else {"id": identity, **one})
    return tuple(found)


def tools(value: Any, name: str, turns: tuple[Message, ...]) -> tuple[dict[str, Any], ...]:
    """Definitions of functions, and that each function called is among them. Raises Wrong."""
    if isinstance(value, str):
        value = _json(value, name) if value.strip() else None
    found: list[dict[str, Any]] = []
    for number, tool in enumerate([] if value is None else listed(value, name, "tools"), start=1):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
            raise Wrong(
                f"'{name}[{number}]' is {shown(tool)}; a tool is {{type: 'function', function: {{name, description, parameters}}}}."
            )
        found.append({"type": "function", "function": dict(function)})
    known = [tool["function"]["name"] for tool in found]
    for call in (call for turn in turns for call in turn.tool_calls if found):
        called = call["function"]["name"]
        if called not in known:
            raise Wrong(
                f"the function {shown(called)} is called, which '{name}' does not define ({', '.join(known)}).{nearest(called, known)}"
            )
    return tuple(found)


def _json(value: str, name: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise Wrong(f"'{name}' is {shown(value)}, which is no JSON: {str(error)[:80]}.") from None
