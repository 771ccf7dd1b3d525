"""The process that holds a model: reads asks from its socket, computes them together, sends what each step said.

    python -m quire.serve.worker FD          the first frame says what to open; the first answer, what was opened

Three kinds of thread: one reads the socket, a few prepare asks, and the first one computes. It ends when the socket does, so no worker
outlives its server.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..errors import DataError, QuireError
from .asks import Read, Tokens, Write
from .desk import Desk, Said, Whole, Writing, told
from .wire import Frames, frame

_ASKS: dict[str, type[Write] | type[Read] | type[Tokens]] = {"write": Write, "read": Read, "tokens": Tokens}
_COUNTS = 0.5  # seconds between two reports of the gauges
_PREPARING = 2  # threads


class Worker:
    """One model behind a socket."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()  # messages (dict), prepared asks, None when the socket has ended
        self._pool = ThreadPoolExecutor(_PREPARING, thread_name_prefix="prepare")
        self._aborted: set[int] = set()
        self._preparing: set[int] = set()

    def run(self, spec: dict[str, Any]) -> None:
        self.desk = Desk(_open(spec), spec.get("engine", {}))
        self._send({"ready": self.desk.facts()})
        threading.Thread(target=self._receive, daemon=True).start()
        counted = 0.0
        while self._take():
            said = self.desk.step() if self.desk.busy else []
            if said:
                self._send(said)
            now = time.monotonic()
            if now - counted >= _COUNTS or not self.desk.busy:
                counted = now
                self._send({"counts": self.desk.counts()})

    def _receive(self) -> None:
        frames = Frames()
        with contextlib.suppress(OSError):
            while data := self.channel.recv(1 << 16):
                for message in frames.feed(data):
                    self._inbox.put(message)
        self._inbox.put(None)

    def _take(self) -> bool:
        """Takes in all that has come; waits when there is nothing to compute. False: the server has gone."""
        wait = not self.desk.busy
        while True:
            try:
                item = self._inbox.get(block=wait)
            except queue.Empty:
                return True
            wait = False
            if item is None:
                return False
            if isinstance(item, Writing | Whole):
                self._preparing.discard(item.id)
                if item.id in self._aborted:
                    self._aborted.discard(item.id)
                else:
                    self._send(self.desk.begin(item))
            elif isinstance(item, list):
                self._preparing.discard(item[0])
                if item[0] not in self._aborted:
                    self._send([item])
                self._aborted.discard(item[0])
            elif item["op"] == "abort":
                if item["id"] in self._preparing:
                    self._aborted.add(item["id"])
                self.desk.abort(item["id"])
            else:
                self._preparing.add(item["id"])
                self._pool.submit(self._prepare, item)

    def _prepare(self, message: dict[str, Any]) -> None:
        number = message["id"]
        try:
            self._inbox.put(self.desk.prepare(number, _ASKS[message["op"]](**message["ask"])))
        except BaseException as error:  # a fault of native code is no Exception; what is wrong with one ask must not end the others
            self._inbox.put(told(number, error if isinstance(error, Exception) else RuntimeError(str(error))))

    def _send(self, message: Any | list[Said]) -> None:
        try:
            data = frame(message)
        except (ValueError, DataError):  # what one ask has said is no JSON, or too much of it: that one ends, and no other
            if not isinstance(message, list):
                raise
            data = b"".join(map(self._alone, message))
        self.channel.sendall(data)

    def _alone(self, said: Said) -> bytes:
        try:
            return frame([said])
        except (ValueError, DataError) as error:
            self.desk.abort(said[0])
            return frame([told(said[0], error)])


def _open(spec: dict[str, Any]) -> Any:
    import torch

    from ..machine import threads
    from ..model import load

    asked = os.environ.get("OMP_NUM_THREADS", "")  # which torch has heeded already
    if spec.get("threads") or not asked.isdigit():
        torch.set_num_threads(spec.get("threads") or threads())
    return load(spec["path"], spec.get("dtype", "auto"), spec.get("device", "auto"), spec.get("verify", False), spec.get("quant"))


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server decides when its workers end
    channel = socket.socket(fileno=int(sys.argv[1]))
    frames, messages = Frames(), list[Any]()
    while not messages:
        data = channel.recv(1 << 16)
        if not data:
            return
        messages = frames.feed(data)
    worker = Worker(channel)
    try:
        worker.run(messages[0])
    except QuireError as error:
        channel.sendall(frame({"failed": [type(error).__name__, str(error)]}))
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server has gone
    os._exit(0)  # threads that prepare may be in native code; nothing is left to be written


if __name__ == "__main__":
    main()
