"""What of an opened model a run trains (`[adapt]` of the recipe), and what it leaves beside the merged model: an adapter in PEFT's form."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from ..adapt import (
    LoRA,
    attach,
    attach_prefix,
    attach_prompt,
    merge,
    quantize_model,
    save_adapter,
    save_prefix,
    save_prompt,
    trainable,
    unmerge,
)
from ..adapt.folder import CONFIG
from ..binding import Binding, Contract
from ..binding.weights import some
from ..errors import RecipeError, nearest
from ..families import ModelFolder
from ..families.tensors import release
from ..nn.transformer import Transformer
from ..text.tokenizer import Tokenizer
from .recipe import AdaptPart, TrainRecipe

Also = Callable[[Path], None]
LOW_RANK, PROMPTS = ("lora", "qlora"), ("prompt", "prefix", "p-tuning")


def settle(recipe: TrainRecipe) -> None:
    """Raises RecipeError for a combination that cannot be meant."""
    part, method = recipe.adapt, recipe.adapt.method
    if method != "full" and not recipe.model.start:
        raise RecipeError(f"adapt.method = '{method}' adapts a model that is there: give its folder or name with model.start.")
    if method != "full" and part.frozen:
        raise RecipeError(f"adapt.frozen = {part.frozen} is for adapt.method = full; with {method} the whole base is frozen already.")
    shared = "data.pack = true" if recipe.data.pack else "data.boundaries = 'mask'" if recipe.data.boundaries == "mask" else ""
    if part.positions and shared:
        raise RecipeError(f"adapt.method = '{method}' puts a prompt before each row, and with {shared} several texts share one.")
    if not 0 < recipe.optim.layer_decay <= 1 or recipe.optim.head_rate <= 0:
        raise RecipeError(
            f"optim.layer_decay = {recipe.optim.layer_decay} must be above 0 and at most 1, "
            f"optim.head_rate = {recipe.optim.head_rate} above 0"
        )


class Adapter:
    """The adapter of a run on `opened`, a model folder whose binding is `base`; the whole model is trained where there is none."""

    def __init__(self, part: AdaptPart, opened: ModelFolder, base: Binding) -> None:
        self.part, self.opened, self.base = part, opened, base

    def build(self, tokenizer: Tokenizer, dtype: torch.dtype, seed: int) -> Transformer:
        """The model as it is trained. dtype: what products are made in; a frozen base is held in it where its file is."""
        part, method = self.part, self.part.method
        stored = {slot.dtype for slot in self.opened.slots.values()}
        narrow = stored == {"BF16"} and (method == "qlora" or (method != "full" and dtype == torch.bfloat16))
        model = self.opened.build(torch.bfloat16 if narrow else torch.float32, seed=seed)
        draw = torch.Generator().manual_seed(seed)
        if method == "full":
            freeze(model, part.frozen)
        if method == "qlora":
            # One matrix after the other: what was packed gives its pages back, so the base is never in memory whole.
            quantize_model(model, compute=dtype if dtype != torch.float32 else torch.bfloat16, dropped=release)
            if dtype == torch.float32:
                model.float()
        if method in LOW_RANK:
            spec = LoRA(part.rank, part.alpha, part.dropout, part.targets, part.stabilised, part.dora)
            attach(model, spec, self.opened, generator=draw)
        elif method == "prefix":
            attach_prefix(model, part.tokens, self.opened, hidden=part.hidden, generator=draw)
        elif method in PROMPTS:
            text = tokenizer.encode(part.text) if part.text else ()
            hidden = part.hidden if method == "p-tuning" else 0
            attach_prompt(model, part.tokens, self.opened, text=text, hidden=hidden, generator=draw)
        return model

    def _stored(self) -> torch.dtype | None:
        """Of the merged model's file: a base of 16 bits that was adapted stays one; None is as the model is in memory."""
        kinds = {slot.dtype for slot in self.opened.slots.values()}
        return torch.bfloat16 if kinds == {"BF16"} and self.part.method in LOW_RANK else None

    def said(self, model: Transformer) -> list[str]:
        """For a person, before training."""
        lines = [trainable(model)]
        if self.opened.fresh:
            lines.append(f"new, drawn from the seed: {', '.join(self.opened.fresh)}")
        if gone := self.opened.left_out:
            lines.append(f"left out: the head that the model had, which this task does not use ({some(gone)})")
        return lines

    def write(self, path: Path, model: Transformer) -> None:
        """The adapter's own folder; nothing for a model that was trained whole."""
        if self.part.method in LOW_RANK:
            save_adapter(path, model, self.opened, self.base)
        elif self.part.method == "prefix":
            save_prefix(path, model, self.opened, self.base)
        elif self.part.method in PROMPTS:
            save_prompt(path, model, self.opened, self.base)

    def leave(self, path: Path, model: Transformer, contract: Contract, lineage: dict[str, Any], also: Also | None = None) -> Path | None:
        """Writes `path`, the whole model with the adapter's work in its weights, and the adapter's own folder beside it.

        also: writes what else belongs to the model. A soft prompt cannot be merged into weights, and the base without it would answer as if
        nothing had been learned: then the adapter is all that is written, and None is returned.
        """
        beside = path.with_name("adapter")
        if not (beside / CONFIG).is_file():  # a kill may have come between the two
            self.write(beside, model)
        if (beside / CONFIG).is_file():  # its users read texts as it was trained, with no look at the base
            contract.save(beside, self.opened.config.get("type_vocab_size"))
        if self.part.method in PROMPTS:
            return None
        taken = merge(model)
        try:
            ModelFolder.save(path, model, self.opened.config, dtype=self._stored())
        finally:
            unmerge(model, taken)
        if also is not None:
            also(path)
        contract.save(path)
        Binding.of(path, lineage | {"base": self.base.id}).write(path)
        return path


def freeze(model: Transformer, patterns: tuple[str, ...]) -> None:
    """Parts by name or pattern learn nothing. Raises RecipeError for one that matches no part, with the nearest names."""
    names = [name for name, _ in model.named_parameters()]
    parts = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}
    for pattern in patterns:
        hit = [name for name in names if any(fnmatchcase(".".join(name.split(".")[: d + 1]), pattern) for d in range(name.count(".") + 1))]
        if not hit:
            raise RecipeError(f"adapt.frozen: no part of this model is named {pattern!r}.{nearest(pattern, sorted(parts))}")
        for name in hit:
            model.get_parameter(name).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise RecipeError(f"adapt.frozen = {patterns} freezes the whole model: nothing is left to train.")
