"""Which tokens make one word, for each kind of tokenizer that there is."""

from __future__ import annotations

import numpy as np
import pytest

from quire.tasks.words import Words
from quire.text.training import KINDS, train


def words_of(kind: str, text: str) -> list[str]:
    texts = [text] * 3 + ["a few more words, with letters: abcdefghijklmnopqrstuvwxyz 0123456789 (and so on)"]
    tokenizer = train(kind, texts, 300 if kind == "bpe" else 130, special="masked")  # type: ignore[arg-type]
    ids = np.array([tokenizer.encode(text)])
    starts = np.flatnonzero(Words(tokenizer).starts(ids)[0]).tolist()
    found = [tokenizer.decode(ids[0, begin:end].tolist()) for begin, end in zip(starts, [*starts[1:], ids.shape[1]], strict=True)]
    return [word.strip() for word in found if word.strip()]


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_found_by_every_kind(kind: str) -> None:
    found = words_of(kind, "follow the words (or some of them), naïve 42 snake_case")
    assert "follow" in found and "the" in found and "some" in found and "42" in found and "naïve" in found
    assert all(" " not in word for word in found)


def test_a_word_of_bytes_is_one_word() -> None:
    assert words_of("bpe", "größer 日本 end")[-1] == "end" and "größer" in words_of("bpe", "größer 日本 end")


def test_special_tokens_stand_alone(tokenizers) -> None:  # type: ignore[no-untyped-def]
    tokenizer = tokenizers["masked"]
    a = tokenizer.encode("a")[0]
    starts = Words(tokenizer).starts(np.array([[tokenizer.cls, a, a, tokenizer.mask, a, tokenizer.sep]]))
    assert starts.tolist() == [[True, True, False, True, True, True]]
    assert set(Words(tokenizer).ordinary) == set(range(tokenizer.vocab_size)) - {
        tokenizer.cls,
        tokenizer.sep,
        tokenizer.mask,
        tokenizer.pad,
    }
