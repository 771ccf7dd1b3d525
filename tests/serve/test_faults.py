"""Clients that leave, workers that die, signals, readers that are slow: what was held comes back, and nothing ends in silence."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import uvicorn

from quire.serve.app import application
from quire.serve.front import Front
from quire.serve.gate import Rules
from quire.serve.limits import Limits
from quire.serve.metrics import Metrics
from quire.serve.models import Models, Spec, Worker
from tests.serve.conftest import Running, start

LONG = {"model": "chat", "messages": [{"role": "user", "content": "tell me"}], "max_tokens": 400, "temperature": 0, "min_tokens": 400}


class Inside:
    """A server in a thread of this process, so that what it holds can be looked at."""

    def __init__(self, folder: Path) -> None:
        models = Models({"chat": Spec(str(folder), threads=1)})
        models.workers["chat"].patience = 5.0  # looked at twice a second
        self.front = Front(models, Limits(), Metrics(models.workers))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.server = uvicorn.Server(uvicorn.Config(application(self.front, Rules()), "127.0.0.1", self.port, log_config=None))
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        self.until(lambda: self.worker.state == "ready", 60)

    @property
    def worker(self) -> Worker:
        return self.front.models.workers["chat"]

    def until(self, true, seconds: float = 5.0) -> float:
        """Waits until it is true; returns how long that took."""
        begun = time.monotonic()
        while not true():
            assert time.monotonic() - begun < seconds, (self.worker.state, self.worker.open, self.worker.counts)
            time.sleep(0.002)
        return time.monotonic() - begun

    @property
    def empty(self) -> bool:
        counts = self.worker.counts
        return (
            self.worker.open == 0
            and counts.get("running") == 0
            and counts.get("waiting") == 0
            and counts["blocks_free"] == counts["blocks"]
        )

    def raw(self, body: dict) -> bytes:
        data = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Type: application/json\r\n"
        return head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data


@pytest.fixture(scope="module")
def inside(folders: dict[str, Path]) -> Iterator[Inside]:
    made = Inside(folders["chat"])
    yield made
    made.server.should_exit = True
    made.thread.join(20)


def test_a_thousand_clients_that_leave_hold_nothing(inside: Inside) -> None:
    draw = random.Random(0)
    descriptors = len(os.listdir("/proc/self/fd"))

    async def leave(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", inside.port)
        said = [{"role": "user", "content": "x " * draw.randrange(100)}]
        whole = inside.raw({**LONG, "stream": number % 2 == 0, "n": draw.choice((1, 1, 1, 3)), "messages": said})
        cut = draw.choice((len(whole), len(whole), len(whole), draw.randrange(len(whole))))
        writer.write(whole[:cut])
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            await asyncio.sleep(draw.choice((0, 0.001, 0.01, 0.05, 0.1)))
            if draw.random() < 0.3:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(reader.read(200), 0.2)
        if draw.random() < 0.5:
            writer.transport.abort()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def all_of_them() -> None:
        for first in range(0, 1000, 25):
            await asyncio.gather(*(leave(first + number) for number in range(25)))

    asyncio.run(all_of_them())
    inside.until(lambda: inside.worker.open == 0, 5)
    inside.until(lambda: inside.empty, 1)
    inside.until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors + 5, 5)
    assert inside.worker.restarts == 0


@pytest.mark.parametrize("stream", [True, False])
def test_what_a_client_held_is_free_within_a_step(inside: Inside, stream: bool) -> None:
    with socket.create_connection(("127.0.0.1", inside.port)) as client:
        client.sendall(inside.raw({**LONG, "stream": stream}))
        inside.until(lambda: inside.worker.open == 1)
        time.sleep(0.02)
    left = inside.until(lambda: inside.worker.open == 0)
    freed = inside.until(lambda: inside.empty)
    assert left + freed < 0.5  # a step takes a millisecond here; a busy machine may take its time


def test_a_worker_that_dies_ends_streams_with_an_error_and_is_started_again(inside: Inside) -> None:
    with httpx2.Client(base_url=f"http://127.0.0.1:{inside.port}", timeout=30, trust_env=False) as client:
        with client.stream("POST", "/v1/chat/completions", json={**LONG, "stream": True}) as answer:
            lines = answer.iter_lines()
            next(lines)
            assert inside.worker.pid is not None
            os.kill(inside.worker.pid, signal.SIGKILL)
            begun = time.monotonic()
            rest = [line for line in lines if line]
        assert time.monotonic() - begun < 5
        assert rest[-1] == "data: [DONE]" and json.loads(rest[-2][6:])["error"]["code"] == "worker_died"
        health = client.get("/health")
        assert health.status_code == 503 and health.json()["models"] == {"chat": "starting"}
        refused = client.post("/v1/chat/completions", json=LONG)
        assert refused.status_code == 503 and int(refused.headers["Retry-After"]) >= 1
        inside.until(lambda: inside.worker.state == "ready", 60)
        assert client.get("/health").status_code == 200
        assert client.post("/v1/chat/completions", json={**LONG, "max_tokens": 3, "min_tokens": 0}).status_code == 200
    assert inside.worker.restarts == 1


def test_a_worker_that_hangs_is_ended_and_started_again(inside: Inside) -> None:
    inside.until(lambda: inside.worker.state == "ready" and inside.empty, 60)
    before = inside.worker.restarts
    assert inside.worker.pid is not None
    with httpx2.Client(base_url=f"http://127.0.0.1:{inside.port}", timeout=60, trust_env=False) as client:
        os.kill(inside.worker.pid, signal.SIGSTOP)
        answer = client.post("/v1/chat/completions", json=LONG)
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "worker_died"
        inside.until(lambda: inside.worker.state == "ready", 60)
    assert inside.worker.restarts == before + 1


def test_slow_readers_and_half_open_sockets_do_not_hurt_others(inside: Inside) -> None:
    slow = []
    for _ in range(50):
        client = socket.create_connection(("127.0.0.1", inside.port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.sendall(inside.raw({**LONG, "stream": True}))
        slow.append(client)
    half = [socket.create_connection(("127.0.0.1", inside.port)) for _ in range(300)]
    for client in half:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127")
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{inside.port}", timeout=60, trust_env=False) as client:
            for _ in range(3):
                answer = client.post("/v1/chat/completions", json={**LONG, "max_tokens": 20, "min_tokens": 20})
                assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 20
    finally:
        for client in [*slow, *half]:
            client.close()
    inside.until(lambda: inside.empty, 10)


# -- signals -----------------------------------------------------------------------------------------------------------------------


def many_streams(running: Running, count: int, body: dict) -> list[list[str]]:
    """The events' data of so many streams at once; filled by threads."""
    found: list[list[str]] = [[] for _ in range(count)]

    def one(number: int) -> None:
        with httpx2.Client(base_url=running.url, timeout=60, trust_env=False) as client, contextlib.suppress(httpx2.RemoteProtocolError):
            with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        found[number].append(line[6:])

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    while not all(found):
        time.sleep(0.01)
    found.append(threads)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("grace", [30.0, 0.2])
