"""The gate: no way round the key, none from other sites, and bodies that are bounded before they are read."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from quire.serve.errors import Refused
from quire.serve.gate import DEPTH, Hosts, check
from tests.serve.conftest import Running

Keyed = tuple[Running, dict[str, str]]
CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}


def raw(port: int, data: bytes) -> bytes:
    """What comes back for these bytes until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=15) as line:
        line.sendall(data)
        found = b""
        while part := line.recv(1 << 16):
            found += part
        return found


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def request(target: str, *headers: str, method: str = "GET", host: str = "localhost") -> bytes:
    close = () if "Connection: keep-alive" in headers else ("Connection: close",)
    return "\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {host}", *headers, *close, "", ""]).encode()


@pytest.fixture(scope="module", autouse=True)
def half_open(keyed: Keyed) -> Iterator[list[socket.socket]]:
    """Sockets with nothing, with half a head, and with half a body. The other tests run beside them; the last one looks after them."""
    key = f"x-api-key: {keyed[1]['alice']}"
    body = request("/v1/chat/completions", key, "Content-Type: application/json", "Content-Length: 100", method="POST") + b"{"
    with ExitStack() as stack:
        lines = []
        for number in range(150):
            line = stack.enter_context(socket.create_connection(("127.0.0.1", keyed[0].port), timeout=20))
            line.sendall((b"", b"GET /v1/models HTTP/1.1\r\nHost: local", body)[number % 3])
            lines.append(line)
        for _ in range(5):
            assert keyed[0].post("/v1/chat/completions", CHAT).status_code == 200
        yield lines


# -- no way round the key ----------------------------------------------------------------------------------------------------------

