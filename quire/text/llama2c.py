"""The tokenizer files of llama2.c: a SentencePiece vocabulary with scores, as its tokenizer.py exports it.

The length of the longest piece, then for each id a score (fp32), a length and the piece itself, in which a space is written as a space.
The file does not say how many there are; the model does. Ids 0 to 2 are the unknown piece and the two ends, whose spellings have a newline
around them there.

Source: https://github.com/karpathy/llama2.c (tokenizer.py, export).
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

from ..errors import ModelError
from .definition import LARGEST_VOCABULARY, Definition, define, read_bytes
from .sentencepiece import BYTE, CONTROL, LARGEST_PIECE, MARK, NORMAL, UNKNOWN, SentencePieceModel, convert

ROLES = {"unk": "<unk>", "bos": "<s>", "eos": "</s>"}


def read(path: Path) -> tuple[Definition, dict[str, str]]:
    """Definition and settings. Raises ModelError naming the file and what is wrong with it."""
    data, origin = read_bytes(path), str(path)
    pieces: list[tuple[str, float, int]] = []
    at = 4
    while at < len(data):
        if len(pieces) >= LARGEST_VOCABULARY or at + 8 > len(data):
            raise _wrong(origin, f"piece {len(pieces)} is one too many, or cut short")
        score, length = struct.unpack_from("<fi", data, at)
        at += 8
        if not math.isfinite(score) or not 0 <= length <= min(LARGEST_PIECE, len(data) - at):
            raise _wrong(origin, f"piece {len(pieces)} has score {score} and length {length}")
        try:
            piece = data[at : at + length].decode("utf-8")
        except UnicodeDecodeError:
            raise _wrong(origin, f"piece {len(pieces)} is not UTF-8") from None
        at += length
        pieces.append(_piece(len(pieces), piece, score))
    if [piece for piece, _, _ in pieces[:3]] != list(ROLES.values()) or len({piece for piece, _, _ in pieces}) != len(pieces):
        raise _wrong(origin, "it does not begin with <unk>, <s> and </s>, or has a piece twice")
    fallback = {f"<0x{byte:02X}>" for byte in range(256)} <= {piece for piece, _, kind in pieces if kind == BYTE}
    raw = convert(SentencePieceModel(pieces, True, fallback, b"", True, False, 0, {}, origin), "every")
    first = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    second = [{"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    special = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    raw["post_processor"] = {"type": "TemplateProcessing", "single": first, "pair": [*first, *second], "special_tokens": special}
    settings = {f"{role}_token": spelling for role, spelling in ROLES.items()}
    return define(raw, origin, settings), settings


def _piece(id: int, spelling: str, score: float) -> tuple[str, float, int]:
    if id < 3:
        return spelling.strip("\n"), score, CONTROL if id else UNKNOWN
    if len(spelling) == 6 and spelling.startswith("<0x") and spelling.endswith(">"):
        return spelling, score, BYTE
    return spelling.replace(" ", MARK), score, NORMAL


def _wrong(origin: str, why: str) -> ModelError:
    return ModelError(f"{origin} is no tokenizer of llama2.c: {why}. Give the .bin file that belongs to the model.")
