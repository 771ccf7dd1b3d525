"""Merge an adapter into its base: a whole model folder that Quire and transformers open, proven to compute what the two did together.

quire merge models/bert bert-adapter bert-merged
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from .lines import Flag, parse
from .paint import paint

if TYPE_CHECKING:
    from ..nn.transformer import Transformer

Dtype = Annotated[Literal["fp32", "bf16", "fp16"] | None, tyro.conf.arg(help_behavior_hint="")]
Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]


@dataclass(frozen=True)
class Merge:
    base: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="BASE")]
    """The model folder that the adapter was trained on, or a pulled model's name."""
    adapter: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ADAPTER")]
    """The adapter's folder, of Quire or PEFT."""
    out: Folder
    """Where the model folder is written; it must be new or empty."""
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

    merge(options.base, options.adapter, options.out, options.dtype)
    opened = with_its_head(options.adapter, ModelFolder.open(locate(options.base)))
    model = opened.build()
    open_adapter(options.adapter, model, opened, None if not (options.adapter / "quire_adapter.json").exists() else _binding(options.base))
    return proven("base and adapter", model, options.out, options.json)


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
