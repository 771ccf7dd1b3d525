"""What all routes share: which model is meant, who asks and whether they may, the start of an ask, and how errors are told.

worker, job, begun = await front.begin(request, body.model, Write(...))        # everything that can be wrong is refused here
return Stream(job, lines(job), front.failed(request))
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from starlette.requests import Request

from .asks import Ask, Begun, Found, Read, Tokens, Write
from .errors import Refused, body_of, in_words_of, is_anthropic, of_worker
from .http import Left, unless_left
from .known import unfit
from .limits import Limits
from .metrics import Metrics
from .models import Job, Models, Worker
from .telemetry import Traces

log = logging.getLogger("quire.serve")
SAME: Mapping[str, str] = {}


class Front:
    """most_open: asks that a model may have on their way; those beyond it are refused at once. traces: None is without."""

    def __init__(self, models: Models, limits: Limits, metrics: Metrics, most_open: int = 128, traces: Traces | None = None) -> None:
        self.models, self.limits, self.metrics, self.most_open, self.traces = models, limits, metrics, most_open, traces
        self.draining = False

    # -- who asks ------------------------------------------------------------------------------------------------------------------

    def id(self, request: Request) -> str:
        """The request's id: in the log, in the header X-Request-Id, in errors."""
        return str(request.scope["quire.id"])

    def tenant(self, request: Request) -> str:
        """Whose cached beginnings may be shared: the name of the key. The gate has put it there."""
        return str(request.scope["quire.key"].name)

    # -- asking --------------------------------------------------------------------------------------------------------------------

    async def begin(self, request: Request, model: str | None, ask: Write, names: Mapping[str, str] = SAME) -> tuple[Worker, Job, Begun]:
        """An ask to write that is accepted and in line. names: what this API calls the fields of an ask, where it has other names.

        Raises Refused, and Left when the client goes before.
        """
        with in_words_of(names):
            worker, job = await self._ask(request, model, ask)
            try:
                begun = await unless_left(request, None, job.__anext__())
            except BaseException:
                job.close()
                raise
        assert isinstance(begun, Begun)
        return worker, job, begun

    async def found(self, request: Request, model: str | None, ask: Read | Tokens, names: Mapping[str, str] = SAME) -> tuple[Worker, Found]:
        """The result of an ask that has no parts. names: as of `begin`. Raises Refused and Left."""
        with in_words_of(names):
            worker, job = await self._ask(request, model, ask)
            found = await unless_left(request, job, job.__anext__())
        assert isinstance(found, Found)
        return worker, found

    async def _ask(self, request: Request, model: str | None, ask: Ask) -> tuple[Worker, Job]:
        key = request.scope["quire.key"]
        if self.draining:
            raise Refused(503, "the server is shutting down.", "server_error", code="shutting_down", retry=10)
        worker = self.models.worker(model)
        if worker.open >= self.most_open:
            message = f"{worker.open} requests are on their way and no more are taken. Try again."
            raise Refused(503, message, "server_error", code="overloaded", retry=1)
        most_input = self.limits.of(key).most_input
        if most_input is not None and not isinstance(ask, Tokens):
            ask = replace(ask, most_input=most_input)
        if worker.state == "away" and (facts := await self.models.know(worker)) and (wrong := unfit(facts, ask)) is not None:
            raise of_worker("ModelError", wrong, "model")
        leave = await self.limits.enter(key, request.scope["quire.headers"])
        try:
            job = await (await self.models.opened(worker.name)).ask(ask)
        except BaseException:
            leave(0)
            raise
        watch = self.metrics.watch(worker.name, leave, request.scope["quire.facts"], computed=not isinstance(ask, Tokens))
        job.watch = watch if self.traces is None else self.traces.watch(worker.name, ask, self.id(request), watch)
        return worker, job

    @property
    def open(self) -> int:
        """Asks on their way."""
        return sum(worker.open for worker in self.models.workers.values())

    def end_all(self) -> None:
        """What is still on its way ends with an error."""
        for worker in self.models.workers.values():
            worker.end_all(Refused(503, "the server is shutting down.", "server_error", code="shutting_down", retry=10))

    # -- errors --------------------------------------------------------------------------------------------------------------------

    def refusal(self, request: Request, error: Exception) -> Refused:
        """What a client is told of an error. The text of one that is not ours goes to the log alone."""
        if isinstance(error, Refused):
            return error
        if not isinstance(error, Left | asyncio.CancelledError):
            log.error("unexpected error", exc_info=error, extra={"id": self.id(request)})
        return Refused(500, f"something went wrong here. The log has the reason under the id {self.id(request)}.", "server_error")

    def failed(self, request: Request) -> Callable[[Exception], bytes]:
        """The last events of a stream that breaks, in the form of the path's API."""
        path = request.url.path

        def line(error: Exception) -> bytes:
            told = json.dumps(body_of(path, self.refusal(request, error), self.id(request)))
            return (f"event: error\ndata: {told}\n\n" if is_anthropic(path) else f"data: {told}\n\ndata: [DONE]\n\n").encode()

        return line
