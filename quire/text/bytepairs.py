"""Byte-level BPE from `vocab.json` + `merges.txt` (GPT-2, RoBERTa, BART, Qwen2), and from tiktoken's ranks.

A tiktoken file holds tokens by rank and no merges: any two neighbours merge whose joined bytes are a token, the lowest rank first. What
happens to a piece of text that is a token itself is that token (`ignore_merges`). A file names neither its pattern for splitting text nor
its special tokens, so only those whose names tell are opened. Ids between ranks and special tokens that nobody has stay free.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .conventions import flag
from .decoding import byte_characters
from .definition import LARGEST_VOCABULARY, read_bytes, read_json
from .fast import CL100K, GPT2_PATTERN, O200K, QWEN2
from .sentencepiece import entry

LARGEST_TOKEN = 512  # bytes


def convert(vocabulary: Path, merges: Path, settings: Mapping[str, Any], qwen: bool) -> dict[str, Any]:
    """The parts of a tokenizer.json for a vocab.json and a merges.txt. qwen: the pattern and normaliser of Qwen2, else GPT-2's."""
    tokens = read_json(vocabulary)
    if not isinstance(tokens, dict):
        raise ModelError(f"{vocabulary} must hold an object of token -> id")
    raw = parts(QWEN2 if qwen else GPT2_PATTERN, space=flag(settings, "add_prefix_space", False, str(vocabulary)))
    raw["normalizer"] = {"type": "NFC"} if qwen else None
    return raw | {"model": {"type": "BPE", "vocab": tokens, "merges": _merges(merges)}}


def parts(*patterns: str, space: bool = False) -> dict[str, Any]:
    """A tokenizer.json for bytes, but for its model: `patterns` divide a text one after the other. space: one goes in front of it."""
    usual = patterns == (GPT2_PATTERN,)  # the library's own
    level = {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": True, "use_regex": usual}
    cuts = [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False} for pattern in patterns]
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": level if usual else {"type": "Sequence", "pretokenizers": [*cuts, level]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    }


def _text(path: Path, limit: int) -> str:
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8, or fetch the file again.") from None


def _merges(path: Path) -> list[list[str]]:
    found: list[list[str]] = []
    for number, line in enumerate(_text(path, 2**27).split("\n")):
        line = line.removesuffix("\r")
        if not line or (number == 0 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise ModelError(f"{path}: line {number + 1} is {line[:40]!r}; two tokens with a space between them were expected")
        found.append(pair)
        if len(found) > LARGEST_VOCABULARY:
            raise ModelError(f"{path} has more than {LARGEST_VOCABULARY:,} merges")
    return found


# -- tiktoken ----------------------------------------------------------------------------------------------------------------------

_CODE = {"<|fim_prefix|>": 1, "<|fim_middle|>": 2, "<|fim_suffix|>": 3}
# {name of the file: (pattern, {special token: id after the ranks})}. Source: tiktoken_ext/openai_public.py and whisper/tokenizer.py.
_RANKS: dict[str, tuple[str, dict[str, int]]] = {
    "gpt2": (GPT2_PATTERN, {"<|endoftext|>": 50256}),
    "r50k_base": (GPT2_PATTERN, {"<|endoftext|>": 50256}),
    "p50k_base": (GPT2_PATTERN, {"<|endoftext|>": 50256}),
    "cl100k_base": (CL100K, {"<|endoftext|>": 100257, **{name: 100257 + at for name, at in _CODE.items()}, "<|endofprompt|>": 100276}),
    "o200k_base": (O200K, {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}),
    "multilingual": (GPT2_PATTERN, {"<|endoftext|>": 50257}),
}


def convert_ranks(path: Path) -> dict[str, Any]:
    """The parts of a tokenizer.json for a .tiktoken file."""
    name = path.name.removesuffix(".tiktoken").removeprefix("whisper_")
    if name not in _RANKS:
        raise ModelError(
            f"{path}: ranks alone do not say how text is divided before them. The name of the file does for {', '.join(_RANKS)}; "
            "of any other, open the tokenizer.json."
        )
    pattern, special = _RANKS[name]
    ranks = _ranks(path)
    spelt = {byte: character for character, byte in byte_characters().items()}
    spell = {token: "".join(map(spelt.__getitem__, token)) for token in ranks}
    vocabulary = {spell[token]: rank for token, rank in ranks.items()}
    vocabulary |= special
    added = [entry(id, content, special=True) for content, id in special.items()]
    merges = [[spell[token[:cut]], spell[token[cut:]]] for token in sorted(ranks, key=ranks.__getitem__) for cut in _cuts(token, ranks)]
    model = {"type": "BPE", "vocab": vocabulary, "merges": merges, "ignore_merges": True}
    return parts(pattern) | {"added_tokens": added, "model": model}


def _cuts(token: bytes, ranks: Mapping[bytes, int]) -> list[int]:
    """Where a token divides into two others: the lowest ranks first."""
    found = [cut for cut in range(1, len(token)) if token[:cut] in ranks and token[cut:] in ranks]
    return sorted(found, key=lambda cut: (ranks[token[:cut]], ranks[token[cut:]]))


def _ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    taken: set[int] = set()
    for number, line in enumerate(_text(path, 2**26).split("\n"), 1):
        if not line.strip():
            continue
        try:
            spelt, written = line.split()
            if spelt == "=":  # Whisper's file ends with an empty token
                continue
            token, rank = base64.b64decode(spelt, validate=True), int(written)
        except (ValueError, binascii.Error):
            raise ModelError(f"{path}: line {number} is {line[:40]!r}; a token in base64 and its rank were expected") from None
        if not 0 < len(token) <= LARGEST_TOKEN or not 0 <= rank < LARGEST_VOCABULARY or token in ranks or rank in taken:
            raise ModelError(
                f"{path}: line {number} has a token of {len(token)} bytes with rank {rank}; it is out of bounds or there twice"
            )
        ranks[token] = rank
        taken.add(rank)
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise ModelError(f"{path} has no token for {len(missing)} of the 256 bytes, such as {missing[0]}. Fetch the file again.")
    return ranks
