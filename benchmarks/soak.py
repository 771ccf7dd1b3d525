"""A server for a long time at 70 % of what it can do, and then asked for more than that: does anything grow, does it hold?

    python -m benchmarks.soak                       20 minutes (make soak), then 60 seconds each at once, twice and five times its rate
    python -m benchmarks.soak --minutes 2 --seconds 10

A tiny model with random weights, so that what is measured is the server. Memory and descriptors of both processes are read every second;
growth is the slope of a line through them after a third of the time. Drift is the 99th of a hundred of the last third against that of the
second. Goodput is whole answers a second; what is refused is told so with 429 or 503 and a Retry-After. Answers are longer there, so that
what is offered stays within what one load generator in Python can send.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.load import Answer, bodies, closed, offered, quantile
from quire import machine

WORDS, TOKENS, STREAMS = 20, 100, 16
LONG = 400  # tokens of the answers where more is asked than can be done


@dataclass
class Held:
    """What a process holds, second by second."""

    pid: int
    times: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)  # bytes
    descriptors: list[int] = field(default_factory=list)

    def look(self) -> None:
        self.times.append(time.monotonic())
        fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        self.memory.append(int(fields[1]) * os.sysconf("SC_PAGE_SIZE"))
        self.descriptors.append(len(os.listdir(f"/proc/{self.pid}/fd")))

    def growth(self) -> float:
        """Bytes a minute after the first third."""
        start = len(self.times) // 3
        return 60 * statistics.linear_regression(self.times[start:], self.memory[start:]).slope


def child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


async def capacity(port: int, count: int = 160, tokens: int = TOKENS) -> float:
    """Whole answers a second with so many streams at once."""
    given = bodies("chat", count, tokens, WORDS, min_tokens=tokens)
    await closed(port, given[:STREAMS], STREAMS)
    began = time.perf_counter()
    answers = await closed(port, given, STREAMS)
    return sum(answer.whole for answer in answers) / (time.perf_counter() - began)


async def soak(port: int, pid: int, rate: float, seconds: float) -> tuple[list[Answer], list[Held]]:
    """At that rate for that long, with what both processes held meanwhile."""
    held = [Held(pid), Held(child(pid))]

    async def watch() -> None:
        while True:
            for one in held:
                one.look()
            await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    try:
        return await offered(port, bodies("chat", 1000, TOKENS, WORDS, seed=1, min_tokens=TOKENS), rate, seconds), held
    finally:
        watching.cancel()


def drift(answers: Sequence[Answer]) -> tuple[float, float]:
    """How the 99th of a hundred changes from the second third to the last: of first tokens, of gaps. 0.1: a tenth longer."""
    begun = min(answer.began for answer in answers)
    third = (max(answer.began for answer in answers) - begun) / 3
    parts = [[answer for answer in answers if begun + third * n <= answer.began < begun + third * (n + 1)] for n in (1, 2)]
    firsts = [quantile([answer.first or 0.0 for answer in part], 0.99) for part in parts]
    gaps = [quantile([gap for answer in part for gap in answer.gaps], 0.99) for part in parts]
    return firsts[1] / firsts[0] - 1, gaps[1] / gaps[0] - 1


@dataclass(frozen=True)
class Load:
    times: float  # of the capacity
    goodput: float  # whole answers a second
    refused: int
    refusal: float  # seconds, 95th of a hundred
    unnamed: int  # neither whole nor refused with a Retry-After


async def load(port: int, rate: float, times: float, seconds: float, tokens: int = TOKENS) -> Load:
    answers = await offered(port, bodies("chat", 1000, tokens, WORDS, seed=2, min_tokens=tokens), rate * times, seconds)
    whole = [answer for answer in answers if answer.whole]
    refused = [answer for answer in answers if answer.status in (429, 503) and answer.retry]
    took = max(answer.began + answer.seconds for answer in answers) - min(answer.began for answer in answers)
    late = quantile([answer.seconds for answer in refused], 0.95)
    return Load(times, len(whole) / took, len(refused), late, len(answers) - len(whole) - len(refused))


def main() -> None:
    from tests.serve.conftest import start
    from tests.small import write_model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args([] if sys.argv[0].endswith("__main__.py") else None)
    print(f"{datetime.date.today()}, {machine.processor()}, {machine.threads()} threads", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "chat", template=True, context=512)
        running = start(Path(folder), f"chat={model}", "--most-open", "64")
        try:
            rate = asyncio.run(capacity(running.port))
            print(
                f"{rate:.1f} answers of {TOKENS} tokens a second, {STREAMS} at once; now 70 % of that for {options.minutes:g} minutes",
                flush=True,
            )
            answers, held = asyncio.run(soak(running.port, running.process.pid, 0.7 * rate, 60 * options.minutes))
            failed = [answer for answer in answers if not answer.whole]
            print(f"{len(answers):,} answers, {len(failed)} not whole {failed[0].error if failed else ''}")
            for name, one in zip(("front", "worker"), held, strict=True):
                size = (
                    f"{one.memory[len(one.memory) // 3] / 1e6:.1f} to {one.memory[-1] / 1e6:.1f} MB ({one.growth() / 1e6:+.2f} MB a minute)"
                )
                print(f"{name}: {size}, {min(one.descriptors)} to {max(one.descriptors)} descriptors, {one.descriptors[-1]} at the end")
            first, gap = drift(answers)
            print(f"drift of the 99th of a hundred: first token {first:+.1%}, gap {gap:+.1%}")
            print(f"\n{'offered':>8}{'goodput':>10}{'of 1x':>8}{'refused':>9}{'p95':>9}{'unnamed':>9}")
            rate = asyncio.run(capacity(running.port, 64, LONG))
            rows = [asyncio.run(load(running.port, rate, times, options.seconds, LONG)) for times in (1, 2, 5)]
            for row in rows:
                share, late = row.goodput / rows[0].goodput, f"{row.refusal * 1e3:.0f} ms" if row.refused else "-"
                print(f"{row.times:>7}x{row.goodput:>10.1f}{share:>8.2f}{row.refused:>9}{late:>9}{row.unnamed:>9}", flush=True)
        finally:
            running.stop()


if __name__ == "__main__":
    main()
