"""What the engine promises of many requests, with figures: answers that nobody else can change, memory that does not grow, a budget kept.

The fast versions run always, those of full length with --slow.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.engine.engine import Engine
from quire.engine.request import Request
from quire.errors import QuireError
from quire.nn.paged import bytes_per_block
from quire.types import Completion, Sampling
from tests.engine.conftest import Small, random_model
from tests.engine.test_engine import GREEDY, alone, owners, prompts

Make = Callable[..., Engine]
COUNTS = [60, pytest.param(1000, marks=pytest.mark.slow)]


class Neighbours:
    """Requests that misbehave: refused ones, extreme ones, huge ones, cancelled ones, and such as fail in a step or give NaN."""

    def __init__(self, engine: Engine, draw: random.Random) -> None:
        self.engine, self.draw, self.live, self.kinds = engine, draw, list[Request](), set[str]()
        self.poisoned: set[Request] = set()
        self.failing: set[Request] = set()
        run = engine.runner.run

        def misbehaving(pieces: list[Any]) -> Any:
            if any(piece.request in self.failing for piece in pieces):
                raise RuntimeError("not enough memory")
            found = zip(pieces, run(pieces), strict=True)
            return [np.full_like(rows, np.nan) if piece.request in self.poisoned else rows for piece, rows in found]

        engine.runner.run = misbehaving  # type: ignore[method-assign]

    def come(self) -> None:
        draw, vocab = self.draw, self.engine.model.config.vocab
        kind = draw.choice(["bad ids", "too long", "huge", "extreme", "cancelled", "nan", "fails"])
        self.kinds.add(kind)
        prompt = [draw.randrange(vocab) for _ in range(200 if kind == "huge" else draw.randrange(1, 40))]
        sampling = Sampling(max_tokens=draw.choice([2, 20]), seed=draw.randrange(99))
        if kind == "bad ids":
            prompt[-1] = vocab + 7
        elif kind == "too long":
            prompt *= 500
        elif kind == "extreme":
            sampling = replace(sampling, repetition_penalty=100.0, frequency_penalty=2.0, presence_penalty=-2.0, temperature=50.0)
            sampling = replace(sampling, logit_bias=tuple((token, draw.choice([-100.0, 100.0])) for token in range(0, vocab, 3)))
        try:
            request = self.engine.submit(prompt, sampling)
        except QuireError:
            assert kind in ("bad ids", "too long")
            return
        self.live.append(request)
        (self.poisoned if kind == "nan" else self.failing if kind == "fails" else set()).add(request)

    def go(self) -> None:
        if self.live and self.draw.random() < 0.2:
            self.engine.abort(self.live.pop(self.draw.randrange(len(self.live))))


@pytest.mark.parametrize("count", COUNTS)
def test_exact_answers_are_unchanged_beside_neighbours_that_misbehave(count: int, small: Small, engine: Make) -> None:
    draw = random.Random(count)
    ways = [GREEDY, Sampling(temperature=1.0, top_p=0.9), Sampling(temperature=0.7, frequency_penalty=0.5)]
    asked = [
        (prompt, replace(draw.choice(ways), seed=number, max_tokens=draw.choice([3, 8]), logprobs=2))
        for number, prompt in enumerate(prompts(count, small.model.config.vocab, count))
    ]
    single = engine(exact=True, budget=128, share=False)
    wanted = [single.generate([prompt], sampling)[0] for prompt, sampling in asked]
    crowd = engine(exact=True, budget=160, blocks=26, most=12)
    others, waiting, mine = Neighbours(crowd, draw), list(enumerate(asked)), dict[int, Request]()
    got: dict[int, Completion] = {}
    while len(got) < count:
        if waiting and len(mine) < 6:
            number, (prompt, sampling) = waiting.pop()
            mine[number] = crowd.submit(prompt, sampling)
        if len(crowd.scheduler.requests) < 12:
            others.come()
        others.go()
        crowd.step()
        crowd.blocks.check(owners(crowd))
        for number in [number for number, request in mine.items() if request.done]:
            got[number] = crowd.result(mine.pop(number))
    unchanged = sum(got[number] == wanted[number] for number in range(count))
    assert unchanged == count and len(others.kinds) == 7 and crowd.scheduler.preemptions > 0


@pytest.mark.parametrize("error", [RuntimeError("not enough memory: you tried to allocate 9 bytes"), MemoryError()])
def test_no_memory_for_a_prompt_ends_its_request_alone(error: Exception, small: Small, engine: Make, monkeypatch: Any) -> None:
    """Those that share the prompt go on, and the same prompt is read later."""
    it = engine(budget=32)
    stem = prompts(1, small.model.config.vocab, 5)[0][:1] * 50
    bad = it.submit([*stem, 1], GREEDY)
    rest = [it.submit([*stem, 1], GREEDY, after=bad), it.submit([*stem, 2], GREEDY)]
    run, failed = it.runner.run, []

    def failing(pieces: list[Any]) -> Any:
        if any(piece.request is bad and piece.start > 0 for piece in pieces):  # in the second part of its prompt
            failed.append(len(pieces))
            raise error
        return run(pieces)

    monkeypatch.setattr(it.runner, "run", failing)
    while it.busy:
        it.step()
        it.blocks.check(owners(it))
    with pytest.raises(type(error)):
        it.result(bad)
    assert failed and [it.result(one).ids for one in rest] == [alone(small, one.prompt, GREEDY).ids for one in rest]
    assert it.generate([[*stem, 1]], GREEDY)[0].ids == it.result(rest[0]).ids
    it.blocks.check([])


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_the_budget_of_keys_and_values_is_kept_to_the_byte(name: str, small: Small) -> None:
    model = random_model(name, small.model.config.vocab)
    one = bytes_per_block(model.config, 16, 4)
    for memory in (one, 2 * one - 1, 2 * one, 3 * one + 17):
        it = Engine(Small(model, small.contract), memory=memory, most=64)
        held = sum(pool.numel() * pool.element_size() for pool in [*it.pages.keys, *it.pages.values])
        assert held == it.blocks.count * one and held <= memory < held + one
        it.generate(
            prompts(4, model.config.vocab, 1, longest=8)[:1] if memory < 2 * one else [[1, 2], [3] * 5], replace(GREEDY, max_tokens=4)
        )
        assert held == sum(pool.numel() * pool.element_size() for pool in [*it.pages.keys, *it.pages.values])


GROWTH = """
import json, random, sys
import torch
torch.set_num_threads(1)
from quire import machine
from quire.binding import Contract
from quire.engine.engine import Engine
from quire.text.training import train
from quire.types import Sampling
from tests.engine.conftest import Small, random_model

