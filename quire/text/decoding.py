"""Ids back to text: the bytes of each token, and a stream that never shows half a character.

Every decoder that we know joins tokens from left to right, and what a token adds depends on nothing but itself and on whether it is the
first. So decoding is: the bytes of each token, one after another, read as UTF-8 where bytes that can no longer become a character turn into
U+FFFD (as the Unicode standard recommends: one for each maximal part). A stream and a whole decode are then the same by construction.
A decoder that we do not know is left to the `tokenizers` library; its stream gives the text at the end.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from .definition import Definition

Piece = Callable[[str, bool], bytes]  # (token, is it the first?) -> what it adds to the text


@cache
def byte_characters() -> dict[str, int]:
    """GPT-2's table: the 256 bytes as printable characters (Radford et al. 2019, `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    table.update({chr(0x100 + offset): byte for offset, byte in enumerate(others)})
    return table


def byte_level(token: str) -> bytes | None:
    """The bytes that a token of a byte-level vocabulary stands for; None when it holds a character outside the table."""
    table = byte_characters()
    try:
        return bytes(table[character] for character in token)
    except KeyError:
        return None


def _byte_level_piece(token: str, first: bool) -> bytes:
    found = byte_level(token)
    return token.encode("utf-8", "replace") if found is None else found


def _fallback_byte(token: str) -> bytes | None:
    """<0x0A> -> one byte: how vocabularies with byte fallback write what has no piece."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            return None
    return None


_CLEAN = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


def _word_piece(prefix: str, cleanup: bool) -> Piece:
    def piece(token: str, first: bool) -> bytes:
        if not first:
            token = token[len(prefix) :] if token.startswith(prefix) else f" {token}"
        if cleanup:
            for wide, narrow in _CLEAN:
                token = token.replace(wide, narrow)
        return token.encode("utf-8", "replace")

    return piece


def _steps(decoder: dict[str, Any]) -> Piece | None:
    """A sequence of steps, each of which changes one token at a time; None when one of them does more than that."""
    listed = decoder.get("decoders") if decoder.get("type") == "Sequence" else [decoder]
    if not isinstance(listed, list) or not all(isinstance(step, dict) for step in listed):
        return None
    changes: list[Callable[[str, bool], str]] = []
    bytes_too = fused = False
    for step in listed:
        kind = step.get("type")
        if kind == "ByteFallback" and not fused:
            bytes_too = True
        elif kind == "Fuse":
            fused = True
        elif kind == "Metaspace" and not fused:
            changes.append(_metaspace(step.get("replacement", "▁"), step.get("prepend_scheme", "always") != "never"))
        elif kind == "Replace" and not fused and "String" in step.get("pattern", {}):
            changes.append(_replace(step["pattern"]["String"], step.get("content", "")))
        elif kind == "Strip" and step.get("stop") == 0 and step.get("start", 0) <= 1:
            changes.append(_strip_start(step.get("content", " "), step.get("start", 0), fused))
        else:
            return None

    def piece(token: str, first: bool) -> bytes:
        if bytes_too and (byte := _fallback_byte(token)) is not None:
            return byte
        for change in changes:
            token = change(token, first)
        return token.encode("utf-8", "replace")

    return piece


def _metaspace(mark: str, prepends: bool) -> Callable[[str, bool], str]:
    return lambda token, first: token.replace(mark, "" if first and prepends else " ")


def _replace(old: str, new: str) -> Callable[[str, bool], str]:
    return lambda token, first: token.replace(old, new) if old else token


def _strip_start(character: str, count: int, whole: bool) -> Callable[[str, bool], str]:
    """After `Fuse` the text is one token, so only its first characters are meant; before it, each token's."""
    return lambda token, first: token.removeprefix(character) if count and (first or not whole) else token


def piece_of(definition: Definition) -> Piece | None:
    """What one token adds to the text, or None when this tokenizer's decoder is not one that we can take apart."""
    decoder = definition.raw.get("decoder")
    if decoder is None:
        return lambda token, first: (token if first else f" {token}").encode("utf-8", "replace")
    if not isinstance(decoder, dict):
        return None
    kind = decoder.get("type")
    if kind == "Sequence" and isinstance(decoder.get("decoders"), list) and len(decoder["decoders"]) == 1:
        return piece_of(_with_decoder(definition, decoder["decoders"][0]))
    if kind == "ByteLevel":
        return _byte_level_piece
    if kind == "WordPiece":
        return _word_piece(str(decoder.get("prefix", "##")), bool(decoder.get("cleanup", True)))
    return _steps(decoder)


def _with_decoder(definition: Definition, decoder: dict[str, Any]) -> Definition:
    from dataclasses import replace

    return replace(definition, raw={**definition.raw, "decoder": decoder})


class StreamDecoder:
    """Text as its tokens arrive. `push` gives what is certain by now, `end` the rest; joined, they are `Tokenizer.decode` of all ids."""

    def __init__(self, pieces: Callable[[int, bool], bytes | None], whole: Callable[[list[int]], str] | None = None) -> None:
        self._pieces = pieces
        self._whole = whole
        self._ids: list[int] = []
        self._first = True
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def behind(self) -> None:
        """The text goes on with another one: a space before its first word is part of it."""
        self._first = False

    def push(self, id: int) -> str:
        if self._whole is not None:
            self._ids.append(id)
            return ""
        piece = self._pieces(id, self._first)
        if piece is None:  # a special token that is not shown
            return ""
        self._first = False
        return self._utf8.decode(piece)

    def end(self) -> str:
        """What was held back: bytes that never became a character. The decoder can be used for another text afterwards."""
        if self._whole is not None:
            ids, self._ids = self._ids, []
            return self._whole(ids)
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        self._first = True
        return rest


def join(pieces: Iterable[bytes]) -> str:
    return b"".join(pieces).decode("utf-8", "replace")
