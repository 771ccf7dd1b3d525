"""How much a key may ask for: counted exactly, here and in a Redis that several processes share."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quire.errors import RecipeError
from quire.serve.errors import Refused
from quire.serve.keys import Key, Limit
from quire.serve.limits import Limits
from tests.serve.conftest import ROOT

ALICE, BOB = Key("alice"), Key("bob")


def test_requests_a_minute_are_counted_for_each_key() -> None:
    async def go() -> None:
        limits, headers = Limits(Limit(requests=3)), dict[str, str]()
        for _ in range(3):
            (await limits.enter(ALICE, headers))(0)
        assert headers["x-ratelimit-limit-requests"] == "3" and headers["x-ratelimit-remaining-requests"] == "0"
        with pytest.raises(Refused, match="3 requests a minute") as refused:
            await limits.enter(ALICE, headers)
        assert refused.value.status == 429 and refused.value.retry is not None and 0 < refused.value.retry <= 60
        (await limits.enter(BOB, {}))(0)
        (await limits.enter(Key("carol", limit=Limit(requests=9)), headers))(0)  # her own limit is another
        assert headers["x-ratelimit-limit-requests"] == "9"

    asyncio.run(go())


def test_at_once() -> None:
    async def go() -> None:
        limits = Limits(Limit(at_once=2))
        begun = await asyncio.gather(*(limits.enter(ALICE, {}) for _ in range(5)), return_exceptions=True)
        inside = [leave for leave in begun if not isinstance(leave, BaseException)]
        assert len(inside) == 2 and all(isinstance(one, Refused) and one.status == 429 for one in begun if one not in inside)
        inside[0](5)
        (await limits.enter(ALICE, {}))(0)
        inside[1](5)
        assert not limits._open  # nothing is kept of those who have left

    asyncio.run(go())


def test_tokens_are_charged_at_the_end_and_what_is_over_is_owed() -> None:
    async def go() -> None:
        limits, headers = Limits(Limit(tokens=100)), dict[str, str]()
        (await limits.enter(ALICE, headers))(60)
        (await limits.enter(ALICE, headers))(90)  # 50 more than there are
        assert headers["x-ratelimit-remaining-tokens"] == "40"
        with pytest.raises(Refused, match="100 tokens a minute") as refused:
            await limits.enter(ALICE, headers)
        assert refused.value.retry is not None and refused.value.retry > 0 and headers["x-ratelimit-remaining-tokens"] == "0"
        assert limits._debts["alice"] == 50
        assert not limits._open
        (await limits.enter(BOB, {}))(0)

    asyncio.run(go())


def test_a_refusal_by_tokens_costs_no_request() -> None:
    async def go() -> None:
        limits, headers = Limits(Limit(tokens=10, requests=5)), dict[str, str]()
        (await limits.enter(ALICE, headers))(10)
        for _ in range(3):
            with pytest.raises(Refused):
                await limits.enter(ALICE, headers)
        assert headers["x-ratelimit-remaining-requests"] == "4"

    asyncio.run(go())


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "memcached://x"])
def test_another_address_is_refused(url: str) -> None:
    with pytest.raises(RecipeError, match="redis://HOST:PORT"):
        Limits(Limit(), url)


# -- Redis -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A redis-server of our own; skipped only where the binary is not installed."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("there is no redis-server here (Debian: apt-get install redis-server)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(words, cwd=tmp_path_factory.mktemp("redis"), stdout=subprocess.DEVNULL)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield f"redis://127.0.0.1:{port}/0", process
    process.kill()
    process.wait()


# Asks as fast as it can, `argv[2]` at a time, for two seconds; prints what passed.
ASKER = """
import asyncio, json, sys, time
from quire.serve.errors import Refused
from quire.serve.keys import Key, Limit
from quire.serve.limits import Limits

async def go():
    limits, passed, refused, slowest = Limits(Limit(requests=300), sys.argv[1]), 0, 0, 0.0
    async def one():
        nonlocal passed, refused
        until = time.monotonic() + 2
        while time.monotonic() < until:
            try:
                (await limits.enter(Key(sys.argv[3]), {}))(0)
                passed += 1
            except Refused:
                refused += 1
    await asyncio.gather(*(one() for _ in range(int(sys.argv[2]))))
    print(json.dumps([passed, refused, limits._until]))

asyncio.run(go())
"""


def test_two_processes_share_one_limit_in_redis(redis: tuple[str, subprocess.Popen[bytes]]) -> None:
    command = [sys.executable, "-c", ASKER, redis[0], "8", "alice"]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
    told: list[Any] = [json.loads(process.communicate(timeout=60)[0]) for process in both]
    assert all(alone == 0 for _, _, alone in told), "a process counted alone"
    passed = sum(row[0] for row in told)
    assert 300 <= passed <= 303 and all(row[1] for row in told)


def test_tokens_are_shared_too(redis: tuple[str, subprocess.Popen[bytes]]) -> None:
    async def go() -> None:
        one, other = (Limits(Limit(tokens=1000), redis[0]) for _ in range(2))
        (await one.enter(BOB, {}))(600)
        await asyncio.gather(*one._paying)
        (await other.enter(BOB, {}))(900)
        await asyncio.gather(*other._paying)
        for limits in (one, other):
            with pytest.raises(Refused, match="1,000 tokens"):
                await limits.enter(BOB, {})
        assert other._debts["bob"] == 500
        for limits in (one, other):
            await limits.stop()

    asyncio.run(go())


def test_without_redis_each_counts_alone(tmp_path: Path) -> None:
    async def go() -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # nobody listens there
            limits = Limits(Limit(requests=2), f"redis://127.0.0.1:{closed.getsockname()[1]}/0")
            for _ in range(2):
                (await limits.enter(ALICE, {}))(0)
            with pytest.raises(Refused):
                await limits.enter(ALICE, {})
        assert limits._until > time.monotonic()
        await limits.stop()

    asyncio.run(go())
