"""The models of a server, each in a worker process: started when first asked for, watched, started again when it dies, put away by budget.

    models = Models({"m": Spec("path")}, budget=None)
    async with models:
        job = await models.ask("m", Write(prompt="..."))
        async for event in job: ...                     # Begun, Piece ..., End; leaving the loop early frees what it holds

When a worker dies, every open job of it ends with an error, at once, and it is started again: at once the first time, then after pauses
that double up to half a minute as long as it dies young.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import QuireError
from .asks import Ask, Begun, End, Event, Found, Piece, Read, Write, logprob
from .errors import Refused, of_worker
from .known import known
from .wire import Frames, frame

log = logging.getLogger("quire.serve")
_OLD = 60.0  # seconds after which a worker that dies is not one that cannot start
_TRIES = 3  # to open a model whose process ends meanwhile
_MOST_HELD = 20_000  # events that a reader may lag behind


@dataclass(frozen=True)
class Spec:
    """What to open and how: `path`, the options of `quire.load`, those of `Engine`."""

    path: str
    dtype: str = "auto"
    device: str = "auto"
    quant: str | None = None
    verify: bool = False
    threads: int = 0
    engine: Mapping[str, Any] = field(default_factory=dict)


class Job:
    """One ask on its way. Iterate over its events; `close` (or leaving `async with`) frees what it holds in the worker.

    watch: is told every event as it arrives, and None when the job has ended, in whatever way; set it before the first await.
    """

    def __init__(self, worker: Worker, number: int, answers: int) -> None:
        self._worker, self._number, self._open = worker, number, answers
        self._events: asyncio.Queue[Event | Refused] = asyncio.Queue()
        self._done = False
        self.watch: Callable[[Event | Refused | None], None] = lambda event: None

    def tell(self, event: Event | Refused) -> None:
        """From the worker."""
        if self._done:
            return
        self.watch(event)
        self._events.put_nowait(event)
        if isinstance(event, Refused):
            self._end()
        elif isinstance(event, End | Found):
            self._open -= 1
            if self._open == 0:
                self._end()
        elif self._events.qsize() > _MOST_HELD:
            self._worker.abort(self._number)
            self.tell(Refused(408, "the answer was not read for too long.", "server_error", code="slow_reader"))

    def _end(self) -> None:
        self._done = True
        self._worker.forget(self._number)
        self.watch(None)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        """The next event. Raises Refused for an error, StopAsyncIteration after the last answer."""
        if self._done and self._events.empty():
            raise StopAsyncIteration
        event = await self._events.get()
        if isinstance(event, Refused):
            raise event
        return event

    def ready(self) -> Event | None:
        """An event that is there already, so that several can be sent together; None where the next must be awaited."""
        if self._events.empty():
            return None
        event = self._events.get_nowait()
        if isinstance(event, Refused):
            self._events.put_nowait(event)  # nothing comes behind it; it is raised where the next is awaited
            return None
        return event

    def close(self) -> None:
        """Frees it in the worker, within a step; nothing happens when it is done."""
        if not self._done:
            self._worker.abort(self._number)
            self._end()

    async def __aenter__(self) -> Job:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


State = Literal["away", "starting", "ready", "failed"]


class Worker:
    """One model's process, as the server sees it. patience: seconds in which one that has work must say something, or it hangs."""

    patience = 60.0

    def __init__(self, name: str, spec: Spec) -> None:
        self.name, self.spec = name, spec
        self.state: State = "away"
        self.facts: dict[str, Any] = {}
        self.counts: dict[str, float] = {}
        self.failure: Refused | None = None
        self.restarts = 0
        self.used = 0.0  # when it was last asked
        self.pid: int | None = None
        self._jobs: dict[int, Job] = {}
        self._numbers = itertools.count(1)
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._wanted = False
        self._heard = 0.0  # when it last said something

    @property
    def open(self) -> int:
        """Asks on their way."""
        return len(self._jobs)

    async def start(self) -> None:
        """Until it is ready. Raises Refused when the model cannot be opened."""
        if self._task is None or self._task.done():
            self._wanted, self.state, self.failure = True, "starting", None
            self._ready.clear()
            self._task = asyncio.create_task(self._keep(), name=f"worker {self.name}")
        await self._ready.wait()
        if self.failure is not None:
            raise self.failure

    async def stop(self) -> None:
        """Ends the process; open jobs end with an error."""
        self._wanted = False
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        if self._task is not None:
            await self._task
        self.state = "away"

    async def _keep(self) -> None:
        """Runs the process, again and again while it is wanted and can be opened."""
        pause, unopened = 0.0, 0
        while self._wanted:
            begun = time.monotonic()
            opened = await self._live()
            if not self._wanted or self.state == "failed":
                break
            unopened = 0 if opened else unopened + 1
            if unopened == _TRIES:
                self._fail(f"its process ended {_TRIES} times while it was opened; is there too little memory?")
                break
            self.restarts += 1
            pause = 0.0 if time.monotonic() - begun > _OLD else min(30.0, max(0.5, 2 * pause))
            log.error("worker died", extra={"model": self.name, "restarts": self.restarts, "pause": pause})
            self.state = "starting"
            await asyncio.sleep(pause if self.restarts > 1 else 0)
        self._ready.set()

    async def _live(self) -> bool:
        """One life of the process: from its start until its socket ends. Returns whether it came to be ready."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        command = [sys.executable, "-m", "quire.serve.worker", str(theirs.fileno())]
        paths = os.pathsep.join(path for path in sys.path if path)
        self._process = await asyncio.create_subprocess_exec(
            *command,
            pass_fds=(theirs.fileno(),),
            stdin=asyncio.subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,  # Ctrl-C is the server's to handle
        )
        theirs.close()
        self.pid = self._process.pid
        reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        self._writer.write(frame(asdict(self.spec)))
        watching = asyncio.create_task(self._watch(self._process))
        try:
            frames = Frames()
            while data := await reader.read(1 << 18):
                self._heard = time.monotonic()
                for message in frames.feed(data):
                    self._hear(message)
        except (ConnectionError, OSError):
            pass
        finally:
            watching.cancel()
            opened = self.state == "ready"
            self._writer.close()
            self._writer, self.pid, self.counts = None, None, {}
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
            await self._process.wait()
            if self.state != "failed":
                self._ready.clear()
                self.state = "starting" if self._wanted else "away"
            self.end_all(of_worker("WorkerDied", "the model's process ended while it answered; it is being started again. Ask anew."))
        return opened

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Ends a process that has work and says nothing: it hangs, and nobody would ever hear from it."""
        while True:
            await asyncio.sleep(self.patience / 10)
            if self.state == "ready" and self._jobs and time.monotonic() - max(self._heard, self.used) > self.patience:
                log.error("worker hangs", extra={"model": self.name, "seconds": self.patience})
                process.kill()

    def end_all(self, why: Refused) -> None:
        """Every open job ends with an error."""
        for number, job in list(self._jobs.items()):
            self.abort(number)
            job.tell(why)

    def _hear(self, message: Any) -> None:
        if isinstance(message, list):
            for said in message:
                self._event(said)
        elif "counts" in message:
            self.counts = message["counts"]
        elif "ready" in message:
            self.facts, self.state = message["ready"], "ready"
            self._ready.set()
        elif "failed" in message:
            self._fail(": ".join(message["failed"]))

    def _fail(self, reason: str) -> None:
        self.state = "failed"
        self.failure = Refused(503, f"the model '{self.name}' cannot be opened. The server's log has the reason.", "server_error")
        log.error("a model cannot be opened", extra={"model": self.name, "reason": reason})

    def _event(self, said: list[Any]) -> None:
        job = self._jobs.get(said[0])
        if job is None:
            return
        kind, values = said[1], said[2:]
        if kind == "piece":
            choice, text, ids, facts, calls = values
            job.tell(Piece(choice, text, tuple(ids), tuple(map(logprob, facts)), tuple(calls)))
        elif kind == "end":
            choice, reason, tokens, text, calls, cut, valid, stop, cached, prompt = values
            facts = tuple(None if fact is None else logprob(fact) for fact in prompt)
            job.tell(End(choice, reason, tokens, text, tuple(calls), cut, valid, stop, cached, facts))
        elif kind == "begun":
            job.tell(Begun(values[0], tuple(values[1])))
        elif kind == "found":
            job.tell(Found(*values))
        else:
            if not values[0]:
                log.error("a request failed", extra={"model": self.name, "reason": values[1][:2000]})
            job.tell(of_worker(*values))

    async def ask(self, ask: Ask) -> Job:
        """Sends an ask. Raises Refused when the worker is not there, and for values that are no JSON."""
        if self.state != "ready" or self._writer is None:
            raise Refused(503, f"the model '{self.name}' is {self.state}. Try again in a moment.", "server_error", retry=2)
        number = next(self._numbers)
        job = Job(self, number, ask.n if isinstance(ask, Write) else 1)
        op = "write" if isinstance(ask, Write) else "read" if isinstance(ask, Read) else "tokens"
        try:
            data = frame({"op": op, "id": number, "ask": asdict(ask)})
        except ValueError:  # Python reads NaN and Infinity where JSON has none
            raise Refused(400, "the body holds NaN or Infinity, which are no JSON. Send numbers.", code="invalid_json") from None
        self._jobs[number] = job
        self.used = time.monotonic()
        self._writer.write(data)
        return job

    def abort(self, number: int) -> None:
        if self._jobs.pop(number, None) is not None and self._writer is not None:
            self._writer.write(frame({"op": "abort", "id": number}))

    def forget(self, number: int) -> None:
        self._jobs.pop(number, None)