def test_sigterm_ends_every_stream_whole_or_with_an_error(folders: dict[str, Path], tmp_path: Path, grace: float) -> None:
    running = start(tmp_path, f"chat={folders['chat']}", "--grace", str(grace))
    *streams, threads = many_streams(running, 32, {**LONG, "stream": True})
    running.process.send_signal(signal.SIGTERM)
    with httpx2.Client(base_url=running.url, timeout=10, trust_env=False) as client, contextlib.suppress(httpx2.ConnectError):
        time.sleep(0.1)
        assert client.get("/ready").status_code == 503
        assert client.post("/v1/chat/completions", json=LONG).status_code == 503
    for thread in threads:
        thread.join(60)  # type: ignore[attr-defined]
    assert running.process.wait(20) == 0, running.log.read_text()
    running.stop()
    for lines in streams:
        assert lines[-1] == "[DONE]"
        last = json.loads(lines[-2])
        assert "error" in last or last["choices"][0]["finish_reason"] == "length"
    if grace > 1:
        assert not any("error" in json.loads(lines[-2]) for lines in streams)


def test_a_second_signal_ends_at_once(folders: dict[str, Path], tmp_path: Path) -> None:
    running = start(tmp_path, f"chat={folders['chat']}")
    *streams, threads = many_streams(running, 4, {**LONG, "stream": True, "n": 8})
    running.process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    running.process.send_signal(signal.SIGTERM)
    running.process.wait(5)
    running.stop()
    for thread in threads:
        thread.join(10)  # type: ignore[attr-defined]
    assert all(lines[-1] != "[DONE]" for lines in streams)  # cut, and not told to be whole
