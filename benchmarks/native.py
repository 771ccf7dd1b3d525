"""The native kernels beside a plain read of memory and torch's own product, and the fused decoding step at a 0.5B shape: tokens a second.

    python -m benchmarks.native                 kernels and step
    python -m benchmarks.native --peers         also transformers' generate (bf16, one and eight rows)

Every figure stands beside the read bandwidth of the same rounds: weights are larger than any cache, so one token costs at least one read
of them. Random weights; the step attends to 192 keys. Shapes are those of a 0.5B model with a vocabulary of 32,000.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.paired import interleaved
from quire import machine
from quire.families import FAMILIES
from quire.native import available, library
from quire.native.library import Kernels, byref
from quire.native.linears import pack_model
from quire.native.pack import Packed, describe, pack
from quire.native.step import NativeStep
from quire.nn.attention import AttnContext
from quire.nn.cache import Cache
from quire.nn.config import Sizes
from quire.nn.transformer import Transformer

SIZES = Sizes(vocab=32000, width=896, layers=24, heads=14, kv_heads=2, hidden=4864, context=2048)
KEYS, SLOTS = 192, 16
READ = 256 << 20  # bytes
COPIES = 160_000_000  # bytes of one weight's copies: more than the caches hold


def reader(kernels: Kernels, threads: int) -> Callable[[], object]:
    data = torch.zeros(READ, dtype=torch.uint8)
    return lambda: kernels.lib.qn_read(data.data_ptr(), READ, threads)


def products(kernels: Kernels, threads: int, rounds: int) -> None:
    print(f"{'product':>23} {'tokens':>7} {'GB/s':>7} {'of a read':>9}   middle half   torch GB/s times torch   (int8, int4: torch's bf16)")
    for rows, cols in ((4864, 896), (896, 4864)):
        matrix = torch.randn(rows, cols)
        for name in ("fp32", "bf16", "int8", "int4"):
            weight: torch.Tensor | Packed = matrix if name == "fp32" else matrix.bfloat16() if name == "bf16" else pack(matrix, name)
            size = weight.bytes if isinstance(weight, Packed) else weight.numel() * weight.element_size()
            copies = [clone(weight) for _ in range(COPIES // size + 1)]
            described = [describe(copy) for copy in copies]
            theirs = [w if isinstance(w, torch.Tensor) else matrix.bfloat16() for w in copies]
            for tokens in (1, 8, 32):
                x, y = torch.randn(tokens, cols), torch.empty(tokens, rows)
                narrow = x.to(theirs[0].dtype)

                def ours(x: torch.Tensor = x, y: torch.Tensor = y, tokens: int = tokens, described: Any = described) -> None:
                    for record, _ in described:
                        kernels.lib.qn_product(byref(record), x.data_ptr(), y.data_ptr(), 0, tokens, 0, threads)

                def torchs(narrow: torch.Tensor = narrow, theirs: Any = theirs) -> None:
                    for w in theirs:
                        F.linear(narrow, w)

                found = interleaved({"read": reader(kernels, threads), "ours": ours, "torch": torchs}, rounds)
                scale = len(copies) * size / READ
                mine, other = found["ours"], found["torch"].seconds
                share = [scale / ratio for ratio in (mine.ratio, mine.high, mine.low)]
                bandwidth = len(copies) * size / mine.seconds / 1e9
                torch_bandwidth = len(copies) * theirs[0].numel() * theirs[0].element_size() / other / 1e9
                told = f"{name:>6} {rows:>7} x {cols:<6} {tokens:>7} {bandwidth:7.1f} {share[0]:9.0%}   {share[1]:4.0%} to {share[2]:4.0%}"
                print(f"{told} {torch_bandwidth:12.1f} {other / mine.seconds:11.2f}", flush=True)


def clone(weight: torch.Tensor | Packed) -> torch.Tensor | Packed:
    if isinstance(weight, torch.Tensor):
        return weight.clone()
    return Packed(weight.format, weight.rows, weight.cols, weight.data.clone(), weight.scales.clone())


def model() -> Transformer:
    """In bf16, made in place: no fp32 copy, and the usual first weights do not matter here."""
    config = FAMILIES["llama"].build(FAMILIES["llama"].new(SIZES))
    with torch.device("meta"):
        made = Transformer(config).to(torch.bfloat16)
    made = made.to_empty(device="cpu").eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.02 if parameter.dim() > 1 else torch.ones_like(parameter))
    return made


def steps(kernels: Kernels, threads: int, rounds: int) -> None:
    made = model()
    stored = sum(p.numel() * p.element_size() for p in made.parameters())
    print(f"\n{made.config.parameters():,} parameters, {threads} threads, {KEYS} keys")
    print(f"{'weights':>8} {'rows':>5} {'tokens/s':>9} {'of the limit':>12}   middle half")
    blocks = -(-(KEYS + 1) // SLOTS)
    for quant in (None, "int8", "int4"):
        heads, channels = SIZES.kv_heads, SIZES.width // SIZES.heads
        shape = (32 * blocks, heads, SLOTS, channels)
        pools = [[torch.zeros(shape, dtype=torch.bfloat16) for _ in range(SIZES.layers)] for _ in range(2)]
        used = made
        if quant is not None:
            used = model()
            pack_model(used, quant)
        step = NativeStep(used, *pools, asked=threads)
        size = step.bytes or stored
        for rows in (1, 8, 32):
            tokens, places = torch.randint(SIZES.vocab, (rows,)), torch.full((rows,), KEYS)
            tables = torch.arange(rows * blocks).view(rows, blocks)
            ways = {"read": reader(kernels, threads), "step": lambda s=step, t=tokens, p=places, b=tables: s(t, p, b)}
            found = interleaved(ways, rounds)["step"]
            limits = [size / READ / r for r in (found.ratio, found.high, found.low)]
            told = f"{limits[0]:12.0%}   {limits[1]:4.0%} to {limits[2]:4.0%}" if rows == 1 else ""
            print(f"{quant or 'bf16':>8} {rows:>5} {rows / found.seconds:9.1f} {told}", flush=True)
    for rows in (1, 8):
        cache = Cache(made.config, rows, KEYS + 64, torch.bfloat16)
        with torch.inference_mode():
            made.decode(torch.randint(SIZES.vocab, (rows, KEYS)), AttnContext(cache=cache))
            taken = []
            for _ in range(rounds):
                began = time.perf_counter()
                made.head(made.decode(torch.randint(SIZES.vocab, (rows, 1)), AttnContext(cache=cache)))
                taken.append(time.perf_counter() - began)
        print(f"{'eager':>8} {rows:>5} {rows / statistics.median(taken):9.1f}   (Transformer.decode, bf16)", flush=True)


def peers(rounds: int) -> None:
    """transformers' generate at the same shape."""
    import transformers
    from transformers import LlamaConfig, LlamaForCausalLM

    transformers.logging.set_verbosity_error()
    settings = {k: v for k, v in FAMILIES["llama"].new(SIZES).items() if k not in ("architectures", "model_type")}
    theirs = LlamaForCausalLM(LlamaConfig(**settings)).to(torch.bfloat16).eval()
    for rows in (1, 8):
        prompt = torch.randint(SIZES.vocab, (rows, KEYS))
        kept = {"attention_mask": torch.ones_like(prompt), "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        seconds = []
        for count in (2, 18):
            began = time.perf_counter()
            theirs.generate(prompt, max_new_tokens=count, **kept)
            seconds.append(time.perf_counter() - began)
        print(
            f"transformers {transformers.__version__} bf16 {rows:>3} rows: {rows * 16 / (seconds[1] - seconds[0]):8.1f} tokens/s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", action="store_true", help="also transformers' generate")
    parser.add_argument("--part", choices=("all", "products", "step"), default="all")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(sys.argv[1:] if sys.argv[0].endswith("native.py") else [])
    threads = machine.threads()
    torch.set_num_threads(threads)
    print(f"{datetime.date.today()}, {machine.processor()}, torch {torch.__version__}, {threads} threads, kernels: {available()}")
    kernels, reason = library.find()
    if kernels is None:
        print(f"nothing to measure: {reason}")
        return
    if options.part in ("all", "products"):
        products(kernels, threads, options.rounds)
    if options.part in ("all", "step"):
        steps(kernels, threads, options.rounds)
    if options.peers:
        peers(options.rounds)


if __name__ == "__main__":
    main()
