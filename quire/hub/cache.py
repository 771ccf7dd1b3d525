"""The standard cache of huggingface_hub on the disk: names, places, what was pulled, and its hashes. No network.

    models--org--name/blobs/<etag>               the bytes of a file, named by their hash
    models--org--name/snapshots/<commit>/...     links to them, under the names that the repository gives them
    models--org--name/refs/<revision>            the commit that a branch or tag named when it was pulled
    models--org--name/.quire/<commit>.json       ours: where it came from, when, and size and SHA-256 of every file

Layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .. import durable
from ..errors import BindingError, HubError

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo

Kind = Literal["model", "dataset"]
COMMIT = re.compile(r"[0-9a-f]{40}")
PARTIAL = ".quire.incomplete"
_PART = r"[A-Za-z0-9](?:[\w.\-]{0,94}[\w])?"
_REST = r"[\w][\w.\-/+]{0,250}"
_NAME = re.compile(rf"(?P<repo>{_PART}(?:/{_PART})?)(?:@(?P<revision>{_REST}))?(?::(?P<file>[\w*][\w.\-/+*]{{0,250}}))?", re.ASCII)
_RECORDS = ".quire"
_SCHEMA = 1


@dataclass(frozen=True)
class Name:
    """ORG/NAME@REVISION:FILE as a user writes it; `revision` and `file` are '' where none was given. A data set's file may be a pattern."""

    repo: str
    revision: str = ""
    file: str = ""
    kind: Kind = "model"

    @classmethod
    def parse(cls, text: str, kind: Kind = "model") -> Name:
        found = _NAME.fullmatch(text)
        if not found or "--" in found["repo"] or ".." in text or "//" in text:
            raise HubError(
                f"{text!r} is no name of a {_WORD[kind]} on a hub. Allowed: ORG/NAME, ORG/NAME@REVISION (branch, tag or commit), "
                "and for one file of several ORG/NAME:FILE.gguf (of a data set also a pattern: ORG/NAME:data/train-*)."
            )
        return cls(found["repo"], found["revision"] or "", found["file"] or "", kind)

    def __str__(self) -> str:
        return self.repo + (f"@{self.revision}" if self.revision else "") + (f":{self.file}" if self.file else "")

    @property
    def pull(self) -> str:
        """The line that fetches it."""
        return f"quire pull {self}" + (" --dataset" if self.kind == "dataset" else "")

    def means(self, path: str) -> bool:
        """Whether a file of the repository is one that this name asks for."""
        return fnmatchcase(path, self.file or "*")

    @property
    def place(self) -> Path:
        """Its folder in the cache, there or not."""
        return root() / "--".join([f"{self.kind}s", *self.repo.split("/")])


_KINDS: dict[str, Kind] = {"models": "model", "datasets": "dataset"}
_WORD = {"model": "model", "dataset": "data set"}


def root() -> Path:
    """The cache: HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub, as the library has read them."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def find(name: Name) -> Path | None:
    """The folder of a pulled model or data set, None where it is not in the cache (a cut pull leaves none); or its GGUF file.

    A data set must hold a file that its name means; a model some weights that are read (other tools fetch a lone config.json too).
    """
    repo = name.place
    commit = _commit(repo, name.revision or "main")
    if commit is None:
        return None
    folder = repo / "snapshots" / commit
    if name.kind == "dataset":
        files = (path for path in folder.rglob("*") if path.is_file())
        return folder if any(name.means(path.relative_to(folder).as_posix()) for path in files) else None
    if name.file:
        return folder / name.file if (folder / name.file).is_file() else None
    if (folder / "config.json").exists():
        return folder if any(folder.glob("*.safetensors")) else None
    alone = list(folder.glob("*.gguf"))
    return (alone[0] if len(alone) == 1 else folder) if alone else None


def place_of(text: str, kind: Kind = "model") -> tuple[Path | None, str]:
    """For what a user wrote and is no path: (folder in the cache or None, what to do when it is not there, '' when it is no name)."""
    try:
        name = Name.parse(text, kind)
    except HubError:
        return None, ""
    found = find(name)
    if found is not None:
        return found, ""
    same = [entry for entry in listing() if (entry.name, entry.kind) == (name.repo, kind) and entry.commit]
    there = sorted(entry.spelled for entry in same if entry.spelled != text)
    also = f" (in the cache: {', '.join(there)})" if there else ""
    return None, f"To fetch it from the hub: {name.pull}{also}"


def _commit(repo: Path, revision: str) -> str | None:
    """The commit that a branch, a tag, a whole commit or at least seven characters of one mean in the cache."""
    ref = repo / "refs" / revision
    if ref.is_file() and ref.stat().st_size <= 64:
        said = ref.read_text(encoding="ascii", errors="replace").strip()
        return said if COMMIT.fullmatch(said) else None
    if not re.fullmatch(r"[0-9a-f]{7,40}", revision):
        return None
    found = [path.name for path in (repo / "snapshots").glob(f"{revision}*") if COMMIT.fullmatch(path.name)]
    return found[0] if len(found) == 1 else None


# -- what was pulled, and its hashes --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """A file of a snapshot: its size, its SHA-256, and the name of its blob."""

    bytes: int
    sha256: str
    blob: str


def write_record(name: Name, commit: str, endpoint: str, files: Mapping[str, Kept]) -> None:
    place = durable.make_folder(name.place / _RECORDS)
    facts = {
        "schema": _SCHEMA,
        "name": name.repo,
        "kind": name.kind,
        "revision": name.revision or "main",
        "commit": commit,
        "endpoint": endpoint,
        "pulled": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": {path: dataclasses.asdict(kept) for path, kept in sorted(files.items())},
    }
    durable.write_json(place / f"{commit}.json", facts)


def read_record(repo: Path, commit: str) -> dict[str, Any] | None:
    """The record of a pull with its files as `Kept`; None where there is none or it is damaged (the files are then hashed again)."""
    try:
        facts = dict(json.loads((repo / _RECORDS / f"{commit}.json").read_text(encoding="utf-8")))
        facts["files"] = {str(path): Kept(int(k["bytes"]), str(k["sha256"]), str(k["blob"])) for path, k in facts["files"].items()}
        facts["pulled"] = str(facts["pulled"])
        return facts
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def verify(folder: Path) -> int | None:
    """Compares every file of a pulled snapshot with the hash that was recorded; how many there were, None when `folder` is no such.

    Raises BindingError naming the file that is missing or has changed.
    """
    snapshot = next((place for place in (folder, *folder.parents) if place.parent.name == "snapshots"), None)
    record = read_record(snapshot.parent.parent, snapshot.name) if snapshot else None
    if snapshot is None or record is None:
        return None
    folder = snapshot
    again = f"Fetch it again: quire rm {record['name']}@{folder.name} && quire pull {record['name']}@{folder.name}"
    again += "" if record["kind"] == "model" else " (both with --dataset)"
    for path, kept in record["files"].items():
        if not (folder / path).is_file():
            raise BindingError(f"{folder / path} is missing: it was pulled and has been removed. {again}")
        found = durable.sha256_file(folder / path)
        if found != kept.sha256:
            raise BindingError(
                f"{folder / path} is not what was pulled: its SHA-256 begins {found[:12]} where {kept.sha256[:12]} was recorded. {again}"
            )
    return len(record["files"])


# -- list and remove ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A revision in the cache. `pulled`: when it was by us (UTC), else ''. What is not whole (cut, damaged) has no commit."""

    name: str
    kind: Kind
    commit: str
    refs: tuple[str, ...]
    bytes: int
    files: int
    when: str
    pulled: str

    @property
    def spelled(self) -> str:
        return self.name if "main" in self.refs else f"{self.name}@{self.refs[0] if self.refs else self.commit[:12]}"


