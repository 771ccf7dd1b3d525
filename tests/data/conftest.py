"""A small tokenizer and a small corpus that the tests of this folder share."""

from __future__ import annotations

import random

import pytest

from quire.data.sources import Document, document
from quire.text.tokenizer import Tokenizer
from quire.text.training import train

WORDS = "the quick brown fox jumps over a lazy dog while ünïcode words and numbers 123 follow each other in lines of text".split()


def some_documents(count: int, seed: int = 0, source: str = "memory", weight: float = 1.0) -> list[Document]:
    draw = random.Random(seed)
    texts = (" ".join(draw.choices(WORDS, k=draw.randrange(3, 60))) + f" {seed}.{i}\n" for i in range(count))
    return [document(text, f"{source}/{i}.txt", "txt", source, weight) for i, text in enumerate(texts)]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train("bpe", [one.text for one in some_documents(100)], 320)
