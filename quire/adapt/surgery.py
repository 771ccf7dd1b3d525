"""Adapters put on a built model, chosen, taken off, and merged: by name, on the one model class.

`attach` freezes the base. `merge` puts plain linears in the place of the wrappers and returns the wrappers; the base's own matrices stay
where they were, so `unmerge` gives back the very same bits, and on a base that is mapped from a file only the merged copies take memory.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from ..errors import ModelError, RecipeError, nearest
from ..families.folder import ModelFolder
from ..nn.transformer import Transformer
from .lora import AdaptedEmbedding, AdaptedLinear, LoRA, LowRank, WholeLinear, Wrapper, adapters_of, draw_b, first_a
from .names import Places, chosen
from .nf4 import NF4Linear
from .whole import of_labels

DEFAULT = "default"


def wrappers(model: nn.Module) -> dict[str, Wrapper]:
    """Every wrapper of a model by the name of what it wraps."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Wrapper)}


def adapters(model: nn.Module) -> list[str]:
    """The names of a model's adapters."""
    return adapters_of(wrappers(model))


def attach(
    model: Transformer, spec: LoRA, opened: ModelFolder, *, generator: torch.Generator | None = None, name: str = DEFAULT
) -> list[str]:
    """Puts a new adapter on a model and makes it the active one; returns the names of what it adapts. It changes no answer yet.

    opened: the folder that the model was built from, which knows what is fused on disk. Raises ModelError for a target that matches no
    layer, RecipeError for a name that is taken.
    """
    check_name(model, name)
    places = Places(opened)
    targets = chosen(model, places, spec.targets)
    if spec.whole is None:
        whole = of_labels(model, places, tuple(targets))
    else:
        whole = chosen(model, places, spec.whole) if spec.whole else []
    _check_whole(model, places, whole, targets)
    draw = generator or torch.Generator().manual_seed(0)
    first: dict[str, nn.Parameter] = {}  # by the place on disk
    for target in targets:
        wrapper = _wrapped(model, target, AdaptedEmbedding if target == "embed" else AdaptedLinear)
        place = places.ours[target].theirs
        if place not in first:
            first[place] = first_a(spec, wrapper.base, draw)
        part = LowRank(spec, wrapper.base, first[place])
        if isinstance(wrapper, AdaptedEmbedding):
            draw_b(part, draw)
        wrapper.adapters[name] = part
    for stack in (model.encoder, model.decoder):
        if stack is not None and spec.dropout:
            stack.random = True  # what recomputes a layer must draw the adapter's dropout again
    attach_whole(model, places, whole, name)
    activate(model, name)
    model.train(model.training)  # the new modules too
    return [*targets, *whole]


def check_name(model: nn.Module, name: str) -> None:
    """Raises RecipeError for a new adapter's name that cannot be one, or is taken."""
    if not re.fullmatch(r"\w[\w-]{0,63}", name, re.ASCII):
        raise RecipeError(f"the adapter's name is {name[:80]!r}; allowed are letters, digits, _ and -, at most 64.")
    if name in adapters(model):
        raise RecipeError(f"there is an adapter {name!r} already. Choose another name, or detach it first.")


def _check_whole(model: Transformer, places: Places, names: list[str], targets: list[str]) -> None:
    """Raises ModelError for what cannot be trained whole."""
    for name in names:
        if name in targets:
            raise ModelError(f"{name} is both a target and trained whole. Leave it out of one of the two.")
        if not places.ours[name].plain or not isinstance(model.get_submodule(name), WholeLinear | nn.Linear):
            raise ModelError(f"{name} cannot be trained whole beside an adapter: it is fused on disk, packed, or no linear. Leave it out.")


def attach_whole(model: Transformer, places: Places, names: Sequence[str], name: str) -> None:
    """Gives the adapter `name` copies of its own of the linears `names`. Raises ModelError for one that is adapted in another way."""
    _check_whole(model, places, [*names], [])
    for target in names:
        cast(WholeLinear, _wrapped(model, target, WholeLinear)).add(name)


