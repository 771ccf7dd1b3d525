"""Continue prompts with a model: arguments, standard input, each line of a file, or JSONL with the field "prompt".

quire generate runs/quickstart "def parse_" --temperature 0.8

quire generate runs/quickstart --file prompts.txt --json > out.jsonl

quire generate runs/quickstart --file prompts.jsonl --out out.jsonl
    (all at once; a run that is stopped goes on where it ended)
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ..errors import RecipeError
from ..types import Chunk, Completion, Sampling
from .lines import Fields, Files, FilesOption, Flag, Machine, MachineOption, Model, Row, parse, read
from .offline import Answer, Kept, answers
from .paint import paint, safe
from .results import AT_ONCE, Done, Sink, each, sink
from .sampling import SamplingOptions
from .uses import dry_run, opened_writer

if TYPE_CHECKING:
    from ..model import Decoder, Seq2Seq


@dataclass(frozen=True)
class Generate:
    model: Model
    """A model folder or a run folder."""
    prompts: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[PROMPT ...]", help_behavior_hint="")] = ()
    """What to continue, each on its own; '-' or nothing reads standard input, "" begins a new text."""
    sampling: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(default_factory=SamplingOptions)
    only_new: Flag = False
    """Leave the prompt out of what is shown."""
    files: FilesOption = field(default_factory=Files)
    machine: MachineOption = field(default_factory=Machine)


def run(argv: list[str]) -> int:
    options = parse(Generate, "generate", argv, __doc__)
    rows = read(options.prompts, options.files, Fields(("prompt", "text")), "generate", whole=True)
    if options.files.dry_run:
        return dry_run("generate", options.model, rows, options.files)
    if options.sampling.logprobs and not options.files.as_json:
        raise RecipeError("--logprobs are written with --json; add it, or leave --logprobs out")
    from ..decode.sampler import check
    from ..model import Decoder

    model = opened_writer("generate", options.model, options.machine)
    sampling = options.sampling.over(model.defaults)
    check(sampling, model.config.vocab)
    if options.files.out is None and not options.files.json:
        for number, row in enumerate(rows):
            if number:
                print(paint("─" * 24, "dim"))
            _show(model, row.text, sampling, echo=not options.only_new)
        return 0
    kept = Kept(options.files.out, [asdict(sampling), model.identity])
    method, at_once = (_together(model, sampling, kept), AT_ONCE) if isinstance(model, Decoder) else (_timed(model, sampling), 1)
    with sink(options.files) as to:
        for number, (row, (completion, seconds)) in enumerate(each(rows, method, "generate", to, at_once)):
            _write(to, number, row, completion, {"seconds": seconds, "model": model.identity}, echo=not options.only_new)
    kept.close()
    return 0


def _together(model: Decoder, sampling: Sampling, kept: Kept) -> Any:
    """All prompts of a chunk at once, each answer kept as soon as it is there."""
    first = 0

    def method(part: list[Row], done: Done) -> list[Answer]:
        nonlocal first
        found = answers(model, [row.text for row in part], first, sampling, kept, done)
        first += len(part)
        return found

    return method


def _timed(model: Seq2Seq, sampling: Sampling) -> Any:
    def method(part: list[Row], _: object) -> list[Answer]:
        started = time.perf_counter()
        return [(model.generate(row.text, sampling), round(time.perf_counter() - started, 6)) for row in part]

    return method


def _write(to: Sink, number: int, row: Row, completion: Completion, about: dict[str, Any], echo: bool) -> None:
    result = {"prompt": row.text, **asdict(completion), **about}
    if not completion.logprobs:
        del result["logprobs"]
    if number and not to.json:
        to.write("─" * 24)
    to.row(row, result, str, (row.text if echo else "") + completion.text)


def _show(model: Decoder | Seq2Seq, prompt: str, sampling: Sampling, echo: bool) -> None:
    from ..model import Decoder

    chunks = model.stream(prompt, sampling)  # what cannot be done is refused here, before anything is shown
    if echo and isinstance(model, Decoder):
        sys.stdout.write(paint(safe(prompt), "bold"))
    started, count, last = time.perf_counter(), 0, Chunk("")
    for chunk in chunks:
        sys.stdout.write(safe(chunk.text))
        sys.stdout.flush()
        count, last = count + len(chunk.ids), chunk
    print()
    if sys.stdout.isatty():
        print(paint(footer(count, time.perf_counter() - started, last.finish_reason), "dim"))


def footer(tokens: int, seconds: float, reason: str | None) -> str:
    """'128 tokens, 2,100 a second, ended by ...' in words."""
    words = {"stop": "the text ended", "length": "--max-tokens reached", "context": "the model's context is full"}
    why = words.get(reason or "", "stopped")
    return f"{tokens} tokens · {tokens / max(seconds, 1e-9):,.0f} a second · {why}"
