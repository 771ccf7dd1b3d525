"""List the models and data sets in the hub's cache: what `quire pull` fetched, and what other tools left there.

quire list

quire list --json
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ..progress import count
from .lines import parse
from .tables import show


@dataclass(frozen=True)
class List:
    json: bool = False
    """One JSON line a revision."""


def run(argv: list[str]) -> int:
    options = parse(List, "list", argv, __doc__)
    from .. import hub

    found = hub.listing()
    if options.json:
        for entry in found:
            print(json.dumps(asdict(entry), ensure_ascii=False))
        return 0
    if not found:
        print("Nothing has been pulled. Fetch a model: quire pull HuggingFaceTB/SmolLM2-135M-Instruct")
        return 0
    rows = [
        (
            entry.spelled if entry.commit else entry.name,
            "model" if entry.kind == "model" else "data set",
            f"{count(entry.bytes)}B",
            entry.commit[:12] or "not whole",
            entry.when[:16].replace("T", " "),
        )
        for entry in found
    ]
    show(("name", "kind", "size", "revision", "when (UTC)"), rows, numbers={2})
    return 0
