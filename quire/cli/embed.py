"""`quire embed`: texts as vectors. `quire similar`: which texts mean the same. `quire cluster`: texts in groups.

All three read every line of a file, the empty ones as the empty text: their rows are found again by the number of the line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import tyro

from ..errors import RecipeError
from ..types import Long as WayToCut
from .lines import (
    Fields,
    Files,
    FilesOption,
    Long,
    Machine,
    MachineOption,
    Model,
    PathOption,
    Row,
    Texts,
    at_least,
    chosen,
    parse,
    read,
    ways_to_cut,
)
from .paint import bar, flat, paint, short
from .results import Done, Sink, each, sink, tell_cut
from .uses import dry_run, open_for

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..binding import Contract
    from ..families import ModelFolder
    from .uses import Opened

    Vector = npt.NDArray[np.float32]

_COLUMNS = 8  # texts whose table fits into 80 columns
_NAME = 24
Number = Annotated[int, tyro.conf.arg(metavar="N")]
Kind = Literal["query", "document"]
Pool = Literal["cls", "mean", "max", "last", "mean-sqrt", "weighted"]


@dataclass(frozen=True)
class Embed:
    model: Model
    """A model folder, best one of sentence-transformers; minilm is the one of the extra."""
    texts: Texts = ()
    """Texts; '-' or nothing reads standard input, one a line."""
    kind: Annotated[str, tyro.conf.arg(metavar="query|document", help_behavior_hint="")] = ""
    """What the texts are: some models have a prompt for each kind."""
    pool: Annotated[str, tyro.conf.arg(metavar="cls|mean|max|last|mean-sqrt|weighted", help_behavior_hint="")] = ""
    """Which hidden states stand for a text; else as the folder says."""
    long: Long = ""
    """A text that is too long is an error, loses its end (cut), or its middle (head-tail); else as the model was tuned, or an error."""
    files: FilesOption = field(default_factory=Files)
    machine: MachineOption = field(default_factory=Machine)


def run(argv: list[str]) -> int:
    """Texts as vectors.

    quire embed MODEL --file texts.txt --out vectors.npy

    quire embed MODEL "How do I reset my password?" --json

    Vectors are pooled and normalised as the model's folder says; --out PATH.npy holds all of them as one float32 table, a row for each line
    of the file. An empty line is the empty text.
    """
    options = parse(Embed, "embed", argv, run.__doc__)
    long = ways_to_cut(options.long)
    kind, pool = chosen("--kind", options.kind, get_args(Kind)), chosen("--pool", options.pool, get_args(Pool))
    rows = read(options.texts, options.files, Fields(), "embed", every=True)
    if options.files.dry_run:
        return dry_run("embed", options.model, rows, options.files, options.machine, long, as_read=prompted((rows, kind)))
    table = options.files.out is not None and options.files.out.suffix == ".npy"
    if table and options.files.json:
        raise RecipeError(f"--out {options.files.out} is a table of numbers, not JSON; leave --json out, or name the file .jsonl")
    model = open_for("embed", options.model, options.machine)
    with sink(options.files) as to:
        found = vectors(model, rows, to, "embed", long, kind=kind, pool=pool)
        if table:
            import numpy as np

            assert to.out is not None
            np.save(to.out, np.stack([vector for _, vector in found]), allow_pickle=False)
            return 0
        for row, vector in found:
            numbers = [round(float(value), 8) for value in vector]
            to.row(row, {"text": row.text, "embedding": numbers}, _line, row, numbers, to)
    return 0


def prompted(*parts: tuple[Sequence[Row], Kind | None]) -> Callable[[ModelFolder, Contract], list[Row]]:
    """For a dry run: rows of each kind as their model reads them, behind its folder's prompt."""

    def as_read(opened: ModelFolder, contract: Contract) -> list[Row]:
        from ..tasks import embed, sentence

        how = sentence.read(opened.path, opened.model_config.width, contract.tokenizer.settings())
        texts = [(row, text) for rows, kind in parts for row, text in zip(rows, embed.as_read(how, [row.text for row in rows], kind))]
        return [replace(row, text=text) for row, text in texts]

    return as_read


