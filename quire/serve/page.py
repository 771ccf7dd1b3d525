"""The page at `/`: files of this folder, sent as they are. Nothing is built, and nothing comes from another host.

The policy lets it load and ask this server alone, and nothing inline: what a model writes cannot become a script even if it were put into
the page as markup, which it never is (`page/view.js` sets text).
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

from .errors import Refused
from .front import Front

FOLDER = Path(__file__).with_name("page")
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@cache
def files() -> dict[str, tuple[bytes, str, str]]:
    """name -> (its bytes, its kind, a tag that changes with them)."""
    found = {}
    for path in sorted(FOLDER.iterdir()):
        data = path.read_bytes()
        found[path.name] = (data, KINDS[path.suffix], f'"{hashlib.sha256(data).hexdigest()[:16]}"')
    return found


def routes(front: Front) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    @router.head("/")
    async def index(request: Request) -> Response:
        return _file(request, "index.html")

    @router.get("/page/{name}")
    async def file(name: str, request: Request) -> Response:
        if name not in files():
            raise Refused(404, "the page has no such file.", "not_found_error")
        return _file(request, name)

    return router


def _file(request: Request, name: str) -> Response:
    data, kind, tag = files()[name]
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={**HEADERS, "ETag": tag})
    return Response(data, headers={**HEADERS, "ETag": tag}, media_type=kind)
