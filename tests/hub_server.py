"""A small hub on loopback: the parts of the Hugging Face API that a pull uses, and the ways in which a real one goes wrong.

Repositories are dictionaries of bytes. Large files (`.safetensors`, `.gguf`, `.parquet`, `.bin`) are LFS: `resolve` redirects to a second
server, as the real hub redirects to its CDN. Lists of files come in pages of four. `faults` are set by the tests.
API: https://huggingface.co/docs/hub/api
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

LARGE = (".safetensors", ".gguf", ".parquet", ".bin")
PAGE = 4


@dataclass
class Faults:
    """What goes wrong. Paths are those of the repository."""

    private: set[str] = field(default_factory=set)  # repositories that need the token
    gated: set[str] = field(default_factory=set)
    cut: dict[str, list[int]] = field(default_factory=dict)  # path -> after how many bytes each answer in turn is cut
    wrong: dict[str, bytes] = field(default_factory=dict)  # path -> other bytes
    sizes: dict[str, int] = field(default_factory=dict)  # path -> the size that the list claims
    rows: list[Any] = field(default_factory=list)  # more rows of the list of files
    endless: bool = False  # every page of the list names a next one
    whole: bool = False  # Range is not understood
    status: int = 0  # the answer to everything
    busy: int = 0  # how many answers are 503 first
    retry_after: str = ""
    commit: str = ""  # what every revision is said to be


@dataclass
class Repo:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)


def oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub:
    """`with Hub() as hub`: `hub.add(...)`, `hub.asked` (method, path, headers in lower case), `hub.faults`."""

    TOKEN = "hf_loopback"

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.faults = Faults()
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), self._handler(cdn)) for cdn in (False, True)]
        self.endpoint, self.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in self.servers)

    def __enter__(self) -> Hub:
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def add(self, name: str, files: dict[str, bytes], kind: str = "model", ref: str = "main") -> str:
        """A new commit of a repository, named by `ref`. Returns the commit."""
        commit = hashlib.sha1(json.dumps([name, ref, {path: oid(data) for path, data in files.items()}]).encode()).hexdigest()
        repo = self.repos.setdefault(f"{kind}s/{name}", Repo())
        repo.commits[commit], repo.refs[ref] = files, commit
        return commit

    def stand_in(self, patch: pytest.MonkeyPatch, cache: Path) -> None:
        """This process takes it for the hub, with a cache of its own. The library has read its environment long ago."""
        from huggingface_hub import constants

        patch.setattr(constants, "ENDPOINT", self.endpoint)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", self.endpoint + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.delenv("HF_TOKEN", raising=False)

    def fetched(self) -> list[str]:
        """The files that were asked for, in order."""
        return [re.sub(r".*/resolve/[^/]+/", "", path) for method, path, _ in self.asked if method == "GET" and "/resolve/" in path]

    # -- answers ----------------------------------------------------------------------------------------------------------------------

    def _handler(hub, cdn: bool) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # head and body are two writes: the second would wait 40 ms for the first

            def do_GET(self) -> None:
                hub.asked.append((self.command, self.path, {key.lower(): value for key, value in self.headers.items()}))
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    hub._answer(self, cdn)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler

    def _answer(self, http: BaseHTTPRequestHandler, cdn: bool) -> None:
        url = urlsplit(http.path)
        self.faults.busy -= 1
        if self.faults.status or self.faults.busy >= 0:
            wait = {"Retry-After": self.faults.retry_after} if self.faults.retry_after else {}
            return self._send(http, self.faults.status or 503, b"{}", wait)
        if cdn:
            _, key, commit, path = unquote(url.path).split("/", 3)
            return self._file(http, self.repos[key.replace("|", "/")].commits[commit][path], path, {})
        found = re.fullmatch(r"/api/((?:model|dataset)s/.+?)/(revision|tree)/([^/]+)", url.path)
        if found:
            key, what, revision = found[1], found[2], unquote(found[3])
        else:
            found = re.fullmatch(r"/((?:datasets/)?.+?)/resolve/([^/]+)/(.+)", url.path)
            if not found:
                return self._refuse(http, 404, "")
            key, what, revision = (
                found[1] if found[1].startswith("datasets/") else f"models/{found[1]}",
                unquote(found[3]),
                unquote(found[2]),
            )
        name, repo = key.split("/", 1)[1], self.repos.get(key)
        allowed = http.headers.get("Authorization") == f"Bearer {self.TOKEN}"
        if name in self.faults.gated and not allowed and "/resolve/" in url.path:
            return self._refuse(http, 403, "GatedRepo")
        if repo is None or (name in self.faults.private and not allowed):
            return self._refuse(http, 404 if allowed else 401, "RepoNotFound")
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            return self._refuse(http, 404, "RevisionNotFound")
        if what == "revision":
            return self._json(http, {"id": name, "sha": self.faults.commit or commit, "private": name in self.faults.private})
        if what == "tree":
            return self._tree(http, repo.commits[commit], url.path, parse_qs(url.query))
        files = repo.commits[commit]
        if what not in files:
            return self._refuse(http, 404, "EntryNotFound")
        head = {"X-Repo-Commit": commit, "ETag": f'"{oid(files[what])}"'}
        if what.endswith(LARGE):
            digest = hashlib.sha256(files[what]).hexdigest()
            where = f"{self.cdn}/{key.replace('/', '|')}/{commit}/{what}"
            head |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(files[what])), "Location": where}
            return self._send(http, 302, b"", head)
        return self._file(http, files[what], what, head)

    def _tree(self, http: BaseHTTPRequestHandler, files: dict[str, bytes], path: str, query: dict[str, list[str]]) -> None:
        rows: list[Any] = [{"type": "directory", "path": "folder", "oid": "0" * 40, "size": 0}]
        for name, data in files.items():
            size = self.faults.sizes.get(name, len(data))
            row: dict[str, Any] = {"type": "file", "path": name, "oid": oid(data), "size": size}
            if name.endswith(LARGE):
                row["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": size, "pointerSize": 134}
            rows.append(row)
        rows += self.faults.rows
        at = int(query.get("cursor", ["0"])[0])
        # The real hub names itself in this header, whichever mirror was asked.
        more = {"Link": f'<https://hub.example{path}?recursive=true&cursor={at + PAGE}>; rel="next"'}
        page = rows[at : at + PAGE]
        if self.faults.endless:
            page = [{"type": "file", "path": f"{at}-{i}", "oid": "0" * 40, "size": 1} for i in range(5000)]
        self._json(http, page, more if at + PAGE < len(rows) or self.faults.endless else {})

    def _file(self, http: BaseHTTPRequestHandler, data: bytes, path: str, head: dict[str, str]) -> None:
        data = self.faults.wrong.get(path, data)
        asked = re.fullmatch(r"bytes=(\d+)-", http.headers.get("Range", ""))
        status, at = 200, 0
        if asked and not self.faults.whole:
            status, at = 206, int(asked[1])
            head = head | {"Content-Range": f"bytes {at}-{len(data) - 1}/{len(data)}"}
        cuts = self.faults.cut.get(path, [])
        self._send(http, status, data[at:], head, cuts.pop(0) if cuts else None)

    def _json(self, http: BaseHTTPRequestHandler, value: Any, head: dict[str, str] | None = None) -> None:
        self._send(http, 200, json.dumps(value).encode(), {"Content-Type": "application/json"} | (head or {}))

    def _refuse(self, http: BaseHTTPRequestHandler, status: int, code: str) -> None:
        self._send(http, status, b'{"error": "no"}', {"X-Error-Code": code} if code else {})

    def _send(self, http: BaseHTTPRequestHandler, status: int, data: bytes, head: dict[str, str], cut: int | None = None) -> None:
        http.send_response(status)
        for key, value in head.items():
            http.send_header(key, value)
        http.send_header("Content-Length", str(len(data)))
        http.end_headers()
        if http.command != "HEAD":
            http.wfile.write(data[:cut])
        if cut is not None:
            http.wfile.flush()
            http.close_connection = True
