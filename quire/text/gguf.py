"""The vocabulary of a GGUF file, as the tokenizer.json that stands for it.

`llama` is SentencePiece's byte-pair kind: pieces with scores, and bytes for what has no piece. `gpt2` is byte-level byte-pair encoding with
merges; how it cuts words first is only named in the file (tokenizer.ggml.pre), so names that are not known here are refused.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (Tokenizer); patterns as in the published tokenizer.json of each model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

from ..errors import ModelError
from .bytepairs import parts
from .definition import Definition, define
from .fast import CL100K, GPT2_PATTERN, QWEN2
from .sentencepiece import CONTROL, NORMAL, UNKNOWN, SentencePieceModel, convert
from .sentencepiece import USER as USER_DEFINED

LONGEST_PIECE = 512  # characters; every cut of a piece is tried, so their length is bounded

# tokenizer.ggml.pre -> (patterns that cut a text, one after the other; is it put into NFC first; whole words before merges)
_CUTS: dict[str, tuple[tuple[str, ...], bool, bool]] = {
    **dict.fromkeys(("gpt-2", "gpt2", "phi-2", "roberta-bpe", "mpt"), ((GPT2_PATTERN,), False, False)),
    "olmo": ((GPT2_PATTERN,), True, False),  # Pythia's and OLMo's
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), ((CL100K,), False, True)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), ((QWEN2,), True, False)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r"), ((r"\p{N}", GPT2_PATTERN), False, False)),
}


def definition(values: Mapping[str, Any], origin: str) -> tuple[Definition, dict[str, Any]]:
    """The tokenizer of a GGUF file's metadata: its definition and settings (what tokenizer_config.json would hold).

    Raises ModelError naming the key for a kind that is not read, and for lists that do not go together.
    """
    found = _Vocabulary(values, origin)
    kind = values.get("tokenizer.ggml.model")
    if kind == "llama":
        raw = _pieces(found)
    elif kind == "gpt2":
        raw = _byte_level(found)
    else:
        raise ModelError(f"{origin}: tokenizer.ggml.model is {kind!r}; read are 'llama' (SentencePiece) and 'gpt2' (byte-level).")
    settings: dict[str, Any] = {f"{role}_token": found.tokens[id] for role, id in found.roles.items()}
    if isinstance(template := values.get("tokenizer.chat_template"), str):
        settings["chat_template"] = template
    raw |= {"version": "1.0", "added_tokens": found.added(), "post_processor": found.around(kind == "llama")}
    return define(raw, origin, settings), settings


class _Vocabulary:
    """The lists of a file, checked against one another."""

    def __init__(self, values: Mapping[str, Any], origin: str) -> None:
        self.values, self.origin = values, origin
        self.tokens: list[str] = self.listed("tokens", str)
        if not self.tokens:
            self.wrong("tokens", "is empty or missing; a model that writes text needs its vocabulary")
        self.types: list[int] = self.listed("token_type", int) or [NORMAL] * len(self.tokens)
        self.ids = {token: id for id, token in enumerate(self.tokens)}
        if len(self.ids) != len(self.tokens):
            twice = next(token for id, token in enumerate(self.tokens) if self.ids[token] != id)
            self.wrong("tokens", f"has {twice!r} twice")
        if len(self.types) != len(self.tokens):
            self.wrong("token_type", f"has {len(self.types)} entries for {len(self.tokens)} tokens")
        named = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id"}
        named |= {"sep": "seperator_token_id", "cls": "cls_token_id", "mask": "mask_token_id"}
        self.roles = {role: id for role, key in named.items() if (id := self.id(key)) is not None}

    def wrong(self, key: str, why: str) -> NoReturn:
        raise ModelError(f"{self.origin}: tokenizer.ggml.{key} {why}.")

    def listed(self, key: str, kind: type) -> list[Any]:
        found = self.values.get(f"tokenizer.ggml.{key}", [])
        if not isinstance(found, list) or not all(type(item) is kind for item in found):
            self.wrong(key, f"must be a list of {kind.__name__}")
        return found

    def id(self, key: str) -> int | None:
        """An id by its key; None where there is none. All ones (-1) is how some writers say none."""
        found = self.values.get(f"tokenizer.ggml.{key}")
        if found is None or found in (-1, 2**32 - 1):
            return None
        if type(found) is not int or not 0 <= found < len(self.tokens):
            self.wrong(key, f"is {found!r}; allowed is an id below {len(self.tokens)}")
        return found

    def flag(self, key: str, default: bool) -> bool:
        found = self.values.get(f"tokenizer.ggml.{key}", default)
        if type(found) is not bool:
            self.wrong(key, f"is {found!r}; allowed is true or false")
        return found

    def added(self) -> list[dict[str, Any]]:
        """Tokens that are matched before anything else: control tokens, those with a role, and the user's own."""
        special = {id for id, kind in enumerate(self.types) if kind in (CONTROL, UNKNOWN)} | set(self.roles.values())
        own = {id for id, kind in enumerate(self.types) if kind == USER_DEFINED}
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        listed = sorted(id for id in special | own if self.tokens[id])
        return [{"id": id, "content": self.tokens[id], "special": id in special} | plain for id in listed]

    def around(self, begins: bool) -> dict[str, Any] | None:
        """The post-processor: what stands around a text. begins: whether the begin-of-text token does when the file does not say."""
        first = "bos" in self.roles and self.flag("add_bos_token", begins)
        last = "eos" in self.roles and self.flag("add_eos_token", False)
        names = [role for role, wanted in (("bos", first), ("eos", last)) if wanted]
        used = {self.tokens[self.roles[role]]: self.roles[role] for role in names}

        def parts(sequence: str, side: int) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = [{"Sequence": {"id": sequence, "type_id": side}}]
            mark = {role: {"SpecialToken": {"id": self.tokens[self.roles[role]], "type_id": side}} for role in names}
            return [*([mark["bos"]] if first else []), *found, *([mark["eos"]] if last else [])]

        special = {spelling: {"id": spelling, "ids": [id], "tokens": [spelling]} for spelling, id in used.items()}
        single = parts("A", 0)
        return {"type": "TemplateProcessing", "single": single, "pair": [*single, *parts("B", 1)], "special_tokens": special}


