"""What a token costs beside arithmetic: a model of 24 narrow layers, microseconds a token and layer, beside transformers' generate.

One stream, greedy, fp32, one thread; the same weights and the same tokens (asserted). Three ways in turn, medians of the rounds: the engine
with the native step, the engine without it (`QUIRE_NATIVE=0`, in a process of its own), and transformers. The products of a layer are
43,000 multiplications here, two or three microseconds; all else is Python, dispatch and the work between products. A whole call is timed,
with reading the prompt of 8 tokens, which costs about one token more.
"""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

import torch

import quire
from benchmarks.engine import Loaded
from benchmarks.paired import interleaved
from quire import machine
from quire.engine.engine import Engine
from quire.families import FAMILIES, ModelFolder
from quire.native import available
from quire.nn.config import Sizes
from quire.nn.init import initialise
from quire.nn.transformer import Transformer

SIZES = Sizes(vocab=512, width=64, layers=24, heads=4, kv_heads=2, hidden=160, context=512)
PROMPT, TOKENS, ROUNDS = 8, 128, 15
ALLOWED = 1 / 3  # of transformers' time


def main() -> None:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{datetime.date.today()}, {machine.processor()}, 1 thread, {versions}; {available()}")
    with tempfile.TemporaryDirectory() as place:
        path = make(Path(place) / "model")
        theirs = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        row = torch.tensor([prompt()])
        kept = {"attention_mask": torch.ones_like(row), "max_new_tokens": TOKENS, "do_sample": False}

        def generate() -> list[int]:
            ids: list[int] = theirs.generate(row, **kept, eos_token_id=None, pad_token_id=0)[0, PROMPT:].tolist()
            return ids

        with Plain(path) as plain:
            ways = {"transformers": generate, "quire, native": writer(path), "quire, plain torch": plain.write}
            answers = [write() for write in ways.values()]
            assert answers[0] == answers[1] == answers[2], "the ways write different tokens"
            found = interleaved(ways, ROUNDS)
    print(f"{SIZES.layers} layers of width {SIZES.width}, {TOKENS} tokens after {PROMPT}, {ROUNDS} rounds\n")
    print(f"{'':20}{'us a token':>12}{'and layer':>11}{'of transformers':>17}   middle half")
    for name, timing in found.items():
        token = timing.seconds / TOKENS * 1e6
        print(f"{name:20}{token:12,.0f}{token / SIZES.layers:11.1f}{timing.ratio:17.3f}   {timing.low:.3f} to {timing.high:.3f}")
    ratio = found["quire, native"].ratio
    print(f"\nwanted: at most {ALLOWED:.3f}; reached: {ratio:.3f} native, {found['quire, plain torch'].ratio:.3f} plain")


def prompt() -> list[int]:
    return torch.randint(SIZES.vocab, (PROMPT,), generator=torch.Generator().manual_seed(1)).tolist()


def make(path: Path) -> Path:
    """A folder with random weights, spread so far that no two tokens are nearly as likely."""
    config = FAMILIES["llama"].new(SIZES)
    model = Transformer(FAMILIES["llama"].build(config))
    draw = torch.Generator().manual_seed(0)
    initialise(model, draw)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.05)
    ModelFolder.save(path, model, config)
    return path


class writer:
    """Writes the answer once a call, in an engine of its own."""

    def __init__(self, path: Path) -> None:
        self.engine = Engine(Loaded(ModelFolder.open(path).build(torch.float32)), memory=16 << 20, share=False)

    def __call__(self) -> list[int]:
        return list(self.engine.generate([prompt()], quire.Sampling(temperature=0.0, max_tokens=TOKENS))[0].ids)


class Plain:
    """A process without native kernels, which writes the answer whenever it is asked."""

    def __init__(self, path: Path) -> None:
        words = [sys.executable, "-m", "benchmarks.overhead", str(path)]
        place = {**os.environ, "QUIRE_NATIVE": "0"}
        self.process = subprocess.Popen(words, env=place, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def write(self) -> list[int]:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        return [int(word) for word in self.process.stdout.readline().split()]

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.communicate()  # its input ends, and so does it


def serve(path: Path) -> None:
    torch.set_num_threads(1)
    write = writer(path)
    for _ in sys.stdin:
        print(*write(), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve(Path(sys.argv[1]))
    else:
        main()
