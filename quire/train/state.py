"""Checkpoints: everything a run needs to go on with the same bits, in safetensors and JSON.

    checkpoints/step-00000100/
        weights.safetensors      every parameter that is trained, as it is in memory; a frozen base stays where it lies
        optimizer.safetensors    '<key>/<parameter>': moments, momenta, counts
        state.json               step, place in the data, policy counters, what the bits depend on, the base among it
        manifest.json            size and SHA-256 of the three: written last, it decides whether the checkpoint is whole

A checkpoint is built under a temporary name and renamed when all of it is on the disk, so a kill at any moment leaves the older ones and
never half a new one. What a disk does to it later is found by the hashes: the damaged one is named, set aside, and the one before it used.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from .. import durable
from ..errors import CheckpointError, StorageError, WeightsError
from ..families.tensors import read_header, write_tensors

_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: its hashes were compared when it was found."""

    path: Path
    step: int
    facts: dict[str, Any]

    def weights(self) -> dict[str, Tensor]:
        return read_tensors(self.path / "weights.safetensors")

    def optimizer(self) -> dict[str, Tensor]:
        return read_tensors(self.path / "optimizer.safetensors")


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """What training changes, by name, a tied one once. (No model has buffers that change: those of a packed base are frozen as it is.)"""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copies saved weights into the model. Raises CheckpointError naming what does not fit."""
    own = weights_of(model)
    if unlike := sorted(set(own) ^ set(tensors)):
        raise CheckpointError(f"the checkpoint is of another model: '{unlike[0]}' is in only one of them ({len(unlike)} such names)")
    with torch.no_grad():
        for name, tensor in tensors.items():
            if own[name].shape != tensor.shape:
                raise CheckpointError(
                    f"the checkpoint is of another model: '{name}' is {tuple(tensor.shape)} there and {tuple(own[name].shape)} here"
                )
            own[name].copy_(tensor)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, each in memory of its own (torch's alignment, so kernels add in the same order as before)."""
    try:
        names = read_header(path)
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name).clone() for name in names}
    except WeightsError as error:
        raise CheckpointError(f"{error} The checkpoint is damaged.") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error}") from error


def save(folder: Path, step: int, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], facts: dict[str, Any]) -> Path:
    """Writes a whole checkpoint or none; returns its folder. Raises StorageError when the disk is full, read-only or not ours."""
    final = folder / f"step-{step:08d}"
    with durable.building(final, {"step": step}) as partial:
        write_tensors(partial / "weights.safetensors", weights.items(), {"format": "pt"})
        write_tensors(partial / "optimizer.safetensors", optimizer.items())
        durable.write_json(partial / "state.json", {"step": step, **facts})
    return final


def steps_saved(folder: Path) -> list[int]:
    """The steps that have a checkpoint folder, whole or not, in order."""
    if not folder.is_dir():
        return []
    return sorted(int(found[1]) for path in folder.iterdir() if (found := _NAME.fullmatch(path.name)))


def open_at(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of one step, every hash compared. Raises CheckpointError naming what is wrong with it."""
    path = folder / f"step-{step:08d}"
    sealed = durable.check(path)
    if sealed.get("step") != step:
        raise CheckpointError(f"{path} holds the checkpoint of step {sealed.get('step')}: it was moved or renamed")
    try:
        facts = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / 'state.json'} cannot be read ({error}): the checkpoint is damaged") from error
    return Checkpoint(path, step, facts)


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, and what is wrong with each newer one (they are set aside as 'step-...damaged').

    Raises CheckpointError when there are checkpoints and none is whole: a run must not begin anew in silence.
    """
    damaged: dict[int, str] = {}
    for step in reversed(steps_saved(folder)):
        try:
            found = open_at(folder, step)
        except CheckpointError as error:
            damaged[step] = str(error)
            continue
        for other in damaged:
            _set_aside(folder / f"step-{other:08d}")
        return found, list(damaged.values())
    if damaged:
        raise CheckpointError(
            f"no checkpoint in {folder} is whole: {'; '.join(damaged.values())}. Restore one from a copy, or train into another folder."
        )
    return None, []


def _set_aside(path: Path) -> None:
    """Out of the way of pruning, which counts folders, but kept for whoever wants to look at it."""
    aside = path.with_name(path.name + ".damaged")
    shutil.rmtree(aside, ignore_errors=True)
    with durable.storage(path, "set aside"):
        path.rename(aside)


def prune(folder: Path, keep_last: int, keep: Iterable[int] = ()) -> list[int]:
    """Removes all but the newest `keep_last` checkpoints and those of the steps `keep`; returns the removed steps."""
    steps = steps_saved(folder)
    gone = [step for step in steps[: max(0, len(steps) - max(1, keep_last))] if step not in set(keep)]
    for step in gone:
        shutil.rmtree(folder / f"step-{step:08d}", ignore_errors=True)
    return gone
