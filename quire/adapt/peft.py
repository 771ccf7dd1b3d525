"""Adapters on disk in PEFT's own form: adapter_config.json beside adapter_model.safetensors, written and read.

Names are those of the folder's modules; what is fused there is one B over one A. The config is read strictly: a field that would change an
answer and is not computed here is refused by name. `folder.py` has the files themselves, and whose adapter it is.

Format: https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..binding import Binding
from ..binding.weights import Slot
from ..errors import ModelError, RecipeError, WeightsError
from ..families.folder import ModelFolder
from ..families.tensors import Mapped, stamp
from ..nn.config import LabelHead
from ..nn.transformer import Transformer
from . import whole
from .folder import CONFIG, WEIGHTS, proven, read_json, read_slots, read_tensors, refuse_unknown, task_type, weights_hash, write
from .lora import MAX_RANK, AdaptedEmbedding, AdaptedLinear, LoRA, LowRank, WholeLinear, lengths, matrix, size
from .names import Place, Places, adaptable, suffixes
from .surgery import DEFAULT, attach, spec_of, wrappers
from .whole import Keys

STEM = "base_model.model."

# Fields that say how an adapter was made or where it belongs, not what it computes once its numbers are there.
_HARMLESS = frozenset(
    """auto_mapping base_model_name_or_path revision inference_mode peft_version task_type fan_in_fan_out target_modules modules_to_save
    exclude_modules layers_to_transform layers_pattern megatron_core qalora_group_size runtime_config ephemeral_gpu_offload""".split()
)
_READ = frozenset("peft_type r lora_alpha lora_dropout use_rslora use_dora bias init_lora_weights".split())
# First values that leave the base as it is; the others (PiSSA, OLoRA, CorDA ...) are relative to a base that they changed.
_PLAIN_STARTS = (None, True, False, "gaussian")


@dataclass(frozen=True)
class Opened:
    """An adapter that was read: how it was made, the hash of its weights, and what its user should know ("" where nothing)."""

    spec: LoRA
    id: str
    note: str = ""


# -- writing -------------------------------------------------------------------------------------------------------------------------


def save_adapter(path: Path | str, model: Transformer, opened: ModelFolder, base: Binding | None = None, name: str = DEFAULT) -> Path:
    """Writes one adapter of a model as a folder that Quire and PEFT open, whole or not at all.

    opened: the folder of the base; base: its binding, which the adapter then carries. Raises StorageError for a folder that is
    not empty.
    """
    places, spec = Places(opened), spec_of(model, name)
    tensors, targets, heads = _tensors(model, places, name)
    return write(Path(path), tensors, _config(spec, opened, places, targets, heads), base, opened.changed)


def _tensors(model: Transformer, places: Places, name: str) -> tuple[dict[str, Tensor], list[Place], list[Place]]:
    """(tensors by their names in the file, the places of low rank, those trained whole)."""
    held = {at: wrapper for at, wrapper in wrappers(model).items() if name in wrapper.adapters}
    tensors, heads = whole.tensors(model, places, name, STEM)
    targets: dict[str, Place] = {}
    for at, wrapper in held.items():
        place = places.ours[at]
        if not isinstance(wrapper, WholeLinear) and place.theirs not in targets:
            targets[place.theirs] = place
            stem = STEM + places.written(place)
            tensors |= {stem + ending: value for ending, value in _low_rank(model, place, name).items()}
    return tensors, list(targets.values()), heads


def _low_rank(model: Transformer, place: Place, name: str) -> dict[str, Tensor]:
    """A, B and the lengths of one module on disk. A part of a fused one that is not adapted has a B of zeros."""
    modules = [model.get_submodule(ours) for ours in place.ours]
    parts: list[LowRank | None] = []
    for module in modules:
        adapters = module.adapters if isinstance(module, AdaptedLinear | AdaptedEmbedding) else nn.ModuleDict()
        parts.append(cast(LowRank, adapters[name]) if name in adapters else None)
    a = next(part.a for part in parts if part is not None).detach()
    bases = [module.base if isinstance(module, AdaptedLinear | AdaptedEmbedding) else module for module in modules]
    b, magnitudes = [], []
    for part, base in zip(parts, bases, strict=True):
        b.append(torch.zeros(size(base)[0], a.shape[0], device=a.device) if part is None else part.b.detach())
        magnitudes.append(lengths(matrix(base)) if part is None or part.magnitude is None else part.magnitude.detach())
    joined = place.op.save(b)
    if isinstance(modules[0], AdaptedEmbedding):
        found = {".lora_embedding_A": a, ".lora_embedding_B": joined}
    else:
        found = {".lora_A.weight": a, ".lora_B.weight": joined.t() if place.turned else joined}
    if any(part is not None and part.magnitude is not None for part in parts):
        found[".lora_magnitude_vector"] = place.op.save(magnitudes)
    return {ending: tensor.contiguous() for ending, tensor in found.items()}


def _config(spec: LoRA, opened: ModelFolder, places: Places, targets: list[Place], heads: list[Place]) -> dict[str, Any]:
    every = {places.written(place) for place in places.theirs.values()}
    return {
        "peft_type": "LORA",
        # PEFT looks for a label head in the file of a task that has one; without it the adapter is one of no task
        "task_type": None if isinstance(opened.model_config.head, LabelHead) and not heads else task_type(opened.model_config),
        "base_model_name_or_path": str(opened.path),
        "inference_mode": True,
        "r": spec.rank,
        "lora_alpha": spec.alpha,
        "lora_dropout": spec.dropout,
        "use_rslora": spec.stabilised,
        "use_dora": spec.dora,
        "bias": "none",
        "fan_in_fan_out": any(place.turned for place in targets),
        "init_lora_weights": True,
        "target_modules": suffixes({places.written(place) for place in targets}, every),
        "modules_to_save": whole.modules_to_save(heads, places),
    }


# -- reading -------------------------------------------------------------------------------------------------------------------------


def open_adapter(path: Path | str, model: Transformer, opened: ModelFolder, base: Binding | None = None, name: str = DEFAULT) -> Opened:
    """Reads an adapter folder, Quire's or PEFT's, onto a model as its active adapter.

    opened, base: the folder that the model was built from and its binding. Raises BindingError for an adapter of another base or one that
    was changed, ModelError for a config that asks for what is not computed, WeightsError for weights that do not fit.
    """
    path, places = Path(path), Places(opened)
    spec = _spec(read_json(path))
    slots = read_slots(path)
    found = weights_hash(path)
    note = proven(path, base, found, opened.path)
    low, heads = _sorted(path, slots, places, opened)
    names = tuple(ours for place in low.values() for ours in place[0].ours)
    if not names:
        raise WeightsError(f"{path / WEIGHTS} holds no lora_A and lora_B: there is no adapter in it.")
    known = adaptable(model, places)
    if strange := [ours for ours in names if ours not in known]:
        raise ModelError(f"{path} adapts {places.ours[strange[0]].theirs}, which is no linear and no token embedding of this base.")
    tensors = read_tensors(path, slots)
    for place, keys in low.values():
        _check_shapes(path, model, place, keys, tensors, spec)
    whole.check(path, model, heads, slots)
    spec = replace(spec, targets=names, whole=tuple(place.ours[0] for place, _ in heads))
    attach(model, spec, opened, name=name)
    for place, keys in low.values():
        _fill(model, place, {part: tensors[key] for part, key in keys.items()}, name)
    whole.fill(model, heads, tensors, name)
    return Opened(spec, found, note)


def _spec(config: dict[str, Any]) -> LoRA:
    """What adapter_config.json says. Raises ModelError naming the field."""

    def wrong(name: str, allowed: str) -> ModelError:
        return ModelError(f"{CONFIG}: {name} is {str(config.get(name))[:80]!r}; allowed is {allowed}.")

    def number(name: str, default: float) -> float:
        value = config.get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise wrong(name, "a number")
        return float(value)

    if config.get("peft_type") != "LORA":
        raise wrong("peft_type", "LORA")
    refuse_unknown(config, _HARMLESS | _READ)
    if config.get("bias", "none") != "none":
        raise wrong("bias", "'none': trained biases of the base are not read")
    if config.get("init_lora_weights") not in _PLAIN_STARTS:
        raise wrong("init_lora_weights", "true, false or 'gaussian': other ways change the base, and the adapter is relative to that")
    rank, flags = config.get("r"), ("use_rslora", "use_dora")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= MAX_RANK:
        raise wrong("r", f"a whole number from 1 to {MAX_RANK}")
    for name in flags:
        if not isinstance(config.get(name, False), bool):
            raise wrong(name, "true or false")
    try:
        return LoRA(
            rank,
            number("lora_alpha", 8.0),
            number("lora_dropout", 0.0),
            stabilised=config.get("use_rslora", False),
            dora=config.get("use_dora", False),
        )
    except RecipeError as error:
        raise ModelError(f"{CONFIG}: {error}") from None


_PART = re.compile(r"(.+)\.(?:lora_(?:embedding_)?(?P<part>[AB])(?:\.weight)?|(?P<m>lora_magnitude_vector)(?:\.weight)?)")


def _sorted(
    path: Path, slots: dict[str, Slot], places: Places, opened: ModelFolder
) -> tuple[dict[str, tuple[Place, Keys]], list[tuple[Place, Keys]]]:
    """(low rank, whole) by module. Raises WeightsError for a tensor that is neither, and for a module that lacks one."""
    low: dict[str, tuple[Place, Keys]] = {}
    heads: list[str] = []
    for key in slots:
        if not key.startswith(STEM):
            raise WeightsError(f"{path / WEIGHTS}: {key[:120]!r} is no name of an adapter's weight; those begin with {STEM!r}.")
        match = _PART.fullmatch(key.removeprefix(STEM))
        module, _, last = key.removeprefix(STEM).rpartition(".")
        if match:
            place = places.find(match.group(1))
            low.setdefault(place.theirs, (place, {}))[1][match.group("part") or "m"] = key
            continue
        if last == "weight" and _repeats(path, slots[key], opened, places.find(module.removesuffix(".base_layer"))):
            continue  # PEFT stores an adapted embedding's own table again
        heads.append(key)
    for place, keys in low.values():
        if not {"A", "B"} <= keys.keys():
            raise WeightsError(f"{path / WEIGHTS}: {place.theirs} has only {', '.join(sorted(keys))} of A and B. Fetch or save it again.")
    return low, whole.sorted_out(path, heads, STEM, places)


def _repeats(path: Path, slot: Slot, opened: ModelFolder, place: Place) -> bool:
    """Whether a tensor of the file holds the same numbers as the base's."""
    base = opened.slots.get(f"{place.theirs}.weight")
    if base is None or base.shape != slot.shape:
        return False
    file = path / WEIGHTS
    return torch.equal(Mapped(file, stamp(file)).tensor(slot).float(), opened.tensor(f"{place.theirs}.weight").float())


