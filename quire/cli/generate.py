"""Continue prompts with a model: an argument, standard input, or each line of a file.

quire generate runs/quickstart "def parse_" --temperature 0.8

quire generate runs/quickstart --file prompts.txt --json > out.jsonl
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ..durable import storage
from ..errors import DataError, RecipeError
from ..types import Chunk, Completion, Sampling
from .paint import paint, safe
from .sampling import SamplingOptions

if TYPE_CHECKING:
    from ..model import Decoder, Seq2Seq

Flag = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]


@dataclass(frozen=True)
class Generate:
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A model folder or a run folder."""
    prompt: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[PROMPT]", help_behavior_hint="")] = None
    """What to continue; '-' or nothing reads standard input, "" begins a new text."""
    file: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """A file of prompts, one a line."""
    sampling: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(default_factory=SamplingOptions)
    json: Flag = False
    """One JSON line a prompt on standard output, and nothing else there."""
    only_new: Flag = False
    """Leave the prompt out of what is shown."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"
    verify: Flag = False
    """Hash every file of the model first."""


def run(argv: list[str]) -> int:
    options = tyro.cli(tyro.conf.FlagCreatePairsOff[Generate], prog="quire generate", args=argv, description=__doc__)
    prompts = list(_prompts(options))
    from ..decode.sampler import check

    model = open_writer(options.model, options.dtype, options.device, options.verify)
    sampling = options.sampling.over(model.defaults)
    check(sampling, model.config.vocab)
    if sampling.logprobs and not options.json:
        raise RecipeError("--logprobs are written with --json; add it, or leave --logprobs out")
    for number, prompt in enumerate(prompts):
        started = time.perf_counter()
        if options.json:
            completion = model.generate(prompt, sampling)
            _json_line(prompt, completion, time.perf_counter() - started, model.identity)
            continue
        if number:
            print(paint("─" * 24, "dim"))
        _show(model, prompt, sampling, echo=not options.only_new)
    return 0


def open_writer(path: str, dtype: Any, device: str, verify: bool) -> Decoder | Seq2Seq:
    """A model that writes, on the threads that the machine grants. Raises RecipeError for an encoder."""
    import torch

    from ..machine import threads
    from ..model import Encoder, load

    model = load(path, dtype, device, verify)
    if isinstance(model, Encoder):
        raise RecipeError(f"{model.folder} is an encoder: it reads text and writes none. `quire inspect` tells what it is for.")
    torch.set_num_threads(min(torch.get_num_threads(), threads()))
    return model


def _prompts(options: Generate) -> Iterator[str]:
    if options.file is not None:
        if options.prompt is not None:
            raise RecipeError("give a prompt or --file, not both")
        try:
            with storage(options.file, "read"):
                lines = options.file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{options.file} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
        if not any(lines):
            raise DataError(f"{options.file} holds no prompt: it has no line with text.")
        yield from (line for line in lines if line)
    elif options.prompt not in (None, "-"):
        yield options.prompt
    elif sys.stdin.isatty():
        raise RecipeError('there is no prompt. Give one: quire generate MODEL "Once upon a time", or --file, or text on standard input')
    else:
        yield sys.stdin.read()


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


def _json_line(prompt: str, completion: Completion, seconds: float, identity: str) -> None:
    row = {"prompt": prompt, **asdict(completion), "seconds": round(seconds, 6), "model": identity}
    if not completion.logprobs:
        del row["logprobs"]
    print(json.dumps(row, ensure_ascii=False), flush=True)
