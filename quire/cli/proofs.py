"""The quickstart's two shows: a run killed in the middle, and a model folder that someone has touched.

Kill and resume. The run is a process of its own. Once it is past its middle it saves a checkpoint, goes on for a while, saves the next and
kills itself with SIGKILL. That second checkpoint was written by a process that was never interrupted on the way: it is set aside as the
shadow. A new process resumes from the first and comes to the same step. Equal hashes of weights and optimizer mean equal bits.

Tampering. A copy of the model folder with one bit of one weight flipped, and one with one character of its template changed, are
checked against the binding that the model was saved with.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import durable
from ..errors import BindingError, CheckpointError

_SHADOW = "shadow"


@dataclass(frozen=True)
class Killed:
    """Where a run was killed: `resumes_at` is the checkpoint it will go on from, `shadow_step` the one it had reached without a break."""

    resumes_at: int
    shadow_step: int


class KillsItself:
    """An observer of a run that sends its own process SIGKILL once two checkpoints lie beyond the middle."""

    def __init__(self, run: Path, save_every: int) -> None:
        self.run, self.every, self.at = run, save_every, 0

    def on_step(self, row: dict[str, Any]) -> None:
        if not self.at:
            steps = int(json.loads((self.run / "plan.json").read_text(encoding="utf-8"))["steps"])
            half = max(1, -(-steps // 2 // self.every)) * self.every
            self.at = half + self.every + max(1, self.every // 8)
        if row["step"] == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_eval(self, row: dict[str, Any]) -> None:
        pass

    def on_sample(self, row: dict[str, Any]) -> None:
        pass


def set_shadow_aside(run: Path) -> Killed:
    """Moves the newest checkpoint of a killed run out of the way. Raises CheckpointError when there are not two."""
    steps = sorted(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*") if path.name[5:].isdigit())
    if len(steps) < 2:
        raise CheckpointError(f"{run} holds {len(steps)} checkpoints where the proof needs two; run `quire resume {run}` to finish it")
    durable.make_folder(run / _SHADOW)
    (run / "checkpoints" / f"step-{steps[-1]:08d}").rename(run / _SHADOW / f"step-{steps[-1]:08d}")
    return Killed(steps[-2], steps[-1])


class Compare:
    """An observer of the resumed run: once it has passed the shadow's step it compares the two checkpoints, file by file."""

    def __init__(self, run: Path, killed: Killed, note: Callable[[str], None]) -> None:
        self.run, self.killed, self.note = run, killed, note
        self.equal: bool | None = None

    def on_step(self, row: dict[str, Any]) -> None:
        if self.equal is None and row["step"] == self.killed.shadow_step + 1:
            self.equal, lines = compare(self.run, self.killed.shadow_step)
            for line in lines:
                self.note(f"step {self.killed.shadow_step:,}  {line}")

    def on_eval(self, row: dict[str, Any]) -> None:
        pass

    def on_sample(self, row: dict[str, Any]) -> None:
        pass


def compare(run: Path, step: int) -> tuple[bool, list[str]]:
    """Are weights and optimizer of `step` the same bits in the shadow and in the resumed run? And the hashes in words."""
    name = f"step-{step:08d}"
    mine, shadow = (
        json.loads((folder / name / durable.MANIFEST).read_text(encoding="utf-8"))["files"]
        for folder in (run / "checkpoints", run / _SHADOW)
    )
    equal, lines = True, []
    for file in ("weights.safetensors", "optimizer.safetensors"):
        a, b = shadow[file]["sha256"], mine[file]["sha256"]
        equal &= a == b
        lines.append(f"{file.split('.')[0]:<10} never killed {a[:16]}…  killed and resumed {b[:16]}…  {'equal' if a == b else 'DIFFERENT'}")
    return equal, lines


def forget_shadow(run: Path) -> None:
    shutil.rmtree(run / _SHADOW, ignore_errors=True)


def tamper(model: Path) -> list[tuple[str, str]]:
    """(what was done, how the binding refused it) for each way of touching a copy. Raises BindingError if one went unnoticed."""
    from .. import binding

    shown = []
    for act in (_flip_one_bit, _change_one_character):
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / model.name
            shutil.copytree(model, copy)
            what = act(copy)
            try:
                binding.check(copy)
            except BindingError as refused:
                shown.append((what, str(refused).replace(str(copy), str(model))))
            else:
                raise BindingError(f"{what}, and the binding of {model} did not notice. This is a fault in Quire; please report it.")
    return shown


def _flip_one_bit(model: Path) -> str:
    path = model / "model.safetensors"
    with path.open("r+b") as file:
        (header,) = struct.unpack("<Q", file.read(8))
        tensors = {name: info for name, info in json.loads(file.read(header)).items() if name != "__metadata__"}
        name = sorted(tensors)[len(tensors) // 2]
        place = 8 + header + sum(tensors[name]["data_offsets"]) // 2
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    return f"one bit of byte {place:,} of {path.name} flipped"


def _change_one_character(model: Path) -> str:
    path = model / "chat_template.jinja"
    text = path.read_text(encoding="utf-8")
    at = text.index("assistant")
    path.write_text(text[:at] + "A" + text[at + 1 :], encoding="utf-8")
    return f"character {at} of {path.name} changed from 'a' to 'A'"