def listing() -> list[Entry]:
    """Models and data sets in the cache, whoever fetched them, by name; of each what its plain name means, then the newest."""
    found: list[Entry] = []
    for repo in _repos():
        kind: Kind = "model" if repo.repo_type == "model" else "dataset"
        for revision in repo.revisions:
            record = read_record(repo.repo_path, revision.commit_hash)
            pulled = record["pulled"] if record else ""
            when = pulled or datetime.fromtimestamp(revision.last_modified, UTC).isoformat(timespec="seconds")
            refs = tuple(sorted(revision.refs, key=lambda ref: (ref != "main", ref)))
            found.append(Entry(repo.repo_id, kind, revision.commit_hash, refs, revision.size_on_disk, len(revision.files), when, pulled))
    found += _rest({repo.repo_path.name for repo in _repos() if repo.revisions})
    newest = sorted(found, key=lambda entry: ("main" in entry.refs, entry.when), reverse=True)
    return sorted(newest, key=lambda entry: (entry.kind != "model", entry.name.lower()))


def _rest(whole: set[str]) -> Iterator[Entry]:
    """What belongs to no revision: parts of files that wait for more, and all of a repository that is not `whole` (cut, damaged)."""
    for place in root().glob("*--*"):
        prefix, _, name = place.name.partition("--")
        blobs = [path.stat() for path in (place / "blobs").glob(f"*{PARTIAL}" if place.name in whole else "*") if path.is_file()]
        if prefix in _KINDS and blobs:
            when = datetime.fromtimestamp(max(blob.st_mtime for blob in blobs), UTC).isoformat(timespec="seconds")
            yield Entry(name.replace("--", "/"), _KINDS[prefix], "", (), sum(blob.st_size for blob in blobs), len(blobs), when, "")


def _repos() -> list[CachedRepoInfo]:
    from huggingface_hub import scan_cache_dir

    place = root()
    if not place.is_dir():
        return []
    return [repo for repo in scan_cache_dir(place).repos if repo.repo_type in ("model", "dataset")]


def chosen(name: Name) -> list[Entry]:
    """What `rm NAME` means: every revision of it, or the one that was named. Raises HubError when nothing is there."""
    there = [entry for entry in listing() if entry.name == name.repo and entry.kind == name.kind]
    wanted = there
    if name.revision:
        commit = _commit(name.place, name.revision)
        wanted = [entry for entry in there if entry.commit and entry.commit == commit]
    if not wanted:
        has = f" In the cache are: {', '.join(sorted(entry.spelled for entry in there if entry.commit))}." if there else ""
        raise HubError(f"{name} is not in the cache ({root()}).{has} `quire list` shows what is.")
    return wanted


def remove(name: Name) -> int:
    """Removes a model or data set, or one revision of it; returns the bytes that became free. Files that another revision uses stay."""
    wanted = {entry.commit for entry in chosen(name)}
    from huggingface_hub import scan_cache_dir

    with durable.lock(root() / ".locks" / name.place.name, otherwise="."), durable.storage(name.place, "remove"):
        before = _used(name.place)
        if not name.revision:
            shutil.rmtree(name.place)
            return before
        # One repository at a time: the library takes a commit for unique over all of them.
        info = scan_cache_dir(root())
        one = frozenset(repo for repo in info.repos if repo.repo_path == name.place.resolve())
        dataclasses.replace(info, repos=one).delete_revisions(*wanted).execute()
        for commit in wanted:
            (name.place / _RECORDS / f"{commit}.json").unlink(missing_ok=True)
        return before - (_used(name.place) if name.place.exists() else 0)


def _used(place: Path) -> int:
    return sum(path.stat().st_size for path in (place / "blobs").glob("*") if path.is_file())
