"""Models and data sets of a hub: fetched once by `quire pull`, found afterwards without a network.

They lie in the standard cache of huggingface_hub, so what other tools have fetched is there for us and the other way round. Nothing but
`plan` and `fetch` opens a connection: `find`, `listing`, `remove` and `verify` read the disk.
"""

from __future__ import annotations

from .cache import Entry, Kind, Name, find, listing, place_of, remove, verify
from .fetch import Plan, Pulled, fetch, plan
from .locate import GGUF, locate

__all__ = ["GGUF", "Entry", "Kind", "Name", "Plan", "Pulled", "fetch", "find", "listing", "locate", "place_of", "plan", "remove", "verify"]
