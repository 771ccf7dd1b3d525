"""How much a key may ask for."""

from __future__ import annotations

from collections.abc import Callable

from .keys import Key


class Limits:
    """Counts what is asked. `enter` raises Refused (429), or returns what is called once with the tokens used when the ask has ended."""

    def enter(self, key: Key) -> Callable[[int], None]:
        return lambda tokens: None
