"""Small tokenizers, a little real text and the smallest model of each kind, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from quire.data import shards
from quire.data.shards import Shard
from quire.data.sources import Document, read
from quire.nn.config import FFN, Attn, Layer, LMHead, MLMHead, ModelConfig, Norm, Relative, Rope, Stack
from quire.nn.init import initialise
from quire.nn.transformer import Transformer
from quire.text.tokenizer import Tokenizer
from quire.text.training import train

VOCAB, WIDTH, CONTEXT = 512, 32, 32


def small_model(kind: str, vocab: int = VOCAB, layers: int = 2) -> Transformer:
    """Two layers of width 32: a LLaMA, a BERT or a T5."""
    attn = Attn(4, 4, 8)
    if kind == "decoder":
        layer = Layer(Attn(4, 2, 8, rope=Rope()), FFN(64, "silu", gated=True), Norm("rms", 1e-5))
        config = ModelConfig(WIDTH, vocab, 64, decoder=Stack((layer,) * layers, final_norm=Norm("rms", 1e-5)))
    elif kind == "encoder":
        both = Attn(4, 4, 8, bias=True, out_bias=True, causal=False)
        layer = Layer(both, FFN(64, "gelu", bias=True), Norm("layer", 1e-12), wiring="post")
        stack = Stack((layer,) * layers, positions=64, types=2, embed_norm=Norm("layer", 1e-12))
        config = ModelConfig(WIDTH, vocab, 64, encoder=stack, head=MLMHead(), init="bert")
    else:
        there, here = Attn(4, 4, 8, causal=False, scale=1.0), Attn(4, 4, 8, scale=1.0)
        norm, ffn = Norm("rms", 1e-6), FFN(64, "relu")
        config = ModelConfig(
            WIDTH,
            vocab,
            64,
            encoder=Stack((Layer(there, ffn, norm),) * layers, final_norm=norm, relative=Relative()),
            decoder=Stack((Layer(here, ffn, norm, cross=there),) * layers, final_norm=norm, relative=Relative()),
            head=LMHead(tied=True, scale=WIDTH**-0.5),
            init="t5",
            init_std=1.0,
        )
    del attn
    model = Transformer(config)
    initialise(model, torch.Generator().manual_seed(0))
    return model


@pytest.fixture(scope="session")
def documents() -> list[Document]:
    """About 130 kB of real text: the standard library's json, email.mime and logging packages among others."""
    found = [
        one
        for one in read(["stdlib"])
        if one.name.startswith(("stdlib/json/", "stdlib/wsgiref/", "stdlib/urllib/robot", "stdlib/zoneinfo/"))
    ]
    return [one for one in found if one.size < 30_000]


@pytest.fixture(scope="session")
def tokenizers(documents: list[Document]) -> dict[str, Tokenizer]:
    """A byte-level vocabulary for each task."""
    return {task: train("bpe", [one.text for one in documents], VOCAB, special=task) for task in ("causal", "masked", "denoise")}


@pytest.fixture(scope="session")
def shard_of(documents: list[Document], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Tokenizer, int], Shard]:
    made: dict[str, Shard] = {}

    def make(tokenizer: Tokenizer, separator: int) -> Shard:
        if tokenizer.hash not in made:
            folder: Path = tmp_path_factory.mktemp("shard")
            made[tokenizer.hash] = shards.write(folder, "all", documents, tokenizer, separator)
        return made[tokenizer.hash]

    return make
