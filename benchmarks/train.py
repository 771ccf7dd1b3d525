"""Training steps a second and peak memory: Quire's Trainer beside a bare torch loop and transformers' Trainer.

    python -m benchmarks.train                      the 10.7M-parameter character GPT: 32 rows of 256 tokens
    python -m benchmarks.train --size 124m          GPT-2's shape: 8 rows of 512 tokens
    python -m benchmarks.train --peers bare trainer-bf16 --rounds 9 --no-memory

Equal work: the same architecture (GPT-2's, tied), the same random rows in the same order, no dropout, AdamW in torch's fused kernel, the
gradient norm clipped at 1, the same threads. Each side is a process of its own that takes one step when it is told to, in turns, so what
else the machine does falls on all alike; ratios are of neighbouring steps. Peak memory is of a process alone: the largest proportional set
size (file pages counted) over two steps. Quire writes its metrics line each step, as in any run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paired import Timing, interleaved
from quire import machine

ROOT = Path(__file__).resolve().parent.parent
OURS, PEERS = "quire", ("bare", "bare-compiled", "trainer-bf16", "trainer-fp32")
SAYS = {
    "quire": "Quire, bf16",
    "quire-compiled": "Quire, bf16, layers compiled",
    "bare": "bare torch loop, bf16",
    "bare-compiled": "bare torch loop, bf16, compiled",
    "trainer-bf16": "transformers Trainer, bf16",
    "trainer-fp32": "transformers Trainer, fp32 (its documentation's settings)",
}


@dataclass(frozen=True)
class Shape:
    vocab: int
    positions: int
    width: int
    layers: int
    heads: int
    rows: int
    length: int

    def batch(self, step: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The rows of a step (rows, length + 1), the same for every side."""
        return np.random.default_rng([7, step]).integers(self.vocab, size=(self.rows, self.length + 1))


SHAPES = {
    "10m": Shape(65, 256, 384, 6, 6, 32, 256),
    "124m": Shape(50257, 1024, 768, 12, 12, 8, 512),
    "tiny": Shape(65, 64, 64, 2, 2, 4, 64),
}


# -- the sides: each yields after a step, with its loss ------------------------------------------------------------------------------


def quire(shape: Shape, compiled: bool) -> Iterator[float]:
    import torch

    from quire.families import FAMILIES
    from quire.nn.batch import Batch
    from quire.nn.config import Sizes
    from quire.nn.init import initialise
    from quire.nn.transformer import Transformer
    from quire.train.dry import PlainLoss
    from quire.train.folder import RunFolder
    from quire.train.meters import Meters
    from quire.train.parallel import compile_layers, compute
    from quire.train.plan import loss_chunk
    from quire.train.recipe import ModelPart, TrainPart, TrainRecipe
    from quire.train.trainer import Trainer

    class Rows:
        tokens_per_step, step = shape.rows * shape.length, 0

        def next(self) -> Batch:
            rows = torch.from_numpy(shape.batch(self.step))
            self.step += 1
            return Batch(rows[:, :-1], {"tokens": rows[:, 1:]})

        def state(self) -> dict[str, Any]:
            return {}

        def load_state(self, state: dict[str, Any]) -> None:
            pass

    sizes = Sizes(shape.vocab, shape.width, shape.layers, shape.heads, context=shape.positions)
    model = Transformer(FAMILIES["gpt2"].build(FAMILIES["gpt2"].new(sizes)))
    initialise(model, torch.Generator().manual_seed(0))
    part = TrainPart(steps=1000, batch=shape.rows, dtype="bf16", threads=machine.threads())
    recipe = TrainRecipe(model=ModelPart(context=shape.length), train=part)
    if compiled:
        compile_layers(model)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        task: Any = PlainLoss()
        chunk = loss_chunk(recipe, shape.vocab)
        trainer = Trainer(RunFolder(folder), recipe, model, task, Rows(), compute(part), Meters(folder), None, chunk)
        while True:
            row = trainer.learn(trainer.loader.next())
            trainer.on_step(row)
            yield row["loss"]


