"""Thirty faults of fine-tuning from public threads: what Quire does about each, and what its peers do.

A table: fault, class, Quire, peer. The class is what is expected of Quire (`cases.py`). A silence counts only where the fault was measured.
"""

from __future__ import annotations

import datetime
from collections import Counter

from .cases import faults


def main() -> None:
    import peft
    import torch
    import transformers

    from quire import machine

    from . import peer_rows, peer_runs  # noqa: F401  (each registers its runs)
    from .peers import PEERS

    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"
    print(f"{datetime.date.today()}, {machine.processor()}, {versions}")
    transformers.utils.logging.disable_progress_bar()
    counted: Counter[str] = Counter()
    for fault in faults():
        verdict = PEERS[fault.id].verdict()
        counted[verdict.outcome] += 1
        print(f"{fault.id:26}{fault.kind:12}{verdict.outcome:9}{verdict.seen}", flush=True)
    print("peers: " + ", ".join(f"{count} {outcome}" for outcome, count in counted.most_common()))
