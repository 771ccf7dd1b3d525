"""Token shards: a flat file of token ids that is memory-mapped, with what it was made of beside it.

    train.bin    uint16 (vocabularies up to 65,536) or uint32, little-endian: separator, document, separator, document, separator ...
    train.idx    int64 pairs, one for each document and one for the end: where it begins in tokens, and in bytes of text
    train.names  one JSON string a document
    train.json   dtype, counts, sources with their weights, the tokenizer's hash, the corpus hash, sizes and SHA-256 of the files above

The sidecar is written last and decides whether a shard is whole. The leading separator makes every document alike: the token before
its first is always a separator, so scoring a file alone and training on the joined stream read the same slices.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .. import durable
from ..errors import CheckpointError, DataError, StorageError
from ..tasks.task import Array
from ..text.tokenizer import Tokenizer
from .sources import Document, corpus_hash, split

FORMAT = 1
_CHUNK_DOCUMENTS = 1024
_CHUNK_BYTES = 4 << 20

Progress = Callable[[int, int], None]  # bytes of text done, tokens written


@dataclass(frozen=True)
class SourceRange:
    """The tokens that one source gave: tokens[start:stop] are whole documents with their separators."""

    name: str
    weight: float
    start: int
    stop: int
    documents: int


class Shard:
    """An opened shard. `tokens` and `index` are memory-mapped read-only, so opening costs nothing at any size."""

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self.path, self.facts = path, facts
        self.name: str = facts["name"]
        self.token_count: int = facts["tokens"]
        self.documents: int = facts["documents"]
        self.text_bytes: int = facts["text_bytes"]
        self.separator: int = facts["separator"]
        self.tokenizer: str = facts["tokenizer"]  # its hash
        self.corpus: str = facts["corpus"]  # the hash of every document of the corpus, both sides of the split
        self.sources = tuple(SourceRange(**source) for source in facts["sources"])
        self.tokens: Array = np.memmap(path / f"{self.name}.bin", dtype=np.dtype(facts["dtype"]).newbyteorder("<"), mode="r")
        index = np.memmap(path / f"{self.name}.idx", dtype="<i8", mode="r").reshape(-1, 2)
        self.offsets: Array = index[:, 0]
        self.byte_offsets: Array = index[:, 1]

    @classmethod
    def open(cls, folder: Path | str, name: str, *, verify: bool = False) -> Shard:
        """Opens the shard `name` of a folder. Sizes are always compared; `verify` reads everything and compares the hashes too.

        Raises CheckpointError naming the file that is missing, damaged or changed.
        """
        folder = Path(folder)
        sidecar = folder / f"{name}.json"
        try:
            facts: dict[str, Any] = json.loads(sidecar.read_bytes())
            if facts["format"] != FORMAT:
                raise CheckpointError(f"{sidecar} has format {facts['format']}, and this version reads {FORMAT}. Make the shards again.")
            for file, expected in facts["files"].items():
                _compare(folder / file, expected, verify)
            return cls(folder, facts)
        except FileNotFoundError:
            raise CheckpointError(f"{sidecar} is missing: the shard '{name}' was never finished, or was moved. {_MEND}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{sidecar} cannot be read ({type(error).__name__}: {error}): the shard is damaged. {_MEND}") from error
        except OSError as error:
            raise StorageError(f"cannot read {sidecar}: {error.strerror}") from error

    @property
    def sha256(self) -> str:
        """The hash of the token file, as it was when it was written (`verify` compares it with what is there)."""
        return str(self.facts["files"][f"{self.name}.bin"]["sha256"])

    def verify(self) -> None:
        """Reads every file and compares its hash. Raises CheckpointError naming the first that changed."""
        for file, expected in self.facts["files"].items():
            _compare(self.path / file, expected, True)

    def document(self, i: int) -> Array:
        """The tokens of document `i`, without its closing separator."""
        return self.tokens[int(self.offsets[i]) : int(self.offsets[i + 1]) - 1]

    def document_bytes(self, i: int) -> int:
        return int(self.byte_offsets[i + 1] - self.byte_offsets[i])

    def names(self) -> Iterator[str]:
        """The documents' names, in order."""
        with durable.storage(self.path, "read"), open(self.path / f"{self.name}.names", encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


_MEND = "Delete the data folder of the run and start the run again, or restore the files from a copy."


def _compare(path: Path, expected: dict[str, Any], verify: bool) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: the shard is not whole. {_MEND}")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise CheckpointError(f"{path} has {size:,} bytes where {expected['bytes']:,} were written: the shard is damaged. {_MEND}")
    if verify and (found := durable.sha256_file(path)) != expected["sha256"]:
        raise CheckpointError(
            f"{path} changed since it was written: its SHA-256 was {expected['sha256'][:16]}… and is now {found[:16]}…. "
            f"A run cannot go on with other data. {_MEND}"
        )


class _File:
    """A file being written that knows its size and hash at the end."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.size, self.hash = file, 0, hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.hash.update(data)
        self.size += len(data)

    def facts(self) -> dict[str, Any]:
        return {"bytes": self.size, "sha256": self.hash.hexdigest()}


class _Writer:
    """Writes one shard, chunk by chunk. The files appear under their names when the stack closes without an error."""

    def __init__(self, folder: Path, name: str, tokenizer: Tokenizer, separator: int, stack: ExitStack) -> None:
        self.folder, self.name, self.tokenizer, self.separator = folder, name, tokenizer, separator
        self.dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
        # Away with an older sidecar first: were it left beside newer tokens by a crash, it would vouch for the wrong file.
        with durable.storage(folder, "write in"):
            (folder / f"{name}.json").unlink(missing_ok=True)
        self.files = {
            f"{name}.{end}": _File(stack.enter_context(durable.writing(folder / f"{name}.{end}"))) for end in ("bin", "idx", "names")
        }
        self.sources: list[SourceRange] = []
        self.waiting: list[Document] = []
        self.waiting_bytes = self.tokens = self.text_bytes = self.documents = 0
        self._put("bin", np.array([separator], dtype=self.dtype).tobytes())
        self.tokens = 1
        self._mark()

    def _put(self, end: str, data: bytes) -> None:
        self.files[f"{self.name}.{end}"].write(data)

    def _mark(self) -> None:
        self._put("idx", np.array([self.tokens, self.text_bytes], dtype="<i8").tobytes())

    def add(self, document: Document) -> None:
        self.waiting.append(document)
        self.waiting_bytes += document.size
        if len(self.waiting) >= _CHUNK_DOCUMENTS or self.waiting_bytes >= _CHUNK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Tokenizes and writes what waits."""
        rows = self.tokenizer.encode_batch([document.text for document in self.waiting])
        for document, ids in zip(self.waiting, rows, strict=True):
            if self.separator in ids:
                raise DataError(
                    f"the text of {document.name} became the separator token {self.separator}; a tokenizer must never read a special token "
                    "in text. Train a tokenizer, or use one whose special tokens are marked as special."
                )
            start = self.tokens
            self.tokens += len(ids) + 1
            self.text_bytes += document.size
            self.documents += 1
            self._mark()
            self._put("names", (json.dumps(document.name, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
            last = self.sources[-1] if self.sources else None
            if last and last.name == document.source:
                self.sources[-1] = SourceRange(last.name, last.weight, last.start, self.tokens, last.documents + 1)
            else:
                self.sources.append(SourceRange(document.source, document.weight, start, self.tokens, 1))
        flat = itertools.chain.from_iterable((*ids, self.separator) for ids in rows)
        self._put("bin", np.fromiter(flat, dtype=self.dtype, count=sum(map(len, rows)) + len(rows)).tobytes())
        self.waiting, self.waiting_bytes = [], 0

    def facts(self, corpus: str) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "name": self.name,
            "dtype": self.dtype.name,
            "tokens": self.tokens,
            "documents": self.documents,
            "text_bytes": self.text_bytes,
            "separator": self.separator,
            "tokenizer": self.tokenizer.hash,
            "corpus": corpus,
            "sources": [asdict(source) for source in self.sources],
            "files": {name: file.facts() for name, file in self.files.items()},
        }


def build(
    folder: Path | str,
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    separator: int,
    held_out: float | int = 0,
    progress: Progress | None = None,
    *,
    corpus: str = "",
) -> dict[str, Shard]:
    """Tokenizes a corpus once into the shards `train` and, where documents fall on that side of the split, `held_out`.

    `held_out` is what `sources.split` takes: a share, or the exact cut of `check.Report.cut`; `corpus` is the hash that the report found,
    to be sure that it is still the same text. One chunk of text is in memory at a time; `train.json` appears last. Raises DataError when
    no document is left to train on or the text changed, StorageError when the disk is full or the folder read-only.
    """
    folder = durable.make_folder(folder)
    digests: list[bytes] = []
    done = 0
    with ExitStack() as stack:
        writers = {name: _Writer(folder, name, tokenizer, separator, stack) for name in ("train", "held_out")}
        for document in documents:
            digests.append(document.digest)
            writers[split(document, held_out)].add(document)
            done += document.size
            if progress:
                progress(done, sum(writer.tokens for writer in writers.values()))
        for writer in writers.values():
            writer.flush()
        if not writers["train"].documents:
            raise DataError(
                f"no document is left to train on: the corpus has {len(digests)} documents and all of them are held out. Add text."
            )
    found = corpus_hash(digests)
    if corpus and found != corpus:
        raise DataError(
            f"the sources changed while they were being read: their hash was {corpus[:16]}… at the check and is now {found[:16]}…. "
            "Wait until nothing writes into them, and start again."
        )
    for name, writer in reversed(writers.items()):  # `train` last: whoever finds it finds all there is
        if writer.documents:
            durable.write_json(folder / f"{name}.json", writer.facts(found))
        else:
            for file in writer.files:
                (folder / file).unlink(missing_ok=True)
    return {name: Shard.open(folder, name) for name, writer in writers.items() if writer.documents}


def write(folder: Path | str, name: str, documents: Iterable[Document], tokenizer: Tokenizer, separator: int) -> Shard:
    """One shard of all the documents, without a split."""
    folder = durable.make_folder(folder)
    digests: list[bytes] = []
    with ExitStack() as stack:
        writer = _Writer(folder, name, tokenizer, separator, stack)
        for document in documents:
            digests.append(document.digest)
            writer.add(document)
        writer.flush()
        if not writer.documents:
            raise DataError(f"there is no document to write into the shard '{name}'. Give sources that hold text.")
    durable.write_json(folder / f"{name}.json", writer.facts(corpus_hash(digests)))
    return Shard.open(folder, name)