ROUTES = [
    ("GET", "/ready"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/chat"),
    ("GET", "/openapi.json"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/embeddings"),
    ("POST", "/rerank"),
    ("POST", "/tokenize"),
    ("POST", "/generate"),
    ("GET", "/docs"),
    ("GET", "/nothing/at/all"),
    ("DELETE", "/v1/models/chat"),
    ("POST", "/health"),
    ("POST", "/"),
]
TRICKS = [
    "//v1/models",
    "/v1//models",
    "/v1/models/",
    "/%761/models",
    "/v1%2Fmodels",
    "/%2Fv1/models",
    "/health/../v1/models",
    "/health/..%2fv1/models",
    "/health%2f..%2fv1/models",
    "/health/",
    "/health;/v1/models",
    "/health%00",
    "/Health",
    "/page/../v1/models",
    "/page/..%2f../v1/models",
    "/page/%2e%2e/v1/models",
    "/page/.hidden",
    "/page//x",
    "/page/",
    "/./v1/models",
    "/v1/models?/health",
    "/v1/models#/health",
    "/V1/MODELS",
    "http://localhost/v1/models",
    "http://localhost/health/../v1/models",
    "http://evil.example/v1/models",
]
HEADERS = [
    "X-HTTP-Method-Override: GET",
    "X-Original-URL: /health",
    "X-Rewrite-URL: /health",
    "X-Forwarded-For: 127.0.0.1",
    "X-Forwarded-Prefix: /health",
    "X-Forwarded-Host: localhost",
    "X-Real-IP: 127.0.0.1",
    "Forwarded: for=127.0.0.1;host=localhost",
    "Authorization: Bearer",
    "Authorization: Bearer wrong",
    "Authorization: Basic YWxpY2U6",
    "x-api-key: wrong",
    "X_API_KEY: wrong",
    "api-key: wrong",
    "Cookie: key=alice",
]


@pytest.mark.parametrize("method, path", ROUTES)
def test_every_route_by_role(method: str, path: str, keyed: Keyed) -> None:
    running, keys = keyed
    for credential in ((), ("x-api-key: wrong",), (f"x-api-key: {keys['alice']}x",), (f"Authorization: Bearer {keys['alice'].lower()}",)):
        answer = raw(running.port, request(path, *credential, method=method))
        assert status(answer) == 401 and b"www-authenticate: Bearer" in answer, (path, credential)
    for credential in ((f"x-api-key: {keys['bob']}",), (f"authorization: bearer {keys['bob']}",)):
        assert status(raw(running.port, request(path, *credential, "Content-Length: 0", method=method))) not in (401, 403, 500, 503)
    two = (f"x-api-key: {keys['alice']}", f"Authorization: Bearer {keys['bob']}")
    assert status(raw(running.port, request(path, *two, method=method))) == 401


@pytest.mark.parametrize("target", TRICKS)
def test_no_spelling_of_a_path_goes_round_the_key(target: str, keyed: Keyed) -> None:
    for method in ("GET", "HEAD", "POST", "OPTIONS", "PROPFIND", "TRACE"):
        answer = raw(keyed[0].port, request(target, method=method))
        assert status(answer) in (400, 401, 421) and b'"object"' not in answer, (method, answer[:200])


@pytest.mark.parametrize("header", HEADERS)
def test_no_header_goes_round_the_key(header: str, keyed: Keyed) -> None:
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/metrics")):
        assert status(raw(keyed[0].port, request(path, header, method=method))) == 401
    answer = raw(keyed[0].port, request("/v1/models", header, f"x-api-key: {keyed[1]['alice']}"))
    assert status(answer) == (401 if header.startswith(("Authorization", "x-api-key")) and not header.endswith("Bearer") else 200)


def test_what_is_open_needs_no_key(keyed: Keyed) -> None:
    assert status(raw(keyed[0].port, request("/health"))) == 200
    for path in ("/", "/page/page.js", "/page/style/page.css"):
        assert status(raw(keyed[0].port, request(path))) != 401
    assert status(raw(keyed[0].port, request("/health", "x-api-key: wrong"))) == 200


def test_two_requests_on_one_line_are_two(keyed: Keyed) -> None:
    """A second request behind an open one is asked for its key too."""
    both = request("/health", "Connection: keep-alive") + request("/v1/models")
    assert re.findall(rb"HTTP/1.1 (\d+)", raw(keyed[0].port, both)) == [b"200", b"401"]


def test_tenants_do_not_share_cached_beginnings(keyed: Keyed) -> None:
    """The usage tells what was found in the cache: bob's first ask finds nothing of what alice has just sent."""
    running, keys = keyed
    body = {**CHAT, "messages": [{"role": "user", "content": "a long beginning that is worth keeping, " * 5}]}

    def cached(name: str, **more: str) -> int:
        answer = running.post("/v1/chat/completions", {**body, **more}, headers={"Authorization": f"Bearer {keys[name]}"})
        found: int = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        return found

    assert cached("alice") == 0 and cached("alice") > 0
    assert cached("bob") == 0
    for trick in ("alice", "\u0000alice", "alice\u0000", ""):
        assert cached("bob", user=trick) in (0, cached("bob"))  # what bob finds is his own
    assert cached("bob") > 0


def test_limits_of_a_key(keyed: Keyed) -> None:
    running, keys = keyed
    headers = {"Authorization": f"Bearer {keys['carol']}"}
    long = {**CHAT, "messages": [{"role": "user", "content": "word " * 60}]}
    answer = running.post("/v1/chat/completions", long, headers=headers)
    assert (
        answer.status_code == 400 and "this key may send 30" in answer.text and answer.json()["error"]["code"] == "context_length_exceeded"
    )
    codes = [running.post("/v1/chat/completions", CHAT, headers=headers) for _ in range(4)]
    assert [answer.status_code for answer in codes] == [200, 200, 200, 429]
    assert codes[0].headers["x-ratelimit-remaining-requests"] == "2"
    last = codes[-1]
    assert 1 <= int(last.headers["retry-after"]) <= 60 and last.headers["x-ratelimit-limit-requests"] == "4"
    assert last.json()["error"]["type"] == "rate_limit_error"
    assert running.post("/v1/chat/completions", CHAT).status_code == 200  # another key is not touched


# -- other sites -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host, found",
    [
        ("localhost", 200),
        ("127.0.0.1", 200),
        ("LOCALHOST:8000", 200),
        ("[::1]:80", 200),
        ("models.example", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("localhost@evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("10.0.0.1", 421),
        ("0.0.0.0", 421),
        ("", 421),
    ],
)
def test_only_names_of_the_server(host: str, found: int, keyed: Keyed) -> None:
    assert status(raw(keyed[0].port, request("/health", host=host))) == found


def test_one_host(keyed: Keyed) -> None:
    assert status(raw(keyed[0].port, request("/health", "Host: localhost"))) == 400
    assert status(raw(keyed[0].port, b"GET /health HTTP/1.0\r\n\r\n")) == 400


def test_hosts_of_a_server_for_all() -> None:
    hosts = Hosts("0.0.0.0", ["models.example"])  # a number cannot be pointed here by others; a name can
    told = {"10.1.2.3:80": True, "[fe80::1]": True, "models.example": True, "evil.example": False, "localhost": True}
    assert {host: hosts.allows(host) for host in told} == told
    assert Hosts("10.1.2.3").allows("10.1.2.3:8000") and not Hosts("10.1.2.3").allows("10.1.2.4")


@pytest.mark.parametrize(
    "origin, found",
    [
        ("http://localhost:8000", 200),
        ("https://localhost:8000", 200),
        ("http://localhost", 403),
        ("http://localhost:8001", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("file://", 403),
        ("localhost:8000", 403),
        ("http://localhost:8000.evil.example", 403),
        ("", 403),
    ],
)
def test_only_its_own_pages(origin: str, found: int, keyed: Keyed) -> None:
    key = f"x-api-key: {keyed[1]['alice']}"
    answer = raw(keyed[0].port, request("/v1/models", f"Origin: {origin}", key, host="localhost:8000"))
    assert status(answer) == found and b"access-control" not in answer.lower()


def test_no_preflight_is_answered(keyed: Keyed) -> None:
    asked = ["Origin: http://evil.example", "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization"]
    answer = raw(keyed[0].port, request("/v1/chat/completions", *asked, method="OPTIONS"))
    assert status(answer) == 403 and b"access-control" not in answer.lower()


def test_headers_of_every_answer(keyed: Keyed) -> None:
    for path in ("/health", "/v1/models", "/nothing"):
        headers = keyed[0].client.get(path, headers={"X-Request-Id": "mine-1.2_3"}).headers
        assert headers["x-request-id"] == "mine-1.2_3"
        assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
        assert headers["content-security-policy"].startswith("default-src 'none'") and headers["cache-control"] == "no-store"
        assert "server" not in headers
    for harmful in ("a" * 65, "a b", "a\tb", "é", "<script>", '"'):
        answer = raw(keyed[0].port, request("/health", f"X-Request-Id: {harmful}"))
        assert re.search(rb"x-request-id: [0-9a-f]{24}\r\n", answer)
    assert "mine-1" in keyed[0].client.get("/v1/models/none", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"]


# -- bodies ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, found",
    [
        ("application/json", 200),
        ("Application/JSON; charset=UTF-8", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/json; charset=utf-16", 415),
        ("text/plain; application/json", 415),
        ("", 415),
    ],
)
def test_bodies_are_json(kind: str, found: int, keyed: Keyed) -> None:
    answer = keyed[0].client.post("/v1/chat/completions", content=json.dumps(CHAT), headers={"Content-Type": kind})
    assert answer.status_code == found


WRONG = {
    b"{": "is no JSON",
    b"\xff": "no UTF-8",
    b'{"model": "\\ud800"}': "half a character",
    b'{"model": "a", "model": "b"}': "stands twice",
    b'{"a": [{"b": 1, "b": 1}]}': "stands twice",
    b'{"temperature": NaN}': "NaN",
    b'{"temperature": -Infinity}': "-Infinity",
    b'{"temperature": 1e999}': "too large",
    b'{"temperature": ' + b"1" * 5000 + b"}": "too long",
    b"[" * 40 + b"]" * 40: f"more than {DEPTH} deep",
    b'{"a":' * 100_000: f"more than {DEPTH} deep",
    json.dumps(CHAT).encode("utf-16"): "no UTF-8",
    b"\xef\xbb\xbf" + json.dumps(CHAT).encode(): "is no JSON",
}


@pytest.mark.parametrize("body", WRONG, ids=lambda body: repr(body[:24]))
def test_a_body_that_could_be_read_in_two_ways(body: bytes, keyed: Keyed) -> None:
    answer = keyed[0].client.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and WRONG[body] in answer.json()["error"]["message"]


def test_depth_is_that_of_brackets_outside_of_texts() -> None:
    check(json.dumps({"a": "[" * 1000, "b": '"[[[' * 20, "c": "\\"}).encode())
    check(b"[" * DEPTH + b"]" * DEPTH)
    with pytest.raises(Refused):
        check(b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1))
    check(b"[" + b"[]," * 1000 + b"[]]")


@pytest.mark.parametrize("piece", [b'\\"', b'"', b"\\", b"[]", b"{}", b'""'])
def test_checking_a_long_body_ends(piece: bytes) -> None:
    """A megabyte of what makes patterns go back takes a moment; in quadratic time it would outlast this test."""
    with pytest.raises(Refused):
        check(b'"' + piece * ((1 << 20) // len(piece)))


def test_bodies_are_bounded(keyed: Keyed) -> None:
    running, keys = keyed
    key = f"x-api-key: {keys['alice']}"
    kind = "Content-Type: application/json"
    declared = raw(running.port, request("/v1/chat/completions", key, kind, "Content-Length: 1048577", method="POST"))
    assert status(declared) == 413 and b"1,048,576 bytes" in declared
    long = b"".join(b"10000\r\n" + b" " * 0x10000 + b"\r\n" for _ in range(17)) + b"0\r\n\r\n"
    streamed = raw(running.port, request("/v1/chat/completions", key, kind, "Transfer-Encoding: chunked", method="POST") + long)
    assert status(streamed) == 413
    assert status(raw(running.port, request("/v1/chat/completions", "Content-Length: 99999999999", method="POST"))) == 401
    both = ("Content-Length: 5", "Transfer-Encoding: chunked")
    assert status(raw(running.port, request("/v1/chat/completions", key, kind, *both, method="POST") + b"0\r\n\r\n")) == 400
    with contextlib.suppress(OSError):  # it may close before all is sent
        assert status(raw(running.port, request("/v1/models", f"X-Long: {'a' * (4 << 20)}"))) == 431
    compressed = running.client.post(
        "/v1/chat/completions", content=b"x", headers={"Content-Type": "application/json", "Content-Encoding": "gzip"}
    )
    assert compressed.status_code == 415


def test_half_open_sockets_are_cut_and_hurt_nobody(half_open: list[socket.socket]) -> None:
    """Each is cut ten seconds after it was opened; a read that waits twenty fails."""
    for number, line in enumerate(half_open):
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := line.recv(1 << 16):
                answer += part
        assert (status(answer) == 408) if number % 3 == 2 else not answer


def test_a_head_that_is_too_large_is_refused(keyed: Keyed) -> None:
    whole = request("/health", *(f"X-{number}: {'a' * 1000}" for number in range(80)))
    assert status(raw(keyed[0].port, whole)) == 431
    assert status(raw(keyed[0].port, request("/health", *(f"X-{number}: {'a' * 1000}" for number in range(40))))) == 200
