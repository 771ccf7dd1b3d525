"""A real server over tiny models, asked over real sockets; and the environments of the real clients."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from quire.serve.keys import Limit, make
from tests.small import write_model

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Running:
    """A `quire serve` in a process of its own."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    key: str | None = None
    client: httpx2.Client = field(init=False)

    def __post_init__(self) -> None:
        headers = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        self.client = httpx2.Client(base_url=self.url, timeout=60, headers=headers, trust_env=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str, body: Any = None, **more: Any) -> httpx2.Response:
        return self.client.post(path, json=body, **more)

    def events(self, path: str, body: Any) -> list[Any]:
        """The data of a stream's events; "[DONE]" stays a text."""
        with self.client.stream("POST", path, json=body) as answer:
            assert answer.status_code == 200, answer.read()
            lines = [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]

    def wait_ready(self, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log.read_text()
            try:
                health = self.client.get("/health")
                if health.status_code == 200 and "ready" in health.json()["models"].values():
                    return
            except httpx2.HTTPError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"the server is not ready after {seconds} s: {self.log.read_text()}")

    def stop(self) -> int:
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def start(folder: Path, *words: str, key: str | None = None, ready: bool = True, **environment: str) -> Running:
    """`quire serve WORDS` on a free port. key: which the test's client sends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / f"serve-{port}.log"
    command = [sys.executable, "-c", "from quire.cli.main import main; raise SystemExit(main())", "serve", *words, "--port", str(port)]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=settings)
    running = Running(process, port, log, key)
    if ready:
        running.wait_ready()
    return running


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models: `chat` (a decoder with a template), `base` (without), `bert`, `t5`."""
    root = tmp_path_factory.mktemp("models")
    return {
        "chat": write_model(root / "chat", template=True, context=512),
        "base": write_model(root / "base", context=512),
        "bert": write_model(root / "bert", "bert"),
        "t5": write_model(root / "t5", "t5"),
    }


@pytest.fixture(scope="session")
def server(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """All four models behind one server without keys. Tests share it: leave it as you found it."""
    running = start(tmp_path_factory.mktemp("serve"), *(f"{name}={folder}" for name, folder in folders.items()))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def keyed(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, dict[str, str]]]:
    """One model behind a server with keys for alice (whose key the client sends), bob and carol, who may ask little; and those keys."""
    folder = tmp_path_factory.mktemp("keyed")
    small = Limit(requests=4, most_input=30)
    keys = {name: make(name, folder / "keys.toml", small if name == "carol" else Limit())[0] for name in ("alice", "bob", "carol")}
    words = [f"chat={folders['chat']}", "--keys", str(folder / "keys.toml"), "--allow-host", "models.example"]
    running = start(folder, *words, key=keys["alice"])
    yield running, keys
    running.stop()


@pytest.fixture(scope="session")
def client_python() -> Callable[[str], Path]:
    """The interpreter of a real client's environment, which `make clients` has made of tests/serve/clients/NAME.txt."""

    def find(name: str) -> Path:
        python = Path(os.environ.get("QUIRE_CLIENTS", ROOT / ".clients")) / name / "bin" / "python"
        if not python.is_file():
            if os.environ.get("CI"):
                pytest.fail(f"there is no {python}; CI makes it with `make clients`")
            pytest.skip(f"the client '{name}' is not installed: make clients")
        return python

    return find
