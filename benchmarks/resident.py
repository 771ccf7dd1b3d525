"""What an open model takes of memory: bf16 as it lies in the file, and packed as int8 and int4; each in a process of its own.

Beside the bytes of the file and of the weights that are computed with: memory of the process's own (Private_Dirty of smaps_rollup: what was
copied or made, not the pages of the file) after opening and after a first token, what is resident (Pss, with the pages of the file), and
the most that was ever resident (the kernel's high-water mark). All beyond the imports. The first row is the same shape with 2 layers: what
tokenizer, modules and buffers take whatever the weights. The files are in the page cache, and seen once, so that their hashes are stamped.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import opening
from quire import machine

ALLOWED = 1.1  # the peak, over the file and what is made of it
WIDTHS = (8, 8, 13, 8, 18, 8, 8, 11)

CHILD = """
import json, sys
import quire
from quire.model import load
from quire.native.linears import packed_bytes
def facts():
    with open("/proc/self/smaps_rollup") as lines:
        rows = dict(line.split(":") for line in list(lines)[1:])
    with open("/proc/self/status") as lines:
        peak = next(line for line in lines if line.startswith("VmHWM")).split(":")[1]
    return {"own": kilo(rows["Private_Dirty"]), "pss": kilo(rows["Pss"]), "peak": kilo(peak)}
def kilo(text):
    return int(text.split()[0]) * 1024
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the high-water mark begins anew
base = facts()
model = load(sys.argv[1], dtype="bf16", quant=sys.argv[2] or None)
opened = facts()
model.generate("def parse_", quire.Sampling(temperature=0.0, max_tokens=1))
written = facts()
beyond = [{name: value - base[name] for name, value in found.items()} for found in (opened, written)]
print(json.dumps({"opened": beyond[0], "token": beyond[1], "packed": packed_bytes(model.model)}))
"""


def main() -> None:
    print(f"{datetime.date.today()}, {machine.processor()}; MB beyond the imports")
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "model"
        size = opening.make(whole, "bf16")
        layers, opening.SIZES["layers"] = opening.SIZES["layers"], 2
        few = Path(place) / "few"
        small = opening.make(few, "bf16")
        opening.SIZES["layers"] = layers
        child(few), child(whole)  # hashed once
        names = ("file", "packed", "own: opened", "token", "resident: opened", "token", "peak", "over both")
        print(" " * 16 + "".join(f"{name:>{width}}" for name, width in zip(names, WIDTHS, strict=True)))
        row("bf16, 2 layers", small, child(few))
        for quant in ("", "int8", "int4"):
            row(quant or "bf16", size, child(whole, quant))
    print(f"\nover both: the peak to file and packed weights together; wanted: at most {ALLOWED}")


def row(name: str, size: int, found: dict[str, Any]) -> None:
    opened, token, both = found["opened"], found["token"], size + found["packed"]
    cells = [size, found["packed"], opened["own"], token["own"], opened["pss"], token["pss"], token["peak"]]
    figures = [f"{cell / 1e6:{width},.0f}" for cell, width in zip(cells, WIDTHS[:-1], strict=True)]
    print(f"{name:16}{''.join(figures)}{token['peak'] / both:{WIDTHS[-1]}.2f}", flush=True)


def child(folder: Path, quant: str = "") -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", CHILD, str(folder), quant], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
