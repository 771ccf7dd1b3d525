"""The ASGI application: the gate, the routes, and one funnel for errors.

Every API tells errors in its own form: Anthropic's under /v1/messages, OpenAI's everywhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Scope

from . import chat, completions, health, messages, page, plain, reading, responses
from .bodies import refused
from .errors import Refused, body_of, is_anthropic
from .front import Front
from .gate import Gate, Rules
from .http import Left

PARTS = (chat, completions, responses, messages, reading, plain, health, page)


def application(front: Front, rules: Rules) -> ASGIApp:
    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        opening = asyncio.create_task(front.models.open_first())
        yield
        opening.cancel()
        await front.models.stop()
        await front.limits.stop()

    app = FastAPI(title="Quire", version=version("quire"), docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=life)
    for part in PARTS:
        app.include_router(part.routes(front))

    def tell(request: Request, error: Refused) -> Response:
        front.metrics.refused(error)
        headers, path, id = dict(error.headers), request.url.path, front.id(request)
        if error.retry is not None:
            headers["Retry-After"] = str(max(1, round(error.retry)))
        if is_anthropic(path):
            headers["request-id"] = id  # where its clients look for it
        return JSONResponse(body_of(path, error, id), error.status, headers)

    async def on_refused(request: Request, error: Exception) -> Response:
        return tell(request, front.refusal(request, error))

    async def on_body(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return tell(request, refused(error.errors(), error.body))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
        what = f"there is nothing at {request.method} {request.url.path[:200]}" if error.status_code in (404, 405) else str(error.detail)
        return tell(request, Refused(error.status_code, what, kind, headers=dict(error.headers or {})))

    async def on_left(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    def at_gate(scope: Scope, error: Refused) -> ASGIApp:
        return tell(Request(scope), error)

    app.add_exception_handler(Left, on_left)
    app.add_exception_handler(RequestValidationError, on_body)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Refused, on_refused)
    app.add_exception_handler(Exception, on_refused)
    return Gate(app, at_gate, front.metrics, rules)
