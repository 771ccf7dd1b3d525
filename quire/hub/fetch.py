"""`plan`: what a pull would fetch. `fetch`: fetches it, so that a file is there whole, with the right bytes, or not at all.

The library's own download begins a file anew when it was cut, and names it whole before anything has compared its hash. So the bytes are
fetched here: a part of a file lies under a name of its own, the next pull goes on behind it, and only a file whose hash is the one that
the commit lists gets its blob's name. Links come next (config.json last: without it a folder is no model), then our record, then the ref.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .. import durable
from ..errors import HubError, StorageError
from ..progress import count
from .cache import PARTIAL, Kept, Name, read_record, root, write_record
from .choose import choose
from .remote import Digest, File, Remote

Report = Callable[[int, str], None]  # bytes that are here, the file that is being fetched

_BLOCK = 1 << 20
_TRIES = 4  # times in a row that nothing new arrives
_SPARE = 64 << 20  # bytes of the disk that a pull leaves free


@dataclass(frozen=True)
class Plan:
    """What a pull takes: the commit, the files, the paths that are left out, the bytes that are still to come, and where they go."""

    name: Name
    remote: Remote
    files: tuple[File, ...]
    left_out: tuple[str, ...]
    missing: int

    @property
    def commit(self) -> str:
        return self.remote.commit

    @property
    def bytes(self) -> int:
        return sum({file.etag: file.bytes for file in self.files}.values())

    @property
    def folder(self) -> Path:
        return self.name.place / "snapshots" / self.commit


@dataclass(frozen=True)
class Pulled:
    """A finished pull: where it is, the commit, each file with its size and SHA-256, and the bytes that came over the network."""

    name: Name
    commit: str
    folder: Path
    files: dict[str, Kept]
    fetched: int


def plan(name: Name) -> Plan:
    """Asks the hub; writes nothing and fetches no weights.

    Raises HubError (not there, private, offline, hostile), ModelError and WeightsError (code, pickles), DataError (no data).
    """
    remote = Remote(name)
    files = remote.files()
    taken = choose(name, files, remote.read)
    left_out = tuple(sorted(files.keys() - {file.path for file in taken}))
    missing = {file.etag: file.bytes - _here(name, file) for file in taken}
    return Plan(name, remote, tuple(taken), left_out, sum(missing.values()))


def fetch(planned: Plan, report: Report | None = None) -> Pulled:
    """Brings what is missing and returns where it lies. What has arrived stays when it is cut; the same pull goes on behind it.

    Raises HubError (cut for good, wrong bytes), StorageError (no space, not ours, another pull of the same name is running).
    """
    name, commit = planned.name, planned.commit
    with durable.storage(root(), "write"):
        free = shutil.disk_usage(next(place for place in (name.place, *name.place.parents) if place.exists())).free
    if planned.missing > 0 and planned.missing + _SPARE > free:
        raise StorageError(
            f"{name} needs {count(planned.missing)}B more and {count(_SPARE)}B to spare, but {root()} has {count(free)}B free. "
            "Free some space (`quire list`, `quire rm NAME`), or set HF_HOME to a folder on a larger disk."
        )
    for folder in ("blobs", "snapshots", "refs"):
        durable.make_folder(name.place / folder)
    with durable.lock(root() / ".locks" / name.place.name, otherwise="."):
        known = (read_record(name.place, commit) or {"files": {}})["files"]
        kept: dict[str, Kept] = {}
        done = fetched = 0
        for file in planned.files:
            digests = {one.blob: one for one in [*known.values(), *kept.values()]}
            arrival = _Arrival(planned.remote, file, lambda size, done=done, file=file: report(done + size, file.path) if report else None)  # type: ignore[misc]
            sha256 = arrival.known(digests.get(file.etag)) or arrival.bring()
            kept[file.path] = Kept(file.bytes, sha256, file.etag)
            done, fetched = done + file.bytes, fetched + arrival.fetched
        for file in sorted(planned.files, key=lambda file: file.path == "config.json"):
            _link(planned.folder / file.path, name.place / "blobs" / file.etag)
        write_record(name, commit, planned.remote.endpoint, known | kept)
        if name.revision != commit:
            ref = name.place / "refs" / (name.revision or "main")
            durable.make_folder(ref.parent)
            durable.write_text(ref, commit)
    return Pulled(name, commit, planned.folder, kept, fetched)


def _here(name: Name, file: File) -> int:
    """The bytes of a file that are on the disk already."""
    for place in (name.place / "blobs" / file.etag, name.place / "blobs" / f"{file.etag}{PARTIAL}"):
        with contextlib.suppress(OSError):
            return min(place.stat().st_size, file.bytes)
    return 0


def _link(place: Path, blob: Path) -> None:
    with durable.storage(place, "link"):
        place.parent.mkdir(parents=True, exist_ok=True)
        target = os.path.relpath(blob, place.parent)
        if place.is_symlink() and os.readlink(place) == target:
            return
        partial = place.with_name(f".{place.name}{PARTIAL}")
        partial.unlink(missing_ok=True)
        partial.symlink_to(target)
        os.replace(partial, place)
        durable.sync_folder(place.parent)


class _Arrival:
    """One file on its way into the cache. `fetched`: the bytes of it that came over the network."""

    def __init__(self, remote: Remote, file: File, report: Callable[[int], None]) -> None:
        self.remote, self.file, self.report = remote, file, report
        self.blob = remote.name.place / "blobs" / file.etag
        self.part = self.blob.with_name(f"{file.etag}{PARTIAL}")
        self.fetched = 0
        self._digest = Digest(file)

    def known(self, before: Kept | None) -> str | None:
        """The SHA-256 of the file when it is here already: recorded by us, or fetched by another tool and right. Else None."""
        if not self.blob.is_file() or self.blob.stat().st_size != self.file.bytes:
            return None
        if before is not None and before.bytes == self.file.bytes:
            return before.sha256
        with durable.storage(self.blob, "read"), self.blob.open("rb") as file:
            self._hash(file)
        return self._digest.sha256 if self._digest.right else None

    def bring(self) -> str:
        """Fetches what is missing of the file and gives it its name. Returns its SHA-256."""
        with durable.storage(self.part, "write"):
            began = self.part.stat().st_size if self.part.exists() else 0
            self._receive()
            if not self._digest.right and began:
                self.part.unlink()  # what lay there may be at fault (a crash before its bytes were on the disk): once from the start
                self._receive()
            if not self._digest.right:
                self.part.unlink()
            self._digest.check(self.remote)
            os.replace(self.part, self.blob)
            durable.sync_folder(self.blob.parent)
        return self._digest.sha256

    def _hash(self, file: BinaryIO) -> None:
        self._digest = Digest(self.file)
        while block := file.read(_BLOCK):
            self._digest.update(block)

    def _receive(self) -> None:
        """Appends to the part until the file has its size; goes on where a connection was cut."""
        import httpx2

        with self.part.open("a+b") as part:
            part.seek(0)
            self._hash(part)
            if self._digest.size > self.file.bytes:
                self._restart(part)
            failures = 0
            while self._digest.size < self.file.bytes:
                before = self._digest.size
                cut = "it ended early"
                try:
                    self._stream(part)
                except httpx2.TransportError as error:
                    cut = f"{type(error).__name__}: {str(error)[:200]}"
                failures = 0 if self._digest.size > before else failures + 1
                if failures >= _TRIES:
                    raise HubError(
                        f"the connection to {self.remote.endpoint} was cut at {self._digest.size} of {self.file.bytes} bytes of "
                        f"{self.file.path} ({cut}). What has arrived is kept; go on with: {self.remote.name.pull}"
                    )
                if failures:
                    time.sleep(0.25 * 2**failures)
            part.flush()
            durable._os.fsync(part.fileno())

    def _stream(self, part: BinaryIO) -> None:
        """One answer, from where the part ends."""
        at = self._digest.size
        asked = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={at}-"} if at else {})
        with self.remote.getting(self.remote.address(self.file), translate=False, headers=asked) as response:
            if at and not (response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {at}-")):
                self._restart(part)  # the server answers with the whole file
            for block in response.iter_raw():  # as they arrive: gathered into larger ones, the last of them would be lost with the line
                if self._digest.size + len(block) > self.file.bytes:
                    raise self.remote.broken(f"{self.file.path} is longer than the {self.file.bytes} bytes that its commit lists")
                durable._os.write(part, block)
                self._digest.update(block)
                self.fetched += len(block)
                self.report(self._digest.size)

    def _restart(self, part: BinaryIO) -> None:
        part.truncate(0)
        part.seek(0)
        self._digest = Digest(self.file)
