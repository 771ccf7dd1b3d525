"""Sockets that are opened and not used. uvicorn waits for the head of a request without end and takes a head of any size; this does not.

From its first byte (or from the opening of its socket) a request has ten seconds to arrive whole, and its head 64 KB. What the gate answers
to a slow body, and idle time between requests, are not touched: those have limits of their own.

And what uvicorn passes over: a whole URL as the target of a request names the host that is meant, whatever the header Host says (RFC 9112,
section 3.2.2), so the gate gets to see that one. A WebSocket and what is no HTTP are answered without a line in the log, which anybody
could fill otherwise.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

SECONDS = 10.0
LARGEST_HEAD = 1 << 16
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Guarded(HttpToolsProtocol):
    """uvicorn's protocol with a clock and a bound for what arrives."""

    def __init__(self, *values: Any, **more: Any) -> None:
        super().__init__(*values, **more)
        self.logger = logging.getLogger("uvicorn.error.protocol")
        self.logger.setLevel(logging.ERROR)  # what goes wrong here is told, and what clients do wrong is not
        self._clock: asyncio.TimerHandle | None = None
        self._in_head, self._head, self._fields = False, 0, 0  # a head's bytes as they come, and those of its fields

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._start()
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head += len(data)
            if self._head > LARGEST_HEAD:
                self._too_large()

    def on_url(self, url: bytes) -> None:
        self._fields += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += len(name) + len(value)
        super().on_header(name, value)

    def send_400_response(self, msg: str) -> None:
        if self._fields > LARGEST_HEAD:
            self._too_large()
        else:
            super().send_400_response(msg)

    def _too_large(self) -> None:
        self.transport.write(_TOO_LARGE)
        self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head, self._fields = True, 0, 0
        self._start()

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._fields > LARGEST_HEAD:  # one that came in a single piece
            raise ValueError("the head is too large")  # which the parser hands on as a request that cannot be
        if not self.url.startswith(b"/") and (meant := httptools.parse_url(self.url)).host is not None:
            host = meant.host + (b":%d" % meant.port if meant.port else b"")
            self.headers[:] = [(name, host if name == b"host" else value) for name, value in self.headers]
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._stop()
        super().on_message_complete()

    def _start(self) -> None:
        if self._clock is None:
            self._clock = self.loop.call_later(SECONDS, self._late)

    def _stop(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _late(self) -> None:
        self._clock = None
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._start()  # an answer is on its way: the gate's to a slow body, or a stream's
        else:
            self.transport.abort()
