"""What the world's tokenizer classes add to a vocabulary file: which tokens are special, which stand around a text, where ids begin.

A vocabulary file says none of this. A folder names the class in tokenizer_config.json (`tokenizer_class`) or the model in config.json
(`model_type`); the rest is this table, after the classes of `transformers` with those names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ModelError, nearest
from .definition import ROLES, spelling, spellings_of

Frame = tuple[str, ...]  # roles around "A" (and "B"), as in ("cls", "A", "sep")


@dataclass(frozen=True)
class Convention:
    """roles: the usual spellings. single, pair: what stands around one text and two. mask_strips: the mask swallows the space before it."""

    name: str
    files: str  # "pieces", "words", "bytes" or "marian": the kind of vocabulary file
    roles: Mapping[str, str] = field(default_factory=dict)
    single: Frame = ()
    pair: Frame = ()
    second_type: int = 0  # the token type of the second text
    mask_strips: bool = False


_BERT = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_ROBERTA = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
_LLAMA = {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}
_END = {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"}
_CLS: tuple[Frame, Frame] = ("cls", "A", "sep"), ("cls", "A", "sep", "B", "sep")
_DOUBLE: tuple[Frame, Frame] = ("cls", "A", "sep"), ("cls", "A", "sep", "sep", "B", "sep")
_EOS: tuple[Frame, Frame] = ("A", "eos"), ("A", "eos", "B", "eos")

PLAIN = Convention("sentencepiece", "pieces")
_ALL = (
    Convention("bert", "words", _BERT, *_CLS, second_type=1),
    Convention("mpnet", "words", _ROBERTA | {"unk": "[UNK]"}, *_DOUBLE, mask_strips=True),
    Convention("gpt2", "bytes", _END),
    Convention("roberta", "bytes", _ROBERTA, *_DOUBLE, mask_strips=True),
    Convention("qwen2", "bytes", {"eos": "<|endoftext|>", "pad": "<|endoftext|>", "unk": "<|endoftext|>"}),
    Convention("llama", "pieces", _LLAMA, ("bos", "A"), ("bos", "A", "bos", "B"), second_type=1),
    Convention(
        "gemma", "pieces", {"bos": "<bos>", "eos": "<eos>", "unk": "<unk>", "pad": "<pad>"}, ("bos", "A"), ("bos", "A", "bos", "B"), 1
    ),
    Convention("t5", "pieces", {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}, *_EOS),
    Convention("albert", "pieces", _BERT | {"bos": "[CLS]", "eos": "[SEP]", "unk": "<unk>", "pad": "<pad>"}, *_CLS, 1, mask_strips=True),
    Convention("xlm-roberta", "pieces", _ROBERTA, *_DOUBLE, mask_strips=True),
    Convention("deberta-v2", "pieces", _BERT | {"bos": "[CLS]", "eos": "[SEP]"}, *_CLS, second_type=1),
    Convention("marian", "marian", {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}, *_EOS),
)
_BY_NAME = {convention.name: convention for convention in _ALL}

# The names of classes (without "Tokenizer" and a last "Fast") and of models that follow each.
_NAMES = {
    "bert": "bert distilbert electra",
    "mpnet": "mpnet",
    "gpt2": "gpt2 codegen phi",
    "roberta": "roberta bart",
    "qwen2": "qwen2 qwen2moe qwen3 qwen3moe",
    "llama": "llama mistral mixtral phi3",
    "gemma": "gemma gemma2 gemma3 gemma3text",
    "t5": "t5 mt5",
    "albert": "albert",
    "xlm-roberta": "xlmroberta",
    "deberta-v2": "debertav2",
    "marian": "marian",
}
_ALIASES = {alias: name for name, aliases in _NAMES.items() for alias in aliases.split()}
_GENERIC = {"", "pretrainedtokenizer", "tokenizersbackend"}


def convention_of(settings: Mapping[str, Any], model_type: str | None, files: str, origin: str) -> Convention:
    """The convention of a folder; of `files` alone where neither file names one. Raises ModelError for a class that is not known."""
    named = settings.get("tokenizer_class") or ""
    if not isinstance(named, str):
        raise ModelError(f"{origin}: the setting 'tokenizer_class' must be a string, not {named!r}")
    name = named.removesuffix("Fast").removesuffix("Tokenizer").lower()
    if named.removesuffix("Fast").lower() in _GENERIC:
        name = (model_type or "").replace("-", "").replace("_", "")
    if not name:
        return {"words": _BY_NAME["bert"], "bytes": _BY_NAME["gpt2"], "marian": _BY_NAME["marian"]}.get(files, PLAIN)
    found = _BY_NAME.get(_ALIASES.get(name, ""))
    if found is None:
        known = sorted(_ALIASES)
        raise ModelError(
            f"{origin}: {named or model_type!r} is not a tokenizer whose vocabulary files are understood. Known: {', '.join(known)}."
            f"{nearest(name, known)} A folder with a tokenizer.json opens whatever its class is."
        )
    if found.files != files:
        raise ModelError(f"{origin}: a tokenizer of the class {named or model_type!r} is not kept in this kind of file")
    return found


def flag(settings: Mapping[str, Any], name: str, default: bool, origin: str) -> bool:
    """A setting that is true, false or absent."""
    found = settings.get(name)
    if not isinstance(found, bool | None):
        raise ModelError(f"{origin}: the setting {name!r} must be true or false, not {found!r}")
    return default if found is None else found


def finish(raw: dict[str, Any], convention: Convention, settings: Mapping[str, Any], origin: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(tokenizer.json with its special tokens and what stands around a text, settings that name them).

    Special tokens that the vocabulary does not hold follow after it, as transformers adds them.
    """
    settings = dict(settings)
    for role in ROLES:
        settings.setdefault(f"{role}_token", convention.roles.get(role))
    ids = {token: id for id, token in spellings_of(raw["model"], origin).items()}
    entries = {entry["content"]: entry for entry in raw.get("added_tokens") or []}
    for token in _listed(settings, origin):
        content, id = token["content"], token["id"]
        if ids.setdefault(content, id) != id:
            raise ModelError(f"{origin}: its settings give {content!r} the id {id}, but the vocabulary gives it {ids[content]}")
        entries[content] = token
    roles: dict[str, str] = {}
    for role in ROLES:
        value = settings[f"{role}_token"]
        name = spelling(value, f"{role}_token", origin)
        if name is None:
            continue
        roles[role] = name
        flags = value if isinstance(value, dict) else {"lstrip": role == "mask" and convention.mask_strips}
        _add(entries, ids, name, flags)
    for name in ("additional_special_tokens", "extra_special_tokens"):
        more = settings.get(name) or []
        if not isinstance(more, dict | list):
            raise ModelError(f"{origin}: the setting {name!r} must be a list or an object")
        for value in more.values() if isinstance(more, dict) else more:
            if (extra := spelling(value, name, origin)) is not None:
                _add(entries, ids, extra, value if isinstance(value, dict) else {})
    for content, entry in entries.items():
        entry["id"] = ids[content]
    raw = {**raw, "added_tokens": sorted(entries.values(), key=lambda entry: int(entry["id"]))}
    single, pair = convention.single, convention.pair
    if single[:1] == ("bos",):  # LLaMA's classes, which can be told to do without it, or to end with eos
        parts = [role for role in ("bos", "eos") if flag(settings, f"add_{role}_token", role == "bos", origin) and role in roles]
        single = _around("A", parts)
        pair = (*single, *_around("B", parts))
    if single:
        raw["post_processor"] = _template(single, pair, convention.second_type, roles, ids, origin)
    return raw, settings