class Models:
    """Several models by name. budget: bytes of files that may be open at once (None: all); the one asked longest ago is put away first,
    and never one that is answering."""

    def __init__(self, specs: Mapping[str, Spec], budget: int | None = None) -> None:
        self.workers = {name: Worker(name, spec) for name, spec in specs.items()}
        self.budget = budget
        self._lock = asyncio.Lock()

    def worker(self, name: str | None) -> Worker:
        """By its name; None is the first. Raises Refused (404) naming those that are there."""
        if name is None:
            return next(iter(self.workers.values()))
        if name not in self.workers:
            there = ", ".join(self.workers)
            raise Refused(404, f"there is no model '{name[:80]}' here; there are: {there}.", param="model", code="model_not_found")
        return self.workers[name]

    async def opened(self, name: str | None) -> Worker:
        """A worker that is ready, started now where it was not. Raises Refused."""
        worker = self.worker(name)
        if worker.state != "ready":
            if worker.state == "starting" and worker.restarts:
                raise Refused(503, f"the model '{worker.name}' is being started again. Try again in a moment.", "server_error", retry=2)
            async with self._lock:
                await self._room(worker)
                await worker.start()
        return worker

    async def know(self, worker: Worker) -> Mapping[str, Any]:
        """What is known of a model without opening it; nothing of one that cannot be opened, which then tells why."""
        if not worker.facts:
            try:
                found = await asyncio.to_thread(known, worker.spec.path)
            except (QuireError, OSError):
                return {}
            worker.facts = worker.facts or found  # it may have been opened meanwhile
        return worker.facts

    async def open_first(self) -> None:
        """Opens as many as the budget has room for, so that the first who asks does not wait."""
        for worker in self.workers.values():
            there = sum(size(other.spec) for other in self.workers.values() if other.state != "away")
            if self.budget is None or there + size(worker.spec) <= self.budget or not there:
                with contextlib.suppress(Refused):  # it is in the log, and told to who asks
                    await self.opened(worker.name)

    async def ask(self, name: str | None, ask: Ask) -> Job:
        return await (await self.opened(name)).ask(ask)

    async def _room(self, wanted: Worker) -> None:
        """Puts models away until `wanted` fits."""
        if self.budget is None or wanted.state != "away":
            return
        while True:
            there = [worker for worker in self.workers.values() if worker.state in ("ready", "starting")]
            if sum(size(worker.spec) for worker in there) + size(wanted.spec) <= self.budget or not there:
                return
            idle = [worker for worker in there if worker.open == 0 and worker.state == "ready"]
            if not idle:
                message = f"there is no room for '{wanted.name}' while the others answer. Try again."
                raise Refused(503, message, "server_error", code="no_room", retry=5)
            await min(idle, key=lambda worker: worker.used).stop()

    async def stop(self) -> None:
        await asyncio.gather(*(worker.stop() for worker in self.workers.values()))


def size(spec: Spec) -> int:
    """Bytes of a model's weights on disk: about what it takes of the memory."""
    path = Path(spec.path)
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))
