"""The engine beside transformers' generate and llama.cpp: the same weights, one stream and several, and reading a prompt.

    python -m benchmarks.engine                       a 0.39B shape in bf16 with random weights; int8 and int4 of the same
    python -m benchmarks.engine --llama PYTHON        also llama.cpp with BF16, Q8_0 and Q4_0: a Python that has llama_cpp
    python -m benchmarks.engine --model FOLDER        also what int8 and int4 of a trained model lose (widths in 32s)

Every round runs all ways one after the other on the same threads, at least 7 rounds; figures are medians, ratios those of the same round.
Prompts are random ids, the same for all, answers have a fixed length (no end of text). Writing is timed from the first token of all answers
to the last, reading from a prompt to its first token. Of llama.cpp's settings (flash attention, size of batches) the best is taken, for
each row anew. Beside every rate stands the share of what the memory would allow, by a plain read timed in the same rounds.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import quire
from benchmarks.native import READ, reader
from quire import machine
from quire.engine.engine import Engine
from quire.families import FAMILIES, ModelFolder
from quire.native import available, library
from quire.native.linears import pack_model, packed_bytes
from quire.nn.attention import AttnContext
from quire.nn.config import Sizes
from quire.nn.transformer import Transformer

SIZES = Sizes(vocab=32000, width=896, layers=24, heads=14, kv_heads=2, hidden=4864, context=2048)
PROMPT = 128
MEMORY = 256 << 20  # bytes of keys and values
LLAMA = {"bf16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}  # of as many bits a weight


class Words:
    """Ids alone: nothing is turned into text while time is taken."""

    def stream(self) -> Words:
        return self

    @property
    def target(self) -> Words:
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


def folder(path: Path, sizes: Sizes) -> Path:
    config = FAMILIES["llama"].new(sizes)
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


def together(engine: Engine, given: list[list[int]], tokens: int) -> tuple[float, float]:
    """Seconds to the first token of all, and of the other tokens."""
    sampling = quire.Sampling(max_tokens=tokens, temperature=0.0)
    began = time.perf_counter()
    requests = [engine.submit(row, sampling) for row in given]
    while any(not request.answer for request in requests):
        engine.step()
    first = time.perf_counter()
    while engine.busy:
        engine.step()
    assert all(len(request.answer) == tokens for request in requests)
    return first - began, time.perf_counter() - first


def theirs(model: Any, given: list[list[int]], tokens: int) -> tuple[float, float]:
    import transformers

    class Clock(transformers.StoppingCriteria):
        def __init__(self) -> None:
            self.times: list[float] = []

        def __call__(self, input_ids: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
            self.times.append(time.perf_counter())
            return torch.zeros(len(input_ids), dtype=torch.bool)

    ids, clock = torch.tensor(given), Clock()
    fixed = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
    began = time.perf_counter()
    with torch.inference_mode():
        model.generate(ids, attention_mask=torch.ones_like(ids), stopping_criteria=transformers.StoppingCriteriaList([clock]), **fixed)
    return clock.times[0] - began, clock.times[-1] - clock.times[0]


class Peer:
    """llama.cpp in a process of its own, which waits for commands (benchmarks/llamacpp.py)."""

    def __init__(self, python: str, file: Path, threads: int) -> None:
        self.bytes = file.stat().st_size
        command = [python, str(Path(__file__).with_name("llamacpp.py")), str(file), str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self._answer()

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **more}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"llama.cpp ended with exit code {self.process.wait()}")
        return json.loads(line)  # type: ignore[no-any-return]

    def best(self, given: list[list[int]], tokens: int) -> str:
        """Opens a context with the settings that are fastest, and names them."""
        taken = {}
        for flash in (False, True):
            for ubatch in (512,) if tokens else (512, 128):
                self.ask("open", prompts=given, tokens=tokens, flash=flash, ubatch=ubatch)
                taken[flash, ubatch] = min(self.write(min(tokens, 12)) if tokens else self.read() for _ in range(2))
        flash, ubatch = min(taken, key=lambda way: taken[way])
        self.ask("open", prompts=given, tokens=tokens, flash=flash, ubatch=ubatch)
        return f"flash attention {'on' if flash else 'off'}, batches of {ubatch}"

    def read(self) -> float:
        return float(self.ask("read")["seconds"])

    def write(self, tokens: int) -> float:
        return float(self.ask("write", tokens=tokens)["seconds"])

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def imports(python: str) -> bool:
    try:
        return subprocess.run([python, "-c", "import llama_cpp, numpy"], capture_output=True).returncode == 0
    except OSError:
        return False


def gguf(path: Path, kinds: Iterable[str]) -> dict[str, Path]:
    """The folder's weights as llama.cpp reads them, every matrix in that format."""
    from tests.families.gguf_files import write

    bare = {"tokenizer.ggml.model": "no_vocab", "tokenizer.ggml.tokens": None}
    return {kind: write(path.with_name(f"{kind}.gguf"), path, bare, kind) for kind in kinds}


