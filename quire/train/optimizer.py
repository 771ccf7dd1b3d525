"""Which parameters learn by which rule, and how fast at each step.

Two rules: AdamW (Loshchilov and Hutter 2019) in torch's fused kernel, and Muon (Jordan et al. 2024) for the hidden matrices when the recipe
asks for it. Weight decay touches matrices only; norms, biases and tables that are looked up (embeddings, positions, T5's relative biases)
are left alone. The decay a step is lr * weight_decay of AdamW's lr for both rules, so one number means one strength.

Muon is `torch.optim.Muon`, whose Newton-Schulz iteration runs in bf16: stacking matrices of one shape instead saves a third of its time at
width 128, which is a twenty-fifth of a training step there, and nothing or less at 192 and above (benchmarks/muon.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..adapt.lora import LowRank
from ..adapt.prefix import PrefixVectors
from ..adapt.soft_prompt import PromptVectors
from ..errors import CheckpointError
from ..nn.heads import LMHeadModule, MLMHeadModule
from ..nn.position import RelativeBias
from .recipe import OptimPart

Kind = Literal["table", "vector", "head", "adapter", "hidden"]
MOMENTUM = 0.95  # Muon's, as its authors set it
_LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.")
_CLOSING = re.compile(r"(encoder|decoder)\.norm\.")


@dataclass(frozen=True)
class Group:
    """Parameters of one rule, learning rate and decay."""

    rule: Literal["adamw", "muon"]
    names: tuple[str, ...]
    lr: float
    weight_decay: float


def kinds(model: nn.Module) -> dict[str, Kind]:
    """What each trainable parameter is: a table that is looked up, a vector (norm or bias), a matrix of the head, of an adapter, or hidden.

    Muon is for hidden matrices alone: it makes an update's singular values equal, and an adapter's update is the product of two matrices,
    of which it would see one at a time. Vectors of a soft prompt are looked up as tokens are.
    """
    found: dict[str, Kind] = {}
    for path, module in model.named_modules():
        inside_head = path.split(".")[0] == "head" or isinstance(module, LMHeadModule | MLMHeadModule)
        adapter = isinstance(module, LowRank) or ".network." in path
        for name, parameter in module.named_parameters(path, recurse=False):
            if not parameter.requires_grad or name in found:
                continue
            if isinstance(module, nn.Embedding | RelativeBias | PromptVectors | PrefixVectors):
                found[name] = "table"
            elif parameter.ndim < 2:
                found[name] = "vector"
            else:
                found[name] = "adapter" if adapter else "head" if inside_head else "hidden"
    shared = {name for name, _ in model.named_parameters()}  # a tied weight is named once, by its first owner
    return {name: kind for name, kind in found.items() if name in shared}


def groups(model: nn.Module, part: OptimPart) -> list[Group]:
    """The optimizer's groups in a fixed order; every trainable parameter is in exactly one."""
    of_kind = kinds(model)
    by_muon = {name for name, kind in of_kind.items() if kind == "hidden" and part.name == "muon"}
    decayed = {name for name, kind in of_kind.items() if kind in ("hidden", "head", "adapter")} - by_muon
    rest = set(of_kind) - by_muon - decayed
    rates = shares(model, part)

    def split(rule: Literal["adamw", "muon"], chosen: set[str], lr: float, decay: float) -> Iterator[Group]:
        """One group a learning rate, the highest first."""
        for share in sorted({rates[name] for name in chosen}, reverse=True):
            yield Group(rule, tuple(name for name in of_kind if name in chosen and rates[name] == share), lr * share, decay)

    return [
        *split("muon", by_muon, part.muon_lr, part.weight_decay * part.lr / part.muon_lr if part.muon_lr else 0.0),
        *split("adamw", decayed, part.lr, part.weight_decay),
        *split("adamw", rest, part.lr, 0.0),
    ]


