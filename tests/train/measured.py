"""The planned and the real peak memory of a few shapes, as JSON: [[planned MB, real MB], ...]. `test_plan.py` starts it.

Each shape trains two steps in a fork of this process, which itself computes nothing.
"""

from __future__ import annotations

import json
import os
import traceback
from pathlib import Path

from quire import machine
from quire.families import family_for
from quire.train.dry import timed_trainer
from quire.train.parallel import compute
from quire.train.plan import Setting, estimate_memory, loss_chunk, program_memory
from quire.train.prepare import new_config
from quire.train.recipe import ModelPart, OptimPart, TrainPart, TrainRecipe

LLAMA = ModelPart(width=256, layers=4, context=256)
SHAPES: list[tuple[int, TrainRecipe]] = [
    (2048, TrainRecipe(model=LLAMA, train=TrainPart(batch=8, dtype="fp32", threads=1))),
    (2048, TrainRecipe(model=LLAMA, train=TrainPart(batch=8, micro_batch=4, dtype="bf16", threads=1), optim=OptimPart(name="muon"))),
    (50257, TrainRecipe(model=ModelPart(width=128, layers=2, context=128), train=TrainPart(batch=8, dtype="fp32", threads=1))),
]


def measure(vocab: int, recipe: TrainRecipe) -> tuple[int, int]:
    stock = new_config(recipe, vocab)
    config, settings = family_for(stock).build(stock), compute(recipe.train)
    setting = Setting(settings, loss_chunk(recipe, vocab, recipe.model.context), program_memory(settings), recipe.model.context)
    trainer = timed_trainer(recipe, config, setting)
    planned = estimate_memory(trainer.model, recipe, setting)["total"]
    for _ in range(2):
        trainer.learn(trainer.loader.next(), share=1.0)
    return planned, machine.peak_memory() // 2**20


def in_fork(vocab: int, recipe: TrainRecipe) -> tuple[int, int]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(writer, json.dumps(measure(vocab, recipe)).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    os.waitpid(child, 0)
    with Path(f"/dev/fd/{reader}").open("rb") as file:
        planned, real = json.loads(file.read())
    return planned, real


if __name__ == "__main__":
    print(json.dumps([in_fork(vocab, recipe) for vocab, recipe in SHAPES]))