def _check_shapes(path: Path, model: Transformer, place: Place, keys: Keys, tensors: dict[str, Tensor], spec: LoRA) -> None:
    modules = [model.get_submodule(name) for name in place.ours]
    shapes = [size(module.base if isinstance(module, AdaptedLinear | AdaptedEmbedding) else module) for module in modules]
    out = sum(shape[0] for shape in shapes)
    wanted = {"A": (spec.rank, shapes[0][1]), "B": (out, spec.rank)} | ({"m": (out,)} if spec.dora else {})
    if keys.keys() != wanted.keys():
        raise WeightsError(f"{path}: {place.theirs} has {sorted(keys)}, but {CONFIG} (use_dora is {spec.dora}) asks for {sorted(wanted)}.")
    for part, shape in wanted.items():
        given = tuple(tensors[keys[part]].shape)
        if given != shape:
            raise WeightsError(
                f"{path / WEIGHTS}: {keys[part]} has shape {list(given)}, but the base and r = {spec.rank} make it {list(shape)}. "
                "It belongs to another base, or to another config."
            )


@torch.no_grad()
def _fill(model: Transformer, place: Place, tensors: dict[str, Tensor], name: str) -> None:
    """Gives the parts of one module their numbers."""
    parts = [cast(LowRank, cast(AdaptedLinear, model.get_submodule(ours)).adapters[name]) for ours in place.ours]
    device = parts[0].a.device
    parts[0].a.copy_(tensors["A"].to(device))
    b = tensors["B"].t() if place.turned else tensors["B"]
    for part, given in zip(parts, place.op.load(b, [tuple(part.b.shape) for part in parts]), strict=True):
        part.b.copy_(given.to(device))
    if "m" in tensors:
        shapes = [(part.b.shape[0],) for part in parts]
        for part, given in zip(parts, place.op.load(tensors["m"], shapes), strict=True):
            assert part.magnitude is not None
            part.magnitude.copy_(given.to(device))
