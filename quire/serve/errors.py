"""What a client is told when something is refused or goes wrong: a status, a kind, a message made for it. Each API puts it in its own form.

There is one funnel (`app` hands every exception to `refusal`): the text of an exception that is not ours never leaves the process, since it
may hold anything; such a client gets a request id instead, which the log has too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

# Anthropic's names of what went wrong, by the status.
_ANTHROPIC = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
}


@dataclass
class Refused(Exception):
    """status: of HTTP. kind: as OpenAI's API names it (invalid_request_error, authentication_error, rate_limit_error, server_error ...).

    param: the field that is wrong. code: a word for programs. retry: seconds after which to try again, for the header Retry-After.
    """

    status: int
    message: str
    kind: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    retry: float | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message


def of_worker(name: str, message: str, param: str | None = None) -> Refused:
    """An error that a worker told. name: its class in `quire.errors`, "" for one that is not ours. param: the field, where it is known."""
    if name == "ContextError":
        return Refused(400, message, param=param, code="context_length_exceeded")
    if name in ("RecipeError", "DataError"):
        return Refused(400, message, param=param, code=None if param is None else "invalid_value")
    if name in ("ModelError", "VerbError"):  # the value would do for another model
        return Refused(400, message, param=param)
    if name == "ExtraError":
        return Refused(501, message, "server_error")
    if name == "WorkerDied":
        return Refused(503, message, "server_error", code="worker_died", retry=2)
    return Refused(500, "the model could not compute this. The log has the reason under this request's id.", "server_error")


@contextmanager
def in_words_of(names: Mapping[str, str]) -> Iterator[None]:
    """What a worker refuses within is told in a request's words: its `param`, and the field that the message begins with.

    names: {field of the ask: field of the request}; those that are not there are called the same.
    """
    try:
        yield
    except Refused as error:
        field = error.param
        if field is not None:
            error.param = names.get(field, field)
            said = error.message.removeprefix("sampling: ")
            if said.startswith(f"{field} is "):
                error.message = f"'{error.param}'{said.removeprefix(field)}"
        raise


def is_anthropic(path: str) -> bool:
    """Whether a path is of Anthropic's API: its errors have another form."""
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def body_of(path: str, error: Refused, id: str) -> dict[str, Any]:
    """What a client at a path is told of an error, in the form of that path's API. id: the request's."""
    if not is_anthropic(path):
        return error_body(error)
    kind = _ANTHROPIC.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    if error.code in ("overloaded", "no_room"):
        kind = "overloaded_error"
    return {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": id}


def error_body(error: Refused) -> dict[str, Any]:
    """OpenAI's form of an error."""
    return {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}
