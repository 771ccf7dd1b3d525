"""The engine beside transformers' generate: the same weights, one process, one stream and several, and reading a prompt.

    python -m benchmarks.engine                       a 0.39B shape in bf16 with random weights; int8 and int4 of the same
    python -m benchmarks.engine --rounds 5 --tokens 32

Every round runs all ways one after the other on the same threads; figures are medians, ratios those of the same round. Prompts are random
ids, answers have a fixed length (no end of text). What a shared beginning saves stands below.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import quire
from benchmarks.paired import interleaved
from quire import machine
from quire.engine.engine import Engine
from quire.families import FAMILIES, ModelFolder
from quire.native import available
from quire.nn.config import Sizes
from quire.nn.transformer import Transformer

SIZES = Sizes(vocab=32000, width=896, layers=24, heads=14, kv_heads=2, hidden=4864, context=2048)
PROMPT = 192


class Words:
    """Ids alone: nothing is turned into text while time is taken."""

    def stream(self) -> Words:
        return self

    def push(self, token: int) -> str:
        return ""

    def end(self) -> str:
        return ""

    def decode(self, ids: list[int], special: bool = False) -> str:
        return ""


class Contract:
    tokenizer, stop_ids, stop_strings = Words(), (), ()


class Loaded:
    def __init__(self, model: Transformer) -> None:
        self.model, self.contract, self.identity, self.defaults = model, Contract(), "random", quire.Sampling()


def folder(path: Path) -> Path:
    config = FAMILIES["llama"].new(SIZES)
    with torch.device("meta"):
        made = Transformer(FAMILIES["llama"].build(config)).to(torch.bfloat16)
    made = made.to_empty(device="cpu").eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=draw) * 0.02 if p.dim() > 1 else torch.ones_like(p))
    ModelFolder.save(path, made, config)
    return path


def prompts(count: int, length: int = PROMPT, seed: int = 0) -> list[list[int]]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(3, SIZES.vocab, (count, length), generator=draw).tolist()


def writing(engine: Engine, given: list[list[int]], tokens: int) -> Callable[[], object]:
    sampling = quire.Sampling(max_tokens=tokens, temperature=0.0)
    return lambda: engine.generate(given, sampling)


def theirs(model: Any, given: list[list[int]], tokens: int) -> Callable[[], object]:
    ids = torch.tensor(given)
    keep = torch.ones_like(ids)

    def run() -> object:
        with torch.inference_mode():
            return model.generate(ids, attention_mask=keep, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)

    return run


def seconds(work: Callable[[], object], rounds: int) -> float:
    work()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def main() -> None:
    import transformers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    options = parser.parse_args([] if sys.argv[0].endswith("__main__.py") else None)
    torch.set_num_threads(machine.threads())
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{datetime.date.today()}, {machine.environment()['cpu']}, {torch.get_num_threads()} threads, {versions}; {available()}")
    with tempfile.TemporaryDirectory() as place:
        path = folder(Path(place) / "model")
        peer = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
        models = {"bf16": ModelFolder.open(path).build(torch.bfloat16)}
        for quant in ("int8", "int4"):
            from quire.native.linears import pack_model

            models[quant] = ModelFolder.open(path).build(torch.bfloat16)
            pack_model(models[quant], quant)  # type: ignore[arg-type]
        engines = {name: Engine(Loaded(model), share=False) for name, model in models.items()}
        table(engines, peer, options)
        prefix(models["bf16"])


def table(engines: dict[str, Engine], peer: Any, options: argparse.Namespace) -> None:
    print(f"prompts of {PROMPT} tokens, {options.tokens} new ones each; tokens a second, the prompt's reading in them\n")
    print(f"{'':<22}{'transformers':>13}" + "".join(f"{name:>9}{'times':>7}   middle half" for name in engines))
    for streams in options.streams:
        given = prompts(streams)
        ways = {"theirs": theirs(peer, given, options.tokens)}
        ways |= {name: writing(engine, given, options.tokens) for name, engine in engines.items()}
        show(f"{streams} at once", ways, streams * options.tokens, options.rounds)
    given = prompts(1, 512, 1)
    ways = {"theirs": theirs(peer, given, 1)} | {name: writing(engine, given, 1) for name, engine in engines.items()}
    show("a prompt of 512", ways, 512, options.rounds)


def show(what: str, ways: dict[str, Callable[[], object]], tokens: int, rounds: int) -> None:
    found = interleaved(ways, rounds)
    base = found.pop("theirs")
    line = f"{what:<22}{tokens / base.seconds:>13,.1f}"
    for timed in found.values():
        # `interleaved` gives times of the first way; a rate is the other way round
        line += f"{tokens / timed.seconds:>9,.1f}{1 / timed.ratio:>7.2f}   {1 / timed.high:.2f} to {1 / timed.low:.2f}"
    print(line, flush=True)


def prefix(model: Transformer) -> None:
    """Time to the first token of a second request that begins with the same 1,000 tokens."""
    shared = prompts(1, 1000, 2)[0]
    once = quire.Sampling(max_tokens=1, temperature=0.0)
    firsts, seconds_ = [], []
    for round_ in range(5):
        engine = Engine(Loaded(model))
        for taken, tail in ((firsts, 5), (seconds_, 6)):
            began = time.perf_counter()
            engine.generate([[*shared, tail + round_, 7, 8]], once)
            taken.append(time.perf_counter() - began)
    share = statistics.median(b / a for a, b in zip(firsts, seconds_, strict=True))
    print(f"\na shared beginning of 1,000 tokens: first {statistics.median(firsts):.3f} s, second {share:.1%} of that")


if __name__ == "__main__":
    main()
