"""What a recipe would cost on this machine: parameters and memory by part, tokens, steps and time. Nothing is trained or written."""

from __future__ import annotations

from ..train import defaults
from .train import show_plan

USAGE = """usage: quire plan [RECIPE.toml] [--key value ...] [--json]

  The same recipe and options as `quire train`. The model is timed for a few
  steps on random tokens.
"""


def run(argv: list[str]) -> int:
    if any(word in ("-h", "--help") for word in argv):
        print(USAGE)
    words = [word for word in argv if word != "--json"]
    file = words.pop(0) if words and not words[0].startswith("-") else None
    return show_plan(defaults.load(file, words, prog="quire plan"), as_json="--json" in argv)