def _pieces(found: _Vocabulary) -> dict[str, Any]:
    """As a SentencePiece model without a normaliser; llama.cpp puts the mark of a space before every stretch between special tokens."""
    scores = found.listed("scores", float)
    if len(scores) != len(found.tokens):
        found.wrong("scores", f"has {len(scores)} entries for {len(found.tokens)} tokens")
    for id, token in enumerate(found.tokens):
        if len(token) > LONGEST_PIECE or not math.isfinite(scores[id]):
            found.wrong(
                "tokens", f"has the piece {id} with {len(token)} characters and score {scores[id]}; at most {LONGEST_PIECE} are read"
            )
    unknown = next((id for id, kind in enumerate(found.types) if kind == UNKNOWN), found.roles.get("unk"))
    if unknown is None:
        found.wrong("unknown_token_id", "is missing, and no token is of the unknown type")
    pieces = list(zip(found.tokens, scores, found.types, strict=True))
    fallback = all(f"<0x{byte:02X}>" in found.ids for byte in range(256))
    prefix = found.flag("add_space_prefix", True)
    model = SentencePieceModel(pieces, True, fallback, b"", prefix, False, unknown, {}, found.origin)
    return convert(model, "every")


def _byte_level(found: _Vocabulary) -> dict[str, Any]:
    pre = found.values.get("tokenizer.ggml.pre")
    if pre not in _CUTS:
        found.wrong("pre", f"is {pre!r}: it is not known how that cuts words. Known: {', '.join(_CUTS)}")
    patterns, nfc, whole = _CUTS[pre]
    pairs = []
    for merge in found.listed("merges", str):
        left, _, right = merge.partition(" ")
        if not left or not right or left + right not in found.ids or left not in found.ids or right not in found.ids:
            found.wrong("merges", f"has {merge!r}, which does not join two tokens into a third")
        pairs.append([left, right])
    model = {"type": "BPE", "ignore_merges": whole, "vocab": found.ids, "merges": pairs}
    return parts(*patterns) | {"normalizer": {"type": "NFC"} if nfc else None, "model": model}
