"""How fast a model reads and writes on this machine, beside the machine's own limits.

quire bench runs/quickstart

quire bench MODEL --streams 1 8 32 --json
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Annotated

import tyro

from ..errors import RecipeError
from .lines import Flag, Machine, MachineOption, Model, parse, tell
from .paint import paint
from .uses import open_for


@dataclass(frozen=True)
class Bench:
    model: Model
    """A model folder or a run folder."""
    streams: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = (1, 8, 32)
    """Requests that write at once."""
    prompt: int = 512
    """Tokens of the prompts."""
    tokens: int = 64
    """Tokens of the answers."""
    json: Flag = False
    """Print the figures as JSON."""
    machine: MachineOption = field(default_factory=Machine)


def run(argv: list[str]) -> int:
    options = parse(Bench, "bench", argv, __doc__)
    if min(options.streams, default=0) < 1 or max(options.streams) > 1024:
        raise RecipeError(f"--streams is {' '.join(map(str, options.streams)) or 'empty'}; allowed are numbers from 1 to 1024.")
    if options.prompt < 1 or options.tokens < 2:
        raise RecipeError(f"--prompt is {options.prompt} and --tokens {options.tokens}; allowed are 1 and more, and 2 and more.")
    from ..engine.measure import Limits, measure
    from ..model import Decoder

    model = open_for("generate", options.model, options.machine)
    if not isinstance(model, Decoder):
        raise RecipeError(f"{model.folder} is no decoder: only those that continue text are measured here.")
    if options.tokens >= model.config.context:
        raise RecipeError(f"--tokens is {options.tokens}; this model has {model.config.context} positions, prompt and answer together.")
    prompt = min(options.prompt, model.config.context - options.tokens)
    if prompt < options.prompt:
        tell(f"prompts have {prompt:,} tokens, not {options.prompt:,}: the model has {model.config.context:,} positions in all")
    refusal = model.engine.runner.why_not_native
    kernels = f"plain torch ({refusal})" if refusal else _kernels()
    rows = []
    for found in measure(model, options.streams, prompt, options.tokens):
        if isinstance(found, Limits):
            rows.append({"what": "limits", **asdict(found), "kernels": kernels})
            if not options.json:
                print(f"{model.config.parameters():,} parameters in {str(model.model.embed.weight.dtype)[6:]} · {kernels}")
                print(f"this machine: reads {found.bandwidth / 1e9:.1f} GB/s, multiplies {found.products / 1e9:,.0f} GFLOP/s\n")
                print(paint(f"{'':<24}{'tokens/s':>10}{'lowest':>10}{'highest':>10}  of the limit", "dim"))
            continue
        rows.append(asdict(found))
        if not options.json:
            name = f"reads a prompt of {prompt}" if found.what == "read" else f"writes, {found.streams} at once"
            share = "" if found.share is None else f"{found.share:>13.0%}"
            print(f"{name:<24}{found.rate:>10,.1f}{found.low:>10,.1f}{found.high:>10,.1f}{share}", flush=True)
    if options.json:
        print(json.dumps(rows))
    elif any((row.get("share") or 0) > 1 for row in rows):
        print("\nabove 100%: the limits are of main memory and of plain products; weights in the cache, and packed ones, can pass them")
    return 0


def _kernels() -> str:
    from ..native import available

    return available()