def bare(shape: Shape, compiled: bool) -> Iterator[float]:
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            width = shape.width
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Tensor) -> Tensor:
            rows, length, width = x.shape
            q, k, v = self.qkv(self.norm1(x)).view(rows, length, 3, shape.heads, -1).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(rows, length, width))
            return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.positions = nn.Embedding(shape.vocab, shape.width), nn.Embedding(shape.positions, shape.width)
            self.blocks, self.norm = nn.ModuleList(Block() for _ in range(shape.layers)), nn.LayerNorm(shape.width)
            for parameter in self.parameters():
                if parameter.ndim > 1:
                    nn.init.normal_(parameter, std=0.02)

        def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
            x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
            for block in self.blocks:
                x = block(x)
            logits = F.linear(self.norm(x), self.tokens.weight)
            return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())

    torch.manual_seed(0)
    torch.set_num_threads(machine.threads())
    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
    forward = torch.compile(model) if compiled else model
    step = 0
    while True:
        rows = torch.from_numpy(shape.batch(step))
        with torch.autocast("cpu", torch.bfloat16):
            loss = forward(rows[:, :-1], rows[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        yield loss.item()


def transformers_trainer(shape: Shape, bf16: bool, turn: Callable[[], None], done: Callable[[float], None]) -> None:
    """The Trainer owns its loop, so it is stopped and let go on from inside: `turn` waits before each step, `done` comes after it."""
    import torch
    import transformers

    torch.set_num_threads(machine.threads())
    transformers.logging.set_verbosity_error()
    config = transformers.GPT2Config(
        vocab_size=shape.vocab,
        n_positions=shape.positions,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )

    class Rows(torch.utils.data.Dataset[dict[str, Any]]):
        def __len__(self) -> int:
            return 1000 * shape.rows

        def __getitem__(self, number: int) -> dict[str, Any]:
            row = torch.from_numpy(shape.batch(number // shape.rows)[number % shape.rows, :-1])
            return {"input_ids": row, "labels": row}

    class Gate(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turn()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            done(0.0)

    with tempfile.TemporaryDirectory() as place:
        arguments = transformers.TrainingArguments(
            place,
            per_device_train_batch_size=shape.rows,
            max_steps=1000,
            bf16=bf16,
            use_cpu=True,
            train_sampling_strategy="sequential",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        model = transformers.GPT2LMHeadModel(config)
        transformers.Trainer(model=model, args=arguments, train_dataset=Rows(), callbacks=[Gate()]).train()


def work(name: str, shape: Shape) -> None:
    """A side's process: one step for each line on standard input, its loss as an answer."""

    def turn() -> None:
        if not sys.stdin.readline():
            os._exit(0)

    def done(loss: float) -> None:
        print(f"loss {loss}", flush=True)

    if name.startswith("trainer"):
        transformers_trainer(shape, name == "trainer-bf16", turn, done)
    side = quire(shape, name == "quire-compiled") if name.startswith("quire") else bare(shape, name == "bare-compiled")
    while True:
        turn()
        done(next(side))


# -- the referee ---------------------------------------------------------------------------------------------------------------------


class Side:
    """A running process of one side."""

    def __init__(self, name: str, size: str) -> None:
        command = [sys.executable, "-m", "benchmarks.train", "--side", name, "--size", size]
        environment = {**os.environ, "OMP_NUM_THREADS": str(machine.threads()), "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def step(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        while not (line := self.process.stdout.readline()).startswith("loss"):
            if not line:
                raise RuntimeError(f"a side ended with {self.process.wait()}; what it said stands above")

    def memory(self) -> int:
        """Proportional set size in bytes: private pages, and its part of the shared ones, those of files included."""
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
        return 0

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def speed(names: list[str], size: str, rounds: int, warm: int) -> dict[str, Timing]:
    sides = {name: Side(name, size) for name in names}
    try:
        return interleaved({name: side.step for name, side in sides.items()}, rounds, warm)
    finally:
        for side in sides.values():
            side.close()


def peak(name: str, size: str) -> int:
    side, found, ended = Side(name, size), 0, threading.Event()

    def watch() -> None:
        nonlocal found
        while not ended.wait(0.05):
            found = max(found, side.memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        side.step()
        side.step()
    finally:
        ended.set()
        watcher.join()
        side.close()
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SHAPES), default="10m")
    parser.add_argument("--peers", nargs="*", choices=["quire-compiled", *PEERS], default=["bare", "trainer-bf16", "trainer-fp32"])
    parser.add_argument("--rounds", type=int, default=7, help="pairs of steps, at least 7")
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--apart", action="store_true", help="each peer in a sitting of its own: less memory at once (always so for 124m)")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path, help="append the figures to this file, a line each")
    parser.add_argument("--side", choices=[OURS, "quire-compiled", *PEERS], help=argparse.SUPPRESS)
    options = parser.parse_args([] if arguments is None and __name__ != "__main__" else arguments)
    shape = SHAPES[options.size]
    if options.side:
        work(options.side, shape)
        return
    import torch

    date, tokens = datetime.date.today().isoformat(), shape.rows * shape.length
    print(f"{date}, {machine.processor()}, {', '.join(machine.instruction_sets())}, {machine.threads()} threads, torch {torch.__version__}")
    print(f"{options.size}: {shape.rows} rows of {shape.length} tokens, {options.rounds} rounds, medians; ratio: its seconds to Quire's")
    print(f"{'':58}{'tok/s':>8}{'s a step':>10}{'ratio':>7}   middle half")
    apart = options.apart or options.size == "124m"
    sittings = [[OURS, peer] for peer in options.peers] if apart else [[OURS, *options.peers]]
    for names in sittings:
        for name, timing in speed(names, options.size, options.rounds, options.warm).items():
            spread = "" if name == OURS else f"   {timing.low:.2f} to {timing.high:.2f}"
            print(f"{SAYS[name]:58}{tokens / timing.seconds:8.0f}{timing.seconds:10.3f}{timing.ratio:7.2f}{spread}", flush=True)
            figures = {"tok_s": tokens / timing.seconds, "ratio": timing.ratio}
            record(options.json, {"date": date, "size": options.size, "side": name, **figures})
    if options.no_memory:
        return
    ours = peak(OURS, options.size)
    print(f"\n{'peak memory (PSS)':58}{'MB':>8}{'Quire to it':>14}")
    for name in [OURS, *options.peers]:
        most = ours if name == OURS else peak(name, options.size)
        print(f"{SAYS[name]:58}{most / 2**20:8.0f}{ours / most:14.2f}", flush=True)
        record(options.json, {"date": date, "size": options.size, "side": name, "peak_mb": most / 2**20})
        time.sleep(0.5)


def record(path: Path | None, row: dict[str, Any]) -> None:
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**row, "machine": machine.processor(), "threads": machine.threads()}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
