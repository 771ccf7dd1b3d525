"""Linears of a head that an adapter trains whole, in a copy of its own: which they are, and how they lie in PEFT's file.

PEFT trains the classifier beside every adapter of a task with labels (`modules_to_save`), and finds it by how its name ends. It lies in the
file under its own name, behind a stem that differs: `base_model.model.` of low rank, `base_model.` of virtual tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ..binding.weights import Slot
from ..errors import WeightsError
from ..nn.config import LabelHead
from ..nn.transformer import Transformer
from .folder import WEIGHTS
from .lora import WholeLinear
from .names import Place, Places

Keys = dict[str, str]  # weight, bias (of low rank: A, B, m) -> name in the file


def of_labels(model: Transformer, places: Places, besides: tuple[str, ...] = ()) -> list[str]:
    """Our names of what PEFT trains whole of a label head, and of what the base's file does not hold of it, but for `besides`."""
    names = ("head.dense", "head.classifier") if isinstance(model.config.head, LabelHead) else ()
    there = [name for name in names if name in places.ours and name not in besides]
    return [name for name in there if places.ours[name].labels or name in places.fresh]


def tensors(model: Transformer, places: Places, name: str, stem: str) -> tuple[dict[str, Tensor], list[Place]]:
    """(what the adapter `name` trains whole, by names in the file, their places)."""
    found: dict[str, Tensor] = {}
    held: list[Place] = []
    for at, module in model.named_modules():
        if isinstance(module, WholeLinear) and name in module.adapters:
            place = places.ours[at]
            held.append(place)
            copy = module.adapters[name]
            found |= {f"{stem}{places.written(place)}.{key}": value.detach() for key, value in copy.named_parameters()}
    return found, held


def modules_to_save(held: list[Place], places: Places) -> list[str] | None:
    """What PEFT calls these modules."""
    return sorted({_saved_as(place, held, places) for place in held}) or None


def _saved_as(place: Place, held: list[Place], places: Places) -> str:
    """The outermost module where all of that is trained whole, so that PEFT wraps a head in one piece."""
    inside = bool(places.prefix) and place.theirs.startswith(places.prefix)
    outer = place.theirs.partition(".")[0]
    parts = {name for name in places.theirs if name.partition(".")[0] == outer}
    return outer if not inside and parts <= {part.theirs for part in held} else place.theirs.removeprefix(places.prefix)


def sorted_out(path: Path, keys: Iterable[str], stem: str, places: Places) -> list[tuple[Place, Keys]]:
    """The modules that these names in the file mean. Raises WeightsError for one that is no whole linear of a head."""
    found: dict[str, tuple[Place, Keys]] = {}
    for key in keys:
        module, _, last = key.removeprefix(stem).rpartition(".")
        place = places.find(module.removesuffix(".base_layer"))
        if not place.plain or not place.ours[0].startswith("head.") or last not in ("weight", "bias"):
            raise WeightsError(
                f"{path / WEIGHTS}: {key[:120]} changes {place.theirs} itself. Read are low-rank updates and whole linears of a head."
            )
        found.setdefault(place.theirs, (place, {}))[1][last] = key
    return list(found.values())


def check(path: Path, model: Transformer, heads: Sequence[tuple[Place, Keys]], slots: Mapping[str, Slot]) -> None:
    """Raises WeightsError where a head in the file has other shapes than the base's."""
    for place, keys in heads:
        module = model.get_submodule(place.ours[0])
        base = module.base if isinstance(module, WholeLinear) else module
        there = {part: tuple(parameter.shape) for part, parameter in base.named_parameters()}
        given = {part: slots[key].shape for part, key in keys.items()}
        if there != given:
            raise WeightsError(f"{path / WEIGHTS}: the head that it holds has {given}, the base's has {there}. It belongs to another base.")


@torch.no_grad()
def fill(model: Transformer, heads: Sequence[tuple[Place, Keys]], numbers: Mapping[str, Tensor], name: str) -> None:
    """Gives the copies of the adapter `name` their numbers."""
    for place, keys in heads:
        copy = cast(WholeLinear, model.get_submodule(place.ours[0])).adapters[name]
        for part, parameter in copy.named_parameters():
            parameter.copy_(numbers[keys[part]].to(parameter.device))
