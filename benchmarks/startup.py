"""Start-up: seconds of `import quire`, `quire --help` and `import torch` as whole processes, in turn.

Each round starts every process once; medians with the middle half.
What is promised: `import quire` under 0.3 s, `quire --help` under 0.25 s.
"""

from __future__ import annotations

import datetime
import subprocess
import sys

from benchmarks.paired import interleaved
from quire import machine

ROUNDS = 15


def main() -> None:
    def start(*words: str) -> None:
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)

    found = interleaved(
        {
            "python -c pass": lambda: start("-c", "pass"),
            "import quire": lambda: start("-c", "import quire"),
            "quire --help": lambda: start("-m", "quire.cli.main", "--help"),
            "import torch": lambda: start("-c", "import torch"),
        },
        rounds=ROUNDS,
    )
    print(f"{datetime.date.today()}, {machine.processor()}, {machine.threads()} threads, {ROUNDS} rounds")
    for name, timing in found.items():
        print(f"{name:18}{timing.seconds:7.3f} s   {timing.ratio:5.2f} x (middle half {timing.low:.2f} to {timing.high:.2f})")


if __name__ == "__main__":
    main()
