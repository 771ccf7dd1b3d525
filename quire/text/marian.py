"""Marian's folder (Opus-MT): source.spm and target.spm cut text into pieces, one vocab.json gives the pieces of both their ids.

Both become Unigram models over all of vocab.json, each with its own scores; a piece that only the other side has gets a score that no other
way through a text is below. The reference looks a stretch of characters that this side does not know up as a whole: one such character may
be a piece of the other side, several are unknown (here a character that nobody has stands for them, before pieces are looked for).
The definition is the source's, and `Definition.target` the target's. Decoding needs neither: pieces are spelt as they are written.
A language code (`>>fra<<`) in front of a source text is a token of its own, as users write it there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ModelError
from . import sentencepiece
from .definition import read_json
from .sentencepiece import BYTE, NEVER, NORMAL, UNUSED, USER, entry

_FOREIGN = -1e3  # the score of one character of the other side: below this side's pieces, above longer pieces of the other's


def convert(vocabulary: Path, pieces: Path, unknown: str) -> dict[str, Any]:
    """The parts of a tokenizer.json for one of the two sides."""
    ids = read_json(vocabulary)
    if not isinstance(ids, dict) or not all(type(id) is int for id in ids.values()) or sorted(ids.values()) != list(range(len(ids))):
        raise ModelError(f"{vocabulary} must hold an object of token -> id, the ids from 0 to one less than there are tokens")
    if unknown not in ids:
        raise ModelError(f"{vocabulary} does not hold the unknown token {unknown!r}")
    model = sentencepiece.read(pieces)
    if model.bpe or model.byte_fallback or model.of_kind(USER, BYTE, UNUSED):
        raise ModelError(f"{pieces}: a Marian model's pieces come from a Unigram model without bytes, unused pieces or symbols of a user")
    scores = {piece: score for piece, score, kind in model.pieces if kind == NORMAL}
    raw = sentencepiece.convert(model, "every")
    known = {letter for piece in scores for letter in piece} | {" ", sentencepiece.MARK}
    nobody = next(chr(code) for code in range(0xE000, 0xF8FF) if not any(chr(code) in piece for piece in ids) and chr(code) not in known)
    steps = raw["normalizer"]["normalizers"]
    steps.insert(1 if model.table else 0, sentencepiece.replace(f"[^{_letters(known)}]{{2,}}", nobody, "Regex"))
    spelt = sorted(ids, key=ids.__getitem__)
    vocab = [[piece, scores.get(piece, _FOREIGN if len(piece) == 1 else NEVER)] for piece in spelt]
    codes = [entry(ids[piece], piece, special=False) for piece in spelt if piece.startswith(">>") and piece.endswith("<<")]
    return raw | {"added_tokens": codes, "model": {"type": "Unigram", "unk_id": ids[unknown], "vocab": vocab, "byte_fallback": False}}


def _letters(characters: set[str]) -> str:
    """The inside of a class of a regular expression."""
    ranges: list[list[int]] = []
    for code in sorted(map(ord, characters)):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(rf"\x{{{first:X}}}-\x{{{last:X}}}" for first, last in ranges)
