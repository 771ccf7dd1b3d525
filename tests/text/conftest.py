"""Small tokenizers of every kind, trained once on a little of everything."""

from __future__ import annotations

import inspect
import json
import textwrap
from pathlib import Path

import pytest

from quire.text.tokenizer import Tokenizer
from quire.text.training import KINDS, SpecialTokens, train

PROSE = (
    "The quick brown fox jumps over the lazy dog. It's a fine day; we'll see what they've done, she said.\n"
    "Größe, naïve, façade: Ελληνικά γράμματα, Привет мир, שלום עולם, العربية, हिन्दी, 中文字符和日本語テキスト, 한국어.\n"
    "👋🏽 👩‍👩‍👧‍👦 🇩🇪 ❤️ 1234567890 3.14159 ½ ² x=1; y += 2\t# done\r\n\n\n"
)


def corpus() -> list[str]:
    """About 150 kB: source code that every Python has, and prose in many scripts."""
    return [*(inspect.getsource(module) for module in (json, textwrap, inspect)), PROSE * 20]


TASKS = {"bpe": "causal", "wordpiece": "masked", "unigram": "denoise", "word": "masked", "char": "causal"}

CHAT = SpecialTokens(
    {"bos": "<|begin_of_text|>", "eos": "<|eot_id|>", "pad": "<pad>"},
    (
        *("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
        *("</s>", "[INST]", "[/INST]", "<s>"),
    ),
)


@pytest.fixture(scope="session")
def trained() -> dict[str, Tokenizer]:
    """One tokenizer of each kind, 1,100 tokens at most."""
    texts = corpus()
    return {kind: train(kind, texts, 1100, special=TASKS[kind]) for kind in KINDS}


@pytest.fixture(scope="session")
def bpe(trained: dict[str, Tokenizer]) -> Tokenizer:
    return trained["bpe"]


@pytest.fixture(scope="session")
def chat_tokenizer() -> Tokenizer:
    """Byte-level BPE with the special tokens of several families of templates."""
    return train("bpe", corpus(), 800, special=CHAT)


@pytest.fixture(scope="session")
def gpt2(data_folder: Path) -> Tokenizer:
    return Tokenizer.open(data_folder / "tokenizers" / "gpt2")


@pytest.fixture(scope="session")
def neox(data_folder: Path) -> Tokenizer:
    return Tokenizer.open(data_folder / "tokenizers" / "gpt-neox" / "20B_tokenizer.json")