def rss():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

words = train("bpe", ["def parse(text):\\n    return text.split()\\n" * 4], 280)
small = Small(random_model("llama", words.vocab_size), Contract(words))
engine, draw, figures = Engine(small, memory=1 << 20, guess="lookup"), random.Random(0), []
count = int(sys.argv[1])
for number in range(count):
    prompt = [draw.randrange(words.vocab_size) for _ in range(draw.randrange(1, 40))]
    first = engine.submit(prompt, Sampling(max_tokens=3, seed=number), tenant=str(number % 7))
    if number % 10 == 0:
        engine.abort(engine.submit(prompt, after=first))
    if number % 4 == 3:
        while engine.busy:
            engine.step()
    if number in (count // 5, count // 2, count - 1):
        figures.append(rss())
print(json.dumps(figures))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("count", [1500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_requests(count: int) -> None:
    """With prompts of any length: products keep machine code of every number of rows that they meet, so steps round it up."""
    root = Path(__file__).resolve().parents[2]
    place = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", GROWTH, str(count)], cwd=root, env=place, capture_output=True, text=True, check=True)
    early, middle, late = (figure / 1e6 for figure in json.loads(done.stdout))
    print(f"{count} requests: {early:.1f} MB after a fifth, {middle:.1f} after a half, {late:.1f} at the end")
    assert late - middle < 1  # both measured: 0.0; with any number of rows 59 and 9.5, and 380 before the middle
