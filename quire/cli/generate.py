"""Continue prompts with a model: arguments, standard input, each line of a file, or JSONL with the field "prompt".

quire generate runs/quickstart "def parse_" --temperature 0.8

quire generate runs/quickstart --file prompts.txt --json > out.jsonl

quire generate runs/quickstart --file prompts.jsonl --out out.jsonl
    (all at once; a run that is stopped goes on where it ended)

A row of JSONL may have "messages" in place of "prompt", and its own max_tokens, temperature, seed, stop, schema ...
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ..errors import RecipeError
from ..types import Chunk, Completion, Message, Sampling
from .asks import given_forms, read_asks
from .lines import Fields, Files, FilesOption, Flag, Machine, MachineOption, Model, PathOption, Row, Text, parse, read
from .offline import Answer, Ask, Kept, answers, stream
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
    schema: PathOption = None
    """A file with a JSON schema that answers must have the form of."""
    regex: Text = None
    """A pattern that answers must match from beginning to end."""
    files: FilesOption = field(default_factory=Files)
    machine: MachineOption = field(default_factory=Machine)


def run(argv: list[str]) -> int:
    options = parse(Generate, "generate", argv, __doc__)
    rows = read(options.prompts, options.files, Fields(("prompt", "text"), turns=True), "generate", whole=True)
    if options.files.dry_run:
        return dry_run("generate", options.model, rows, options.files, options.machine)
    if options.sampling.logprobs and not options.files.as_json:
        raise RecipeError("--logprobs are written with --json; add it, or leave --logprobs out")
    forms = given_forms(options.schema, options.regex)
    from ..decode.sampler import check
    from ..model import Decoder

    model = opened_writer("generate", options.model, options.machine)
    sampling = options.sampling.over(model.defaults)
    check(sampling, model.config.vocab)
    rows, asks = read_asks(model, rows, sampling, forms)
    if not options.files.as_json and any(ask.sampling.logprobs for ask in asks):
        raise RecipeError("logprobs are written with --json; add it, or leave them out")
    if options.files.out is None and not options.files.json:
        for number, ask in enumerate(asks):
            if number:
                print(paint("─" * 24, "dim"))
            _show(model, ask, echo=not options.only_new)
        return 0
    decoder = model if isinstance(model, Decoder) else None
    with Kept(options.files.target() if decoder else None, _about(model, sampling, forms), asks) as kept, sink(options.files) as to:
        numbers = {id(row): number for number, row in enumerate(rows)}

        def method(part: list[Row], done: Done) -> list[Answer]:
            asked = [(number, asks[number]) for number in (numbers[id(row)] for row in part)]
            return answers(decoder, asked, kept, done) if decoder else [_timed(model, ask) for _, ask in asked]

        for number, (row, (completion, seconds)) in enumerate(each(rows, method, "generate", to, AT_ONCE if decoder else 1)):
            _write(to, number, row, completion, {"seconds": seconds, "model": model.identity}, echo=not options.only_new)
    return 0


def _about(model: Decoder | Seq2Seq, sampling: Sampling, forms: dict[str, Any]) -> dict[str, Any]:
    """What answers depend on beside their prompts."""
    from ..native import available

    weight = model.model.embed.weight
    machine = {"model": model.identity, "dtype": str(weight.dtype), "device": str(weight.device), "kernels": available()}
    return {**machine, **asdict(sampling), **forms}


def _timed(model: Decoder | Seq2Seq, ask: Ask) -> Answer:
    started = time.perf_counter()
    return model.generate(ask.text, ask.sampling), round(time.perf_counter() - started, 6)


def _write(to: Sink, number: int, row: Row, completion: Completion, about: dict[str, Any], echo: bool) -> None:
    asked = {"messages": [_turn(turn) for turn in row.turns]} if row.turns else {"prompt": row.text}
    result = {**asked, **asdict(completion), **about}
    if not completion.logprobs:
        del result["logprobs"]
    if number and not to.json:
        to.write("─" * 24)
    to.row(row, result, str, (row.text if echo and not row.turns else "") + completion.text)


def _turn(turn: Message) -> dict[str, Any]:
    return {name: value for name, value in asdict(turn).items() if value or name == "content"}


def _show(model: Decoder | Seq2Seq, ask: Ask, echo: bool) -> None:
    from ..model import Decoder

    # what cannot be done is refused here, before anything is shown
    chunks = stream(model, ask) if isinstance(model, Decoder) else model.stream(ask.text, ask.sampling)
    if echo and isinstance(model, Decoder) and not ask.turns:
        sys.stdout.write(paint(safe(ask.text), "bold"))
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
