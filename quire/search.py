"""Search the standard library by meaning: what modules, classes and functions say of themselves, and the nearest to a question.

Docstrings are read from the source files with `ast`; nothing is imported or run. Each becomes a vector (name and first paragraph, as
much as the model reads), and a question is compared with all of them: exact search, one product. The vectors are kept in the user's cache,
written whole or not at all, under the Python version and the model's identity with the hash of what was read: when one of them changes, or
a byte is damaged, the index is built again.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import sysconfig
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from . import durable
from .errors import CheckpointError, ContextError, DataError, StorageError, warn
from .progress import left_out
from .stdlib import module, parsed, sources
from .types import Embedder

_FORM = 4  # of the files in the cache
_CHUNK = 256  # entries between two calls of `progress`
_LARGEST = 1 << 26  # bytes of the list of entries


@dataclass(frozen=True)
class Entry:
    """A module, class or function: its dotted name, where it stands (file below the library's folder, line), its first paragraph."""

    name: str
    file: str
    line: int
    text: str


@dataclass(frozen=True)
class Found:
    """An entry near a question: `place` is file:line, `score` the cosine of the two vectors."""

    name: str
    place: str
    text: str
    score: float


class Index:
    """Entries and their vectors (N, D), with the model that made them. unread: files that are no Python of this version; cut: how many
    tokens of each entry the model did not read."""

    def __init__(
        self,
        entries: Sequence[Entry],
        vectors: npt.NDArray[np.float32],
        embedder: Embedder,
        root: Path,
        unread: Sequence[str] = (),
        cut: Sequence[int] = (),
    ) -> None:
        self.entries, self.vectors, self.embedder, self.root = entries, vectors, embedder, root
        self.unread, self.cut = tuple(unread), tuple(cut)

    def __len__(self) -> int:
        return len(self.entries)

    def search(self, query: str, top: int = 5, *, cut: list[int] | None = None) -> list[Found]:
        """The `top` entries nearest to a question, the nearest first. Raises ContextError for a question that is too long, unless the
        embedder cuts it; `cut` receives how many of its tokens were left out."""
        if top < 1 or not query.strip():
            raise DataError(f"the question is {query[:40]!r} and top is {top}; give some words, and 1 or more.")
        try:
            (vector,) = _unit(self.embedder.embed([query], "query", cut=cut))
        except ContextError as error:  # its advice is for who can say `long`, and part of a question is another question
            raise ContextError(str(error).partition(", or say ")[0].removesuffix(".") + ".") from None
        scores = self.vectors @ vector  # (N,)
        found = []
        for number in np.argsort(-scores, kind="stable")[:top]:
            entry = self.entries[number]
            found.append(Found(entry.name, f"{self.root / entry.file}:{entry.line}", entry.text, float(scores[number])))
        return found


def build_or_open(
    embedder: Embedder,
    progress: Callable[[int, int], None] | None = None,
    root: Path | None = None,
    only: Collection[str] | None = None,
    *,
    cut: list[int] | None = None,
) -> Index:
    """The index of the standard library: from the cache, or built, which takes some seconds and calls progress(done, all) on the way.

    root: another folder of Python files. only: names of its modules, where a few are enough; such an index is not kept.
    A docstring that is too long is cut as the model was tuned, else at its end; `cut` receives how many tokens of each were left out,
    without it a warning tells. A cache that cannot be written costs the next call its time, and nothing else.
    Raises DataError where there is no source to read.
    """
    index = _index(embedder, progress, Path(root or sysconfig.get_path("stdlib")), only)
    if cut is not None:
        cut.extend(index.cut)
    elif said := left_out(index.cut, "docstring"):
        warn(f"{said}. A list for cut= takes the numbers instead of this warning.")
    return index


def _index(embedder: Embedder, progress: Callable[[int, int], None] | None, root: Path, only: Collection[str] | None) -> Index:
    if not root.is_dir():
        raise DataError(f"{root} is {'no folder' if root.exists() else 'not there'}; give a folder of Python files.")
    files = {file.relative_to(root).as_posix(): file.read_bytes() for file in sources(root)}
    if only is not None:
        files = {name: source for name, source in files.items() if name.split("/")[0].removesuffix(".py") in only}
    facts = {"form": _FORM, "python": platform.python_version(), "corpus": _hash(files), "model": embedder.identity}
    place = cache_folder(root, embedder.identity)
    opened = None if only is not None else _open(place, facts)
    if opened is not None:
        entries, vectors, unread, cut = opened
        return Index(entries, vectors, embedder, root, unread, cut)
    unread = [name for name, source in files.items() if module(name) and parsed(source) is None]
    entries = [entry for name, source in files.items() for entry in read(name, source)]
    if not entries:
        broken = f"; {len(unread)} of its files are no Python that {platform.python_version()} reads" if unread else ""
        raise DataError(f"{root} holds no Python source with docstrings (an embedded Python?), so there is nothing to search{broken}.")
    vectors, cut = _embed(embedder, [_words(entry) for entry in entries], progress)
    if only is not None:
        return Index(entries, _unit(vectors), embedder, root, unread, cut)
    try:
        kept = {"entries": [asdict(entry) for entry in entries], "unread": unread, "cut": cut}
        with durable.building(place, facts) as folder:
            durable.write_text(folder / "entries.json", json.dumps(kept, ensure_ascii=False))
            with durable.writing(folder / "vectors.npy") as file:
                np.save(file, vectors.astype(np.float16), allow_pickle=False)
    except (StorageError, RuntimeError):  # RuntimeError: no home to keep a cache in
        pass
    return Index(entries, _unit(vectors), embedder, root, unread, cut)


def cache_folder(root: Path, identity: str) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = hashlib.sha256(f"{root.resolve()}\0{platform.python_version()}\0{identity}".encode("utf-8", "surrogateescape")).hexdigest()
    return base / "quire" / "search" / key[:24]


def _open(place: Path, facts: dict[str, object]) -> tuple[list[Entry], npt.NDArray[np.float32], list[str], list[int]] | None:
    """What a kept index holds; None where there is none, it is of something else, or it is damaged."""
    try:
        if not place.is_dir() or durable.check(place) != facts or (place / "entries.json").stat().st_size > _LARGEST:
            return None
        kept = json.loads((place / "entries.json").read_text(encoding="utf-8"))
        entries, unread, cut = [Entry(**entry) for entry in kept["entries"]], list(map(str, kept["unread"])), list(map(int, kept["cut"]))
        vectors = np.load(place / "vectors.npy", mmap_mode="r", allow_pickle=False)
    except (CheckpointError, StorageError, OSError, ValueError, TypeError, KeyError, EOFError, RecursionError):
        return None
    if vectors.dtype != np.float16 or vectors.ndim != 2 or len(vectors) != len(entries):
        return None
    return entries, _unit(np.asarray(vectors, dtype=np.float32)), unread, cut


def _hash(files: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, source in files.items():
        digest.update(f"{name}\0{len(source)}\0".encode("utf-8", "surrogateescape"))
        digest.update(source)
    return digest.hexdigest()


def _embed(embedder: Embedder, texts: list[str], progress: Callable[[int, int], None] | None) -> tuple[npt.NDArray[np.float32], list[int]]:
    """Vectors (N, D) of texts, those of like length together; and how many tokens of each were left out."""
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    parts, lost = [], list[int]()
    for start in range(0, len(order), _CHUNK):
        parts.append(_cut([texts[number] for number in order[start : start + _CHUNK]], embedder, lost))
        if progress is not None:
            progress(min(start + _CHUNK, len(order)), len(order))
    joined = np.concatenate(parts)
    vectors = np.empty_like(joined)
    vectors[order] = joined
    return vectors, [tokens for _, tokens in sorted(zip(order, lost))]


def _cut(texts: list[str], embedder: Embedder, lost: list[int]) -> npt.NDArray[np.float32]:
    """Vectors (N, D) of texts, those that are too long cut as the model was tuned, else at their end."""
    try:
        return embedder.embed(texts, "document", cut=lost)
    except ContextError:  # before any work, of a model that knows no way to cut
        return embedder.embed(texts, "document", long="cut", cut=lost)


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12))


def _words(entry: Entry) -> str:
    return f"{entry.name}: {entry.text}"


# -- what the source says -----------------------------------------------------------------------------------------------------------


def read(file: str, source: bytes) -> list[Entry]:
    """The entries of one file; none of one that is no Python, or of a module that is nobody's to use."""
    name = module(file)
    tree = parsed(source) if name else None
    return [] if tree is None else list(_entries(tree, name, file))


def _entries(node: ast.AST, name: str, file: str) -> Iterator[Entry]:
    """This node's entry, where it says something of itself, and those of what is defined in it; not of what functions hide."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        first = " ".join(text.strip().split("\n\n")[0].split()) if text else ""
        if first:
            yield Entry(name, file, getattr(node, "lineno", 1), first)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if not child.name.startswith("_"):
                yield from _entries(child, f"{name}.{child.name}", file)
        elif isinstance(child, ast.If | ast.Try | ast.ExceptHandler | ast.With):  # defined one way or another
            yield from _entries(child, name, file)
