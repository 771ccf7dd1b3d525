"""The server's log: one line an event, on standard error. JSON, or for a person where standard error is a terminal.

An event has a time, a level, a name, and fields that were given by name (`log.info("request", extra={...})`). What was asked and answered
is never among them, nor is a key; a caller is known by the key's name. uvicorn's own events go the same way, and OpenTelemetry's.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any, TextIO

LEVELS = ("debug", "info", "warning", "error")
_PLAIN = frozenset(vars(logging.LogRecord("", 0, "", 0, "", None, None))) | {"message", "asctime", "taskName", "color_message"}


def setup(level: str = "info", stream: TextIO | None = None, form: str | None = None) -> None:
    """Sends every event of the server to `stream`. form: "json" or "text"; None: as the stream is."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Text() if (form or ("text" if stream.isatty() else "json")) == "text" else Json())
    for name, least in (("quire.serve", level.upper()), ("uvicorn", "WARNING"), ("opentelemetry", "WARNING")):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(least)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What was given by name, and of an exception its class, its text and where it came from."""
    found = {name: value for name, value in vars(record).items() if name not in _PLAIN and value is not None}
    if record.exc_info and record.exc_info[1] is not None:
        found["error"] = logging.Formatter().formatException(record.exc_info)
    return found


class Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": stamp, "level": record.levelname.lower(), "event": record.getMessage(), **fields(record)}
        return json.dumps(line, default=str)


class Text(logging.Formatter):
    """`12:00:01 request id=... status=200`. Nothing in it can begin a new line or move the cursor."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        found = fields(record)
        trace = found.pop("error", "")
        values = " ".join(f"{name}={_shown(value)}" for name, value in found.items())
        event = record.getMessage()
        tail = "".join(f"\n    {_harmless(line)}" for line in str(trace).splitlines())
        return f"{stamp} {level}{_harmless(event)}{' ' if values else ''}{values}{tail}"


def _shown(value: Any) -> str:
    text = str(value)
    return text if text and all(character.isalnum() or character in "-_./:+" for character in text) else json.dumps(text)


def _harmless(text: str) -> str:
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
