"""Merge an adapter into its base: a whole model folder that Quire and transformers open, proven to compute what the two did together.

quire merge models/bert bert-adapter bert-merged

quire merge runs/reviews reviews-merged

A run alone stands for the base that its recipe names and the adapter that it left.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ..errors import RecipeError
from .lines import Flag, parse
from .paint import paint

if TYPE_CHECKING:
    from ..nn.transformer import Transformer

Dtype = Annotated[Literal["fp32", "bf16", "fp16"] | None, tyro.conf.arg(help_behavior_hint="")]
Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]


@dataclass(frozen=True)
class Merge:
    places: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="BASE ADAPTER OUT | RUN OUT")]
    """The model that the adapter was trained on, the adapter's folder (of Quire or PEFT), and a new or empty folder for the model."""
    dtype: Dtype = None
    """Of the weights; by default those of the base."""
    json: Flag = False
    """What was made, and its certificate, as JSON on standard output."""


def run(argv: list[str]) -> int:
    options = parse(Merge, "merge", argv, __doc__)
    from ..adapt import open_adapter, with_its_head
    from ..families import ModelFolder
    from ..hub import locate
    from ..model import merge

    base, adapter, out = _places(options.places)
    merge(base, adapter, out, options.dtype)
    opened = with_its_head(adapter, ModelFolder.open(locate(base)))
    model = opened.build()
    open_adapter(adapter, model, opened, None if not (adapter / "quire_adapter.json").exists() else _binding(base))
    return proven("base and adapter", model, out, options.json)


def _places(given: tuple[str, ...]) -> tuple[str, Path, Path]:
    """(base, adapter, out); of a run the base that its recipe names. Raises RecipeError."""
    form = "The form is: quire merge BASE ADAPTER OUT, or quire merge RUN OUT"
    if len(given) == 3:
        return given[0], Path(given[1]), Path(given[2])
    if len(given) != 2:
        raise RecipeError(f"merge takes two or three folders; given: {' '.join(given) or 'none'}. {form}")
    run, out = map(Path, given)
    try:
        start = tomllib.loads((run / "recipe.toml").read_text("utf-8"))["model"]["start"]
    except (OSError, ValueError, KeyError, TypeError):
        start = ""
    if not isinstance(start, str) or not start:
        raise RecipeError(f"{run} names no base: it has no recipe.toml with model.start. {form}")
    return start, run / "adapter", out


def _binding(base: str) -> Any:
    from ..binding import bound
    from ..hub import locate

    return bound(locate(base))


def proven(name: str, model: Transformer, out: Path, as_json: bool) -> int:
    """Holds the folder `out` against the `model` that it was made of, writes its certificate and says so; 1 where they differ."""
    from .. import certify
    from ..families import ModelFolder

    opened = ModelFolder.open(out)
    same = certify.compared(name, model, opened)
    certificate = certify.certify(out)
    certify.write(certificate, out)
    ok = same.ok and certificate.ok
    if as_json:
        said = {
            "folder": str(out),
            "ok": ok,
            "difference": same.difference,
            "limit": min(same.limit, 1e9),
            "certificate": certificate.json(),
        }
        print(json.dumps(said, ensure_ascii=False))
        return 0 if ok else 1
    size = f"{opened.model_config.parameters():,} parameters"
    print(f"{paint(str(out), 'bold')}  {size}  {paint(f'binding {certificate.binding[:12]}', 'dim')}")
    allowed = "what the number type costs" if same.limit == float("inf") else f"{same.limit:.1e} allowed"
    print(f"  against {name}: largest difference {same.difference:.1e}, {allowed}")
    print(paint("the same model", "green") if ok else paint(f"NOT the same model: quire verify {out} tells more", "red"))
    return 0 if ok else 1
