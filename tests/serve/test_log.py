"""The log: one line an event, that programs or people read, without contents and keys."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest

from quire.serve.log import setup
from tests.serve.conftest import Running

log = logging.getLogger("quire.serve")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    """Loggers as they were."""
    names = ("quire.serve", "uvicorn", "opentelemetry")
    before = [(list(logging.getLogger(name).handlers), logging.getLogger(name).propagate, logging.getLogger(name).level) for name in names]
    yield
    for name, (handlers, propagate, level) in zip(names, before):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def test_a_line_of_json_for_programs() -> None:
    stream = io.StringIO()
    setup(stream=stream)
    log.info("request", extra={"id": "a1", "status": 200, "key": None, "note": 'two\nlines "quoted" \x1b[31m'})
    log.debug("not told")
    logging.getLogger("uvicorn.error").info("not told")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {"level": "info", "event": "request", "id": "a1", "status": 200, "note": 'two\nlines "quoted" \x1b[31m'}
    assert (second["level"], second["event"]) == ("warning", "Invalid HTTP request received.")


def test_a_line_for_a_person_on_a_terminal() -> None:
    stream = Terminal()
    setup(stream=stream)
    log.info("request", extra={"route": "/v1/models", "status": 200})
    log.warning("odd\x1b[31m", extra={"note": "two\nlines \x1b[31m"})
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2 and lines[0].endswith(" request route=/v1/models status=200")
    assert "\x1b" not in lines[1] and "warning: odd\\x1b[31m note=" in lines[1]


def test_where_an_error_came_from() -> None:
    for stream in (io.StringIO(), Terminal()):
        setup("error", stream)
        log.warning("not told")
        try:
            raise RuntimeError("it broke")
        except RuntimeError:
            log.error("unexpected error", exc_info=True, extra={"id": "a1"})
        text = stream.getvalue()
        assert "it broke" in text and "test_log.py" in text and "a1" in text
    assert text.count("\n    ") > 2  # the trace stands below its line


def lines(running: Running) -> list[dict[str, Any]]:
    return [json.loads(line) for line in running.log.read_text().splitlines()]


def test_the_log_of_a_server(keyed: tuple[Running, dict[str, str]]) -> None:
    running, keys = keyed
    secret = "a text that is nobody's business"
    body = {"model": "chat", "messages": [{"role": "user", "content": secret}], "max_tokens": 3}
    headers = {"Authorization": f"Bearer {keys['bob']}", "X-Request-Id": "log-1"}
    for stream in (False, True):
        said = running.post("/v1/chat/completions", {**body, "stream": stream}, headers=headers).text
    running.client.get(f"/{secret}", headers={"X-Request-Id": "log-2"})
    running.client.get("/v1/models", headers={"Authorization": f"Bearer {secret}", "X-Request-Id": "log-3"})
    until = time.monotonic() + 10
    while time.monotonic() < until:  # a stream's line comes after its last byte
        told = sorted((line for line in lines(running) if str(line.get("id", "")).startswith("log-")), key=lambda line: line["status"])
        if len(told) == 4:
            break
        time.sleep(0.02)
    assert [line["status"] for line in told] == [200, 200, 401, 404]
    for line in told[:2]:
        wanted = {"event": "request", "route": "/v1/chat/completions", "model": "chat", "key": "bob", "tokens_out": 3}
        assert wanted.items() <= line.items() and line["tokens_in"] > 3 and line["ms"] > 0
    assert "key" not in told[2] and "route" not in told[3]
    whole = running.log.read_text()
    assert secret not in whole and secret.replace(" ", "%20") not in whole and "quire-" not in whole
    assert said and not [line for line in lines(running) if line.get("route") == "/health" and line["status"] in (200, 503)]
    [banner] = [line for line in lines(running) if line["event"] == "serving"]
    assert (banner["url"], banner["models"], banner["keys"]) == (running.url, "chat", "3")
