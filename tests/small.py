"""Tiny model folders of every family, whole as a run leaves them: weights, tokenizer, stop rule, binding."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from quire.binding import Binding, Contract
from quire.families import FAMILIES
from quire.families.folder import ModelFolder
from quire.nn.config import Sizes
from quire.nn.init import initialise
from quire.nn.transformer import Transformer
from quire.text.template import CHATML, Template
from quire.text.tokenizer import Tokenizer
from quire.text.training import train

TEXTS = ["def parse_line(line):\n    return line.split(',')\n", "The quick brown fox jumps over the lazy dog. " * 4, "für Größe, señor"] * 3
TASK = {"llama": "causal", "gpt2": "causal", "bert": "masked", "t5": "denoise"}


@cache
def tokenizer(task: str) -> Tokenizer:
    return train("bpe", TEXTS, 280 if task == "causal" else 400, special=task)


def write_model(
    folder: Path, family: str = "llama", *, template: bool = False, context: int = 64, lineage=None, bound: bool = True
) -> Path:
    """A model with weights far from their tidy first values, so that biases and norms count and logits are well apart."""
    words = tokenizer(TASK[family])
    sizes = Sizes(
        vocab=words.vocab_size,
        width=32,
        layers=2,
        heads=4,
        kv_heads=2 if family == "llama" else 0,
        context=context,
        bos=words.bos,
        eos=words.eos,
        pad=words.pad,
    )
    config = FAMILIES[family].new(sizes)
    model = Transformer(FAMILIES[family].build(config))
    draw = torch.Generator().manual_seed(11)
    initialise(model, draw)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=draw) * 0.2)
    ModelFolder.save(folder, model, config)
    chatml = Template(CHATML, words.special) if template else None
    Contract(words, chatml, decoder_start=words.pad if family == "t5" else None).save(folder)
    if bound:
        Binding.of(folder, lineage).write(folder)
    return folder