def shares(model: nn.Module, part: OptimPart) -> dict[str, float]:
    """The share of the learning rate that each trainable parameter has, by name; adapters have that of what they adapt.

    The head, and what closes a stack, has 1 (the head times `head_rate`), the top layer of each stack `layer_decay`, each layer down so
    many times what the one above it has, and embeddings what a layer below the first would have.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    places = {name: _LAYER.match(name) for name, _ in model.named_parameters()}
    layers: dict[str, int] = {}
    for found in filter(None, places.values()):
        layers[found[1]] = max(layers.get(found[1], 0), int(found[2]) + 1)
    bottom = max(layers.values(), default=0) + 1

    def share(name: str) -> float:
        if name.startswith("head."):
            return part.head_rate
        if (found := places[name]) is not None:
            return float(part.layer_decay ** (layers[found[1]] - int(found[2])))
        return 1.0 if _CLOSING.match(name) else float(part.layer_decay**bottom)

    return {name: share(name) for name in names}


def schedule(part: OptimPart, step: int, steps: int) -> float:
    """The share of the learning rate at `step` (from 0) of `steps`: a linear warm-up, then the recipe's curve down to `final`.

    cosine (Loshchilov and Hutter 2017); linear; wsd: constant, then 1 - sqrt over the last `decay` of the steps (Hägele et al. 2024).
    """
    warm = round(part.warmup * steps)
    if step < warm:
        return (step + 1) / warm
    if part.schedule == "constant":
        return 1.0
    if part.schedule == "wsd":
        down = round(part.decay * steps)
        progress = (step - (steps - down) + 1) / down if down and step >= steps - down else 0.0
        fall = 1.0 - math.sqrt(progress)
    else:
        progress = min((step - warm + 1) / max(1, steps - warm), 1.0)
        fall = 1.0 - progress if part.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return part.final + (1.0 - part.final) * fall


class Optimizer:
    """The rules of a model's parameters as one: `rate`, `step`, `zero`, and its state as named tensors."""

    def __init__(self, model: nn.Module, part: OptimPart) -> None:
        self.groups = groups(model, part)
        parameters = dict(model.named_parameters())
        self.named = {name: parameters[name] for group in self.groups for name in group.names}
        self.parameters = list(self.named.values())
        self.rules: list[torch.optim.Optimizer] = []
        adamw = [self._options(group) for group in self.groups if group.rule == "adamw"]
        if adamw:
            self.rules.append(torch.optim.AdamW(adamw, betas=part.betas, eps=part.eps, fused=True))
        muon = [self._options(group) for group in self.groups if group.rule == "muon"]
        if muon:
            self.rules.append(torch.optim.Muon(muon, momentum=MOMENTUM, nesterov=True))

    def _options(self, group: Group) -> dict[str, object]:
        parameters = [self.named[name] for name in group.names]
        return {"params": parameters, "lr": group.lr, "full_lr": group.lr, "weight_decay": group.weight_decay}

    def rate(self, share: float) -> None:
        """Sets every learning rate to this share of the recipe's."""
        for rule in self.rules:
            for group in rule.param_groups:
                group["lr"] = group["full_lr"] * share

    def step(self) -> None:
        for rule in self.rules:
            rule.step()

    def zero(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None  # frees the memory; the next backward writes instead of adding

    def gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def forget(self) -> None:
        """Back to the state before the first step."""
        for rule in self.rules:
            rule.state.clear()

    def tensors(self) -> dict[str, Tensor]:
        """The state, as '<key>/<parameter>' -> tensor; empty before the first step."""
        return dict(self._state())

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        for rule in self.rules:
            for name, parameter in self.named.items():
                for key, value in rule.state.get(parameter, {}).items():
                    yield f"{key}/{name}", value

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Takes over a saved state. Raises CheckpointError when it is of other parameters."""
        owner = {name: rule for rule in self.rules for name, parameter in self.named.items() if _owns(rule, parameter)}
        self.forget()
        for full, value in tensors.items():
            key, _, name = full.partition("/")
            parameter = self.named.get(name)
            if parameter is None or (value.ndim and value.shape != parameter.shape):
                raise CheckpointError(f"the optimizer's state '{full}' fits no parameter of this model: the checkpoint is of another model")
            owner[name].state[parameter][key] = value.to(parameter.device)


def _owns(rule: torch.optim.Optimizer, parameter: Tensor) -> bool:
    return any(parameter is other for group in rule.param_groups for other in group["params"])