def vectors(model: Opened, rows: Sequence[Row], to: Sink, verb: str, long: WayToCut | None, **ways: Any) -> Iterator[tuple[Row, Vector]]:
    """(row, its vector) in order; what was cut is told at the end."""
    cut: list[int] = []

    def method(part: list[Row], done: Done) -> list[Vector]:
        return list(model.embed([row.text for row in part], long=long, cut=cut, progress=done, **ways))

    yield from each(rows, method, verb, to)
    tell_cut(cut)


def _line(row: Row, numbers: Sequence[float], to: Sink) -> str:
    """All numbers of a vector; where somebody looks, the first few."""
    if not to.shows:
        return " ".join(f"{value:.6g}" for value in numbers)
    few = " ".join(f"{value:+.3f}" for value in numbers[:6])
    return f"{paint(short(row.text), 'bold')}\n  {len(numbers)} numbers: {few} ..."


# -- similar -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Similar:
    model: Model
    """A model folder, best one of sentence-transformers; minilm is the one of the extra."""
    texts: Texts = ()
    """Texts that are compared with one another, or, with --to, what is looked for."""
    to: PathOption = None
    """A file of texts to look in, lines or JSONL."""
    top: Number = 5
    """With --to: so many of them for each text, the nearest first."""
    long: Long = ""
    """A text that is too long is an error, loses its end (cut), or its middle (head-tail); else as the model was tuned, or an error."""
    files: FilesOption = field(default_factory=Files)
    machine: MachineOption = field(default_factory=Machine)


def similar(argv: list[str]) -> int:
    """Which texts mean the same? Cosines of their vectors: 1 is the same meaning, around 0 nothing in common.

    quire similar MODEL "a cat" "a kitten" "a car"

    quire similar MODEL "I forgot my password" --to questions.txt --top 3
    """
    options = parse(Similar, "similar", argv, similar.__doc__)
    long = ways_to_cut(options.long)
    at_least("--top", options.top, 1)
    rows = read(options.texts, options.files, Fields(), "similar", every=True)
    others = rows if options.to is None else read((), Files(file=options.to), Fields(), "similar", every=True)
    if len(rows) < 2 and options.to is None:
        raise RecipeError("there is one text and nothing to compare it with: give two, or --to PATH with texts to look in")
    if options.files.dry_run:
        parts: list[tuple[list[Row], Kind | None]] = [(rows, None)] if options.to is None else [(rows, "query"), (others, "document")]
        every = [row for part, _ in parts for row in part]
        return dry_run("similar", options.model, every, options.files, options.machine, long, as_read=prompted(*parts))
    model = open_for("similar", options.model, options.machine)
    # An unnormalised product is what some models are trained for; their folder says so.
    unit = True if model.sentence.similarity == "cosine" else None
    with sink(options.files) as to:
        if options.to is None:
            found = _table(vectors(model, rows, to, "similar", long, normalize=unit))
            _matrix(rows, found @ found.T, options.top, to)
            return 0
        theirs = _table(vectors(model, others, to, "similar", long, kind="document", normalize=unit))
        for row, vector in vectors(model, rows, to, "similar", long, kind="query", normalize=unit):
            _hits(row, others, theirs @ vector, options.top, to)
    return 0


def _table(found: Iterator[tuple[Row, Vector]]) -> Vector:
    import numpy as np

    return np.stack([vector for _, vector in found])


