"""The request fields that the `openai` package knows: {route: {type: {field: whether it is required}}}, as one JSON object."""

import json
from typing import Any, Required, get_args, get_origin

from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as Chat
from openai.types.completion_create_params import CompletionCreateParamsStreaming as Completions
from typing_extensions import get_type_hints, is_typeddict


def fields(type_: Any, found: dict[str, dict[str, bool]]) -> dict[str, dict[str, bool]]:
    """Of a dictionary type and of all that stand in it."""
    if is_typeddict(type_):
        name = f"{type_.__module__.rsplit('.', 1)[-1]}.{type_.__name__}"
        if name not in found:
            hints = get_type_hints(type_, include_extras=True)
            found[name] = {field: get_origin(hint) is Required for field, hint in hints.items()}
            for hint in hints.values():
                fields(hint, found)
    for part in get_args(type_):
        fields(part, found)
    return found


print(json.dumps({"chat": fields(Chat, {}), "completions": fields(Completions, {})}))
