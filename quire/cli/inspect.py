"""What is in a model folder and what it is for: shape, parameters by part, memory, tokenizer, stop rule, template, ids, lineage.

Reads headers and small files only, so it is quick at any size.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ..errors import QuireError
from ..progress import count
from .lines import Flag, parse
from .paint import paint
from .shape import shape, wrapped
from .shape import words as words_of
from .uses import uses

if TYPE_CHECKING:
    from ..binding import Contract
    from ..families.folder import ModelFolder
    from ..nn.config import ModelConfig

_PARTS = {"embed": "embedding", "positions": "embedding", "types": "embedding", "attn": "attention", "cross": "attention"}
_PARTS |= {"widen": "embedding", "relative": "attention", "distances": "attention", "conv": "convolution"}
_PARTS |= {"ffn": "feed forward", "head": "head"}


@dataclass(frozen=True)
class Inspect:
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A model folder or a run folder."""
    json: Flag = False
    """All of it as JSON on standard output."""


def run(argv: list[str]) -> int:
    options = parse(Inspect, "inspect", argv, __doc__)
    from ..hub import locate

    facts = inspect(locate(options.model))
    print(json.dumps(facts, ensure_ascii=False) if options.json else "\n".join(lines(facts)))
    return 0


def inspect(folder: Path) -> dict[str, Any]:
    """The facts, as JSON. The binding is proven by its stamp (the first look at a folder hashes it).

    Where the tokenizer or what belongs to it cannot be read, the weights still tell their shape: `problem` then says what is wrong.
    """
    from ..families.folder import ModelFolder

    opened = ModelFolder.open(folder)
    config = opened.model_config
    facts: dict[str, Any] = {"folder": str(folder), "family": opened.family.names[0], "kind": config.kind, "uses": []}
    facts |= {"parameters": config.parameters(), "parameters_by_part": parameters_by_part(config), "architecture": shape(config)}
    facts |= {"memory": memory(opened, config)}
    try:
        facts |= texts(folder, config)
    except QuireError as error:
        facts["problem"] = str(error)
    return facts | {"unread_fields": list(opened.unread), "ignored_tensors": opened.ignored}


def texts(folder: Path, config: ModelConfig) -> dict[str, Any]:
    """What a folder says of texts, and which model it is."""
    from ..binding import Binding, Contract, bound

    contract = Contract.open(folder)
    binding = bound(folder)
    return {
        "uses": uses(config, contract),
        "tokenizer": tokenizer(contract),
        "text": {
            "before": [contract.tokenizer.token(i) for i in contract.before],
            "after": [contract.tokenizer.token(i) for i in contract.after],
            "stops at": [_spelling(contract, i) for i in contract.stop_ids or ()],
            "stop strings": list(contract.stop_strings),
            "loss mask": contract.mask_rule,
        },
        "template": template(contract),
        "vectors": vectors(folder, config, contract),
        "generation_defaults": dict(contract.defaults),
        "binding": {
            "id": binding.id,
            "contract": binding.contract_id,
            "weights": binding.weights_id,
            "architecture": binding.architecture_id,
            "kept": "binding.json" if Binding.read(folder) is not None else "the user's cache",
        },
        "certificate": certificate(folder, binding.id),
        "lineage": dict(binding.recorded.get("lineage", {})),
        "versions": dict(binding.recorded.get("versions", {})),
    }


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    import torch

    from ..nn.transformer import Transformer

    with torch.device("meta"):
        model = Transformer(config)
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = next((_PARTS[word] for word in name.split(".") if word in _PARTS), "norms")
        parts[part] = parts.get(part, 0) + parameter.numel()
    return parts


def memory(opened: ModelFolder, config: ModelConfig) -> dict[str, Any]:
    """Bytes: of the weights on disk and in fp32, and of the key/value cache for each token that was read."""
    return {
        "dtypes": sorted({slot.dtype for slot in opened.slots.values()}),
        "weights": sum(slot.end - slot.start for slot in opened.slots.values()),
        "weights_fp32": 4 * config.parameters(),
        "cache_per_token_fp32": config.cache_bytes_per_token(),
        "cache_full_fp32": config.cache_bytes_per_token() * config.context,
    }


def tokenizer(contract: Contract) -> dict[str, Any]:
    words = contract.tokenizer
    roles: dict[str, list[str]] = {}
    for role, spelling in words.special.items():
        roles.setdefault(spelling, []).append(role)
    special = [{"token": spelling, "id": i, "roles": roles.get(spelling, [])} for spelling, i in words.special_tokens.items()]
    return {"kind": words.definition.kind, "tokens": words.vocab_size, "special": special, "hash": words.hash}


def template(contract: Contract) -> dict[str, Any] | None:
    if contract.template is None:
        return None
    ends = [_spelling(contract, i) for i in contract.turn_end]
    return {"characters": len(contract.template.source), "marks_generation": contract.template.marks_generation, "turn_ends": ends}


def vectors(folder: Path, config: ModelConfig, contract: Contract) -> dict[str, Any] | None:
    """What a folder of sentence-transformers makes of a text; None for any other."""
    if not (folder / "modules.json").is_file():
        return None
    from ..tasks.sentence import read

    how = read(folder, config.width, contract.tokenizer.settings())
    steps = ["normalised" if step == "normalize" else f"dense to {len(step.weight)}" for step in how.steps]
    return {"pooling": list(how.pools), "steps": steps, "longest": how.limit, "prompts": dict(how.prompts), "compared_by": how.similarity}


