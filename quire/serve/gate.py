"""What every request passes before any route: an id, Host and Origin, the key, and the bounds of its body.

Pure ASGI, so that a client that leaves is seen behind it. A request is refused unless it is known to be allowed: what needs no key is a
list of three, compared with the path as it came over the wire, so no spelling of another path gets there.

- Host must be one of this server's names, and Origin (which browsers send) its own: a page elsewhere cannot ask through its visitor's
  browser, and no name that is pointed at this machine helps (DNS rebinding). There are no Access-Control headers.
- A body is JSON in UTF-8: of bounded size, read in bounded time, of bounded depth, without repeated keys and numbers that are none. The
  content type is asked for, since forms of other sites can send the rest without being asked first.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import math
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NoReturn

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import Refused
from .keys import Key, Keys
from .metrics import Facts, Metrics

log = logging.getLogger("quire.serve")

LARGEST = 1 << 20  # bytes of a body
LARGEST_READ = 16 << 20  # of one with many texts to be read
SECONDS = 10.0  # to send a body
DEPTH = 32

_READING = frozenset({"/v1/embeddings", "/rerank", "/v1/rerank", "/v2/rerank", "/classify"})
_OPEN = re.compile(rb"/health|/|/page(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+")
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_QUIET = frozenset({"/health", "/ready", "/metrics"})  # asked every few seconds by machines, and not logged
_TEXTS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # one without its end is a text too, so the time is linear
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = {91: 1, 123: 1, 93: -1, 125: -1}  # [ { ] }
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_STRICT = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")


class Hosts:
    """The names that a request may call this server by. host: what it listens on; also: more names."""

    def __init__(self, host: str = "127.0.0.1", also: Iterable[str] = ()) -> None:
        self._names = {"localhost", *(name.lower() for name in also)}
        self._any = host in ("0.0.0.0", "::", "")  # noqa: S104  compared, not bound
        if self._any:
            self._names.add(socket.gethostname().lower())  # and every address: a name can be pointed here by others, a number cannot
        else:
            self._names.add(host.lower())

    def allows(self, header: str) -> bool:
        name = _hostname(header)
        if name is None or name in self._names:
            return name is not None
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._any or address.is_loopback


def _hostname(header: str) -> str | None:
    """The name in `name:port` or `[address]:port`; None for what is neither."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?", header)
    return None if found is None else (found[1] or found[2]).lower()


def loopback(host: str) -> bool:
    """Does only this machine reach a server that listens on `host`?"""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Rules:
    """What may pass. largest: bytes of a body; largest_read: of one with texts to be read."""

    keys: Keys = field(default_factory=Keys)
    hosts: Hosts = field(default_factory=Hosts)
    largest: int = LARGEST
    largest_read: int = LARGEST_READ


