"""A tokenizer.json as data: read with limits, checked, hashed, and rewritten so that no text can spell a special token.

Why a rewritten twin: the `tokenizers` library matches the spelling of special tokens inside text. Its switch against that
(`encode_special_tokens`) only stops the search for added tokens; a word-level or unigram vocabulary, or a BPE one with `ignore_merges`,
still holds the spelling as an ordinary entry and finds it there. In the twin every special token has another spelling, drawn at random
in this process, with the same id; whatever someone writes, the ids of special tokens cannot come out of it. A chat template that owns a
special token writes that secret spelling instead, so one call of the library encodes a whole conversation as the original would.

Format: https://huggingface.co/docs/tokenizers (tokenizer.json, version 1.0).
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..durable import storage
from ..errors import ModelError, StorageError
from . import patterns

LARGEST_FILE = 256 * 2**20  # bytes; the largest published vocabularies are about 35 MB
LARGEST_VOCABULARY = 2**22
ROLES = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")

# Who plays which part where no tokenizer_config.json says it: the spellings that only ever mean one thing.
_USUAL_ROLES: dict[str, tuple[str, ...]] = {
    "<|endoftext|>": ("bos", "eos"),
    "<s>": ("bos",),
    "</s>": ("eos",),
    "<pad>": ("pad",),
    "<unk>": ("unk",),
    "[PAD]": ("pad",),
    "[UNK]": ("unk",),
    "[CLS]": ("cls",),
    "[SEP]": ("sep",),
    "[MASK]": ("mask",),
}


@dataclass(frozen=True)
class Added:
    """One added token: matched in text before anything else. `special` ones only ever by a template."""

    id: int
    content: str
    special: bool


@dataclass(frozen=True)
class Definition:
    """What a tokenizer.json says, plus the parts that special tokens play.

    raw: the parsed file, with truncation and padding removed (Quire never does either silently).
    spellings: the whole vocabulary, id -> token as the file spells it. special: id of every special token, by spelling.
    """

    raw: dict[str, Any]
    roles: dict[str, str]
    spellings: dict[int, str]
    added: tuple[Added, ...]
    special: dict[str, int]
    origin: str
    target: Definition | None = None  # how text of the decoder's side is encoded, where that is another way (Marian); ids are shared

    @property
    def model(self) -> dict[str, Any]:
        model: dict[str, Any] = self.raw["model"]
        return model

    @property
    def kind(self) -> str:
        return str(self.model["type"])

    def merges(self) -> list[list[str]]:
        """Pairs of tokens in the order of merging; empty for a kind that has none."""
        return [_pair(merge) for merge in self.model.get("merges") or []]

    def canonical(self) -> bytes:
        """The same bytes for the same tokenizer, however its file was laid out."""
        raw = {**self.raw, "model": {**self.model}}
        if "merges" in raw["model"]:
            raw["model"]["merges"] = self.merges()
        facts: dict[str, Any] = {"tokenizer": raw, "roles": self.roles, "special": self.special}
        if self.target is not None:
            facts["target"] = self.target.hash()
        return json.dumps(facts, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")

    def hash(self) -> str:
        return hashlib.sha256(self.canonical()).hexdigest()


def read_json(path: Path, limit: int = LARGEST_FILE) -> Any:
    """The value in a JSON file of at most `limit` bytes. Raises ModelError that names the file and the line."""
    return parse_json(read_bytes(path, limit), str(path))


def read_bytes(path: Path, limit: int = LARGEST_FILE) -> bytes:
    with storage(path, "read"):
        size = path.stat().st_size
        if size > limit:
            raise ModelError(f"{path} has {size:,} bytes; at most {limit:,} are read. It is not a tokenizer that Quire would trust.")
        return path.read_bytes()


def parse_json(data: bytes, origin: str) -> Any:
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ModelError(f"{origin} is not UTF-8 text (byte {error.start}). Save it as UTF-8, or fetch the file again.") from None
    except json.JSONDecodeError as error:
        raise ModelError(f"{origin} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}. Fetch the file again.") from None
    except RecursionError:
        raise ModelError(f"{origin} is nested too deeply to be a tokenizer. Fetch the file again.") from None


def define(raw: Any, origin: str, settings: Mapping[str, Any] | None = None) -> Definition:
    """Checks a parsed tokenizer.json and joins it with the parts that `settings` (a tokenizer_config.json) gives its special tokens."""
    if not isinstance(raw, dict) or not isinstance(raw.get("model"), dict):
        raise ModelError(f"{origin} is not a tokenizer: an object with a 'model' object was expected, not {kind_of(raw)}")
    raw = {**raw, "truncation": None, "padding": None, "model": dict(raw["model"])}
    patterns.check([raw.get(part) for part in ("normalizer", "pre_tokenizer", "decoder")], origin)
    model = raw["model"]
    if "type" not in model:
        model["type"] = _guess_type(model, origin)
    if not isinstance(model.get("unk_token"), str | None):
        raise ModelError(f"{origin}: its unk_token must be a string, not {kind_of(model['unk_token'])}")
    spellings = spellings_of(model, origin)
    added = _added(raw.get("added_tokens") or [], spellings, origin)
    for token in added:
        spellings[token.id] = token.content
    by_spelling = {token.content: token.id for token in added}
    roles, extra = _roles(settings, added, origin)
    unknown = _unknown(model)
    if unknown is not None:
        roles.setdefault("unk", unknown)
    ids = {spelling: id for id, spelling in spellings.items()} | by_spelling
    special = {token.content: token.id for token in added if token.special}
    for role, spelling in [*roles.items(), *(("special", name) for name in extra)]:
        if spelling not in ids:
            raise ModelError(f"{origin}: its settings name {spelling!r} as the {role} token, but the vocabulary does not hold it")
        special[spelling] = ids[spelling]
    return Definition(raw, roles, spellings, added, special, origin)


def twin(definition: Definition) -> tuple[str, dict[str, str]]:
    """The tokenizer.json text in which every special token has a secret spelling, and {spelling: secret spelling}.

    Ids do not change. What the library would add around a text (post-processor) or draw at random (dropout) is taken out.
    """
    # Letters and digits only: they survive every normaliser, and nothing that a user knows tells him the 128 random bits.
    secret = {spelling: f"qz{secrets.token_hex(16)}" for spelling in definition.special}
    raw = {**definition.raw, "post_processor": None}
    model = dict(definition.model)
    if "dropout" in model:
        model["dropout"] = None
    if model.get("unk_token") is not None:
        model["unk_token"] = secret.get(model["unk_token"], model["unk_token"])
    if isinstance(model["vocab"], dict):
        model["vocab"] = {secret.get(token, token): id for token, id in model["vocab"].items()}
    else:
        model["vocab"] = [[secret.get(token, token), score] for token, score in model["vocab"]]
    if model.get("merges"):
        prefix = model.get("continuing_subword_prefix") or ""
        model["merges"] = [pair for pair in definition.merges() if not _builds(pair, prefix, secret)]
    raw["model"] = model
    raw["added_tokens"] = [_respelt(entry, secret) for entry in definition.raw.get("added_tokens") or []]
    return json.dumps(raw, ensure_ascii=False), secret


def _respelt(entry: dict[str, Any], secret: dict[str, str]) -> dict[str, Any]:
    if entry["content"] not in secret:
        return entry
    return {**entry, "content": secret[entry["content"]], "normalized": False}


def _builds(pair: list[str], prefix: str, secret: dict[str, str]) -> bool:
    """Does this merge take part in a special token, or make one?"""
    left, right = pair
    return left in secret or right in secret or left + right.removeprefix(prefix) in secret


def _pair(merge: Any) -> list[str]:
    return merge.split(" ", 1) if isinstance(merge, str) else list(merge)


def kind_of(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a string", type(None): "null"}.get(type(value), f"a {type(value).__name__}")


def _guess_type(model: dict[str, Any], origin: str) -> str:
    """Files older than the field say it by what they hold."""
    if "merges" in model:
        return "BPE"
    if isinstance(model.get("vocab"), list):
        return "Unigram"
    if "max_input_chars_per_word" in model:
        return "WordPiece"
    if "unk_token" in model:
        return "WordLevel"
    raise ModelError(f"{origin}: its model has no 'type'. Allowed: BPE, WordPiece, Unigram, WordLevel.")


def spellings_of(model: dict[str, Any], origin: str) -> dict[int, str]:
    """{id: token} of a tokenizer.json's model. Raises ModelError for a vocabulary that is none."""
    if model["type"] not in ("BPE", "WordPiece", "Unigram", "WordLevel"):
        raise ModelError(f"{origin}: model type {model['type']!r} is not known. Allowed: BPE, WordPiece, Unigram, WordLevel.")
    vocabulary = model.get("vocab")
    if len(vocabulary if isinstance(vocabulary, dict | list) else ()) > LARGEST_VOCABULARY:
        raise ModelError(f"{origin}: a vocabulary of more than {LARGEST_VOCABULARY:,} tokens is refused")
    if model["type"] == "Unigram":
        pieces = vocabulary if isinstance(vocabulary, list) else None
        if pieces is None or not all(
            isinstance(p, list) and len(p) == 2 and isinstance(p[0], str) and isinstance(p[1], int | float) for p in pieces
        ):
            raise ModelError(f"{origin}: a Unigram vocabulary is a list of [piece, score] pairs")
        return {id: piece for id, (piece, _) in enumerate(pieces)}
    if not isinstance(vocabulary, dict):
        raise ModelError(f"{origin}: its vocabulary must be an object of token -> id, not {kind_of(vocabulary)}")
    spellings: dict[int, str] = {}
    for token, id in vocabulary.items():
        _check_id(id, token, origin)
        if id in spellings:
            raise ModelError(f"{origin}: the tokens {spellings[id]!r} and {token!r} both have id {id}")
        spellings[id] = token
    merges = model.get("merges")
    if model["type"] == "BPE" and not (isinstance(merges, list) and all(_is_merge(merge) for merge in merges)):
        raise ModelError(f"{origin}: BPE merges must be a list of pairs of tokens")
    return spellings


