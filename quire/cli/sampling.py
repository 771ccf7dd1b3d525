"""The sampling options that `generate` and `chat` share. What is not given is what the model's folder recommends."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated

import tyro

from ..types import Sampling

# What is not given is decided by the model's folder, so the help shows no default.
Whole = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")]
Number = Annotated[float | None, tyro.conf.arg(metavar="X", help_behavior_hint="")]
Texts = Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT ...", help_behavior_hint="")]


@dataclass(frozen=True)
class SamplingOptions:
    max_tokens: Whole = None
    """Most tokens to write."""
    temperature: Number = None
    """0 takes the likeliest token each time; 1 draws from the model's own distribution; above it is bolder."""
    top_k: Whole = None
    """Draw among the k likeliest tokens; 0: all."""
    top_p: Number = None
    """Draw among the likeliest tokens that together have this probability; 1: all."""
    min_p: Number = None
    """Leave out tokens less likely than this share of the likeliest one; 0: none."""
    typical_p: Number = None
    """Draw among the tokens whose surprise is nearest to the expected one; 1: all."""
    repetition_penalty: Number = None
    """Above 1 makes what was read or written less likely; 1: off."""
    presence_penalty: Number = None
    """Taken off the logit of every token written before; 0: off."""
    frequency_penalty: Number = None
    """The same, once for each time that it was written; 0: off."""
    seed: Whole = None
    """The same seed draws the same text."""
    stop: Texts = ()
    """Texts that end the answer; they are not shown."""
    min_tokens: Whole = None
    """Do not end before so many tokens."""
    logprobs: Whole = None
    """Report the log-probability of each token, with this many alternatives (with --json)."""

    def over(self, defaults: Sampling) -> Sampling:
        """`defaults` with what was given in their place."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(defaults, **{name: value for name, value in given.items() if value not in (None, ())})
