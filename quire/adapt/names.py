"""Which module of a folder's own names holds which linears of ours, read from the family's table of weights.

A fused matrix is one module there and several here. Adapters need both: a user may name a target in either world's words, parts that are
fused share their A, and an adapter on disk is written in the folder's names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from ..errors import ModelError
from ..families.folder import ModelFolder
from ..families.ops import COPY, SPLIT_TRANSPOSED, TRANSPOSE, Op
from ..nn.moe import Experts
from ..nn.transformer import Transformer
from .lora import AdaptedLinear, Wrapper
from .nf4 import NF4Linear

ALL = "all-linear"
LABELLING = ("classifier", "score", "qa_outputs")


@dataclass(frozen=True)
class Place:
    """A module on disk and the modules of ours whose weights it holds, in the order in which `op` takes them."""

    theirs: str
    ours: tuple[str, ...]
    op: Op

    @property
    def turned(self) -> bool:
        """Whether the matrix lies transposed on disk (GPT-2)."""
        return self.op in (TRANSPOSE, SPLIT_TRANSPOSED)

    @property
    def plain(self) -> bool:
        return self.op is COPY and len(self.ours) == 1

    @property
    def labels(self) -> bool:
        """Whether PEFT trains this module whole with every adapter of a task with labels: it finds them by these endings of names."""
        return any(word.endswith(LABELLING) for word in self.theirs.split("."))


class Places:
    """Every module with a weight, by its name on either side."""

    def __init__(self, opened: ModelFolder) -> None:
        end = ".weight"
        found = [
            Place(entry.theirs.removesuffix(end), tuple(name.removesuffix(end) for name in entry.ours), entry.op)
            for entry in opened.places
            if entry.theirs.endswith(end) and all(name.endswith(end) for name in entry.ours)
        ]
        self.theirs = {place.theirs: place for place in found}
        self.ours = {name: place for place in found for name in place.ours}
        self.prefix = opened.family.prefix
        self.fresh = {name.removesuffix(end) for name in opened.fresh}  # modules that only an adapter's file can hold
        # a class without a head has its stack's modules at the top
        self.bare = bool(opened.family.bare) and (opened.config.get("architectures") or [""])[0] in opened.family.bare

    def find(self, theirs: str) -> Place:
        """The place of a module by its name in the other world, with or without the family's prefix. Raises ModelError."""
        place = self.theirs.get(theirs) or self.theirs.get(self.prefix + theirs)
        if place is None:
            raise ModelError(f"the base has no module {theirs!r}.{_nearest(theirs, list(self.theirs))}")
        return place

    def written(self, place: Place) -> str:
        """The module's name in the class that `architectures` names."""
        return place.theirs.removeprefix(self.prefix) if self.bare else place.theirs


def adaptable(model: Transformer, places: Places) -> dict[str, nn.Module]:
    """Every module that an adapter may wrap, or wraps already, by name.

    Not feed-forward parts of a model with experts: experts have no form on disk that other tools open, and PEFT takes the names of such
    parts for experts' also in layers that have none.
    """
    wrapped = {id(module.base): name for name, module in model.named_modules() if isinstance(module, Wrapper)}
    experts = any(isinstance(module, Experts) for module in model.modules())
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        kind = isinstance(module, nn.Linear | NF4Linear | AdaptedLinear) or name == "embed"
        inside = id(module) in wrapped or ".adapters." in name or (experts and ".ffn." in name)
        if kind and not inside and name in places.ours:
            found[name] = module
    return found


def chosen(model: Transformer, places: Places, targets: tuple[str, ...]) -> list[str]:
    """The names of the modules that the targets mean. Raises ModelError for a target that matches none, with the nearest names."""
    known = adaptable(model, places)
    names: dict[str, None] = {}
    for target in targets:
        if target == ALL:
            hits = [name for name in known if name != "embed" and not name.startswith("head.")]
        else:
            hits = [name for name in known if _means(target, name) or _means(target, places.ours[name].theirs)]
        if not hits:
            raise ModelError(_no_match(target, model, known, places))
        names.update(dict.fromkeys(hits))
    return list(names)


def _means(target: str, name: str) -> bool:
    return name == target or name.endswith(f".{target}") or fnmatchcase(name, target)


def _no_match(target: str, model: Transformer, known: dict[str, nn.Module], places: Places) -> str:
    experts = any(isinstance(module, Experts) for module in model.modules())
    if experts and any(_means(target, name) for name, _ in model.named_modules() if ".ffn" in name):
        return (
            f"the target {target!r} is a feed-forward part of a model with experts, which adapters do not wrap: no form on disk that "
            "other tools open holds it. Leave it out."
        )
    ours, theirs = list(known), [places.ours[name].theirs for name in known]
    words = [ALL, *dict.fromkeys([*map(_short, ours), *(name.rpartition(".")[2] for name in theirs)])]
    bare = re.sub(r"proj|[_-]", "", target.lower())  # 'q_proj' of another family is the 'q' of 'attn.q'
    alike = [word for word in words if word.rpartition(".")[2] == bare]
    near = _nearest(target, [*words, *ours, *theirs]) or _nearest(alike[0] if alike else "", alike)
    return f"the target {target!r} matches no layer.{near} Allowed: {', '.join(words)}; patterns with *."


def _short(name: str) -> str:
    """What follows the last number of a name: 'attn.q' of 'decoder.layers.0.attn.q'."""
    return re.split(r"\.\d+\.", name)[-1]


def _nearest(word: str, known: list[str]) -> str:
    close = get_close_matches(word, known, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(name) for name in close)}?" if close else ""


def suffixes(wanted: set[str], every: set[str]) -> list[str]:
    """The fewest endings of names, each the last word or what follows the last number, that mean `wanted` among `every`, no more."""
    for cut in (lambda name: name.rpartition(".")[2], _short):
        endings = {cut(name) for name in wanted}
        if {name for name in every if any(_means(ending, name) for ending in endings)} == wanted:
            return sorted(endings)
    return sorted(wanted)
