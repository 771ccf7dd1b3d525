"""Where in a text is a question answered? Long texts are read in overlapping windows.

quire answer MODEL "Who wrote it?" --context-file report.txt

quire answer MODEL "Where does she live?" --context "Ada lives in London." --top 3

quire answer MODEL --file questions.jsonl --out answers.jsonl

JSONL rows are {"question": "...", "context": "..."}; their other fields come back with the answers.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ..errors import DataError, RecipeError
from ..types import Answer
from .lines import (
    Fields,
    Files,
    FilesOption,
    Flag,
    Machine,
    MachineOption,
    Model,
    PathOption,
    Row,
    Text,
    Texts,
    at_least,
    parse,
    read,
    text_of,
)
from .paint import flat, paint, safe
from .results import Done, Sink, each, of_windows, sink
from .uses import dry_run, open_for

if TYPE_CHECKING:
    from .uses import Opened

Number = Annotated[int, tyro.conf.arg(metavar="N")]
MaybeNumber = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")]


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
    """So many answers, the best first, one a line."""
    no_answer: Flag = False
    """The model may say that the text does not answer the question."""
    length: MaybeNumber = None
    """Tokens of a window, with the question; else as the model was trained, and 384 where that is not known."""
    stride: MaybeNumber = None
    """Tokens that neighbouring windows share; else as the model was trained, and 128 where that is not known."""
    longest: MaybeNumber = None
    """Tokens of the longest answer; else as the model was measured in training, and 15 where that is not known."""
    files: FilesOption = field(default_factory=Files)
    machine: MachineOption = field(default_factory=Machine)


def run(argv: list[str]) -> int:
    options = parse(Ask, "answer", argv, __doc__)
    if options.context is not None and options.context_file is not None:
        raise RecipeError("give --context or --context-file, not both")
    context = options.context if options.context_file is None else text_of(options.context_file)
    for option, least in (("top", 1), ("length", 1), ("stride", 0), ("longest", 1)):
        at_least(f"--{option}", getattr(options, option), least)
    rows = read(options.texts, options.files, Fields(("question", "text"), ("context",), context, needed=True), "answer")
    for row in rows:
        if not (row.beside or "").strip():
            raise DataError(f"{row.where or 'text 1'} has an empty context: there is no text in which the answer could stand. Give one.")
    if options.files.dry_run:
        return dry_run("answer", options.model, rows, options.files, options.machine, windows=lambda *_: True)
    model = open_for("answer", options.model, options.machine)
    ways: dict[str, Any] = {"top": options.top, "length": options.length, "stride": options.stride, "longest": options.longest}

    def method(part: list[Row], done: Done) -> list[list[Answer]]:
        pairs = [(row.text, row.beside or "") for row in part]
        heard = of_windows(done, len(part), lambda: windows(model, pairs, options))
        return model.answer(pairs, no_answer=options.no_answer, progress=heard, **ways)

    with sink(options.files) as to:
        for row, answers in each(rows, method, "answer", to):
            to.row(row, {"question": row.text, "answers": [asdict(answer) for answer in answers]}, line, row, answers, to)
    return 0


def windows(model: Opened, pairs: Sequence[tuple[str, str]], options: Ask) -> int:
    """How many windows all (question, context) are read in."""
    from ..tasks import answer, tag

    contract = model.contract
    length, stride = answer.window(contract, model.config.context, options.length, options.stride)
    around = sum(isinstance(part, int) for part, _ in contract.pair_layout)
    questions, contexts = (contract.tokenizer.encode_batch([pair[side] for pair in pairs]) for side in (0, 1))
    return sum(
        len(tag.windows(len(context), length - around - len(asked), min(stride, length // 2)))
        for asked, context in zip(questions, contexts)
    )


def line(row: Row, answers: Sequence[Answer], to: Sink) -> str:
    """Each answer, its score and the question; where somebody looks, each in its surroundings."""
    if not to.shows:
        listed = answers or [Answer("", 0.0, 0, 0)]
        return "\n".join(f"{flat(one.text) or '(no answer)'}\t{one.score:.4f}\t{flat(row.text)}" for one in listed)
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
