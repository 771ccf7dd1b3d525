"""Make a key for `quire serve`. It is printed once; what is kept is its hash.

quire key alice --file keys.toml

quire key bob --file keys.toml --requests 60 --tokens 100000
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from .lines import PathOption, parse
from .sampling import Whole


@dataclass(frozen=True)
class Limited:
    """How much may be asked for; without end where nothing is said."""

    requests: Whole = None
    """Requests a minute."""
    tokens: Whole = None
    """Tokens a minute, read and written."""
    most_input: Whole = None
    """Tokens of one prompt."""
    at_once: Whole = None
    """Requests on their way at once."""


@dataclass(frozen=True)
class Key:
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """Whose key it is: in the log, and in the cache, where callers share nothing."""
    file: PathOption = None
    """Add it to this file (TOML, or JSON if it ends so); else its entry is printed."""
    limits: Annotated[Limited, tyro.conf.arg(name="")] = field(default_factory=Limited)


def run(argv: list[str]) -> int:
    options = parse(Key, "key", argv, __doc__)
    from ..serve.keys import Limit, make

    key, entry = make(options.name, options.file, Limit(**vars(options.limits)))
    print(key)
    if options.file is None:
        print(f"\n{entry}", end="")
    else:
        print(f"Its hash is in {options.file}. Keep the key now: it is shown once.", file=sys.stderr)
    return 0