def _is_merge(merge: Any) -> bool:
    if isinstance(merge, str):
        return " " in merge
    return isinstance(merge, list) and len(merge) == 2 and all(isinstance(part, str) for part in merge)


def _check_id(id: Any, token: Any, origin: str) -> None:
    if type(id) is not int or not 0 <= id < LARGEST_VOCABULARY:
        raise ModelError(f"{origin}: token {token!r} has id {id!r}; ids are whole numbers from 0 to {LARGEST_VOCABULARY - 1:,}")


def _added(entries: Any, spellings: dict[int, str], origin: str) -> tuple[Added, ...]:
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and isinstance(e.get("content"), str) and e["content"] for e in entries
    ):
        raise ModelError(f"{origin}: 'added_tokens' must be a list of objects with an 'id' and a 'content'")
    added, contents, ids = [], set(), set()
    for entry in entries:
        token = Added(entry.get("id", -1), entry["content"], bool(entry.get("special")))
        _check_id(token.id, token.content, origin)
        if token.content in contents or token.id in ids:
            raise ModelError(f"{origin}: the added token {token.content!r} (id {token.id}) is there twice")
        known = spellings.get(token.id)
        if known is not None and known != token.content:
            raise ModelError(f"{origin}: id {token.id} is both {known!r} and the added token {token.content!r}")
        contents.add(token.content)
        ids.add(token.id)
        added.append(token)
    return tuple(added)


