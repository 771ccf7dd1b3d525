"""A short form of `make soak`: nothing grows under load, and under too much of it every request is answered whole or refused by name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.soak import LONG, capacity, load, soak
from tests.serve.conftest import Running, start


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, float]]:
    running = start(tmp_path_factory.mktemp("soak"), f"chat={folders['chat']}", "--most-open", "64")
    yield running, asyncio.run(capacity(running.port))
    assert running.stop() == 0


def test_nothing_grows_in_a_minute_of_load(loaded: tuple[Running, float]) -> None:
    running, rate = loaded
    asyncio.run(soak(running.port, running.process.pid, 2 * rate, 10))  # warm: as many on their way as are ever taken
    answers, held = asyncio.run(soak(running.port, running.process.pid, 0.6 * rate, 50))
    odd = [answer.error for answer in answers if not answer.whole and not (answer.status == 503 and answer.retry)]
    assert odd == [] and sum(answer.whole for answer in answers) > len(answers) / 2  # a machine that slows down may refuse some, by name
    for one in held:
        # What leaks grows with every answer, so in every second. A machine that stops for a while has more answers on their way at once
        # and their memory is kept: steps, of which the largest tenth are left out.
        steps = sorted(after - before for before, after in pairwise(one.memory[len(one.memory) // 3 :]))
        assert sum(steps[: -(len(steps) // 10)]) < 3 << 20, one.memory
        assert one.descriptors[-1] <= one.descriptors[0] + 70  # what is on its way; none is left behind, below


@pytest.mark.parametrize("times", [2, 5])
def test_too_much_is_refused_by_name_and_the_rest_is_answered(loaded: tuple[Running, float], times: int) -> None:
    running, rate = loaded[0], asyncio.run(capacity(loaded[0].port, 48, LONG))
    found = asyncio.run(load(running.port, rate, times, 6, LONG))
    assert found.unnamed == 0
    assert found.goodput > rate / 2  # what a shared machine still shows; the figures are in docs/diary.md
    if times == 5:
        assert found.refused > 0
    [front, worker] = asyncio.run(soak(running.port, running.process.pid, 5, 3))[1]
    assert front.descriptors[-1] < 40 and worker.descriptors[-1] < 40
