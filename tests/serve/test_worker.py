"""What one ask says may be anything: it ends that one, and never the process that answers all."""

from __future__ import annotations

import socket
from typing import Any

from quire.serve.wire import Frames
from quire.serve.worker import Worker


class Desk:
    def __init__(self) -> None:
        self.aborted: list[int] = []

    def abort(self, number: int) -> None:
        self.aborted.append(number)


def test_what_is_no_json_ends_the_ask_that_said_it() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker = Worker(theirs)
        desk: Any = Desk()
        worker.desk = desk
        worker._send([[1, "piece", 0, "a", [5], [[5, "a", -0.5, []]], []], [2, "piece", 0, "b", [6], [[6, "b", float("nan"), []]], []]])
        heard = [said for message in Frames().feed(ours.recv(1 << 16)) for said in message]
    assert [(said[0], said[1]) for said in heard] == [(1, "piece"), (2, "error")] and desk.aborted == [2]
