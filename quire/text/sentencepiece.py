"""SentencePiece `.model` files: a bounded reader of their format, and the same model as a tokenizer.json.

The file is a protocol buffer (sentencepiece_model.proto): fields of (number << 3 | wire type), each a varint, a fixed width or a stretch of
bytes. Only the fields that decide about ids are read; every length is checked against what is left before anything is cut out.

SentencePiece encodes a whole text as one word: characters normalised by a compiled table, white space written as `▁`, one more `▁` in
front. Merges of a BPE model are not in the file: any two neighbours whose joined text is a piece may merge, the best score first; so every
way of cutting a piece into two others is one merge here.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ModelError
from .definition import LARGEST_VOCABULARY, read_bytes

MARK = "▁"
LARGEST_PIECE = 512  # bytes
LARGEST_PIECES = 2**23  # characters of all pieces; the largest published model has about two million
LARGEST_TABLE = 2**23  # bytes of a normaliser; nmt_nfkc has 237,539
NEVER = -1e6  # the score of a piece that no text may reach

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class SentencePieceModel:
    """What a .model says. pieces: (spelling, score, kind) by id; table: the compiled normaliser, b"" for none."""

    pieces: list[tuple[str, float, int]]
    bpe: bool
    byte_fallback: bool
    table: bytes
    dummy_prefix: bool
    trims_spaces: bool
    unknown: int
    roles: dict[str, str]  # bos, eos and pad as the model was trained with them
    origin: str

    def of_kind(self, *kinds: int) -> list[tuple[int, str]]:
        return [(id, piece) for id, (piece, _, kind) in enumerate(self.pieces) if kind in kinds]


# -- reading -----------------------------------------------------------------------------------------------------------------------


def read(path: Path) -> SentencePieceModel:
    """Raises ModelError for a file that is damaged, asks for too much, or needs what is not computed here."""
    return parse(read_bytes(path), str(path))


def parse(data: bytes, origin: str) -> SentencePieceModel:
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, Any] = {}
    normaliser: dict[int, Any] = {}
    size = 0
    try:
        for number, value in _fields(data):
            if number == 1:
                pieces.append(_piece(value, len(pieces)))
                size += len(pieces[-1][0])
                if len(pieces) > LARGEST_VOCABULARY or size > LARGEST_PIECES:
                    raise ValueError(f"it has more than {LARGEST_VOCABULARY:,} pieces or {LARGEST_PIECES:,} characters in them")
            elif number in (2, 3):
                (trainer if number == 2 else normaliser).update(_fields(value))
        return _model(pieces, trainer, normaliser, origin)
    except ValueError as error:
        raise ModelError(f"{origin} is not a SentencePiece model that can be read: {error}. Fetch the file again.") from None


def _fields(data: Any) -> Iterator[tuple[int, Any]]:
    """(number, value) of a message: an int, or the bytes of a text, message or fixed-width number."""
    if not isinstance(data, bytes):
        raise ValueError("a number stands where a message belongs")
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind} at byte {at} is not one that such files hold")
        if size > len(data) - at:
            raise ValueError(f"{size:,} bytes are announced at byte {at} where {len(data) - at:,} are left")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(at, min(at + 10, len(data))):
        value |= (data[place] & 0x7F) << 7 * (place - at)
        if data[place] < 0x80:
            return value, place + 1
    raise ValueError(f"the number at byte {at} does not end")


def _piece(data: Any, id: int) -> tuple[str, float, int]:
    found: dict[int, Any] = dict(_fields(data))
    spelling, score, kind = found.get(1), found.get(2, bytes(4)), found.get(3, NORMAL)
    if not isinstance(spelling, bytes) or not 0 < len(spelling) <= LARGEST_PIECE:
        raise ValueError(f"piece {id} has no text of 1 to {LARGEST_PIECE} bytes")
    if not isinstance(score, bytes) or len(score) != 4 or kind not in range(NORMAL, BYTE + 1):
        raise ValueError(f"piece {id} has no score or is of the unknown kind {kind!r}")
    number = struct.unpack("<f", score)[0]
    if not math.isfinite(number):
        raise ValueError(f"piece {id} has the score {number}")
    return spelling.decode("utf-8"), number, kind


def _model(pieces: list[tuple[str, float, int]], trainer: dict[int, Any], normaliser: dict[int, Any], origin: str) -> SentencePieceModel:
    def number(values: dict[int, Any], field: int, default: int) -> int:
        found = values.get(field, default)
        if not isinstance(found, int):
            raise ValueError(f"field {field} is no number")
        return found

    kind = number(trainer, 3, 1)
    if kind not in (1, 2):
        raise ValueError(f"its model type is {kind}; 1 (Unigram) and 2 (BPE) are computed")
    if number(trainer, 24, 0):
        raise ValueError("it writes white space after words (treat_whitespace_as_suffix), which is not computed")
    if not number(normaliser, 5, 1):
        raise ValueError("it does not escape white space (escape_whitespaces), which is not computed")
    unknown = [id for id, piece in enumerate(pieces) if piece[2] == UNKNOWN]
    if len(unknown) != 1:
        raise ValueError(f"it has {len(unknown)} unknown pieces among {len(pieces):,}; exactly one is needed")
    if len({piece for piece, _, _ in pieces}) != len(pieces):
        raise ValueError("two of its pieces are spelt alike")
    if kind == 2 and any(piece[2] == UNUSED for piece in pieces):
        raise ValueError("it is a BPE model with unused pieces, which is not computed")
    fallback = bool(number(trainer, 35, 0))
    if fallback and [p for p, _, k in pieces if k == BYTE] != [f"<0x{byte:02X}>" for byte in range(256)]:
        raise ValueError("it falls back to bytes, but its 256 pieces for them are not there in order")
    named = {role: number(trainer, field, default) for role, field, default in (("bos", 41, 1), ("eos", 42, 2), ("pad", 43, -1))}
    roles = {role: pieces[id][0] for role, id in named.items() if 0 <= id < len(pieces) and pieces[id][2] == CONTROL}
    table = normaliser.get(2, b"")
    if not isinstance(table, bytes) or len(table) > LARGEST_TABLE:
        raise ValueError(f"its normaliser is no table of at most {LARGEST_TABLE:,} bytes")
    prefix, trims = bool(number(normaliser, 3, 1)), bool(number(normaliser, 4, 1))
    return SentencePieceModel(pieces, kind == 2, fallback, _table(table), prefix, trims, unknown[0], roles, origin)


def _table(table: bytes) -> bytes:
    """The normaliser's table: the size of a trie of 32-bit units, the trie, and texts that end with a zero byte."""
    if not table:
        return b""
    size = int.from_bytes(table[:4], "little")
    if size % 4 or not 1024 <= size <= len(table) - 4:
        raise ValueError(f"its normaliser of {len(table):,} bytes announces a trie of {size:,}")
    texts = np.frombuffer(table[4 + size :] + b"\0", np.uint8)
    table[4 + size :].decode("utf-8")
    units = np.frombuffer(table, "<u4", size // 4, 4).astype(np.int64)
    # Darts-clone: a unit with the highest bit is a leaf, whose value is where its text begins; any other points to its children, relative
    # to its own place.
    leaf = units >> 31 == 1
    children = np.arange(len(units)) ^ ((units >> 10) << ((units & 512) >> 6))
    starts = units & 0x7FFFFFFF
    if (children[~leaf] | 255).max(initial=0) >= len(units):
        raise ValueError("its normaliser's trie points outside of itself")
    if (starts[leaf] >= len(texts)).any() or (texts[starts[leaf]] & 0xC0 == 0x80).any():
        raise ValueError("its normaliser's trie points into the middle of a character")
    return table


# -- as a tokenizer.json -----------------------------------------------------------------------------------------------------------


def convert(model: SentencePieceModel, prefix: str = "first") -> dict[str, Any]:
    """The parts of a tokenizer.json that give the same ids.

    prefix: where `▁` goes in front when the model says so: of the "first" stretch of text, as SentencePiece does, or of "every" one between
    special tokens, as the models do that were trained with each stretch encoded by itself.
    """
    added = [entry(id, piece, special=True) for id, piece in model.of_kind(CONTROL, UNKNOWN)]
    scores = [score for _, score, kind in model.pieces if kind == NORMAL]
    highest = max(scores, default=0.0)
    listed: list[list[Any]] = []
    for id, (piece, score, kind) in enumerate(model.pieces):
        if kind == USER and " " not in piece:  # one with a space is never met, since spaces are `▁` by then
            if model.bpe or _changed(model, piece):
                added.append(entry(id, piece, special=False, normalized=_whole(model, piece, prefix)))
            else:  # as SentencePiece weighs it, so that it always wins over the letters it is made of
                score = len(piece.encode()) * highest - 0.1
        listed.append([piece, NEVER if kind in (BYTE, UNUSED) and not model.bpe else score])
    unknown = model.pieces[model.unknown][0]
    if model.bpe:
        vocabulary = {piece: id for id, (piece, _) in enumerate(listed)}
        core: dict[str, Any] = {"type": "BPE", "unk_token": unknown, "fuse_unk": True, "vocab": vocabulary, "merges": _merges(model)}
    else:
        core = {"type": "Unigram", "unk_id": model.unknown, "vocab": listed}
    return {
        "version": "1.0",
        "added_tokens": sorted(added, key=lambda entry: int(entry["id"])),
        "normalizer": {"type": "Sequence", "normalizers": _normalisers(model, prefix)},
        "pre_tokenizer": _splitting(model, model.dummy_prefix and prefix == "first"),
        "post_processor": None,
        "decoder": decoder(model.dummy_prefix or model.trims_spaces),
        "model": core | {"byte_fallback": model.byte_fallback},
    }


def entry(id: int, content: str, special: bool, normalized: bool = False) -> dict[str, Any]:
    """An added token of a tokenizer.json."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": normalized, "special": special}
    return {"id": id, "content": content, **flags}


def decoder(starts_with_space: bool) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [replace(MARK, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    if starts_with_space:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def replace(old: str, new: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: old}, "content": new}


def _normalisers(model: SentencePieceModel, prefix: str) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    first = model.dummy_prefix and prefix == "first"
    if model.table:
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.table).decode()})
    if model.trims_spaces:
        steps += [replace(rf"[ {MARK}]+\z", "", "Regex"), replace(" {2,}", " ", "Regex")]
        if not first:
            steps.append(replace(r"\A ", "", "Regex"))
    if not (first and model.trims_spaces):
        steps.append(replace(" ", MARK))
    if model.dummy_prefix and not first:
        steps.append({"type": "Prepend", "prepend": MARK})
    return steps


def _splitting(model: SentencePieceModel, first: bool) -> dict[str, Any] | None:
    """What happens between normalising and looking for pieces: `▁` in front of the `first` stretch, and a Unigram model's words.

    Metaspace leaves out its mark where the text begins with one. Its mark is a space here, so that a `▁` that someone wrote does not count:
    where spaces are trimmed, a leading one is still there and stands for it; where they are not, they are `▁` by now.
    No piece goes on over the end of a word, so the likeliest way through a text is that through each of its words.
    """
    steps: list[dict[str, Any]] = []
    if first:
        step = {"type": "Metaspace", "split": False}
        steps += [step | {"replacement": " ", "prepend_scheme": "first"}, step | {"replacement": MARK, "prepend_scheme": "never"}]
    usable = [piece for piece, _, kind in model.pieces if kind in (NORMAL, USER)]
    if not model.bpe and MARK in usable and all(MARK not in piece.lstrip(MARK) for piece in usable):
        word = {"Regex": f"{MARK}*[^{MARK}]+|{MARK}+"}
        steps.append({"type": "Split", "pattern": word, "behavior": "Isolated", "invert": False})
    return {"type": "Sequence", "pretokenizers": steps} if steps else None


def _whole(model: SentencePieceModel, piece: str, prefix: str) -> bool:
    """May a user's symbol be looked for in the normalised text? Then the text is normalised as a whole, not around each symbol."""
    trimmed = model.trims_spaces and piece.strip(MARK) != piece
    return not (model.dummy_prefix and prefix == "every") and not trimmed and not _changed(model, piece)


def _changed(model: SentencePieceModel, piece: str) -> bool:
    """Does the table rewrite this piece? SentencePiece takes a user's symbols out before it normalises."""
    if not model.table:
        return False
    from tokenizers import normalizers

    from .library import library_errors

    with library_errors(f"opening {model.origin}"):
        rewritten: str = normalizers.Precompiled(model.table).normalize_str(piece)
    return rewritten != piece


def _merges(model: SentencePieceModel) -> list[list[str]]:
    """Every pair of pieces that makes a piece, by falling score; of two ways to make one, the longer left part first."""
    scores = {piece: score for piece, score, kind in model.pieces if kind in (NORMAL, USER)}
    found = [
        (-score, -cut, piece)
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    return [[piece[:-cut], piece[-cut:]] for _, cut, piece in sorted(found)]
