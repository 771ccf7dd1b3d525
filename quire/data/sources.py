"""Text from where it lies: files, folders, globs, archives, tables, and the standard library's own source.

`read` streams documents one at a time, whatever the size of the corpus. What the user *named* and cannot be read is refused with the
reason; what a folder happened to hold and is no text is skipped and counted, with its reason and the first examples, in a `Tally`.
A document that was already read (the same content, to the byte) is dropped and counted. Which side of the train/held-out split a
document falls on is decided by the hash of its content alone, so the same text can never be on both, in any order of sources.
"""

from __future__ import annotations

import glob
import hashlib
import math
import os
import re
import stat
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .. import hub
from ..errors import DataError, nearest
from . import formats
from .formats import Skip

STDLIB = "stdlib"
_WEIGHT = re.compile(r"^(.+)\*(\d+(?:\.\d+)?|\.\d+)$", re.DOTALL)
_FOLDERS_WITHOUT_TEXT = {"__pycache__", "site-packages", "dist-packages", "node_modules"}
_EXAMPLES = 5

Digest = bytes


@dataclass(frozen=True, slots=True)
class Document:
    """A text with where it came from. `digest` is the first 16 bytes of the SHA-256 of its UTF-8 form, which is `size` bytes long."""

    text: str
    name: str
    kind: str  # the file's suffix without its dot
    source: str  # the source that gave it, as the user wrote it, without the weight
    weight: float
    digest: bytes
    size: int


@dataclass(frozen=True)
class Source:
    """One entry of `data.sources`: what to read and how often to show it (PATH*2.0)."""

    spec: str
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Source:
        """A number after a last '*' is a weight, so a glob that ends in '*2' must be written '*[2]'."""
        found = _WEIGHT.match(text)
        spec, weight = (found[1], float(found[2])) if found else (text, 1.0)
        if not math.isfinite(weight) or weight <= 0:
            raise DataError(
                f"the source '{text}' has the weight {weight:g}; a weight is above 0 (2.0 shows the source twice an epoch). "
                "To leave the source out, do not list it."
            )
        if not spec.strip():
            raise DataError(f"a source is empty: {text!r}. Give a file, a folder, a glob or '{STDLIB}'.")
        return cls(spec, weight)


