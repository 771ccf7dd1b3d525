"""Put models behind the APIs that people's tools speak: OpenAI's, Anthropic's, and a page to talk with them.

quire serve runs/quickstart

quire serve small=runs/a/model large=org/name --port 8000 --quant int8
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..errors import ExtraError, RecipeError
from .lines import Machine, MachineOption, parse


@dataclass(frozen=True)
class Serve:
    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME=]MODEL ...")]
    """Model folders, run folders or pulled names; NAME is what clients call it (else the folder's name)."""
    host: str = "127.0.0.1"
    port: int = 8000
    grace: float = 30.0
    """Seconds that answers may take after SIGTERM."""
    memory: Annotated[int | None, tyro.conf.arg(help_behavior_hint="")] = None
    """Bytes for keys and values of each model."""
    budget: Annotated[int | None, tyro.conf.arg(help_behavior_hint="")] = None
    """Bytes of weights that may be open at once; the model asked longest ago is put away for another."""
    guess: Annotated[Literal["lookup"] | None, tyro.conf.arg(help_behavior_hint="")] = None
    """Guess tokens ahead from the text itself."""
    exact: bool = False
    """An answer does not depend on the others beside it, to the last bit."""
    machine: MachineOption = field(default_factory=Machine)


def run(argv: list[str]) -> int:
    options = parse(Serve, "serve", argv, __doc__)
    if not options.models:
        raise RecipeError("there is no model. Give one: quire serve runs/quickstart")
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ExtraError(error.name or "fastapi", "serve", "quire serve") from error
    from ..serve.front import Front
    from ..serve.limits import Limits
    from ..serve.metrics import Metrics
    from ..serve.models import Models
    from ..serve.run import run as serve

    front = Front(Models(specs(options), options.budget), Limits(), Metrics())
    serve(front, options.host, options.port, grace=options.grace)
    return 0


def specs(options: Serve) -> dict[str, Any]:
    """What to open, by the names that clients use."""
    from ..hub import locate
    from ..serve.models import Spec

    found: dict[str, Any] = {}
    for given in options.models:
        name, equals, path = given.partition("=")
        folder = locate(path if equals else given)
        if not equals:
            inside = folder.name == "model" and len(folder.parts) > 1
            name = (folder.parent if inside else folder).name if Path(given).exists() else given
        if name in found:
            raise RecipeError(f"two models are called '{name}'. Name them: quire serve a={given} b=...")
        machine, engine = options.machine, {"memory": options.memory, "exact": options.exact, "guess": options.guess}
        found[name] = Spec(str(folder), machine.dtype, machine.device, machine.quant, machine.verify, 0, engine)
    return found
