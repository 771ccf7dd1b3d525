"""Is the server well, may it be asked, which models are there, what does it count: /health, /ready, /v1/models, /metrics."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from .front import Front
from .metrics import CONTENT_TYPE
from .models import Worker

_BEGUN = int(time.time())


def routes(front: Front) -> APIRouter:
    router = APIRouter()

    @router.get("/health", summary="Is every model's process well?")
    @router.head("/health", include_in_schema=False)
    async def health() -> Response:
        states = {worker.name: worker.state for worker in front.models.workers.values()}
        well = all(state in ("ready", "away") for state in states.values())
        return JSONResponse({"status": "ok" if well else "degraded", "models": states}, 200 if well else 503)

    @router.get("/ready", summary="May requests be sent here?")
    @router.head("/ready", include_in_schema=False)
    async def ready() -> Response:
        there = [worker.state for worker in front.models.workers.values()]
        may = not front.draining and all(state in ("ready", "away") for state in there)
        return JSONResponse({"ready": may, "draining": front.draining}, 200 if may else 503)

    @router.get("/metrics", summary="What the server counts, for Prometheus")
    async def metrics() -> Response:
        return Response(front.metrics.page(), media_type=CONTENT_TYPE)

    @router.get("/v1/models", summary="The models that are here")
    async def models() -> Response:
        there = front.models.workers.values()
        await asyncio.gather(*map(front.models.know, there))
        return JSONResponse({"object": "list", "data": [_model(worker) for worker in there]})

    @router.get("/v1/models/{name:path}", summary="One model")
    async def model(name: str) -> Response:
        worker = front.models.worker(name)
        await front.models.know(worker)
        return JSONResponse(_model(worker))

    return router


def _model(worker: Worker) -> dict[str, Any]:
    """max_model_len: how many tokens are read at once (`known.longest`), under the name that vLLM gives it."""
    facts = worker.facts
    return {
        "id": worker.name,
        "object": "model",
        "created": _BEGUN,
        "owned_by": "quire",
        "max_model_len": facts.get("context"),
        "context_length": facts.get("context"),
        "kind": facts.get("kind"),
        "parameters": facts.get("parameters"),
        "writes": facts.get("writes"),
        "chats": facts.get("chats"),
        "binding": facts.get("identity"),
        "state": worker.state,
    }
