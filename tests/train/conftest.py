"""A tiny real run: a few pages of text, a decoder of width 32 with 2 layers, everything through the public way."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from quire import recipe as recipes
from quire.train.recipe import DataPart, LogPart, ModelPart, OptimPart, TaskPart, TokenizerPart, TrainPart, TrainRecipe

_WORDS = "def return import class self value name for in if else not None True list dict print open read write parse lines".split()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 short files that look like code: about 60 kB."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(0)
    for i in range(40):
        for j in range(15):
            with (folder / f"f{i}.py").open("a") as file:
                file.write(f"def f{i}_{j}({draw.choice(_WORDS)}_{draw.randrange(9)}):\n    {' '.join(draw.choices(_WORDS, k=14))}\n")
    return folder


@pytest.fixture
def tiny(corpus: Path, tmp_path: Path) -> Callable[..., TrainRecipe]:
    """A recipe of 8 steps; dotted keys change it: tiny(**{"train.steps": 3})."""

    def make(**changes: Any) -> TrainRecipe:
        recipe = TrainRecipe(
            out=str(tmp_path / "run"),
            model=ModelPart(width=32, layers=2, heads=2, context=32),
            tokenizer=TokenizerPart(vocab=300),
            data=DataPart(sources=(str(corpus),), held_out=0.1),
            task=TaskPart(),
            optim=OptimPart(warmup=0.25),
            train=TrainPart(steps=8, batch=4, dtype="fp32", threads=1, compile="off", eval_every=4, save_every=2, eval_tokens=500),
            log=LogPart(sample_tokens=4, samples=1),
        )
        for key, value in changes.items():
            recipe = recipes.replace(recipe, key, value)
        return recipe

    return make


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
