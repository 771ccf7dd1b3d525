"""What a hub says about a repository: its commit, its files with their hashes, and the bytes of one file. It is a stranger.

Every request goes through huggingface_hub's session, so HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and proxies hold, and the token never follows
a redirect to another host. Answers are read with a limit of bytes, files and seconds; names, sizes and hashes are checked before anything
is done with them. Errors come out as ours, saying what to do.

API: https://huggingface.co/docs/hub/api
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from ..errors import HubError
from .cache import COMMIT, Name

MAX_ANSWER = 32 << 20  # bytes of one answer: a page of 1,000 files has about 0.3 MB
MAX_FILES = 20_000
MAX_SECONDS = 120  # for one answer
_BUSY, _TRIES, _LONGEST_WAIT = (429, 500, 502, 503, 504), 3, 30  # answers that are asked for again, how often, after seconds
_BAD = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")


@dataclass(frozen=True)
class File:
    """A file of a repository. `etag` names its blob: the SHA-256 of its bytes (large files), or git's SHA-1 of the blob."""

    path: str
    bytes: int
    etag: str


class Remote:
    """A repository at one commit. Raises HubError when it is not there, not ours to see, or the hub cannot be reached."""

    def __init__(self, name: Name) -> None:
        from huggingface_hub import constants
        from huggingface_hub.utils import build_hf_headers

        self.name, self.endpoint = name, constants.ENDPOINT.rstrip("/")
        try:
            version = metadata.version("quire")
        except metadata.PackageNotFoundError:  # run from a source tree that was never installed
            version = "0"
        self.headers = build_hf_headers(library_name="quire", library_version=version)
        self.timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        self.page = f"{self.endpoint}/{'datasets/' if name.kind == 'dataset' else ''}{name.repo}"
        self._api = f"{self.endpoint}/api/{name.kind}s/{name.repo}"
        said = self._json(f"{self._api}/revision/{quote(name.revision or 'main', safe='')}")[0]
        commit = said.get("sha") if isinstance(said, dict) else None
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            raise self.broken(f"it names no commit for {name}, but {str(commit)[:60]!r}")
        if COMMIT.fullmatch(name.revision) and commit != name.revision:
            raise self.broken(f"asked for the commit {name.revision}, it answers with {commit}")
        self.commit = commit

    def files(self) -> dict[str, File]:
        """Every file of the commit by its path."""
        found: dict[str, File] = {}
        url, query = f"{self._api}/tree/{self.commit}", {"recursive": "true"}
        for _ in range(MAX_FILES):
            page, following = self._json(url, query)
            if not isinstance(page, list):
                raise self.broken("its list of files is no list")
            for entry in page:
                file = self._file(entry)
                if file is not None:
                    found[file.path] = file
            if len(found) > MAX_FILES:
                break
            if following is None:
                return found
            # The next page is asked for at our own address: a mirror may name the original's, and a stranger's must not see the token.
            query = dict(parse_qsl(urlsplit(following).query))
        raise self.broken(f"{self.name} lists more than {MAX_FILES} files, which is more than Quire reads")

    def read(self, file: File, limit: int) -> bytes:
        """A small file whole, held against its hash."""
        if file.bytes > limit:
            raise self.broken(f"{file.path} has {file.bytes} bytes; allowed are {limit}")
        data = self._bytes(self.address(file), {}, limit)[0]
        digest = Digest(file)
        digest.update(data)
        digest.check(self)
        return data

    def address(self, file: File) -> str:
        return f"{self.page}/resolve/{self.commit}/{quote(file.path)}"

    def broken(self, why: str) -> HubError:
        return HubError(f"the answer of {self.endpoint} cannot be used: {why}. Nothing was kept. Try again, or check HF_ENDPOINT.")

    def _file(self, entry: Any) -> File | None:
        """A row of the list of files, None for a folder. Raises HubError for a name that leads elsewhere, a size or a hash that is none."""
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
            raise self.broken("a row of its list of files is no file")
        if entry.get("type") == "directory":
            return None
        path, lfs = entry["path"], entry.get("lfs")
        if not 0 < len(path) <= 1024 or _BAD.search(path) or any(part in ("", ".", "..") for part in path.split("/")):
            raise self.broken(f"it lists the file {path[:80]!r}, whose name leads out of its folder")
        size = (lfs or entry).get("size") if isinstance(lfs or entry, dict) else None
        etag = (lfs.get("oid") or lfs.get("sha256")) if isinstance(lfs, dict) else entry.get("oid")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise self.broken(f"it gives {path} the size {str(size)[:40]!r}")
        if not isinstance(etag, str) or not re.fullmatch(r"[0-9a-f]{64}" if lfs else r"[0-9a-f]{40}", etag):
            raise self.broken(f"it gives {path} the hash {str(etag)[:80]!r}")
        return File(path, size, etag)

    def _json(self, url: str, query: dict[str, str] | None = None) -> tuple[Any, str | None]:
        """(the answer, the address of its next page)."""
        data, following = self._bytes(url, query or {}, MAX_ANSWER)
        try:
            return json.loads(data), following
        except (ValueError, RecursionError):
            raise self.broken(f"{url} gives no JSON") from None

    def _bytes(self, url: str, query: dict[str, str], limit: int) -> tuple[bytes, str | None]:
        began, data = time.monotonic(), bytearray()
        with self.getting(url, params=query) as response:
            for block in response.iter_bytes(1 << 16):
                data += block
                if len(data) > limit:
                    raise self.broken(f"{urlsplit(url).path} is longer than {limit} bytes")
                if time.monotonic() - began > MAX_SECONDS:
                    raise self.broken(f"{urlsplit(url).path} takes longer than {MAX_SECONDS} seconds")
            return bytes(data), response.links.get("next", {}).get("url")

    @contextlib.contextmanager
    def getting(self, url: str, *, translate: bool = True, headers: dict[str, str] | None = None, **options: Any) -> Iterator[Any]:
        """An answer whose body streams; with `translate`, whatever goes wrong with the connection is a HubError too."""
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
        from huggingface_hub.utils import get_session, hf_raise_for_status

        try:
            for attempt in range(_TRIES):
                with get_session().stream("GET", url, headers=self.headers | (headers or {}), timeout=self.timeout, **options) as response:
                    if response.status_code not in _BUSY or attempt == _TRIES - 1:
                        hf_raise_for_status(response)
                        yield response
                        return
                    asked = response.headers.get("Retry-After", "")
                # The library would wait for as long as it is told to; a stranger may say a year.
                time.sleep(min(int(asked), _LONGEST_WAIT) if asked.isdecimal() and len(asked) < 9 else 2.0**attempt)
        except OfflineModeIsEnabled:
            raise HubError(
                f"HF_HUB_OFFLINE is set, so {self.name} was not asked for. To fetch it, unset HF_HUB_OFFLINE (and TRANSFORMERS_OFFLINE)."
            ) from None
        except HfHubHTTPError as error:
            raise self._refused(error) from None
        except (httpx2.TransportError, httpx2.InvalidURL, httpx2.TooManyRedirects) as error:
            if not translate:
                raise
            raise HubError(
                f"cannot reach {self.endpoint} ({type(error).__name__}: {str(error)[:200]}). Check the network, or HF_ENDPOINT "
                "for a mirror; what was pulled before opens without a network."
            ) from None

    def _refused(self, error: Any) -> HubError:
        """What a refusal means. The hub answers alike for what is private and for what is not there, so that names cannot be guessed."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        name, status = self.name, error.response.status_code
        token = "authorization" in {key.lower() for key in self.headers}
        login = "Log in with `hf auth login`, or set HF_TOKEN to a token of https://huggingface.co/settings/tokens"
        if isinstance(error, GatedRepoError):
            own = "Your account has not been granted it" if token else f"{login}"
            return HubError(f"{name} is gated: its owners ask you to accept conditions first, at {self.page}. {own}, then pull again.")
        if isinstance(error, RevisionNotFoundError):
            return HubError(f"{name.repo} has no revision {name.revision or 'main'!r}. Its branches and tags are at {self.page}/tree/main.")
        other = "without --dataset" if name.kind == "dataset" else "with --dataset, if it is a data set"
        if isinstance(error, RepositoryNotFoundError) or status == 404:
            private = "your token may not see it" if token else f"if it is private: {login[0].lower()}{login[1:]}"
            return HubError(f"{name.repo} was not found at {self.endpoint}. Check the spelling; try it {other}; {private}.")
        if status in (401, 403):
            why = "this token has no right to it" if token else "it needs a token"
            return HubError(f"{self.endpoint} refuses {name} ({status}): {why}. {login}.")
        again = "It asks to wait: try again in a few minutes" if status == 429 else "Try again later"
        return HubError(f"{self.endpoint} answered {status} for {name}. {again}.")


class Digest:
    """The hashes of a file as its bytes come: SHA-256 for our record, and whichever its etag is."""

    def __init__(self, file: File) -> None:
        import hashlib

        self.file, self.size = file, 0
        self._sha256 = hashlib.sha256()
        # git's blob id: SHA-1 over "blob SIZE\0" and the bytes
        self._git = hashlib.sha1(b"blob %d\0" % file.bytes, usedforsecurity=False) if len(file.etag) == 40 else None

    def update(self, data: bytes) -> None:
        self.size += len(data)
        self._sha256.update(data)
        if self._git is not None:
            self._git.update(data)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def right(self) -> bool:
        return self.size == self.file.bytes and (self._git or self._sha256).hexdigest() == self.file.etag

    def check(self, remote: Remote) -> None:
        if not self.right:
            found = (self._git or self._sha256).hexdigest()
            raise remote.broken(
                f"{self.file.path} came with other bytes than its commit lists ({self.size} bytes with the hash {found[:12]}, "
                f"where {self.file.bytes} with {self.file.etag[:12]} were promised)"
            )