def _unknown(model: dict[str, Any]) -> str | None:
    if model["type"] == "Unigram":
        id = model.get("unk_id")
        return model["vocab"][id][0] if isinstance(id, int) and 0 <= id < len(model["vocab"]) else None
    unknown = model.get("unk_token")
    return unknown if isinstance(unknown, str) and unknown in model["vocab"] else None


def _roles(settings: Mapping[str, Any] | None, added: tuple[Added, ...], origin: str) -> tuple[dict[str, str], list[str]]:
    """({role: spelling}, further special spellings) from a tokenizer_config.json; without one, from the usual spellings."""
    roles: dict[str, str] = {}
    if not settings:
        for token in added:
            for role in _USUAL_ROLES.get(token.content, ()) if token.special else ():
                roles.setdefault(role, token.content)
        return roles, []
    for role in ROLES:
        named = spelling(settings.get(f"{role}_token"), f"{role}_token", origin)
        if named is not None:
            roles[role] = named
    extra: list[str] = []
    for name in ("additional_special_tokens", "extra_special_tokens"):
        listed = settings.get(name) or []
        values = listed.values() if isinstance(listed, dict) else listed
        if not isinstance(listed, dict | list):
            raise ModelError(f"{origin}: the setting {name!r} must be a list or an object, not {kind_of(listed)}")
        extra += [named for value in values if (named := spelling(value, name, origin)) is not None]
    return roles, extra


def spelling(value: Any, name: str, origin: str) -> str | None:
    """The token that a setting names: a string, or an object with its `content`; None for null and the empty string."""
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        return value["content"] or None
    raise ModelError(f"{origin}: the setting {name!r} must be a string, not {kind_of(value)}")


def read_optional(path: Path, limit: int) -> str | None:
    """The text of a file that need not be there."""
    try:
        with storage(path, "read"):
            if not path.is_file():
                return None
            if path.stat().st_size > limit:
                raise ModelError(f"{path} has {path.stat().st_size:,} bytes; at most {limit:,} are allowed")
            return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except StorageError as error:
        raise ModelError(str(error)) from error
