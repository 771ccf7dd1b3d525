"""How likely does a model find a text, token by token?

quire score MODEL "The cat sat on the mat."

quire score MODEL --context "The capital of France is" " Paris." " London."

quire score MODEL --file pairs.jsonl --json

JSONL rows are {"context": "...", "continuation": "..."}; a plain line is a continuation behind --context. The figure is the natural
logarithm of the probability of all its tokens; nearer to 0 is likelier.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

from ..types import Score
from .lines import Fields, Files, FilesOption, Machine, MachineOption, Model, Row, Text, Texts, parse, read
from .paint import flat, paint
from .results import Sink, each, sink
from .uses import dry_run, opened_writer

_SURPRISE = ((-1.0, "green"), (-4.0, "yellow"), (-math.inf, "red"))  # log-probability of a token: its colour from there on


@dataclass(frozen=True)
class ScoreOptions:
    model: Model
    """A model folder or a run folder."""
    texts: Texts = ()
    """Continuations; '-' or nothing reads standard input, one a line."""
    context: Text = None
    """What stands before each of them; it is not scored. An encoder-decoder reads it on its other side."""
    files: FilesOption = field(default_factory=Files)
    machine: MachineOption = field(default_factory=Machine)


def run(argv: list[str]) -> int:
    options = parse(ScoreOptions, "score", argv, __doc__)
    fields = Fields(("continuation", "text"), ("context",), options.context)
    rows = read(options.texts, options.files, fields, "score")
    if options.files.dry_run:
        return dry_run("score", options.model, rows, options.files, options.machine)
    model = opened_writer("score", options.model, options.machine)
    with sink(options.files) as to:
        found = each(rows, lambda part, done: model.score([(row.beside or "", row.text) for row in part]), "score", to, at_once=256)
        for row, score in found:
            tokens = [{name: value for name, value in asdict(token).items() if name != "top"} for token in score.tokens]
            result = {"context": row.beside or "", "continuation": row.text, "logprob": score.logprob, "greedy": score.greedy}
            to.row(row, result | {"tokens": tokens}, line, row, score, to)
    return 0


def line(row: Row, score: Score, to: Sink) -> str:
    """The figure and the text; where somebody looks, each token in the colour of its surprise, and the perplexity."""
    if not to.shows:
        return f"{score.logprob:.4f}\t{flat(row.text)}"
    words = "".join(paint(flat(token.text), _colour(token.logprob)) for token in score.tokens)
    count = len(score.tokens)
    each_token = f", perplexity {math.exp(min(-score.logprob / count, 700.0)):,.4g}" if count else ""
    greedy = ", what the model would have written" if score.greedy and count else ""
    facts = f"{count} token{'s' * (count != 1)}{each_token}{greedy}"
    return f"{score.logprob:>10.3f}  {paint(flat(row.beside or ''), 'dim')}{words or flat(row.text)}\n{'':>12}{paint(facts, 'dim')}"


def _colour(logprob: float) -> str:
    return next(colour for least, colour in _SURPRISE if logprob >= least)
