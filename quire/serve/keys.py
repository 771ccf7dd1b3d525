"""Who may ask: keys, known by their hashes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Key:
    """name: whose it is; "" is the caller on loopback of a server without keys."""

    name: str = ""
