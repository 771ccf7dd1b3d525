"""How often an answer differs because of its neighbours: the engine with all requests at once, beside `exact=True` with each alone.

    python -m benchmarks.neighbours                 a llama shape of 23 million random weights
    python -m benchmarks.neighbours --model FOLDER  a model of yours

Greedy answers to prompts of mixed lengths; what is counted is how many have the same ids to the end.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

import quire
from benchmarks.engine import Loaded, folder
from quire import machine
from quire.engine.engine import Engine
from quire.families import ModelFolder
from quire.native import available
from quire.native.linears import pack_model
from quire.nn.config import Sizes
from quire.nn.transformer import Transformer

SIZES = Sizes(vocab=8192, width=512, layers=6, heads=8, kv_heads=4, hidden=1536, context=512)
WAYS = {"fp32": (torch.float32, None), "bf16": (torch.bfloat16, None), "int8 on bf16": (torch.bfloat16, "int8")}
WAYS |= {"int4 on fp32": (torch.float32, "int4")}


def opened(path: Path, dtype: torch.dtype, quant: Any) -> Transformer:
    model = ModelFolder.open(path).build(dtype)
    if quant is not None:
        pack_model(model, quant)
    return model.eval()


def prompts(count: int, vocab: int, longest: int) -> list[list[int]]:
    draw = torch.Generator().manual_seed(0)
    sizes = torch.randint(2, longest, (count,), generator=draw).tolist()
    return [torch.randint(3, vocab, (size,), generator=draw).tolist() for size in sizes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=24)
    asked, _ = parser.parse_known_args()
    torch.set_num_threads(machine.threads())
    print(f"{machine.processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, kernels: {available()}")
    with tempfile.TemporaryDirectory() as place:
        path = asked.model or folder(Path(place) / "model", SIZES)
        for name, (dtype, quant) in WAYS.items():
            model = opened(path, dtype, quant)
            how = quire.Sampling(max_tokens=asked.tokens, temperature=0.0)
            given = prompts(asked.requests, model.config.vocab, 40)
            together = Engine(Loaded(model), share=False, memory=64 << 20).generate(given, how)
            exact = Engine(Loaded(model), share=False, memory=64 << 20, exact=True)
            alone = [exact.generate([prompt], how)[0] for prompt in given]
            same = sum(one.ids == other.ids for one, other in zip(together, alone, strict=True))
            print(f"{name}: {same} of {len(given)} answers have the ids that they have alone", flush=True)


if __name__ == "__main__":
    main()
