"""The request fields that a client documents: `python fields_of_requests.py anthropic|openai` prints {name of a type: its fields}, and
for a union of such types the values that their `type` can have."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any, Literal, Union, get_args, get_origin

from typing_extensions import get_type_hints, is_typeddict

TYPES = {
    "anthropic": {
        "anthropic.types.message_create_params": ["MessageCreateParamsNonStreaming"],
        "anthropic.types.beta.message_create_params": ["MessageCreateParamsNonStreaming"],
        "anthropic.types.message_count_tokens_params": ["MessageCountTokensParams"],
        "anthropic.types": [
            "UserMessageParam",
            "TextBlockParam",
            "ToolUseBlockParam",
            "ToolResultBlockParam",
            "ToolParam",
            "MetadataParam",
            "OutputConfigParam",
            "CacheControlEphemeralParam",
            "ToolChoiceAnyParam",
            "ToolChoiceToolParam",
            "ContentBlockParam",
            "ToolUnionParam",
            "ToolChoiceParam",
            "ThinkingConfigParam",
        ],
        "anthropic.types.beta": ["BetaContentBlockParam", "BetaToolUnionParam"],
    },
    "openai": {
        "openai.types.responses.response_create_params": ["ResponseCreateParamsNonStreaming", "StreamOptions", "ToolChoice"],
        "openai.types.responses.response_input_param": ["ResponseInputItemParam", "FunctionCallOutput"],
        "openai.types.responses": [
            "EasyInputMessageParam",
            "ResponseInputTextParam",
            "ResponseOutputTextParam",
            "ResponseFunctionToolCallParam",
            "FunctionToolParam",
            "ResponseTextConfigParam",
            "ResponseFormatTextJSONSchemaConfigParam",
            "ToolParam",
            "ResponseInputContentParam",
        ],
    },
}


def kinds(found: Any) -> list[str]:
    """What `type` can be in a union of request types."""
    if get_origin(found) is Union:
        return [kind for part in get_args(found) for kind in kinds(part)]
    if not is_typeddict(found):
        return []
    hint = get_type_hints(found).get("type")
    while hint is not None and get_origin(hint) is not Literal:
        parts = [part for part in get_args(hint) if part is not type(None)]
        hint = parts[0] if parts else None
    return list(get_args(hint))


def main(client: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for module, names in TYPES[client].items():
        prefix = "Beta" if module.endswith("beta.message_create_params") else ""
        for name in names:
            type_ = getattr(importlib.import_module(module), name)
            found[prefix + name] = sorted(get_type_hints(type_)) if is_typeddict(type_) else sorted(set(kinds(type_)))
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
