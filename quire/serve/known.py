"""What a model's folder says of it without its weights: enough to list it, and to refuse what it cannot do before it is opened for it.

Opening takes seconds and may put another model away, so a request that no such model could answer must not cause it. Read without torch:
the server's own process has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..binding import Contract, gguf
from ..families import family_for
from ..nn.config import LabelHead, LMHead, ModelConfig
from ..tasks import sentence
from ..text.definition import parse_json, read_bytes
from .asks import Ask, Read, Tokens, Write

NO_TEMPLATE = "this model has no chat template, so it has no conversations."
_LARGEST = 1 << 20  # bytes of a config.json


def known(path: str) -> dict[str, Any]:
    """kind, context, writes and chats as `Desk.facts` has them; parameters where the weights' names cannot change them.

    Raises QuireError for a folder that is no model's; whoever opens it tells why.
    """
    folder = Path(path)
    found: dict[str, Any] = {}
    if folder.is_file():
        container = gguf.read(folder)
        found |= {"kind": "decoder", "context": container.values.get(f"{container.architecture}.context_length")}
    else:
        file = folder / "config.json"
        config = parse_json(read_bytes(file, _LARGEST), str(file))
        model = family_for(config).build(config)
        found |= {"kind": model.kind, "context": longest(model, Contract.open(folder), folder)}
        if model.kind != "encoder":  # a folder of one may be without the head that its config names
            found["parameters"] = model.parameters()
    writes = found["kind"] != "encoder"
    return {**found, "writes": writes, "chats": found["kind"] == "decoder" and Contract.open(folder).template is not None}


def longest(model: ModelConfig, contract: Contract, folder: Path) -> int:
    """Tokens at most in what a model is served for: all positions of one that writes, a text of one that labels or makes vectors."""
    if isinstance(model.head, LMHead):
        return model.context
    most = contract.limit(model.context)
    if isinstance(model.head, LabelHead):
        return most
    return min(most, sentence.read(folder, model.width, contract.tokenizer.settings()).limit or most)


def unfit(facts: Mapping[str, Any], ask: Ask) -> str | None:
    """Why a model of these facts cannot do this at all, whatever the text."""
    if isinstance(ask, Read):
        return None
    if isinstance(ask, Tokens) and ask.tool_choice is None:
        return None if ask.messages is None or facts["chats"] else NO_TEMPLATE
    if isinstance(ask, Write) and not facts["writes"]:
        return "this model reads texts and does not write any. Ask it for embeddings, labels or ranks."
    if ask.messages is not None and facts["kind"] != "decoder":
        return "this model is no decoder, so it has no conversations. Give it a prompt."
    if ask.messages is not None and not facts["chats"]:
        return "this is a base model: it has no chat template, so it knows no turns. Give a prompt to /v1/completions."
    if isinstance(ask, Tokens) or facts["kind"] == "decoder" or ask.messages is not None:
        return None
    if ask.suffix is not None or ask.echo:
        return "this model answers a text instead of going on with it, so it has no suffix and no echo."
    return None
