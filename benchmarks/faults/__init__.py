"""Thirty faults of fine-tuning from public threads: what Quire does about each, and what its peers do.

A table: fault, class, Quire, peer. The class is what is expected of Quire (`cases.py`). A silence counts only where the fault was measured.
Then fifty sound sets (and slices of public ones, where a folder of them is named by FAULTS_DATA): how many of them Quire would refuse.
"""

from __future__ import annotations

import datetime
import os
from collections import Counter
from pathlib import Path

from .cases import faults

MEANT = {"refused": "refused", "impossible": "sound", "detected": "detected"}  # what Quire's verdict must be for each class


def main() -> None:
    import peft
    import torch
    import transformers

    from quire import machine

    from . import peer_rows, peer_runs  # noqa: F401  (each registers its runs)
    from .good import good, public
    from .ours import OURS, falsely_refused
    from .peers import PEERS

    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"
    print(f"{datetime.date.today()}, {machine.processor()}, {versions}")
    print(f"{'fault':26}{'class':12}{'Quire':10}{'peer':10}")
    transformers.utils.logging.disable_progress_bar()
    counts: dict[str, Counter[str]] = {"Quire": Counter(), "peer": Counter()}
    for fault in faults():
        ours, theirs = (runs[fault.id].verdict() if fault.id in runs else None for runs in (OURS, PEERS))
        counts["Quire"]["not run" if ours is None else "as meant" if ours.outcome == MEANT[fault.kind] else "not as meant"] += 1
        counts["peer"]["not run" if theirs is None else theirs.outcome] += 1
        print(f"{fault.id:26}{fault.kind:12}{ours.outcome if ours else '-':10}{theirs.outcome if theirs else '-':10}", flush=True)
        for name, verdict in (("Quire", ours), ("peer", theirs)):
            if verdict is not None:
                print(f"    {name}: {verdict.seen}")
    for name, counted in counts.items():
        print(f"{name}: " + ", ".join(f"{count} {outcome}" for outcome, count in counted.most_common()))
    sets = [*good(), *public(Path(os.environ.get("FAULTS_DATA", "nowhere")))]
    wrong = [(name, why) for name, why in falsely_refused(sets) if why]
    print(f"sound sets: {len(sets)}, falsely refused by Quire: {len(wrong)}")
    for name, why in wrong:
        print(f"    {name}: {why}")
