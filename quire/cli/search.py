"""Search the standard library's documentation by meaning, offline.

quire search "parse an ISO date"

quire search "run a program with a time limit" --top 3 --json

Every docstring of the Python that runs this becomes a vector, once; a question is compared with all of them. The model comes with the
extra `minilm`; any other that makes vectors of texts will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ..errors import DataError
from .embed import prompted
from .lines import Fields, Files, FilesOption, Machine, MachineOption, PathOption, Row, Texts, at_least, parse, read, tell
from .paint import bar, flat, paint, short
from .results import Later, Sink, each, sink, tell_cut
from .uses import dry_run, open_for

if TYPE_CHECKING:
    from ..search import Found, Index
    from .uses import Opened


@dataclass(frozen=True)
class Search:
    texts: Texts = ()
    """Questions; '-' or nothing reads standard input, one a line."""
    top: Annotated[int, tyro.conf.arg(metavar="N")] = 5
    """So many places for each question, the nearest first."""
    model: str = "minilm"
    """What makes vectors of texts: a model folder, or the one of the extra `minilm`."""
    library: PathOption = None
    """Search another folder of Python files."""
    files: FilesOption = field(default_factory=Files)
    machine: MachineOption = field(default_factory=Machine)


def run(argv: list[str]) -> int:
    options = parse(Search, "search", argv, __doc__)
    at_least("--top", options.top, 1)
    if options.library is not None and not options.library.is_dir():
        what = "no folder" if options.library.exists() else "not there"
        raise DataError(f"--library {options.library} is {what}; give a folder of Python files")
    rows = read(options.texts, options.files, Fields(("text", "question")), "search")
    if options.files.dry_run:
        return dry_run("search", options.model, rows, options.files, options.machine, as_read=prompted((rows, "query")))
    cut: list[int] = []
    with sink(options.files) as to:
        index = opened(open_for("embed", options.model, quick(options.machine)), options.library)
        for row, found in each(rows, lambda part, done: [index.search(one.text, options.top, cut=cut) for one in part], "search", to):
            places = [asdict(one) for one in found]
            to.row(row, {"text": row.text, "found": places}, line, row, found, to, index.root)
    tell_cut(cut)
    return 0


def quick(machine: Machine) -> Machine:
    """Unless a number type is asked for, the one that this device is fast in: vectors keep their direction (a cosine above 0.999), and
    reading the library takes a third of the time."""
    from ..machine import device, good_dtype

    return replace(machine, dtype=good_dtype(device(machine.device))) if machine.dtype == "auto" else machine


def opened(model: Opened, library: Path | None = None) -> Index:
    """The index, with progress while it is built for the first time."""
    from ..search import build_or_open

    live, cut = list[Later](), list[int]()

    def progress(done: int, total: int) -> None:
        if not live:
            live.append(Later(total, "reading the library, once", "docstrings"))
        live[0].update(done)

    try:
        index = build_or_open(model, progress, library, cut=cut)
    except BaseException:
        for one in live:
            one.clear()
        raise
    for one in live:
        one.close()
    if index.unread:
        few = ", ".join(index.unread[:3]) + (" ..." if len(index.unread) > 3 else "")
        tell(f"{len(index.unread)} file{'s' * (len(index.unread) > 1)} left out, with errors of syntax: {few}")
    tell_cut(cut, "docstring")
    return index


def line(row: Row, found: Sequence[Found], to: Sink, root: Path) -> str:
    """score, name, place, text of each, in columns; where somebody looks, below one another, with the place below the library."""
    if not to.shows:
        return "\n".join("\t".join([f"{one.score:.4f}", one.name, one.place, flat(one.text)]) for one in found)
    out = [paint(short(row.text), "bold")]
    for one in found:
        place = flat(one.place.removeprefix(f"{root}/"))
        out.append(f"  {one.score:>5.3f}  {bar(one.score, 8)}  {paint(one.name, 'green')}  {paint(place, 'dim')}")
        out.append(f"{'':>19}{short(one.text, 19)}")
    return "\n".join(out)
