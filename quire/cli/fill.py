"""`quire fill`: what stood where a word is missing?

quire fill MODEL "The capital of France is ___."

quire fill MODEL --file cloze.txt --top 3 --json

An encoder gives the likeliest tokens with their probabilities; an encoder-decoder trained on cut-out spans writes what was there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from ..errors import DataError
from ..types import TokenLogprob
from .lines import Fields, Files, FilesOption, Machine, MachineOption, Model, Row, Texts, parse, read
from .paint import bar, flat, paint
from .results import Sink, each, sink
from .uses import dry_run, open_for


@dataclass(frozen=True)
class Fill:
    model: Model
    """A model folder."""
    texts: Texts = ()
    """Texts with blanks; '-' or nothing reads standard input, one a line."""
    blank: str = "___"
    """What marks a missing word."""
    top: Annotated[int, tyro.conf.arg(metavar="N")] = 5
    """So many words for each blank, the likeliest first."""
    files: FilesOption = field(default_factory=Files)
    machine: MachineOption = field(default_factory=Machine)


def run(argv: list[str]) -> int:
    options = parse(Fill, "fill", argv, __doc__)
    rows = read(options.texts, options.files, Fields(), "fill")
    for row in rows:
        if not options.blank or options.blank not in row.text:
            raise DataError(f"{row.where or 'the text'} has no blank: write {options.blank or '___'} where a word is to be filled in.")
    if options.files.dry_run:
        return dry_run("fill", options.model, rows, options.files)
    from ..model import Encoder, Seq2Seq

    model = open_for("fill", options.model, options.machine)
    with sink(options.files) as to:
        if isinstance(model, Encoder):
            words = each(
                rows, lambda part, done: model.fill([row.text for row in part], options.blank, options.top, progress=done), "fill", to
            )
            for row, found in words:
                fills = [[{"text": word.text, "id": word.id, "probability": math.exp(word.logprob)} for word in best] for best in found]
                to.row(row, {"text": row.text, "fills": fills}, line, row, found, options.blank, to)
            return 0
        assert isinstance(model, Seq2Seq)  # `uses` names no other
        written = each(rows, lambda part, done: [model.fill(one.text, options.blank) for one in part], "fill", to, at_once=1)
        for row, spans in written:
            result: dict[str, Any] = {"text": row.text, "fills": spans}
            to.row(row, result, filled, row.text, spans, options.blank, to)
    return 0


def line(row: Row, found: Sequence[Sequence[TokenLogprob]], blank: str, to: Sink) -> str:
    """The text with the likeliest words; where somebody looks, the others below, with bars."""
    best = filled(row.text, [words[0].text.strip() for words in found], blank, to)
    if not to.shows:
        return best
    out = [best]
    for number, words in enumerate(found, 1):
        width = max(len(flat(word.text)) for word in words)
        for rank, word in enumerate(words):
            share = math.exp(word.logprob)
            mark = f"{number}" if len(found) > 1 and not rank else ""
            out.append(f"  {paint(f'{mark:>2}', 'dim')} {flat(word.text):<{width}}  {share:>6.1%}  {bar(share).rstrip()}")
    return "\n".join(out)


def filled(text: str, words: Sequence[str], blank: str, to: Sink) -> str:
    parts = text.split(blank)
    marked = [paint(flat(word), "underline green") if to.shows else flat(word) for word in words]
    return "".join(flat(part) + word for part, word in zip(parts, [*marked, ""]))
