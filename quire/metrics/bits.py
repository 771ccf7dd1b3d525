"""Bits per byte: the loss of a language model in a unit that does not depend on its tokenizer.

A loss in nats a token cannot be compared between two vocabularies: longer tokens are harder. The same total, in bits, over the bytes of
the text, can; it is also the size, in bits a byte, to which an arithmetic coder driven by the model would compress that text, so it stands
on one scale with gzip and xz (Delétang et al. 2023, "Language Modeling Is Compression").
"""

from __future__ import annotations

import math

NATS_PER_BIT = math.log(2)


def bits_per_byte(nats: float, text_bytes: int) -> float:
    """Bits a byte of text whose tokens cost `nats` (a sum of natural-log losses) altogether. Raises ValueError for a text without bytes."""
    if text_bytes <= 0:
        raise ValueError(f"bits per byte of a text of {text_bytes} bytes is not defined; give a text that is not empty")
    return nats / NATS_PER_BIT / text_bytes


def uniform_bits_per_byte(vocabulary: int, bytes_per_token: float) -> float:
    """What a model that knows nothing but its vocabulary needs: log2(V) bits a token. The place where a loss curve begins."""
    if vocabulary < 1 or bytes_per_token <= 0:
        raise ValueError(f"a vocabulary of {vocabulary} at {bytes_per_token} bytes a token is not possible; both must be above 0")
    return math.log2(vocabulary) / bytes_per_token


def perplexity(nats_per_token: float) -> float:
    """exp(loss): between how many equally likely tokens the model hesitates, on average. Infinite where that overflows."""
    return math.exp(nats_per_token) if nats_per_token < 700 else math.inf
