"""Write whole or not at all; a manifest with hashes decides what is complete.

Order of every write: temporary name, write, flush, fsync, rename, fsync the folder. A reader therefore sees the old file or the new one.
A folder of several files is built under a temporary name, sealed with `manifest.json` (size and SHA-256 of each file), fsynced and
renamed into place. Every system call goes through this module's `_os`, so a test can stop, refuse or reorder any of them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .errors import CheckpointError, StorageError

MANIFEST = "manifest.json"
_TEMPORARY = ".partial"


class _Calls:
    """The system calls that durability rests on, in one place for tests to replace."""

    open: Callable[..., BinaryIO] = staticmethod(open)  # type: ignore[assignment]
    fsync = staticmethod(os.fsync)
    replace = staticmethod(os.replace)
    rmtree = staticmethod(shutil.rmtree)

    @staticmethod
    def write(file: BinaryIO, data: bytes | memoryview) -> None:
        file.write(data)


_os = _Calls()


@contextlib.contextmanager
def storage(path: Path, doing: str) -> Iterator[None]:
    """Turns an OSError into a StorageError that names the path, the cause and the way out."""
    try:
        yield
    except OSError as error:
        hint = {
            errno.ENOSPC: "the disk is full: free some space or choose another folder",
            errno.EDQUOT: "the disk quota is used up: free some space or choose another folder",
            errno.EROFS: "the file system is read-only: choose another folder",
            errno.EACCES: "permission denied: choose a folder that you may write to",
            errno.EPERM: "permission denied: choose a folder that you may write to",
            errno.ENOTDIR: "a file stands where a folder is needed: choose another path",
            errno.EEXIST: "a file stands where a folder is needed: choose another path",
        }.get(error.errno or 0, error.strerror or type(error).__name__)
        raise StorageError(f"cannot {doing} {path}: {hint}") from error


def make_folder(path: Path | str) -> Path:
    path = Path(path)
    with storage(path, "make the folder"):
        path.mkdir(parents=True, exist_ok=True)
    return path


def sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        _os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends without an error, and nothing when it does not.

    Raises StorageError when the disk is full, read-only or not ours; the file that was there stays as it was.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
    with storage(path, "write"):
        try:
            with _os.open(partial, "wb") as file:
                yield file
                file.flush()
                _os.fsync(file.fileno())
            _os.replace(partial, path)
            sync_folder(path.parent)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


def write_bytes(path: Path | str, data: bytes | memoryview) -> None:
    with writing(path) as file:
        _os.write(file, data)


def write_text(path: Path | str, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def append_line(path: Path | str, value: Any) -> None:
    """Adds one JSON line. A kill may leave the last line unfinished; readers use `read_lines`, which drops it."""
    path = Path(path)
    line = json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
    with storage(path, "append to"), _os.open(path, "ab") as file:
        _os.write(file, line.encode("utf-8"))


def drop_unfinished(path: Path | str) -> None:
    """Cuts off a last line that a kill has left without its end, so that another can be appended."""
    path = Path(path)
    with storage(path, "write"), path.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def read_lines(path: Path | str) -> list[dict[str, Any]]:
    """The JSON lines of a file that `append_line` wrote; an unfinished last line is left out, a broken one before it is an error."""
    path = Path(path)
    if not path.exists():
        return []
    with storage(path, "read"):
        lines = path.read_bytes().split(b"\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            if number == len(lines) - 1:
                break
            raise CheckpointError(
                f"{path}: line {number + 1} is not JSON. The file was changed from outside; restore it or remove that line."
            ) from None
        rows.append(row)
    return rows


def sha256_file(path: Path | str) -> str:
    path = Path(path)
    with storage(path, "read"), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(folder: Path | str, facts: dict[str, Any]) -> None:
    """Writes the manifest of a finished folder: every file's size and hash, and `facts` beside them."""
    folder = Path(folder)
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    write_json(folder / MANIFEST, {"files": files, "facts": facts})


def check(folder: Path | str) -> dict[str, Any]:
    """The facts of a sealed folder, after every file's size and hash were compared. Raises CheckpointError naming what is wrong."""
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = {name: (int(expected["bytes"]), str(expected["sha256"])) for name, expected in dict(manifest["files"]).items()}
        facts = dict(manifest["facts"])
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no {MANIFEST}: it was never finished") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / MANIFEST} cannot be read ({type(error).__name__}): the folder is damaged") from error
    for name, (size, sha256) in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing: the folder is damaged")
        if path.stat().st_size != size:
            raise CheckpointError(f"{path} has {path.stat().st_size} bytes where {size} were written: the folder is damaged")
        if sha256_file(path) != sha256:
            raise CheckpointError(f"{path} has changed since it was written (its SHA-256 differs): the folder is damaged")
    return facts


@contextlib.contextmanager
def building(final: Path | str, facts: dict[str, Any] | None = None) -> Iterator[Path]:
    """A temporary folder that becomes `final`, sealed when `facts` are given, once the block ends without an error.

    A `final` that is there already is replaced: it is renamed aside first and removed last.
    """
    final = Path(final)
    make_folder(final.parent)
    partial = final.with_name(f".{final.name}.{os.getpid()}{_TEMPORARY}")
    with storage(final, "write"):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            if facts is not None:
                seal(partial, facts)
            publish(partial, final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def publish(build: Path, final: Path) -> None:
    """Moves a finished folder into place. Its files must have been written through this module."""
    sync_folder(build)
    old = final.with_name(f".{final.name}.{os.getpid()}.old{_TEMPORARY}")
    if final.exists():
        _os.replace(final, old)
    _os.replace(build, final)
    sync_folder(final.parent)
    if old.exists():
        _os.rmtree(old)


def sweep(folder: Path | str) -> list[str]:
    """Clears what a killed process left half-written in `folder`; returns the names. Call it only while holding the lock.

    A folder that `publish` had moved aside, and whose successor never arrived, goes back to its place.
    """
    names = []
    for path in sorted(Path(folder).glob(f".*{_TEMPORARY}")):
        names.append(path.name)
        final = path.with_name(path.name[1:].split(".")[0])
        if path.name.endswith(f".old{_TEMPORARY}") and not final.exists():
            _os.replace(path, final)
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return names


@contextlib.contextmanager
def lock(folder: Path | str, otherwise: str = ", or choose another folder with --out.") -> Iterator[None]:
    """Holds `folder` for this process alone; the system lets go of it however the process ends.

    `otherwise` ends the message of the StorageError that says who has it.
    """
    folder = Path(folder)
    make_folder(folder)
    path = folder / "LOCK"
    with storage(path, "lock"):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(handle, 32).decode("ascii", "replace").strip() or "unknown"
            raise StorageError(f"another process (pid {owner}) is using {folder}. Wait for it, or stop it{otherwise}") from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
    finally:
        os.close(handle)