@dataclass
class Tally:
    """What one pass over the sources held: filled while `read` runs, complete when it ends."""

    documents: int = 0
    bytes: int = 0
    characters: int = 0
    files: int = 0
    pieces: int = 0  # documents that are a part of a longer text
    duplicates: int = 0
    duplicate_examples: list[str] = field(default_factory=list)
    longest: int = 0  # bytes
    longest_name: str = ""
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)  # documents by kind
    sources: dict[str, list[int]] = field(default_factory=dict)  # documents and bytes by source
    digests: set[Digest] = field(default_factory=set, repr=False)  # about 0.1 kB a document: the one thing that grows with the corpus

    def skip(self, reason: str, example: str) -> None:
        self.skipped[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(printable(example))

    def add(self, document: Document) -> bool:
        """Counts a document; False when the same content was there before."""
        if document.digest in self.digests:
            self.duplicates += 1
            if len(self.duplicate_examples) < _EXAMPLES:
                self.duplicate_examples.append(document.name)
            return False
        self.digests.add(document.digest)
        self.documents += 1
        self.bytes += document.size
        self.characters += len(document.text)
        self.kinds[document.kind] += 1
        source = self.sources.setdefault(document.source, [0, 0])
        source[0] += 1
        source[1] += document.size
        if document.size > self.longest:
            self.longest, self.longest_name = document.size, document.name
        return True

    @property
    def corpus_hash(self) -> str:
        return corpus_hash(self.digests)


def document(text: str, name: str, kind: str = "txt", source: str = "memory", weight: float = 1.0) -> Document:
    """A `Document` with its digest and size worked out."""
    data = text.encode("utf-8")
    return Document(text, printable(name), kind, source, weight, hashlib.sha256(data).digest()[:16], len(data))


def printable(name: str) -> str:
    """A file name may hold bytes that are no UTF-8; reports and JSON must be able to hold the name."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def corpus_hash(digests: Iterable[bytes]) -> str:
    """SHA-256 over the sorted digests of the documents: it names the corpus, whatever the order and the folder it was read from."""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def split(document: Document, held_out: float | int) -> Literal["train", "held_out"]:
    """The side of the split, by content hash alone.

    `held_out`: the share of documents to hold out (float), or the exact cut on the first 64 bits of the digest (int, see `check`).
    """
    cut = held_out if isinstance(held_out, int) else int(held_out * 2.0**64)
    return "held_out" if int.from_bytes(document.digest[:8], "big") < cut else "train"


def read(sources: Sequence[str], field: str = "text", *, tally: Tally | None = None) -> Iterator[Document]:
    """The documents of all sources, source by source, in an order that depends on names alone.

    `sources`: files (text, markdown, code, JSONL, CSV, Parquet; gzip of these), folders, globs, "stdlib", pulled data sets by their
    names; PATH*2.0 gives a weight.
    `field`: the column or key that holds the text of JSONL, CSV and Parquet rows. Raises DataError for a source that is not there or
    does not hold what it says, ExtraError for a table without pyarrow.
    """
    tally = Tally() if tally is None else tally
    parsed = [Source.parse(text) for text in sources]
    if not parsed:
        raise DataError(f"no sources were given. Set data.sources to files, folders, globs or '{STDLIB}'.")
    weights: dict[str, float] = {}
    for source in parsed:
        if weights.setdefault(source.spec, source.weight) != source.weight:
            raise DataError(
                f"the source '{source.spec}' is given twice, with the weights {weights[source.spec]:g} and {source.weight:g}. Keep one."
            )
    for source in parsed:
        for path, name, named in files(source, tally):
            tally.files += 1
            yield from _documents(path, name, named, source, field, tally)


def _documents(path: Path, name: str, named: bool, source: Source, field: str, tally: Tally) -> Iterator[Document]:
    """The new documents of one file. A fault of a file that the user named is an error; of one that a folder held, a count."""
    kind = formats.kind_of(path)
    try:
        for text, part in formats.texts(path, kind, field, named, lambda reason, where: tally.skip(reason, f"{name}{where}")):
            one = document(text, name + part, kind, source.spec, source.weight)
            if tally.add(one):
                tally.pieces += bool(part) and kind not in formats.ROWS
                yield one
    except Skip as skip:
        tally.skip(skip.reason, name + skip.where)
    except OSError as error:
        if named:
            raise DataError(f"cannot read {path}: {error.strerror or error}. Check the file and its permissions.") from error
        tally.skip(f"unreadable ({error.strerror or type(error).__name__})", name)


def files(source: Source, tally: Tally) -> Iterator[tuple[Path, str, bool]]:
    """The files of a source: path, the name its documents get, and whether the user named it (or a folder held it)."""
    if source.spec == STDLIB:
        yield from _stdlib(tally)
        return
    path = Path(source.spec).expanduser()
    if path.is_dir():
        yield from _walk(path, tally)
    elif path.exists() or path.is_symlink():
        if not path.exists():
            raise DataError(f"the source '{source.spec}' is a link to a file that is not there. Mend the link or give another path.")
        if not path.is_file():
            raise DataError(f"the source '{source.spec}' is neither a file nor a folder. Give text files, folders or globs of them.")
        yield path, path.name, True
    elif glob.has_magic(source.spec) and (found := sorted(glob.glob(str(path), recursive=True))):
        for match in found:
            if Path(match).is_dir():
                continue  # its files are there themselves when the pattern has '**'
            if Path(match).is_file():
                yield Path(match), match, True
            else:
                tally.skip("not a regular file", match)
    else:
        yield from _pulled(source.spec, tally)


def _pulled(spec: str, tally: Tally) -> Iterator[tuple[Path, str, bool]]:
    """The files of a pulled data set, for what is no path. Raises DataError saying what else it may have been meant to be."""
    folder, pull = hub.place_of(spec, "dataset")
    if folder is not None:
        name = hub.Name.parse(spec, "dataset")
        for path, label, named in _walk(folder, tally, f"{name.repo}/"):
            if name.means(path.relative_to(folder).as_posix()):
                yield path, label, named
        return
    pull = pull and f" {pull}"
    if glob.has_magic(spec):
        raise DataError(f"the glob '{spec}' matches nothing (from {Path.cwd()}). Check the pattern; '**' matches folders in folders.{pull}")
    path = Path(spec).expanduser()
    there = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise DataError(
        f"the source '{spec}' is not there.{nearest(path.name, there)} Give a file, a folder, a glob, or '{STDLIB}' "
        f"for the source of Python's standard library.{pull}"
    )


def _walk(top: Path, tally: Tally, label: str = "") -> Iterator[tuple[Path, str, bool]]:
    """Every regular file under a folder, sorted, through links but never twice through the same folder."""
    seen: set[tuple[int, int]] = set()

    def visit(folder: Path) -> Iterator[Path]:
        try:
            facts = folder.stat()
            names = sorted(os.listdir(folder))
        except OSError as error:
            tally.skip(f"unreadable ({error.strerror or type(error).__name__})", f"{folder}/")
            return
        if (facts.st_dev, facts.st_ino) in seen:
            tally.skip("a link to a folder that was already read", f"{folder}/")
            return
        seen.add((facts.st_dev, facts.st_ino))
        for name in names:
            path = folder / name
            try:
                mode = path.stat().st_mode
            except OSError as error:
                tally.skip(f"unreadable ({error.strerror or type(error).__name__})", str(path))
                continue
            if name.startswith("."):
                tally.skip("hidden", f"{path}/" if stat.S_ISDIR(mode) else str(path))
            elif stat.S_ISDIR(mode) and name in _FOLDERS_WITHOUT_TEXT:
                tally.skip(f"a {name} folder", f"{path}/")
            elif stat.S_ISDIR(mode):
                yield from visit(path)
            elif stat.S_ISREG(mode):
                yield path
            else:  # a pipe would block for ever, a device never end
                tally.skip("not a regular file", str(path))

    for path in visit(top):
        yield path, label + path.relative_to(top).as_posix(), False


def _stdlib(tally: Tally) -> Iterator[tuple[Path, str, bool]]:
    """The .py files of the standard library that runs this; its `test` folder belongs to it where a distribution ships it.

    What the build generated on its machine (`_sysconfigdata`, `config-*`: compiler flags and paths) is left out: no one wrote it, and
    it would give every machine a corpus hash of its own.
    """
    top = Path(sysconfig.get_path("stdlib"))
    if not (top / "os.py").is_file():
        raise DataError(
            f"this Python keeps no source of its standard library in {top} (an embedded or zipped build?). "
            "Give your own text in data.sources."
        )
    walk = Tally()  # caches, packages and data files of the installation are no one's corpus: only faults are worth a line
    for path, name, named in _walk(top, walk, "stdlib/"):
        if path.suffix == ".py" and not name.startswith(("stdlib/_sysconfigdata", "stdlib/config-")):
            yield path, name, named
    for reason, examples in walk.examples.items():
        if reason.startswith("unreadable"):
            for example in examples:
                tally.skip(reason, example)