def _wrapped(model: nn.Module, name: str, kind: type[Wrapper]) -> Wrapper:
    """The wrapper at `name`, made where there is none."""
    module = model.get_submodule(name)
    if not isinstance(module, Wrapper):
        wrapper = kind(module)
        wrapper.train(module.training)
        put(model, name, wrapper)
        return wrapper
    if not isinstance(module, kind):
        raise ModelError(f"{name} is adapted by another adapter in another way (low rank, or whole). Detach that one first.")
    return module


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Puts a module in the place of another."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def activate(model: Transformer, name: str | None) -> None:
    """Computes with this adapter from now on, and only its parameters are trained; None: with the base alone. Raises RecipeError.

    An engine over the model notices. One that was made before the first adapter was attached does not: make it anew.
    """
    there = wrappers(model)
    known = adapters_of(there)
    if name is not None and name not in known:
        raise RecipeError(f"there is no adapter {name!r}; there are: {', '.join(known) or 'none'}.{nearest(name, known)}")
    model.requires_grad_(False)
    for wrapper in there.values():
        wrapper.active = name if name is not None and name in wrapper.adapters else None
        for parameter in wrapper.adapters.parameters():
            torch.autograd.graph.increment_version(parameter)  # who keeps keys and values of the model sees that it computes otherwise
        if wrapper.active is not None:
            wrapper.adapters[wrapper.active].requires_grad_(True)
    if model.front is not None:
        model.front.settle()


def detach(model: Transformer, name: str) -> None:
    """Takes an adapter off; where it was the last, what it wrapped is plain again. Raises RecipeError for one that is not there."""
    there = wrappers(model)
    if name not in adapters_of(there):
        raise RecipeError(f"there is no adapter {name!r}; there are: {', '.join(adapters_of(there)) or 'none'}.")
    for place, wrapper in there.items():
        if name in wrapper.adapters:
            del wrapper.adapters[name]
            wrapper.active = None if wrapper.active == name else wrapper.active
            if not wrapper.adapters:
                put(model, place, wrapper.base)
    if model.front is not None:
        model.front.settle()


def spec_of(model: nn.Module, name: str) -> LoRA:
    """How an adapter was made. Raises RecipeError for one that is not there."""
    for wrapper in wrappers(model).values():
        if name in wrapper.adapters and isinstance(part := wrapper.adapters[name], LowRank):
            return part.spec
    raise RecipeError(f"there is no adapter {name!r}; there are: {', '.join(adapters(model)) or 'none'}.")


def tied(model: Transformer) -> bool:
    """Whether the head reads the embedding's table."""
    return "_table" in getattr(model.head, "__dict__", {})


@torch.no_grad()
def merge(model: Transformer) -> dict[str, Wrapper]:
    """Puts plain modules that hold the active adapter's work in the place of its wrappers; returns these, for `unmerge`.

    What is then there computes as fast as the base and is known to every fused step. Numbers packed as NF4 are merged as they unpack. An
    adapted embedding whose table the head reads too stays wrapped, one table cannot be both, and so does an active soft prompt.
    """
    taken = {}
    for name, wrapper in wrappers(model).items():
        bound = isinstance(wrapper, AdaptedEmbedding) and tied(model)
        if name == "embed" and wrapper.active is not None and (bound or not isinstance(wrapper, AdaptedEmbedding)):
            continue
        put(model, name, wrapper.merged())
        taken[name] = wrapper
    return taken


def unmerge(model: Transformer, taken: dict[str, Wrapper]) -> None:
    """Puts the wrappers back that `merge` returned: the base and its adapters, to the bit."""
    for name, wrapper in taken.items():
        put(model, name, wrapper)


def check_plain(model: Transformer) -> None:
    """Raises ModelError where a model that is to be written as a folder still holds an adapter."""
    if wrappers(model):
        raise ModelError(
            f"The model still holds adapters ({', '.join(adapters(model))}). Soft prompts and prefixes cannot be merged, nor can an "
            "adapted embedding whose table is tied to the output's: the adapter would change both. Keep them beside the "
            "base, which opens with them (--adapter, or adapter= of quire.load); others go with merge."
        )


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, each once: what fused parts share is there under its first name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def counted(model: nn.Module) -> tuple[int, int]:
    """(trained numbers, all numbers), what NF4 packs counted as what it stands for."""
    every = sum(parameter.numel() for parameter in model.parameters())
    every += sum(module.in_features * module.out_features for module in model.modules() if isinstance(module, NF4Linear))
    return sum(parameter.numel() for parameter in trained(model).values()), every


def trainable(model: nn.Module) -> str:
    """The count in the words that users of PEFT know."""
    ours, every = counted(model)
    return f"trainable params: {ours:,d} || all params: {every:,d} || trainable%: {100 * ours / max(1, every):.4f}"
