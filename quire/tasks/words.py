"""Which tokens belong to one word, by the tokenizer's own spelling: two tables over the vocabulary, so a batch is one lookup.

A word piece that begins with '##' joins what is before it. Elsewhere two neighbours are one word when the first ends in a letter or digit
and the second begins with one: a space (or the '▁' and 'Ġ' that stand for it) at the beginning of a token opens a word, and so does
punctuation. Bytes of unfinished characters count as letters. Where a vocabulary is one of words, each is one.
"""

from __future__ import annotations

import numpy as np

from ..text.tokenizer import Tokenizer
from .task import Array


class Words:
    def __init__(self, tokenizer: Tokenizer) -> None:
        size = tokenizer.vocab_size
        self.special = np.ones(size, dtype=bool)  # ids that no text can become, holes in the numbering included
        self.joins_left = np.zeros(size, dtype=bool)  # joins the token before it, if that one lets it
        self.joins_right = np.zeros(size, dtype=bool)
        wordpiece = tokenizer.definition.kind == "WordPiece"
        apart = tokenizer.definition.raw.get("decoder") is None  # tokens come back with spaces between them: every one is a word
        for id, spelling in tokenizer.definition.spellings.items():
            if tokenizer.is_special(id) and id != tokenizer.unk:
                continue
            self.special[id] = False
            if wordpiece:
                self.joins_left[id], self.joins_right[id] = spelling.startswith("##"), True
            elif not apart and (data := tokenizer.token_bytes(id)):
                self.joins_left[id], self.joins_right[id] = _letter(data[:4], 0), _letter(data[-4:], -1)
        self.ordinary = np.flatnonzero(~self.special)

    def starts(self, tokens: Array) -> Array:
        """tokens (B, T) -> bool (B, T): does a word begin here? Special tokens are words of their own."""
        starts = np.ones(tokens.shape, dtype=bool)
        starts[:, 1:] = ~(self.joins_left[tokens[:, 1:]] & self.joins_right[tokens[:, :-1]])
        return starts


def _letter(data: bytes, end: int) -> bool:
    """Is the first (0) or last (-1) character of these bytes a letter, a digit, an underscore, or part of a character?"""
    text = data.decode("utf-8", "replace")[end]
    return text == "\ufffd" or text == "_" or text.isalnum()
