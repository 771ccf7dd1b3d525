"""Put models behind the APIs that people's tools speak: OpenAI's, Anthropic's, and a page to talk with them.

quire serve runs/quickstart

quire serve small=runs/a/model large=org/name --port 8000 --quant int8

quire serve org/name --host 0.0.0.0 --keys keys.toml
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ..errors import ExtraError, RecipeError
from .key import Limited
from .lines import Flag, Machine, MachineOption, PathOption, Text, at_least, parse

if TYPE_CHECKING:
    from ..serve.gate import Rules
    from ..serve.keys import Keys


@dataclass(frozen=True)
class Serve:
    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME=]MODEL ...")]
    """Model folders, run folders or pulled names; NAME is what clients call it (else the folder's name)."""
    host: str = "127.0.0.1"
    """Another address than this machine's own needs keys."""
    port: int = 8000
    keys: PathOption = None
    """Who may ask: a file that `quire key NAME --file FILE` writes. One key alone may stand in QUIRE_API_KEY."""
    allow_host: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """Names that clients call this server by, when a proxy or the network's own names lead here."""
    everyone: Annotated[Limited, tyro.conf.arg(name="")] = field(default_factory=Limited)
    limits: Text = None
    """redis://HOST:PORT/DB, where several servers count requests and tokens together."""
    largest_body: Annotated[int, tyro.conf.arg(metavar="BYTES")] = 1 << 20
    """Bytes of a request; those with texts to be read (embeddings, rerank, classify) may have 16 times as many."""
    most_open: int = 128
    """Requests that a model may have on their way; what comes beyond is refused at once, with 503 and when to try again."""
    grace: float = 30.0
    """Seconds that answers may take after SIGTERM."""
    memory: Annotated[int | None, tyro.conf.arg(metavar="BYTES", help_behavior_hint="")] = None
    """Bytes for keys and values of each model."""
    budget: Annotated[int | None, tyro.conf.arg(metavar="BYTES", help_behavior_hint="")] = None
    """Bytes of weights that may be open at once; the model asked longest ago is put away for another."""
    guess: Annotated[Literal["lookup"] | None, tyro.conf.arg(help_behavior_hint="")] = None
    """Guess tokens ahead from the text itself."""
    exact: Flag = False
    """An answer does not depend on the others beside it, to the last bit."""
    log: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged."""
    traces: Text = None
    """Send OpenTelemetry spans there (OTLP over HTTP), without contents: http://127.0.0.1:4318/v1/traces"""
    dry_run: Flag = False
    """Say what would be opened, and leave."""
    machine: MachineOption = field(default_factory=Machine)


def run(argv: list[str]) -> int:
    options = parse(Serve, "serve", argv, __doc__)
    if not options.models:
        raise RecipeError("there is no model. Give one: quire serve runs/quickstart")
    at_least("--largest-body", options.largest_body, 1024)
    at_least("--memory", options.memory, 1)
    at_least("--most-open", options.most_open, 1)
    try:
        import fastapi  # noqa: F401
        import httptools  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ExtraError(error.name or "fastapi", "serve", "quire serve") from error
    from ..serve.front import Front
    from ..serve.keys import ENVIRONMENT, Limit, keys
    from ..serve.limits import Limits
    from ..serve.log import setup
    from ..serve.metrics import Metrics
    from ..serve.models import Models
    from ..serve.run import run as serve
    from ..serve.telemetry import Traces

    allowed = rules(options, keys(options.keys, os.environ))
    os.environ.pop(ENVIRONMENT, None)  # the models' processes need not know it
    models = Models(specs(options), options.budget)
    counts = Limits(Limit(**vars(options.everyone)), options.limits)
    if options.dry_run:
        return _told(options, models, allowed)
    traces = None if options.traces is None else Traces(options.traces)
    setup(options.log)
    front = Front(models, counts, Metrics(models.workers), options.most_open, traces)
    serve(front, options.host, options.port, allowed, grace=options.grace)
    return 0


def rules(options: Serve, keys: Keys) -> Rules:
    """What the gate lets pass. Raises RecipeError for a server that others could reach without a key."""
    from ..serve.gate import Hosts, Rules, loopback

    if not keys:
        seen = [name for name in (options.host, *options.allow_host) if not loopback(name)]
        if seen:
            raise RecipeError(
                f"'{seen[0]}' can be reached from other machines, and there are no keys. Make one: quire key NAME --file keys.toml, "
                "then add --keys keys.toml (or set QUIRE_API_KEY); or leave out --host and --allow-host to serve this machine alone."
            )
    return Rules(keys, Hosts(options.host, options.allow_host), options.largest_body, 16 * options.largest_body)


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


def _told(options: Serve, models: Any, allowed: Rules) -> int:
    """What `--dry-run` prints. Memory is that of the weights as they lie on the disk, and what was given for keys and values."""
    from ..serve.models import size

    print(f"http://{options.host}:{options.port}, {len(allowed.keys) or 'no'} key{'' if len(allowed.keys) == 1 else 's'}")
    cache = "as much as its engine takes" if options.memory is None else f"{options.memory / 1e6:,.1f} MB"
    for name, worker in models.workers.items():
        spec = worker.spec
        how = ", ".join(part for part in (spec.dtype, spec.device, spec.quant) if part)
        print(f"{name}: {spec.path} ({how}): {size(spec) / 1e6:,.1f} MB of weights, keys and values: {cache}")
    return 0
