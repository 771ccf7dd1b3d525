"""WordPiece `vocab.txt`: one token a line, its id the number of the line (Devlin et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .conventions import flag
from .definition import LARGEST_VOCABULARY, read_bytes
from .sentencepiece import entry


def convert(path: Path, settings: Mapping[str, Any], unknown: str) -> dict[str, Any]:
    """The parts of a tokenizer.json for a vocab.txt and BERT's settings: do_lower_case, strip_accents, tokenize_chinese_chars, never_split.

    never_split: tokens that stay whole where they stand between spaces or signs; those that the vocabulary lacks are unknown then.
    """
    vocabulary = _vocabulary(path)
    accents = settings.get("strip_accents")
    if not flag(settings, "do_basic_tokenize", True, str(path)):
        raise ModelError(f"{path}: do_basic_tokenize = false (text that is already divided into words) is not computed")
    return {
        "version": "1.0",
        "added_tokens": _unsplit(settings.get("never_split") or [], vocabulary, path),
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": flag(settings, "tokenize_chinese_chars", True, str(path)),
            "strip_accents": None if accents is None else flag(settings, "strip_accents", False, str(path)),
            "lowercase": flag(settings, "do_lower_case", True, str(path)),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": unknown,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
    }


def _vocabulary(path: Path) -> dict[str, int]:
    try:
        text = read_bytes(path, 2**26).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8, or fetch the file again.") from None
    lines = text.removesuffix("\n").split("\n")
    if len(lines) > LARGEST_VOCABULARY:
        raise ModelError(f"{path} has {len(lines):,} lines; a vocabulary has at most {LARGEST_VOCABULARY:,}")
    vocabulary: dict[str, int] = {}
    for id, line in enumerate(lines):
        token = line.removesuffix("\r")
        if token in vocabulary:
            raise ModelError(f"{path}: line {id + 1} repeats the token {token!r} of line {vocabulary[token] + 1}. Fetch the file again.")
        vocabulary[token] = id
    return vocabulary


def _unsplit(tokens: Any, vocabulary: Mapping[str, int], path: Path) -> list[dict[str, Any]]:
    if not isinstance(tokens, list) or not all(isinstance(token, str) and token for token in tokens):
        raise ModelError(f"{path}: the setting 'never_split' must be a list of tokens")
    missing = [token for token in tokens if token not in vocabulary]
    if missing:
        raise ModelError(f"{path}: 'never_split' names {missing[0]!r}, which the vocabulary does not hold")
    return [entry(vocabulary[token], token, special=False) | {"single_word": True} for token in dict.fromkeys(tokens)]
