"""The server beside llama.cpp's server and `transformers serve`: the same weights, streaming chats over loopback, one run.

    python -m benchmarks.serving                              a 0.39B shape with random weights; bf16, int8 and int4
    python -m benchmarks.serving --llama-server FILE          also llama.cpp's server (Q8_0 and Q4_0), built by whoever runs this
    python -m benchmarks.serving --transformers PYTHON        also `transformers serve --continuous-batching` (transformers[serving])

All servers are up at once and idle but one: each round asks every one with the same chats, so many at a time (16), and in the same round
the engine itself, without a server, with the same prompts. Rates are medians of the rounds, ratios those of the same round; the first text
and the gaps between texts are of all rounds (a random model begins some answers with halves of characters: no text yet). Memory is
what a server's processes hold at the end (pages that they share counted once). `overhead` is the processor time of the front process for
each token it streamed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import quire
from benchmarks.engine import LLAMA, MEMORY, SIZES, folder, times
from benchmarks.load import Answer, ask, bodies, closed, quantile, summary
from quire import machine
from quire.binding import Binding, Contract
from quire.engine.engine import Engine
from quire.text.template import CHATML, Template
from quire.text.training import train

WORDS, TOKENS = 60, 64


@dataclass
class Served:
    """A server that is up."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    body: dict[str, Any]
    started: float  # seconds from the start of the process to the first token
    rates: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    failed: int = 0
    overhead: list[float] = field(default_factory=list)


def model(path: Path) -> Path:
    """The folder with a tokenizer of its size, trained on the standard library, and ChatML."""
    root = Path(os.__file__).parent
    files = [file for file in sorted(root.rglob("*.py")) if "site-packages" not in file.parts]
    words = train("bpe", [file.read_text(encoding="utf-8", errors="replace") for file in files], SIZES.vocab, special="causal")
    assert words.vocab_size == SIZES.vocab, "an id without a token would be an answer without text"
    folder(path, SIZES)
    Contract(words, Template(CHATML, words.special)).save(path)
    Binding.of(path, None).write(path)
    return path


def gguf(folder: Path, kind: str) -> Path:
    """The folder's weights and vocabulary as llama.cpp reads them."""
    from tests.families.gguf_files import write

    raw = json.loads((folder / "tokenizer.json").read_text())
    vocab, added = raw["model"]["vocab"], {token["content"]: token["id"] for token in raw["added_tokens"]}
    tokens = [""] * SIZES.vocab
    for text, number in {**vocab, **added}.items():
        tokens[number] = text
    tokens = [text or f"<unused{number}>" for number, text in enumerate(tokens)]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in raw["model"]["merges"]]
    eos = quire.load(folder).contract.tokenizer.eos
    values = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if number in added.values() else 1 for number in range(SIZES.vocab)],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": eos,
        "tokenizer.ggml.bos_token_id": eos,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHATML,
    }
    return write(folder.with_name(f"{kind}.gguf"), folder, values, kind)