def rounds(ways: dict[str, Callable[[], float]], count: int) -> dict[str, list[float]]:
    """Seconds that each way says it took, in each round; one round before them is not counted."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(count + 1):
        for name, work in ways.items():
            time.sleep(0.05)  # until the threads of the one before have stopped waiting for work
            taken = work()
            if turn:
                found[name].append(taken)
    return found


def times(mine: list[float], other: list[float]) -> str:
    """How many times as fast mine is, and the middle half of the rounds."""
    low, middle, high = statistics.quantiles([b / a for a, b in zip(mine, other, strict=True)], n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


@dataclass
class Table:
    engines: dict[str, Engine]
    reading: dict[str, Engine]  # the same models; nothing of a prompt is kept
    transformers: Any
    peers: dict[str, Peer]
    bytes: dict[str, int]  # of all weights, once
    read: Callable[[], float] | None  # seconds of reading READ bytes
    rounds: int

    def head(self) -> None:
        print("| | Quire | of a read | llama.cpp | of a read | times llama.cpp | transformers bf16 | times transformers | llama.cpp with |")
        print("|---|---|---|---|---|---|---|---|---|")

    def writing(self, streams: int, tokens: int) -> None:
        given = prompts(streams)
        rest = tokens - 1
        chosen = {name: peer.best(given, rest) for name, peer in self.peers.items()}
        ways: dict[str, Callable[[], float]] = {"transformers": lambda: theirs(self.transformers, given, tokens)[1]}
        for name, engine in self.engines.items():
            ways[name] = lambda engine=engine: together(engine, given, tokens)[1]  # type: ignore[misc]
            if (kind := LLAMA[name]) in self.peers:
                ways[kind] = lambda peer=self.peers[kind]: peer.write(rest)  # type: ignore[misc]
        self.rows(f"{streams} stream{'s' * (streams > 1)}", ways, streams * rest, chosen, once=rest)

    def reading_(self, length: int = 512) -> None:
        given = prompts(1, length, 1)
        chosen = {name: peer.best(given, 0) for name, peer in self.peers.items()}
        ways: dict[str, Callable[[], float]] = {"transformers": lambda: theirs(self.transformers, given, 1)[0]}
        for name, engine in self.reading.items():
            ways[name] = lambda engine=engine: together(engine, given, 1)[0]  # type: ignore[misc]
            if (kind := LLAMA[name]) in self.peers:
                ways[kind] = self.peers[kind].read
        self.rows(f"a prompt of {length}", ways, length, chosen)

    def rows(self, what: str, ways: dict[str, Callable[[], float]], tokens: int, chosen: dict[str, str], once: int = 0) -> None:
        """once: how often all weights are read."""
        if self.read is not None:
            ways["read"] = self.read
        found = rounds(ways, self.rounds)
        rate = {name: tokens / statistics.median(taken) for name, taken in found.items()}

        def share(name: str, size: int) -> str:
            if not once or self.read is None:
                return ""
            pairs = zip(found["read"], found[name], strict=True)
            return f"{statistics.median(once * size / READ * read / taken for read, taken in pairs):.0%}"

        for name in self.engines:
            kind = LLAMA[name]
            llama = [""] * 3
            if kind in found:
                llama = [f"{rate[kind]:,.1f}", share(kind, self.peers[kind].bytes), times(found[name], found[kind])]
            cells = [f"{what}, {name}", f"{rate[name]:,.1f}", share(name, self.bytes[name]), *llama]
            cells += [f"{rate['transformers']:,.1f}", times(found[name], found["transformers"]), chosen.get(kind, "")]
            print("| " + " | ".join(cells) + " |", flush=True)
        if self.read is not None:
            self.bandwidths.append(READ / statistics.median(found["read"]) / 1e9)

    bandwidths: list[float] = field(default_factory=list)


def exact(model: Transformer, tokens: int, count: int) -> None:
    """What it costs that an answer does not depend on its neighbours: eight prompts, read and written."""
    given = prompts(8, seed=3)
    engines = [Engine(Loaded(model), share=False, exact=strict, memory=MEMORY) for strict in (False, True)]
    found = [[together(engine, given, tokens) for engine in engines] for _ in range(count + 1)][1:]
    (plain, strict) = ([sum(turn[way]) for turn in found] for way in (0, 1))
    rates = [8 * tokens / statistics.median(taken) for taken in (plain, strict)]
    parts = [times([turn[1][part] for turn in found], [turn[0][part] for turn in found]) for part in (0, 1)]
    print(f"8 prompts of {PROMPT} tokens in bf16, {tokens} new ones each, reading included: {rates[0]:,.1f} tokens a second,")
    print(f"exact {rates[1]:,.1f}, times {times(strict, plain)}; reading {parts[0]}, writing {parts[1]}", flush=True)


def same(peers: dict[str, Peer], models: dict[str, Transformer]) -> None:
    """That llama.cpp computes the same model: the last logits of a prompt, beside ours."""
    given = prompts(1, 64, 4)
    for name, model in models.items():
        if (peer := peers.get(LLAMA[name])) is None:
            continue
        peer.ask("open", prompts=given, tokens=1, flash=False, ubatch=512)
        other = torch.tensor(peer.ask("logits")["logits"])
        with torch.inference_mode():
            mine = model.head(model.decode(torch.tensor(given), AttnContext()))[0, -1].float()
        near = torch.cosine_similarity(mine, other, 0)
        print(f"{LLAMA[name]} and {name}: cosine of their logits {near:.5f}")
        assert near > 0.9, "not the same model"  # two ways of rounding to four bits


def divergence(path: Path, length: int = 256) -> None:
    """Mean KL from a trained model's next-token distributions to those of its int8 and int4, on text of the standard library.

    Of llama.cpp's formats too, by their weights: every matrix there and back, the embedding as well.
    """
    import gguf

    plain = quire.load(path, dtype="bf16")
    ids = torch.tensor(plain.contract.tokenizer.encode(Path(argparse.__file__).read_text(encoding="utf-8")))
    length = min(length, plain.model.config.context)
    rows = ids[: len(ids) // length * length].view(-1, length)[:16]

    def chances(model: Transformer) -> torch.Tensor:
        with torch.inference_mode():
            return model.head(model.decode(rows, AttnContext())).float().log_softmax(-1)

    base = chances(plain.model)
    loss = -base[:, :-1].gather(-1, rows[:, 1:, None]).mean()
    print(f"\nKL from bf16 on {rows.numel():,} tokens (loss {loss:.3f})")
    for name, kind in LLAMA.items():
        if name == "bf16":
            continue
        ours, other = (ModelFolder.open(path).build(torch.bfloat16) for _ in range(2))
        left = pack_model(ours, name)  # type: ignore[arg-type]
        form = gguf.GGMLQuantizationType[kind]
        with torch.no_grad():
            for weight in other.parameters():
                if weight.dim() > 1 and weight.shape[-1] % 32 == 0:
                    weight.copy_(torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(weight.float().numpy(), form), form)))
        lost = [F.kl_div(chances(model), base, log_target=True, reduction="none").sum(-1).mean() for model in (ours, other)]
        print(f"{name} {lost[0]:.5f}, {kind} {lost[1]:.5f}" + (f"; {len(left)} matrices stay bf16" if left else ""), flush=True)


def main() -> None:
    import transformers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--llama", metavar="PYTHON", help="a Python that has llama_cpp (pip install llama-cpp-python)")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="a trained model, for what int8 and int4 lose")
    parser.add_argument("--layers", type=int, default=SIZES.layers, help="fewer to try the script")
    options = parser.parse_args([] if sys.argv[0].endswith("__main__.py") else None)
    if options.rounds < 7:
        parser.error(f"{options.rounds} rounds tell little; take 7 or more")
    if options.llama and not imports(options.llama):
        parser.error(f"{options.llama} cannot import llama_cpp and numpy; into an environment of its own: pip install llama-cpp-python")
    threads = machine.threads()
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{datetime.date.today()}, {machine.processor()}, {threads} threads, {versions}; {available()}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        path = folder(Path(place) / "model", replace(SIZES, layers=options.layers))
        peers: dict[str, Peer] = {}
        try:
            compare(path, peers, threads, options)
        finally:
            for peer in peers.values():
                peer.end()
    if options.model is not None:
        divergence(options.model)


def compare(path: Path, peers: dict[str, Peer], threads: int, options: argparse.Namespace) -> None:
    import transformers

    models = {"bf16": ModelFolder.open(path).build(torch.bfloat16)}
    for quant in ("int8", "int4"):
        models[quant] = ModelFolder.open(path).build(torch.bfloat16)
        pack_model(models[quant], quant)  # type: ignore[arg-type]
    plain = sum(p.numel() * p.element_size() for p in models["bf16"].parameters())
    sizes = {name: packed_bytes(model) or plain for name, model in models.items()}
    if options.llama:
        for kind, file in gguf(path, LLAMA.values()).items():
            peers[kind] = Peer(options.llama, file, threads)
        print("llama-cpp-python {version}: {system}".format(**next(iter(peers.values())).about))
        same(peers, models)
    theirs_ = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
    kernels, _ = library.find()
    table = Table(
        engines={name: Engine(Loaded(model), memory=MEMORY) for name, model in models.items()},
        reading={name: Engine(Loaded(model), memory=MEMORY, share=False) for name, model in models.items()},
        transformers=theirs_,
        peers=peers,
        bytes=sizes,
        read=None if kernels is None else timed(reader(kernels, threads)),
        rounds=options.rounds,
    )
    print("MB of weights: " + ", ".join(f"{name} {size / 1e6:,.0f}" for name, size in sizes.items()), end="")
    print("".join(f", {kind} {peer.bytes / 1e6:,.0f}" for kind, peer in peers.items()))
    exact(models["bf16"], options.tokens, options.rounds)
    prefix(models["bf16"])
    print(f"\nprompts of {PROMPT} tokens, {options.tokens} new ones each, half as many from 16 streams on; tokens a second\n")
    table.head()
    few = [streams for streams in options.streams if streams <= 8]
    for streams in few:
        table.writing(streams, options.tokens)
    table.reading_()
    for streams in options.streams[len(few) :]:
        table.writing(streams, options.tokens if streams < 16 else options.tokens // 2)
    if table.bandwidths:
        print(f"\na plain read in the same rounds: {min(table.bandwidths):.1f} to {max(table.bandwidths):.1f} GB/s")
    for kind, peer in peers.items():
        print(f"llama.cpp {kind}: {peer.ask('memory')['pss'] / 2**20:,.0f} MiB with the last context")


def timed(work: Callable[[], object]) -> Callable[[], float]:
    def run() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return run


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
    print(f"a shared beginning of 1,000 tokens: first {statistics.median(firsts):.3f} s, second {share:.1%} of that")


if __name__ == "__main__":
    main()
