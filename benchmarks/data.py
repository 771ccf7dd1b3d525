"""The way from files to batches: reading, shards, the loader beside a training step, and what `boundaries` costs.

Text: the standard library's own source, so every machine has it. The model is of the quickstart's size (width 128, 4 layers, context 256),
rows of real text, bf16 where the machine does it well, no dropout; `attend` and `mask` read the same rows.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable

import torch

from benchmarks.paired import interleaved, table
from quire import machine
from quire.data import shards
from quire.data.batches import Loader
from quire.data.shards import Shard
from quire.data.sources import Tally, read
from quire.nn.config import FFN, Attn, Layer, ModelConfig, Norm, Rope, Stack
from quire.nn.init import initialise
from quire.nn.transformer import Transformer
from quire.tasks.causal import Causal
from quire.tasks.denoise import Denoise
from quire.tasks.masked import Masked
from quire.tasks.task import Task
from quire.text.tokenizer import Tokenizer
from quire.text.training import train

VOCAB, WIDTH, LAYERS, CONTEXT, ROWS = 2048, 128, 4, 256, 32
SOME = 300  # documents


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def decoder() -> Transformer:
    layer = Layer(Attn(4, 4, WIDTH // 4, rope=Rope()), FFN(352, "silu", gated=True), Norm("rms", 1e-5))
    model = Transformer(ModelConfig(WIDTH, VOCAB, CONTEXT, decoder=Stack((layer,) * LAYERS, final_norm=Norm("rms", 1e-5))))
    initialise(model, torch.Generator().manual_seed(0))
    return model


def step(model: Transformer, task: Task, loader: Loader, autocast: bool) -> None:
    batch = loader.next()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ((loss, weight),) = task.terms(model, batch).values()
    (loss / weight).backward()
    model.zero_grad(set_to_none=True)


def boundaries(shard: Shard, tokenizer: Tokenizer) -> None:
    model, autocast = decoder(), machine.good_dtype(torch.device("cpu")) == "bf16"
    ways = {}
    for kind in ("attend", "mask"):
        task = Causal(tokenizer, CONTEXT, kind)
        loader = Loader([shard], None, task, ROWS, CONTEXT, 0)
        ways[kind] = lambda task=task, loader=loader: step(model, task, loader, autocast)  # type: ignore[misc]
    print(f"a training step of {ROWS} x {CONTEXT}, width {WIDTH}, {LAYERS} layers, {'bf16' if autocast else 'fp32'}")
    print(table(interleaved(ways, rounds=11)))


def main() -> None:
    torch.set_num_threads(machine.threads())
    print(f"{machine.processor()}, {machine.threads()} threads, torch {torch.__version__}")
    tally = Tally()
    taken = seconds(lambda: [None for _ in read(["stdlib"], tally=tally)])
    print(
        f"reading {tally.documents:,} documents of the standard library, {tally.bytes / 1e6:.1f} MB: {tally.bytes / 1e6 / taken:.0f} MB/s"
    )
    documents = [one for one in read(["stdlib"]) if one.size < 50_000][:SOME]
    for name, make in (("causal", Causal), ("masked", Masked), ("denoise", Denoise)):
        tokenizer = train("bpe", [one.text for one in documents], VOCAB, special=name)
        task: Task = make(tokenizer, CONTEXT)
        with tempfile.TemporaryDirectory() as folder:
            size = sum(one.size for one in documents)
            taken = seconds(lambda: shards.build(folder, documents, tokenizer, task.separator))  # noqa: B023
            shard = Shard.open(folder, "train")
            loader = Loader([shard], None, task, ROWS, CONTEXT, 0)
            batch = statistics.median(seconds(loader.next) for _ in range(50))
            print(
                f"{name:8} shards of {size / 1e6:.1f} MB of text: {size / 1e6 / taken:.1f} MB/s; "
                f"a batch of {ROWS} x {CONTEXT}: {batch * 1e3:.2f} ms"
            )
            if name == "causal":
                boundaries(shard, tokenizer)


if __name__ == "__main__":
    main()