def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def up(name: str, command: list[str], on: int, body: dict[str, Any], log: Path, seconds: float = 240) -> Served:
    """Started, and asked until the first token has come."""
    began = time.perf_counter()
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    [first] = bodies("m", 1, 1, WORDS, seed=99)
    while True:
        if process.poll() is not None or time.perf_counter() - began > seconds:
            process.kill()
            raise SystemExit(f"{name} did not come up: {log.read_text(errors='replace')[-2000:]}")
        answer = asyncio.run(ask(on, {**first, **body}))
        if answer.whole:
            return Served(name, on, process, body, answer.began + (answer.first or answer.seconds) - began)
        time.sleep(0.05)


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """A process and those it has started."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += tree(int(child))
    return found


def memory(pid: int) -> int:
    """Bytes that the processes hold, pages that they share counted once."""
    total = 0
    for one in tree(pid):
        for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) << 10
    return total


def engine_rate(engine: Engine, prompts: list[list[int]]) -> float:
    """Tokens a second of the engine itself, from the first request to the last token."""
    sampling = quire.Sampling(max_tokens=TOKENS, temperature=0.0)
    began = time.perf_counter()
    requests = [engine.submit(ids, sampling) for ids in prompts]
    while engine.busy:
        engine.step()
    return sum(len(request.answer) for request in requests) / (time.perf_counter() - began)


def measured(server: Served, streams: int, turn: int) -> None:
    given = [{**body, **server.body} for body in bodies("m", streams, TOKENS, WORDS, seed=turn)]
    before = processor_seconds(server.process.pid)
    answers: list[Answer] = asyncio.run(closed(server.port, given, streams))
    found = summary(answers)
    server.rates.append(found.rate)
    if turn:
        server.firsts += [answer.first for answer in answers if answer.whole and answer.first is not None]
        server.gaps += [gap for answer in answers if answer.whole for gap in answer.gaps]
    server.failed += found.failed
    tokens = sum(answer.tokens or answer.texts for answer in answers)
    server.overhead.append((processor_seconds(server.process.pid) - before) / max(1, tokens))


@contextlib.contextmanager
def servers(options: argparse.Namespace, path: Path, threads: int) -> Iterator[list[Served]]:
    found: list[Served] = []
    here = path.parent
    quire_ = [sys.executable, "-c", "from quire.cli.main import main; raise SystemExit(main())", "serve", f"m={path}"]
    try:
        for quant in options.quants:
            on, more = port(), [] if quant == "bf16" else ["--quant", quant]
            command = [*quire_, "--port", str(on), "--memory", str(MEMORY), *more]
            found.append(up(f"quire {quant}", command, on, {"model": "m"}, here / f"{quant}.log"))
        for quant in options.quants if options.llama_server else ():
            on, kind = port(), LLAMA[quant]
            command = [
                options.llama_server,
                "-m",
                str(gguf(path, kind)),
                "--port",
                str(on),
                "-t",
                str(threads),
                "-np",
                str(options.streams),
            ]
            command += ["-c", str(512 * options.streams), "--jinja"]
            found.append(up(f"llama-server {kind}", command, on, {}, here / f"{kind}.log"))
        if options.transformers:
            on = port()
            command = [options.transformers, "-m", "transformers.cli.transformers", "serve", str(path), "--continuous-batching"]
            command += ["--port", str(on), "--dtype", "bfloat16", "--device", "cpu"]
            found.append(up("transformers serve", command, on, {"model": str(path)}, here / "transformers.log"))
        yield found
    finally:
        for server in found:
            server.process.send_signal(signal.SIGTERM)
        for server in found:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.process.wait(10)
            server.process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quants", nargs="+", default=["int8", "bf16", "int4"], choices=["bf16", "int8", "int4"])
    parser.add_argument("--llama-server", metavar="FILE")
    parser.add_argument("--transformers", metavar="PYTHON")
    parser.add_argument("--folder", type=Path, help="keep the model here and take it from there")
    options = parser.parse_args([] if sys.argv[0].endswith("__main__.py") else None)
    threads = machine.threads()
    torch.set_num_threads(threads)
    print(f"{datetime.date.today()}, {machine.processor()}, {threads} threads; {options.streams} streams of {TOKENS} tokens", flush=True)
    with contextlib.ExitStack() as stack:
        where = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = where / "model"
        if not (path / "config.json").is_file():
            where.mkdir(parents=True, exist_ok=True)
            model(path)
        engines = {}
        for quant in options.quants:
            loaded = quire.load(path, quant=None if quant == "bf16" else quant)
            engines[quant] = (loaded, Engine(loaded, memory=MEMORY))  # type: ignore[arg-type]
        alone: dict[str, list[float]] = {quant: [] for quant in engines}
        with servers(options, path, threads) as up_:
            for turn in range(options.rounds + 1):
                for quant, (loaded, engine) in engines.items():
                    given = bodies("m", options.streams, TOKENS, WORDS, seed=turn)
                    rows = [loaded.chat_ids([quire.Message("user", body["messages"][0]["content"])]) for body in given]  # type: ignore[union-attr]
                    alone[quant].append(engine_rate(engine, rows))
                for server in up_:
                    measured(server, options.streams, turn)
            report(up_, alone)


def report(found: list[Served], alone: dict[str, list[float]]) -> None:
    print(f"\n{'':22}{'tokens/s':>9}{'first':>11}{'p95':>11}{'gap p95':>9}{'failed':>8}{'memory':>9}{'start':>8}{'overhead':>10}")
    for server in found:
        rate, first, gap = statistics.median(server.rates[1:]), quantile(server.firsts, 0.95), quantile(server.gaps, 0.95)
        middle = quantile(server.firsts, 0.5)
        cost = f"{statistics.median(server.overhead[1:]) * 1e6:7.0f} us" if server.name.startswith("quire") else ""
        held = memory(server.process.pid) / 1e6
        times_ = f"{middle:>9.2f} s{first:>9.2f} s{gap * 1e3:>6.0f} ms"
        print(f"{server.name:22}{rate:>9.1f}{times_}{server.failed:>8}{held:>6.0f} MB{server.started:>6.1f} s{cost:>10}")
    print("\nratios of the same rounds, and their middle half:")
    for server in found:
        if not server.name.startswith("quire"):
            continue
        quant = server.name.split()[1]
        own = [1 / rate for rate in server.rates[1:]]
        engine = alone[quant][1:]
        print(f"{server.name} of the engine alone ({statistics.median(engine):.1f}): {times(own, [1 / rate for rate in engine])}")
        for other in found:
            if not other.name.startswith("quire"):
                print(f"{server.name} of {other.name}: {times(own, [1 / rate for rate in other.rates[1:]])}")


if __name__ == "__main__":
    main()