class Gate:
    """tell: an error as the response of its path's API."""

    def __init__(self, app: ASGIApp, tell: Callable[[Scope, Refused], ASGIApp], metrics: Metrics, rules: Rules) -> None:
        self.app, self.tell, self.metrics, self.rules = app, tell, metrics, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.perf_counter()
        given = [value for name, value in scope["headers"] if name == b"x-request-id"]
        scope["quire.id"] = given[0].decode() if len(given) == 1 and _ID.fullmatch(given[0]) else secrets.token_hex(12)
        scope["quire.key"], scope["quire.facts"], scope["quire.headers"] = Key(), Facts(), {}
        status = 499  # the client had left before there was any

        async def passed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = self._headers(scope, message["headers"])
            await send(message)

        try:
            await self._answer(scope, receive, passed)
        finally:
            self._log(scope, status, time.perf_counter() - begun)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._may(scope)
            receive = await self._body(scope, receive)
        except Refused as error:
            await self.tell(scope, error)(scope, receive, send)
        except _Left:
            pass
        else:
            await self.app(scope, receive, send)

    def _headers(self, scope: Scope, found: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """With ours: what a route has set itself stays."""
        headers = list(found)
        there = {name.lower() for name, _ in headers}
        more = [*_HEADERS, (b"x-request-id", scope["quire.id"].encode())]
        more += [(name.encode(), value.encode()) for name, value in scope["quire.headers"].items()]
        if not scope["path"].startswith("/page/") and scope["path"] != "/":
            more += [_STRICT, (b"cache-control", b"no-store")]
        return headers + [(name, value) for name, value in more if name not in there]

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        """One line a request. The path as it was sent may hold anything, so the route's own is told."""
        facts: Facts = scope["quire.facts"]
        route = getattr(scope.get("route"), "path", None)
        self.metrics.responded(route or "none", status)
        if route in _QUIET and status in (200, 503):
            return
        values = {"id": scope["quire.id"], "method": scope["method"], "route": route, "status": status, "ms": round(1000 * seconds, 1)}
        values |= {"key": scope["quire.key"].name or None, "model": facts.model}
        values |= {"tokens_in": facts.prompt, "tokens_out": facts.written} if facts.model else {}
        log.log(logging.ERROR if status == 500 else logging.INFO, "request", extra=values)

    # -- who, from where -----------------------------------------------------------------------------------------------------------

    def _may(self, scope: Scope) -> None:
        """Raises Refused for a request that has no business here."""
        headers = scope["headers"]
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if len(hosts) != 1:
            raise Refused(400, f"the request has {len(hosts)} headers Host; it must have one.", code="invalid_host")
        if not self.rules.hosts.allows(hosts[0]):
            message = f"'{hosts[0][:80]}' is no name of this server. Start it with --allow-host NAME if it should be."
            raise Refused(421, message, code="unknown_host")
        for name, value in headers:
            if name == b"origin" and not _same(value.decode("latin-1"), hosts[0]):
                raise Refused(403, "this server answers no pages of other sites.", "permission_error", code="cross_origin")
        if scope["method"] in ("GET", "HEAD") and _OPEN.fullmatch(scope.get("raw_path") or b""):
            return
        scope["quire.key"] = self.rules.keys.who(headers)

    # -- the body ------------------------------------------------------------------------------------------------------------------

    async def _body(self, scope: Scope, receive: Receive) -> Receive:
        """Reads and checks it; what is returned gives it once more. Raises Refused, and _Left when the client goes."""
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if b"transfer-encoding" not in headers and length.strip() in (b"", b"0"):
            return receive
        _check_type(headers)
        most = self.rules.largest_read if scope["path"] in _READING else self.rules.largest
        too_large = Refused(413, f"the body has more than {most:,} bytes, which is all that is taken.", code="body_too_large")
        if not length.isdigit() or int(length) > most:
            raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout(SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Left
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise too_large
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            message_ = f"the body did not arrive within {SECONDS:.0f} s."
            raise Refused(408, message_, code="body_too_slow", headers={"Connection": "close"}) from None
        body = b"".join(parts)
        if size > 1 << 16:
            await asyncio.to_thread(check, body)
        elif size:
            check(body)
        return _again(body, receive)


class _Left(Exception):
    """The client has left."""


def _again(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _same(origin: str, host: str) -> bool:
    """Is it the origin of this server's own page? The scheme may be another: a proxy in front may speak https for us."""
    scheme, separator, rest = origin.lower().partition("://")
    default = {"http": ":80", "https": ":443"}.get(scheme)
    return bool(separator) and default is not None and rest.removesuffix(default) == host.lower().removesuffix(default)


def _check_type(headers: dict[bytes, bytes]) -> None:
    kind, _, parameters = headers.get(b"content-type", b"").decode("latin-1").lower().partition(";")
    if kind.strip() != "application/json" or parameters.strip().replace('"', "") not in ("", "charset=utf-8"):
        given = kind.strip() + (f"; {parameters.strip()}" if parameters.strip() else "")
        message = f"the content type is '{given[:80]}'; only application/json (in UTF-8) is taken."
        raise Refused(415, message, code="unsupported_content_type")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Refused(415, "the body is compressed, which is not taken here.", code="unsupported_content_encoding")


# -- what a body may hold ----------------------------------------------------------------------------------------------------------


def check(body: bytes) -> None:
    """Raises Refused for a body that is no JSON, too deep, or that two readers could read in two ways."""
    brackets = _TEXTS.sub(b"", body).translate(None, _OTHERS)
    if max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > DEPTH:
        raise Refused(400, f"the body is nested more than {DEPTH} deep.", code="too_deep")
    try:
        text = body.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_number, parse_float=_finite)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise Refused(400, f"the body is no JSON: {error.msg} at character {error.pos}.", code="invalid_json") from None
    except UnicodeError:
        raise Refused(400, "the body is no UTF-8, or holds half a character.", code="invalid_json") from None
    except (ValueError, RecursionError):  # integers of thousands of digits
        raise Refused(400, "the body holds a number that is too long.", code="invalid_json") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1) if len(names) < 1000 else ""
        raise Refused(400, f"the key '{twice[:80]}' stands twice in one object.", code="repeated_key")
    return found


def _number(name: str) -> NoReturn:
    raise Refused(400, f"the body holds {name}, which is no number of JSON.", code="invalid_json")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise Refused(400, f"the body holds {text[:40]}, which is too large for a number.", code="invalid_json")
    return value
