"""What the server counts, in Prometheus' form."""

from __future__ import annotations

from collections.abc import Callable

from .asks import Begun, End, Event
from .errors import Refused


class Metrics:
    def watch(self, model: str, leave: Callable[[int], None]) -> Callable[[Event | Refused | None], None]:
        """Follows one ask: every event, and None at its end."""
        tokens = 0

        def told(event: Event | Refused | None) -> None:
            nonlocal tokens
            if isinstance(event, Begun):
                tokens += event.prompt_tokens
            elif isinstance(event, End):
                tokens += event.tokens
            elif event is None:
                leave(tokens)

        return told
