"""Go on with a run that was stopped or killed, with the same bits as if nothing had happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from .lines import parse


@dataclass(frozen=True)
class Resume:
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    inexact: bool = False
    """Go on although torch, the processor or the threads are others: figures will differ in their last digits."""
    json: bool = False
    """The result as JSON on standard output."""


def run(argv: list[str]) -> int:
    options = parse(Resume, "resume", argv, __doc__)
    from ..train.folder import RunFolder
    from ..train.run import resume
    from .train import Live, end

    live = Live(RunFolder.open(options.run).read_recipe().log.prompts)
    result = resume(options.run, inexact=options.inexact, observers=[live], say=live.say, on_plan=live.plan)
    return end(result, live, as_json=options.json)
