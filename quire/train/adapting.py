"""What of an opened model a run trains (`[adapt]` of the recipe), and what it leaves beside the merged model: an adapter in PEFT's form."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import torch

from ..adapt import LoRA, attach, attach_prompt, merge, prompted, quantize_model, save_adapter, save_prompt, trainable, unmerge
from ..binding import Binding
from ..errors import RecipeError, nearest
from ..families import ModelFolder
from ..nn.batch import Batch
from ..nn.transformer import Transformer
from ..text.tokenizer import Tokenizer
from .recipe import AdaptPart

LOW_RANK, PROMPTS = ("lora", "qlora"), ("prompt", "p-tuning")


class Adapter:
    """The adapter of a run on `opened`, a model folder whose binding is `base`; the whole model is trained where there is none."""

    def __init__(self, part: AdaptPart, opened: ModelFolder, base: Binding) -> None:
        self.part, self.opened, self.base = part, opened, base

    def build(self, tokenizer: Tokenizer, dtype: torch.dtype, seed: int) -> Transformer:
        """The model as it is trained. dtype: what products are made in; a frozen base is held in it where its file is."""
        part, method = self.part, self.part.method
        stored = {slot.dtype for slot in self.opened.slots.values()}
        narrow = method != "full" and dtype == torch.bfloat16 and stored == {"BF16"}
        model = self.opened.build(torch.bfloat16 if narrow else torch.float32, seed=seed)
        draw = torch.Generator().manual_seed(seed)
        if method == "full":
            freeze(model, part.frozen)
        elif part.frozen:
            raise RecipeError(f"adapt.frozen = {part.frozen} is for adapt.method = full; with {method} the whole base is frozen already.")
        if method == "qlora":
            quantize_model(model, compute=dtype if dtype != torch.float32 else torch.bfloat16)
        if method in LOW_RANK:
            spec = LoRA(part.rank, part.alpha, part.dropout, part.targets, part.stabilised, part.dora)
            attach(model, spec, self.opened, generator=draw)
        elif method in PROMPTS:
            text = tokenizer.encode(part.text) if part.text else ()
            attach_prompt(model, part.tokens, text=text, hidden=part.hidden if method == "p-tuning" else 0, generator=draw)
        return model

    def said(self, model: Transformer) -> list[str]:
        """For a person, before training."""
        lines = [trainable(model)]
        if self.opened.fresh:
            lines.append(f"new, drawn from the seed: {', '.join(self.opened.fresh)}")
        return lines

    def enter(self, model: Transformer, batch: Batch) -> Batch:
        """A batch as this model reads it: with a soft prompt in front."""
        return prompted(model, batch) if self.part.method in PROMPTS else batch

    def write(self, path: Path, model: Transformer) -> None:
        """The adapter's own folder; nothing for a model that was trained whole."""
        if self.part.method in LOW_RANK:
            save_adapter(path, model, self.opened, self.base)
        elif self.part.method in PROMPTS:
            save_prompt(path, model, self.opened, self.base)

    def merged(self, model: Transformer, path: Path, config: dict[str, object]) -> None:
        """Writes the whole model with the adapter's work in its weights. A soft prompt cannot be merged: the base stands beside it."""
        taken = merge(model)
        try:
            ModelFolder.save(path, model, config)
        finally:
            unmerge(model, taken)


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
