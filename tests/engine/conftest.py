"""A small random decoder with a real tokenizer, opened as a user would, and engines over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from quire.binding import Contract
from quire.engine.engine import Engine
from quire.families import FAMILIES
from quire.nn.transformer import Transformer
from quire.text.tokenizer import Tokenizer
from quire.text.training import train
from quire.types import Sampling


@dataclass
class Small:
    """What an engine needs of an opened model."""

    model: Transformer
    contract: Contract
    identity: str = "small"
    defaults: Sampling = field(default_factory=Sampling)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train("bpe", ["def parse(text):\n    return text.split()\n" * 4, "Ein Satz mit Wörtern, 12 Zahlen und ✓."], 300)


def random_model(name: str, vocab: int, scale: float = 0.3, **changes: Any) -> Transformer:
    family = FAMILIES[name]
    model = Transformer(family.build(family.tiny | {"vocab_size": vocab} | changes)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


@pytest.fixture(scope="session")
def small(tokenizer: Tokenizer) -> Small:
    return Small(random_model("llama", tokenizer.vocab_size, max_position_embeddings=256), Contract(tokenizer))


@pytest.fixture
def engine(small: Small) -> Callable[..., Engine]:
    """An engine over `blocks` blocks of memory."""

    def make(blocks: int = 64, **options: Any) -> Engine:
        bytes_of_one = 16 * small.model.config.cache_bytes_per_token(4)
        return Engine(small, memory=blocks * bytes_of_one, **options)

    return make
