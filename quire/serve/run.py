"""One server from its start to its end: models opened, port bound, signals heard, drained.

The first SIGTERM (or Ctrl-C) drains: /ready says no, what comes new is refused with 503, what is on its way may finish until `grace`
seconds are over; then the rest end with an error event, so no stream just stops. A second signal ends everything at once.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from types import FrameType

import uvicorn

from ..errors import RecipeError
from .app import application
from .front import Front
from .gate import Rules
from .guard import Guarded

log = logging.getLogger("quire.serve")


class Server(uvicorn.Server):
    """uvicorn's server with our way to end."""

    def __init__(self, config: uvicorn.Config, front: Front, grace: float, keys: int) -> None:
        super().__init__(config)
        self._front, self._grace, self._keys = front, grace, keys
        self._drain: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            keys = str(self._keys) if self._keys else "none: whoever is on this machine may ask"
            log.info("serving", extra={"url": url, "models": ", ".join(self._front.models.workers), "keys": keys})

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._front.draining:
            log.warning("second signal: ends at once")
            self.force_exit = self.should_exit = True
            return
        self._front.draining = True
        log.info("draining", extra={"signal": signal.Signals(sig).name, "open": self._front.open})
        self._drain = asyncio.get_running_loop().create_task(self._drained())

    async def _drained(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._grace
        while self._front.open and loop.time() < until:
            await asyncio.sleep(0.05)
        self._front.end_all()
        await asyncio.sleep(0.1 if self._front.open else 0)  # the error events are on their way
        self.should_exit = True


def check(host: str, port: int) -> None:
    """Raises RecipeError for an address that cannot be listened on."""
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: one that has ended does not count
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise RecipeError(f"the port {port} of {host} is taken by another program. Choose another with --port N.") from None
        if error.errno == errno.EACCES:
            raise RecipeError(f"the port {port} is kept for the system. Choose one above 1023 with --port N.") from None
        raise RecipeError(
            f"{host} cannot be listened on: {error.strerror or error}. Choose an address of this machine with --host."
        ) from None
    except OverflowError:
        raise RecipeError(f"--port is {port}; allowed: 0 to 65535.") from None


def run(front: Front, host: str, port: int, rules: Rules, *, grace: float = 30.0) -> None:
    """Serves until a signal says otherwise. Raises RecipeError for an address that cannot be listened on, before any model is opened."""
    check(host, port)
    config = uvicorn.Config(
        application(front, rules),
        host,
        port,
        # OpenTelemetry runs code of its own in a forked process before the model's process begins, which never ends under uvloop.
        loop="auto" if front.traces is None else "asyncio",
        http=Guarded,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
    )
    Server(config, front, grace, len(rules.keys)).run()
    if front.traces is not None:
        front.traces.stop()