def _matrix(rows: Sequence[Row], cosines: Vector, top: int, to: Sink) -> None:
    """Every text with every other: where somebody looks, as a table with numbered columns, or the nearest of each when they are many."""
    if to.shows and len(rows) <= _COLUMNS:
        from .tables import show

        names = [text if len(text) <= _NAME else text[: _NAME - 1] + "…" for text in (flat(row.text) for row in rows)]
        others = [[-9.0 if i == j else float(value) for j, value in enumerate(line)] for i, line in enumerate(cosines)]
        nearest = {(i, 2 + line.index(max(line))) for i, line in enumerate(others)}
        cells = [[str(i + 1), names[i], *(f"{value:.3f}" for value in line)] for i, line in enumerate(cosines)]
        show(["", "text", *map(str, range(1, len(rows) + 1))], cells, numbers=range(2, len(rows) + 2), strong=nearest)
        return
    for number, (row, line) in enumerate(zip(rows, cosines)):
        if to.shows:
            _hits(row, rows, line, top, to, but=number)
            continue
        values = [round(float(value), 6) for value in line]
        to.row(row, {"text": row.text, "cosines": values}, str, "\t".join([*(f"{value:.4f}" for value in values), flat(row.text)]))


def _hits(row: Row, others: Sequence[Row], cosines: Vector, top: int, to: Sink, but: int | None = None) -> None:
    """The nearest of the other texts; `but`: the row itself among them."""
    order = sorted((i for i in range(len(others)) if i != but), key=lambda i: -float(cosines[i]))[:top]
    if to.json:
        hits = [{"index": i, "score": round(float(cosines[i]), 6), "text": others[i].text, **others[i].rest} for i in order]
        to.row(row, {"text": row.text, "hits": hits}, str)
    elif to.shows:
        to.write("\n".join([paint(short(row.text), "bold"), *(_hit(float(cosines[i]), others[i].text) for i in order)]))
    else:
        for i in order:
            to.write(f"{float(cosines[i]):.4f}\t{i + 1}\t{flat(others[i].text)}")


def _hit(score: float, text: str) -> str:
    return f"  {score:>6.3f}  {bar(score, 12)}  {short(text, 24)}"


# -- cluster -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cluster:
    model: Model
    """A model folder, best one of sentence-transformers; minilm is the one of the extra."""
    texts: Texts = ()
    """Texts; '-' or nothing reads standard input, one a line."""
    count: Number = 8
    """So many groups."""
    seed: Number = 0
    """The same seed gives the same groups."""
    long: Long = ""
    """A text that is too long is an error, loses its end (cut), or its middle (head-tail); else as the model was tuned, or an error."""
    files: FilesOption = field(default_factory=Files)
    machine: MachineOption = field(default_factory=Machine)


def cluster(argv: list[str]) -> int:
    """Texts in groups of like meaning (k-means over their vectors).

    quire cluster MODEL --file questions.txt --count 5
    """
    options = parse(Cluster, "cluster", argv, cluster.__doc__)
    long = ways_to_cut(options.long)
    rows = read(options.texts, options.files, Fields(), "cluster", every=True)
    if not 1 <= options.count <= len(rows):
        raise RecipeError(f"--count is {options.count}; allowed is 1 to {len(rows)}, the number of texts")
    if options.files.dry_run:
        return dry_run("cluster", options.model, rows, options.files, options.machine, long, as_read=prompted((rows, None)))
    model = open_for("cluster", options.model, options.machine)
    cut: list[int] = []

    def method(part: list[Row], done: Done) -> list[int]:
        return model.cluster([row.text for row in part], options.count, options.seed, long=long, cut=cut, progress=done)

    with sink(options.files) as to:
        found = list(each(rows, method, "cluster", to, at_once=len(rows)))
        tell_cut(cut)
        if to.shows:
            to.write("\n".join(_groups([(row.text, number) for row, number in found], options.count)))
            return 0
        for row, number in found:
            to.row(row, {"text": row.text, "cluster": number}, str, f"{number}\t{flat(row.text)}")
    return 0


def _groups(found: Sequence[tuple[str, int]], count: int) -> list[str]:
    out = []
    for group in range(count):
        texts = [text for text, number in found if number == group]
        out.append(f"{paint(f'{group}', 'bold cyan')}  {paint(f'{len(texts)} text' + 's' * (len(texts) != 1), 'dim')}")
        out += [f"   {short(text, 3)}" for text in texts]
    return out
