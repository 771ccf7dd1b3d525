"""What the sources hold, said before anything is trained on it: one pass that counts, and refuses a corpus without text.

The report goes to the terminal and into the run folder. It also fixes the split's cut: usually the share asked for; where a small corpus
would leave one side empty, the document with the lowest hash is held out alone, so that there is something to measure on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import DataError, RecipeError
from ..progress import many
from .sources import Source, Tally, read, split

_SHOWN = 2  # examples a line; the report in the run folder has more


@dataclass(frozen=True)
class Skipped:
    """Things that were left out for one reason, with the names of the first few."""

    reason: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        shown = self.examples[:_SHOWN]
        more = ", …" if self.count > len(shown) else ""
        return f"{self.count:,} {self.reason} ({', '.join(shown)}{more})"


@dataclass(frozen=True)
class SourceReport:
    name: str
    weight: float
    documents: int
    bytes: int


@dataclass(frozen=True)
class Report:
    """What one pass over the sources found. Sizes are bytes of UTF-8."""

    documents: int
    bytes: int
    characters: int
    files: int
    pieces: int
    held_out_documents: int
    held_out_bytes: int
    cut: int  # what `sources.split` and `shards.build` take to make exactly this split
    longest: int
    longest_name: str
    duplicates: Skipped
    skipped: tuple[Skipped, ...]
    sources: tuple[SourceReport, ...]
    kinds: dict[str, int]
    corpus: str
    notes: tuple[str, ...] = field(default=())

    def lines(self) -> list[str]:
        """For the terminal."""
        out = [
            f"{many(self.documents, 'document')}, {_size(self.bytes)} of text from {many(self.files, 'file')}; "
            f"the longest is {self.longest_name} with {_size(self.longest)}"
        ]
        if len(self.sources) > 1:
            out += [f"  {s.name}: {many(s.documents, 'document')}, {_size(s.bytes)}, weight {s.weight:g}" for s in self.sources]
        share = self.held_out_bytes / self.bytes
        out.append(f"held out: {many(self.held_out_documents, 'document')}, {_size(self.held_out_bytes)} ({share:.1%} of the text)")
        if self.pieces:
            out.append(f"long texts were cut at blank lines into {self.pieces:,} documents")
        if self.duplicates.count:
            out.append(f"dropped: {self.duplicates}")
        out += [f"skipped: {skipped}" for skipped in self.skipped]
        out += [f"note: {note}" for note in self.notes]
        out.append(f"corpus hash {self.corpus[:16]}")
        return out

    def json(self) -> dict[str, Any]:
        return asdict(self)


def check(
    sources: Sequence[str], field: str = "text", held_out: float = 0.02, progress: Callable[[int, int], None] | None = None
) -> Report:
    """Reads everything once. `progress` gets documents and bytes so far.

    Raises DataError when there is no text at all, with what was skipped and why.
    """
    if not 0 <= held_out < 1:
        raise RecipeError(f"data.held_out = {held_out} is not a share of the documents: it must be at least 0 and below 1 (0.02 is usual).")
    tally = Tally()
    held = held_bytes = 0
    lowest, lowest_bytes = 1 << 64, 0
    for document in read(sources, field, tally=tally):
        if split(document, held_out) == "held_out":
            held, held_bytes = held + 1, held_bytes + document.size
        number = int.from_bytes(document.digest[:8], "big")
        if number < lowest:
            lowest, lowest_bytes = number, document.size
        if progress:
            progress(tally.documents, tally.bytes)
    skipped = tuple(Skipped(reason, count, tuple(tally.examples[reason])) for reason, count in tally.skipped.most_common())
    if not tally.documents:
        _refuse_empty(sources, skipped)
    cut, notes = int(held_out * 2.0**64), []
    if held_out and held in (0, tally.documents):
        if tally.documents > 1:
            cut, held, held_bytes = lowest + 1, 1, lowest_bytes
            notes.append(f"the corpus is small: of {tally.documents:,} documents one is held out, the one with the lowest hash")
        else:
            cut = held = held_bytes = 0
            notes.append("the corpus is one document, so nothing can be held out: there will be no held-out figure. Add files")
    return Report(
        documents=tally.documents,
        bytes=tally.bytes,
        characters=tally.characters,
        files=tally.files,
        pieces=tally.pieces,
        held_out_documents=held,
        held_out_bytes=held_bytes,
        cut=cut,
        longest=tally.longest,
        longest_name=tally.longest_name,
        duplicates=Skipped("duplicates of a document before them", tally.duplicates, tuple(tally.duplicate_examples)),
        skipped=skipped,
        sources=_sources(sources, tally),
        kinds=dict(tally.kinds.most_common()),
        corpus=tally.corpus_hash,
        notes=tuple(notes),
    )


def _sources(sources: Sequence[str], tally: Tally) -> tuple[SourceReport, ...]:
    parsed = {source.spec: source for source in map(Source.parse, sources)}
    return tuple(SourceReport(name, source.weight, *tally.sources.get(name, (0, 0))) for name, source in parsed.items())


def _refuse_empty(sources: Sequence[str], skipped: tuple[Skipped, ...]) -> None:
    found = "What was found there and left out: " + "; ".join(map(str, skipped)) if skipped else "There is no file in them"
    raise DataError(
        f"the sources hold no text to train on: {', '.join(map(repr, sources))}. {found}. Give files or folders with text in UTF-8."
    )


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
