"""Byte-level BPE through tiktoken (extra `fast`), several times faster, only where its ids are proven equal to the library's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tokenizer import Tokenizer


class Fast:
    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        raise NotImplementedError


def prepare(tokenizer: Tokenizer) -> tuple[Fast | None, str]:
    return None, "not built yet"
