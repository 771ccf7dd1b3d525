"""Write a model, or the adapter that a run trained, as a folder of its own for other machines and tools, proven to be the same.

quire export runs/tuned model-folder

quire export runs/tuned small-folder --dtype bf16

quire export runs/tuned adapter-folder --adapter
    (PEFT's own form; the base is not in it)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..errors import ModelError, RecipeError
from .lines import Flag, parse
from .merge import Dtype, Folder, proven
from .paint import paint


@dataclass(frozen=True)
class Export:
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder, a model folder, or a pulled model's name."""
    out: Folder
    """Where the folder is written; it must be new or empty."""
    adapter: Flag = False
    """The adapter alone, as PEFT opens it, in place of the whole model."""
    dtype: Dtype = None
    """Of the model's weights; by default as they are."""
    json: Flag = False
    """What was made, and the model's certificate, as JSON on standard output."""


def run(argv: list[str]) -> int:
    options = parse(Export, "export", argv, __doc__)
    if options.adapter:
        if options.dtype is not None:
            raise RecipeError("--dtype is for models; an adapter is written as it was trained. Leave one of the two out.")
        return _adapter(Path(options.source), options.out, options.json)
    from ..families import ModelFolder
    from ..hub import locate
    from ..model import load

    folder = locate(options.source)
    load(folder, dtype="auto").save(options.out, options.dtype)
    return proven("what it was made of", ModelFolder.open(folder).build(), options.out, options.json)


def _adapter(source: Path, out: Path, as_json: bool) -> int:
    from ..adapt.folder import CONFIG, RECORD, WEIGHTS, copy, read_json

    folder = source if (source / CONFIG).is_file() else source / "adapter"
    if not (folder / CONFIG).is_file():
        raise ModelError(
            f"{source} has no adapter: a run that trains one (adapt.method = lora ...) leaves it in RUN/adapter. "
            "Leave --adapter out to export the whole model."
        )
    weights = copy(folder, out)
    base = read_json(folder, RECORD).get("base", {}).get("id", "") if (folder / RECORD).exists() else ""
    if as_json:
        print(json.dumps({"folder": str(out), "weights": weights, "base": base}))
        return 0
    print(f"{paint(str(out), 'bold')}  {CONFIG}, {WEIGHTS}  {paint(f'base {base[:12]}' if base else 'base not recorded', 'dim')}")
    return 0
