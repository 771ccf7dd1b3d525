"""`quire answer`: where in a text a question is answered. Long texts are read in overlapping windows.

quire answer MODEL "Who wrote it?" --context-file report.txt

quire answer MODEL "Where does she live?" --context "Ada lives in London." --top 3

quire answer MODEL --file questions.jsonl --out answers.jsonl

JSONL rows are {"question": "...", "context": "..."}; their other fields come back with the answers.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated

import tyro

from ..errors import RecipeError
from ..types import Answer
from .lines import Fields, Files, FilesOption, Flag, Machine, MachineOption, Model, PathOption, Row, Text, Texts, parse, read, text_of
from .paint import flat, paint, safe
from .results import Sink, each, sink
from .uses import dry_run, open_for

Number = Annotated[int, tyro.conf.arg(metavar="N")]


@dataclass(frozen=True)
class Ask:
    model: Model
    """A model folder."""
    texts: Texts = ()
    """Questions; '-' or nothing reads standard input, one a line."""
    context: Text = None
    """The text in which the answer stands."""
    context_file: PathOption = None
    """The same, from a file."""
    top: Number = 1
    """So many answers, the best first."""
    no_answer: Flag = False
    """The model may say that the text does not answer the question."""
    length: Number = 384
    """Tokens of a window, with the question."""
    stride: Number = 128
    """Tokens that neighbouring windows share."""
    longest: Number = 15
    """Tokens of the longest answer."""
    files: FilesOption = field(default_factory=Files)
    machine: MachineOption = field(default_factory=Machine)


def run(argv: list[str]) -> int:
    options = parse(Ask, "answer", argv, __doc__)
    if options.context is not None and options.context_file is not None:
        raise RecipeError("give --context or --context-file, not both")
    context = options.context if options.context_file is None else text_of(options.context_file)
    rows = read(options.texts, options.files, Fields(("question", "text"), ("context",), context, needed=True), "answer")
    if options.files.dry_run:
        return dry_run("answer", options.model, rows, options.files, split=True)
    model = open_for("answer", options.model, options.machine)
    ways = {"top": options.top, "length": options.length, "stride": options.stride, "longest": options.longest}
    with sink(options.files) as to:
        found = each(
            rows,
            lambda part, done: model.answer(
                [(row.text, row.beside or "") for row in part], no_answer=options.no_answer, progress=done, **ways
            ),
            "answer",
            to,
        )
        for row, answers in found:
            to.row(row, {"question": row.text, "answers": [asdict(answer) for answer in answers]}, line, row, answers, to)
    return 0


def line(row: Row, answers: Sequence[Answer], to: Sink) -> str:
    """The best answer, its score and the question; where somebody looks, each answer in its surroundings."""
    if not to.shows:
        best = answers[0] if answers else Answer("", 0.0, 0, 0)
        return f"{flat(best.text) or '(no answer)'}\t{best.score:.4f}\t{flat(row.text)}"
    out = [paint(flat(row.text), "bold")]
    for answer in answers:
        if not answer.text:
            out.append(f"  {answer.score:>6.1%}  {paint('the text does not say', 'yellow')}")
            continue
        context, start, end = row.beside or "", answer.start, answer.end
        side = max(12, (shutil.get_terminal_size().columns - 14 - (end - start)) // 2)  # characters on each side of the answer
        before, behind = context[max(0, start - side) : start], context[end : end + side]
        around = f"{'…' * (start > side)}{flat(before)}", f"{flat(behind)}{'…' * (end + side < len(context))}"
        out.append(f"  {answer.score:>6.1%}  {paint(safe(answer.text), 'green')}")
        out.append(f"          {paint(around[0], 'dim')}{paint(flat(answer.text), 'underline green')}{paint(around[1], 'dim')}")
    return "\n".join(out)
