"""Fetch a model or a data set from the hub into the standard cache, where every other verb finds it by its name, without a network.

quire pull HuggingFaceTB/SmolLM2-135M-Instruct

quire pull ORG/NAME@v1.0                          a branch, tag or commit

quire pull ORG/NAME:model-q8_0.gguf               one GGUF file of several

quire pull ORG/ROWS --dataset

quire pull "ORG/ROWS:data/train-*" --dataset      some files of it

Some files of a data set are named the same way in data.sources.

Pinned to a commit, held against its hashes, goes on where it was cut. Never code, never pickles: only safetensors, GGUF and text.
HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are honoured.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from ..progress import Progress, count
from .lines import parse
from .paint import paint, safe

if TYPE_CHECKING:
    from ..hub import Plan, Pulled


@dataclass(frozen=True)
class Pull:
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """ORG/NAME, ORG/NAME@REVISION, ORG/NAME:FILE.gguf, or with --dataset ORG/NAME:PATTERN."""
    dataset: bool = False
    """It is a data set: Parquet, JSONL, CSV or plain text."""
    dry_run: bool = False
    """Only show what would be fetched."""
    json: bool = False
    """The result as JSON on standard output."""


def run(argv: list[str]) -> int:
    options = parse(Pull, "pull", argv, __doc__)
    from .. import hub

    plan = hub.plan(hub.Name.parse(options.name, "dataset" if options.dataset else "model"))
    if not options.json:
        _show(plan)
    if options.dry_run:
        if options.json:
            facts = {"files": {file.path: file.bytes for file in plan.files}, "left_out": plan.left_out, "missing": plan.missing}
            print(json.dumps(_head(plan) | facts, ensure_ascii=False))
        return 0
    pulled = _fetch(plan)
    if options.json:
        facts = {"files": {path: asdict(kept) for path, kept in pulled.files.items()}, "fetched": pulled.fetched}
        print(json.dumps(_head(plan) | facts, ensure_ascii=False))
        return 0
    what = f"{count(pulled.fetched)}B fetched" if pulled.fetched else "nothing to fetch: it was here already"
    print(f"{paint(what, 'green')}, {len(pulled.files)} files with their hashes in {safe(str(pulled.folder))}")
    here = str(plan.name)
    print(
        paint(
            f"use it: quire train recipes/causal.toml --data.sources {here}" if options.dataset else f"use it: quire.load({here!r})", "dim"
        )
    )
    return 0


def _head(plan: Plan) -> dict[str, object]:
    return {"name": plan.name.repo, "kind": plan.name.kind, "commit": plan.commit, "folder": str(plan.folder), "bytes": plan.bytes}


def _show(plan: Plan) -> None:
    print(f"{paint(plan.name.repo, 'bold')}  commit {plan.commit}  {len(plan.files)} files, {count(plan.bytes)}B")
    for file in plan.files:
        print(paint(f"  {count(file.bytes) + 'B':>8}  {safe(file.path)}", "dim"))
    if plan.left_out:
        few = ", ".join(plan.left_out[:6]) + (f" and {len(plan.left_out) - 6} more" if len(plan.left_out) > 6 else "")
        print(paint(f"  left out: {safe(few)}", "dim"))


def _fetch(plan: Plan) -> Pulled:
    from .. import hub

    if plan.missing <= 0:
        return hub.fetch(plan)
    total = sum(file.bytes for file in plan.files)
    progress, began = Progress(total, "pull"), time.monotonic()
    first: list[int] = []

    def report(done: int, path: str) -> None:
        first[:] = first or [done]
        rate = (done - first[0]) / max(time.monotonic() - began, 1e-9)
        progress.update(done, bytes=f"{count(done)}B of {count(total)}B", rate=f"{count(rate)}B/s", file=safe(path, progress.out))

    try:
        pulled = hub.fetch(plan, report)
    except BaseException:  # also Ctrl-C: the error, or nothing, stands alone
        progress.clear()
        raise
    progress.close()
    return pulled