def _around(text: str, parts: Sequence[str]) -> Frame:
    return (*(role for role in parts if role == "bos"), text, *(role for role in parts if role == "eos"))


def _add(entries: dict[str, dict[str, Any]], ids: dict[str, int], content: str, flags: Mapping[str, Any]) -> None:
    ids.setdefault(content, max(ids.values(), default=-1) + 1)
    plain = {name: bool(flags.get(name)) for name in ("single_word", "lstrip", "rstrip")}
    entries[content] = {"content": content, "normalized": False, **entries.get(content, plain), "special": True}


def _listed(settings: Mapping[str, Any], origin: str) -> list[dict[str, Any]]:
    """The added tokens that a tokenizer_config.json lists by id, as entries of a tokenizer.json."""
    listed = settings.get("added_tokens_decoder") or {}
    if not isinstance(listed, dict) or not all(isinstance(v, dict) and isinstance(v.get("content"), str) for v in listed.values()):
        raise ModelError(f"{origin}: 'added_tokens_decoder' must be an object of id -> added token")
    if not all(id.isascii() and id.isdigit() and len(id) < 10 for id in listed):
        raise ModelError(f"{origin}: 'added_tokens_decoder' has a key that is no id")
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return [
        {"id": int(id), "content": value["content"], **{flag: bool(value.get(flag)) for flag in flags}}
        for id, value in sorted(listed.items(), key=lambda pair: int(pair[0]))
        if value["content"]
    ]


def _template(single: Frame, pair: Frame, second: int, roles: Mapping[str, str], ids: Mapping[str, int], origin: str) -> dict[str, Any]:
    missing = sorted({role for role in pair if role not in ("A", "B") and role not in roles})
    if missing:
        raise ModelError(f"{origin}: it needs a {missing[0]} token around every text, but its settings name none ({missing[0]}_token)")

    def steps(frame: Frame) -> list[dict[str, Any]]:
        place = frame.index("B") if "B" in frame else len(frame)
        # RoBERTa's second separator before the second text still counts to neither: its types are all 0.
        return [
            {"Sequence": {"id": part, "type_id": second if at >= place else 0}}
            if part in ("A", "B")
            else {"SpecialToken": {"id": roles[part], "type_id": second if at >= place else 0}}
            for at, part in enumerate(frame)
        ]

    tokens = {
        roles[part]: {"id": roles[part], "ids": [ids[roles[part]]], "tokens": [roles[part]]} for part in pair if part not in ("A", "B")
    }
    return {"type": "TemplateProcessing", "single": steps(single), "pair": steps(pair), "special_tokens": tokens}
