"""What stood where a word is missing?

quire fill MODEL "The capital of France is ___."

quire fill MODEL --file cloze.txt --top 3 --json

An encoder gives the likeliest tokens with their probabilities; an encoder-decoder trained on cut-out spans writes what was there. In a
pipe a text is one line, filled with the likeliest words; with --top each word is one: probability, word, the text with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from ..errors import DataError, RecipeError
from ..types import TokenLogprob
from .lines import Fields, Files, FilesOption, Machine, MachineOption, Model, Row, Texts, at_least, parse, read
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
    top: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """So many words for each blank, the likeliest first; else 5."""
    files: FilesOption = field(default_factory=Files)
    machine: MachineOption = field(default_factory=Machine)


def run(argv: list[str]) -> int:
    options = parse(Fill, "fill", argv, __doc__)
    at_least("--top", options.top, 1)
    rows = read(options.texts, options.files, Fields(), "fill")
    for row in rows:
        if not options.blank or options.blank not in row.text:
            raise DataError(f"{row.where or 'the text'} has no blank: {_instead(row.text, options.blank or '___')}")
    if options.files.dry_run:
        return dry_run("fill", options.model, rows, options.files, options.machine)
    from ..model import Encoder, Seq2Seq

    model = open_for("fill", options.model, options.machine)
    with sink(options.files) as to:
        if isinstance(model, Encoder):
            words = each(
                rows, lambda part, done: model.fill([row.text for row in part], options.blank, options.top or 5, progress=done), "fill", to
            )
            for row, found in words:
                fills = [[{"text": word.text, "id": word.id, "probability": math.exp(word.logprob)} for word in best] for best in found]
                to.row(row, {"text": row.text, "fills": fills}, line, row, found, options.blank, to, options.top)
            return 0
        assert isinstance(model, Seq2Seq)  # `uses` names no other
        if options.top is not None:
            raise RecipeError(f"--top is {options.top}, but {model.folder} is an encoder-decoder: it writes one text. Leave --top out.")
        written = each(rows, lambda part, done: [model.fill(one.text, options.blank) for one in part], "fill", to, at_once=1)
        for row, spans in written:
            result: dict[str, Any] = {"text": row.text, "fills": spans}
            to.row(row, result, filled, row.text, spans, options.blank, to)
    return 0


_MARKS = re.compile(r"\[MASK\]|<mask>|<extra_id_\d+>", re.IGNORECASE)


def _instead(text: str, blank: str) -> str:
    """What to write. The spelling of a model's own mask is a text as any other: texts of others cannot steer a model."""
    mark = _MARKS.search(text)
    if mark is None:
        return f"write {blank} where a word is to be filled in."
    return f"{mark[0]} is plain text here. Write {blank} in its place, or say --blank '{mark[0]}'."


def line(row: Row, found: Sequence[Sequence[TokenLogprob]], blank: str, to: Sink, top: int | None) -> str:
    """The text with the likeliest words, with `top` each word in a line of its own; where somebody looks, the words below, with bars."""
    likeliest = [words[0].text.strip() for words in found]
    best = filled(row.text, likeliest, blank, to)
    if not to.shows and top is None:
        return best
    if not to.shows:
        return "\n".join(
            f"{math.exp(word.logprob):.4f}\t{flat(word.text.strip())}\t"
            + filled(row.text, [*likeliest[:place], word.text.strip(), *likeliest[place + 1 :]], blank, to)
            for place, words in enumerate(found)
            for word in words
        )
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
