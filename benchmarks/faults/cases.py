"""The thirty faults of `faults.toml`: ways in which a fine-tuning run teaches the wrong thing and says nothing, from public threads.

What Quire is expected to do about each is one of three: `refused` before the first step, with the rows named; `impossible` by the way it is
built, which the suite then shows by a measurement; `detected` in a running job, at the step named.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Thread:
    """A public thread on GitHub and, in our words, what it reports."""

    path: str  # "owner/name/issues/1" or "owner/name/pull/1"
    says: str

    @property
    def url(self) -> str:
        return f"https://github.com/{self.path}"


@dataclass(frozen=True, slots=True)
class Fault:
    id: str
    title: str
    wrong: str  # what goes wrong, and why nobody sees it
    seeded: str  # what is changed in a sound run to bring it about
    kind: Literal["refused", "impossible", "detected"]
    shown: str  # the check that refuses it; the measurement that shows it impossible; the step and the sign that give it away
    threads: tuple[Thread, ...]


def faults() -> tuple[Fault, ...]:
    """All of them, in the order of the file."""
    table = tomllib.loads(Path(__file__).with_name("faults.toml").read_text(encoding="utf-8"))
    return tuple(Fault(**(row | {"threads": tuple(Thread(*thread) for thread in row["threads"])})) for row in table["fault"])