def certificate(folder: Path, identity: str) -> dict[str, Any] | None:
    """What certificate.json says, and whether it speaks of this binding."""
    from ..binding.record import cache_folder

    for place in (folder, cache_folder(folder)):
        try:
            value = json.loads((place / "certificate.json").read_text(encoding="utf-8"))
            return {"ok": bool(value["ok"]), "date": str(value["date"]), "of_this_model": value["binding"] == identity}
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _spelling(contract: Contract, token: int) -> str:
    return contract.tokenizer.token(token) if token < contract.tokenizer.vocab_size else str(token)


# -- for the terminal ----------------------------------------------------------------------------------------------------------------


def lines(facts: dict[str, Any]) -> list[str]:
    memory = facts["memory"]
    out = [f"{paint(facts['folder'], 'bold')}  {facts['family']} · {facts['kind']} · {facts['parameters']:,} parameters", ""]
    out += _table("uses", [", ".join(facts["uses"]) or "none, before what is missing is mended"])
    out += _table("shape", words_of(facts["architecture"]))
    out += _table("parameters", _bars(facts["parameters_by_part"]))
    cache = memory["cache_per_token_fp32"]
    out += _table(
        "memory",
        [
            f"weights {_size(memory['weights'])} on disk ({', '.join(memory['dtypes'])}), {_size(memory['weights_fp32'])} in fp32",
            *([f"cache {_size(cache)} a token, {_size(memory['cache_full_fp32'])} for the whole context (fp32)"] if cache else []),
        ],
    )
    out += (
        _table("missing", [paint(part, "yellow") for part in textwrap.wrap(facts["problem"], 100)])
        if "problem" in facts
        else _text_lines(facts)
    )
    if facts["unread_fields"]:
        out += _table("not read", [f"config.json: {', '.join(facts['unread_fields'])}"])
    if facts["ignored_tensors"]:
        out += _table("not loaded", [f"{name}: {why}" for name, why in facts["ignored_tensors"].items()][:5])
    return out


def _text_lines(facts: dict[str, Any]) -> list[str]:
    words, text, ids = facts["tokenizer"], facts["text"], facts["binding"]
    out = _table("tokenizer", [f"{words['kind']}, {words['tokens']:,} tokens, {words['hash'][:12]}", *_special(words["special"])])
    around = [f"{' '.join(text['before'])} TEXT {' '.join(text['after'])}".strip()]
    if facts["kind"] == "encoder":
        out += _table("text", around)
    else:
        stops = [*text["stops at"], *map(repr, text["stop strings"])]
        out += _table("text", [*around, f"stops at {', '.join(stops) or 'nothing'}", f"loss mask: {text['loss mask']}"])
        out += _table("template", [_template_line(facts["template"])])
    if facts["vectors"]:
        how = facts["vectors"]
        longest = [f"texts of at most {how['longest']} tokens"] if how["longest"] else []
        prompts = [f"prompts for {', '.join(how['prompts'])}"] if how["prompts"] else []
        out += _table("vectors", wrapped("", [" and ".join(how["pooling"]), *how["steps"], *longest, *prompts]))
    if facts["generation_defaults"]:
        out += _table("sampling", [", ".join(f"{name} {value}" for name, value in facts["generation_defaults"].items())])
    out += _table(
        "binding",
        [f"{ids['id'][:16]}  (in {ids['kept']})", *(f"{name} {ids[name][:16]}" for name in ("contract", "weights", "architecture"))],
    )
    out += _table("certificate", [_certificate_line(facts["certificate"])])
    lineage = [f"{name}: {value if isinstance(value, str) else json.dumps(value)}" for name, value in facts["lineage"].items()]
    return out + (_table("comes from", lineage) if lineage else [])


def _table(title: str, rows: Iterable[str]) -> list[str]:
    return [f"{paint(f'{title if not i else chr(32):<13}', 'dim')}{row}" for i, row in enumerate(rows)]


def _bars(parts: dict[str, int]) -> list[str]:
    total = sum(parts.values())
    rows = sorted(parts.items(), key=lambda item: -item[1])
    return [
        f"{name:<13}{number:>13,} {number / total:>5.0%}  {paint('━' * max(1, round(24 * number / total)), 'cyan')}"
        for name, number in rows
    ]


def _special(special: list[dict[str, Any]], most: int = 6) -> list[str]:
    named = sorted(special, key=lambda entry: (not entry["roles"], entry["id"]))
    rows = [f"{entry['token']} {entry['id']}" + (f" ({', '.join(entry['roles'])})" if entry["roles"] else "") for entry in named]
    more = [f"and {len(rows) - most} more"] if len(rows) > most else []
    return wrapped("", [*rows[:most], *more]) if rows else ["no special tokens"]


def _template_line(template: dict[str, Any] | None) -> str:
    if template is None:
        return "none: a base model"
    marks = "marks what the assistant writes" if template["marks_generation"] else "no generation marks"
    return f"{template['characters']:,} characters, {marks}; a turn ends with {', '.join(template['turn_ends']) or 'no special token'}"


def _certificate_line(certificate: dict[str, Any] | None) -> str:
    if certificate is None:
        return "none; quire verify writes one"
    if not certificate["of_this_model"]:
        return paint("of another model; quire verify writes a new one", "yellow")
    return paint(f"passed, {certificate['date']}", "green") if certificate["ok"] else paint(f"FAILED, {certificate['date']}", "red")


def _size(number: int) -> str:
    return count(number) + "B"
