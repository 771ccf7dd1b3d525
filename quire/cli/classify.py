"""`quire classify`: which label fits a text, or a pair of texts. `quire next-sentence`: does one text follow another?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

import tyro

from .lines import (
    Fields,
    Files,
    FilesOption,
    Long,
    Machine,
    MachineOption,
    Model,
    Row,
    Text,
    Texts,
    at_least,
    chosen,
    parse,
    read,
    ways_to_cut,
)
from .paint import bar, flat, paint, short
from .results import Sink, each, sink, tell_cut
from .uses import dry_run, open_for, opened_encoder

Function = Literal["softmax", "sigmoid", "none"]


@dataclass(frozen=True)
class Classify:
    model: Model
    """A model folder."""
    texts: Texts = ()
    """Texts; '-' or nothing reads standard input, one a line."""
    pair: Text = None
    """What stands beside each text that has no pair of its own."""
    function: Annotated[str, tyro.conf.arg(metavar="softmax|sigmoid|none", help_behavior_hint="")] = ""
    """Scores as probabilities of one label (softmax), of each label alone (sigmoid), or as they are; else as the model's config says."""
    top: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """The N best labels, a line each in a pipe; 0: all. Else JSON and a terminal have all, and a pipe the best, or all that apply."""
    long: Long = ""
    """A text that is too long is an error, loses its end (cut), or its middle (head-tail); else as the model was tuned, or an error."""
    files: FilesOption = field(default_factory=Files)
    machine: MachineOption = field(default_factory=Machine)


def run(argv: list[str]) -> int:
    """Which label fits a text, or a pair of texts?

    quire classify MODEL "I loved every minute of it."

    quire classify MODEL "A man sleeps." --pair "A person rests."

    quire classify MODEL --file reviews.jsonl --out labels.jsonl

    JSONL rows are {"text": "..."} or {"text": "...", "pair": "..."}; their other fields come back with the labels.
    """
    options = parse(Classify, "classify", argv, run.__doc__)
    at_least("--top", options.top, 0, " (all)")
    function = chosen("--function", options.function, get_args(Function))
    long = ways_to_cut(options.long)
    rows = read(options.texts, options.files, Fields(beside=("pair",), given=options.pair), "classify")
    if options.files.dry_run:
        return dry_run("classify", options.model, rows, options.files, options.machine, long)
    model = open_for("classify", options.model, options.machine)
    cut: list[int] = []
    with sink(options.files) as to:
        found = each(
            rows,
            lambda part, done: model.classify([_text(row) for row in part], function, long=long, cut=cut, progress=done),
            "classify",
            to,
        )
        for row, labels in found:
            best = dict(list(labels.items())[: options.top or None])
            several = len(labels) > 1 and (function or model.function) == "sigmoid"
            read_fields = {"text": row.text} if row.beside is None else {"text": row.text, "pair": row.beside}
            to.row(row, {**read_fields, "labels": best}, line, row, best, function, to, several, options.top)
        tell_cut(cut)
    return 0


def _text(row: Row) -> str | tuple[str, str]:
    return row.text if row.beside is None else (row.text, row.beside)


def line(row: Row, labels: Mapping[str, float], function: str | None, to: Sink, several: bool, top: int | None) -> str:
    """Label, score and text, a line each, of the labels that were asked for; where somebody looks, every label with a bar.

    several: labels do not exclude each other, so without `top` all of them that are likelier than not are said, at least the best one.
    """
    text = flat(row.text) + (f"  +  {flat(row.beside)}" if row.beside is not None else "")
    if not to.shows:
        said = [label for i, label in enumerate(labels) if top is not None or _fits(i, labels[label], several)]
        return "\n".join(f"{flat(label)}\t{labels[label]:.4f}\t{text}" for label in said)
    width = min(max(len(flat(label)) for label in labels), 40)
    # One label without a function is a figure (regression), not a probability.
    shares = function != "none" and (len(labels) > 1 or function is not None) and all(0.0 <= score <= 1.0 for score in labels.values())
    return "\n".join(
        [
            paint(short(text, lines=3), "bold"),
            *(_label(flat(label), score, width, shares, _fits(i, score, several)) for i, (label, score) in enumerate(labels.items())),
        ]
    )


def _fits(place: int, score: float, several: bool) -> bool:
    """Is the label at this place (from the best) the model's answer, or one of them?"""
    return place == 0 or (several and score >= 0.5)


def _label(label: str, score: float, width: int, shares: bool, fits: bool) -> str:
    name = paint(f"{label:<{width}}", "green") if fits else f"{label:<{width}}"
    return f"  {name}  {score:>6.1%}  {bar(score).rstrip()}" if shares else f"  {name}  {score:>8.3f}"


# -- next-sentence -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NextSentence:
    model: Model
    """A folder of a model with BERT's second head."""
    texts: Texts = ()
    """What may follow; '-' or nothing reads standard input, one a line."""
    after: Text = None
    """The text that comes first, for all of them."""
    long: Long = ""
    """A pair that is too long is an error, or its longer text loses its end (cut) or middle (head-tail); else as the model was tuned, or an
    error."""
    files: FilesOption = field(default_factory=Files)
    machine: MachineOption = field(default_factory=Machine)


def next_sentence(argv: list[str]) -> int:
    """Does one text follow another? The probability that it does.

    quire next-sentence MODEL --after "It rained all day." "The streets were wet." "Cats have four legs."

    JSONL rows are {"after": "It rained all day.", "text": "The streets were wet."}, or {"text": ..., "pair": ...} in that order.
    """
    options = parse(NextSentence, "next-sentence", argv, next_sentence.__doc__)
    long = ways_to_cut(options.long)
    rows = read(
        options.texts, options.files, Fields(("pair", "text"), ("after", "text"), given=options.after, needed=True), "next-sentence"
    )
    if options.files.dry_run:
        return dry_run("next-sentence", options.model, rows, options.files, options.machine, long)
    model = opened_encoder("next-sentence", options.model, options.machine)
    cut: list[int] = []
    with sink(options.files) as to:
        found = each(
            rows,
            lambda part, done: model.next_sentence([_pair(row) for row in part], long=long, cut=cut, progress=done),
            "next-sentence",
            to,
        )
        for row, share in found:
            shown = f"  {share:>6.1%}  {bar(share)}  {short(row.text, 38)}" if to.shows else f"{share:.4f}\t{flat(row.text)}"
            to.row(row, {"after": row.beside, "text": row.text, "follows": share}, str, shown)
        tell_cut(cut)
    return 0


def _pair(row: Row) -> tuple[str, str]:
    return row.beside or "", row.text
