"""tokenizer.json files written by hand."""

from __future__ import annotations

import json
from typing import Any

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def split_by(pattern: str) -> dict[str, Any]:
    return {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    }


def file(model: dict[str, Any], added: list[dict[str, Any]], **parts: Any) -> str:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    whole = {"version": "1.0", "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None, **parts}
    return json.dumps({**whole, "added_tokens": [{**plain, **token} for token in added], "model": model})


LETTERS = [" ", *"abcdefghijklmnopqrstuvwxyzE<>/|[]ABCMSKPD"]
UNIGRAM = {"type": "Unigram", "unk_id": 0, "byte_fallback": False, "vocab": [["<unk>", 0.0], ["</s>", 0.0], *([c, -3.0] for c in LETTERS)]}
WORDS = {"type": "WordLevel", "unk_token": "<unk>", "vocab": {"<unk>": 0, "</s>": 1, "a": 2, "b": 3}}
PIECES = {
    "type": "WordPiece",
    "unk_token": "[UNK]",
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100,
    "vocab": {"[UNK]": 0, "END": 1, "a": 2, "##a": 3, "E": 4, "##N": 5, "##D": 6},
}
MERGED = {
    "type": "BPE",
    "merges": ["< /", "</ s", "</s >"],
    "vocab": {c: i for i, c in enumerate(("</s>", "<", "/", "s", ">", "</", "</s", "a"))},
}
WHOLE = {"type": "BPE", "merges": [], "ignore_merges": True, "vocab": {c: i for i, c in enumerate(("</s>", "<", "/", "s", ">", "a"))}}
