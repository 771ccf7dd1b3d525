"""The reference's tiny models with adapters of peft on them, and ours over the same folder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quire.adapt.lora import LowRank, WholeCopy
from quire.families import ModelFolder
from quire.nn.batch import Batch
from quire.nn.transformer import Transformer
from tests.families.reference import Case, batch_for, our_outputs, save_theirs, their_class, their_model, their_outputs
from tests.families.stacks import case_of

__all__ = ["Batch", "Case", "batch_for", "case_of", "compared", "disturb", "saved_base", "with_peft", "without_task"]


def saved_base(case: Case, folder: Path) -> tuple[Any, ModelFolder]:
    """(the reference's model, its folder opened by us)."""
    theirs = their_model(case)
    return theirs, ModelFolder.open(save_theirs(theirs, folder))


def with_peft(base: Path, adapter: Path, case: Case) -> nn.Module:
    """The reference's model from its folder, with an adapter as peft opens it."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(their_class(case).from_pretrained(base), str(adapter)).eval()


def without_task(tuned: nn.Module) -> nn.Module:
    """A model of peft below its class for a task; that for answers forgets to hand on the token types."""
    return tuned.base_model.model  # type: ignore[union-attr, return-value]


def disturb(model: nn.Module, seed: int = 1) -> None:
    """Random numbers in every part of every adapter, so that each counts."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LowRank | WholeCopy):
                for parameter in module.parameters():
                    parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.1)


@torch.no_grad()
def compared(case: Case, theirs: nn.Module, ours: Transformer) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What both make of one batch."""
    batch = batch_for(case, padded=True)
    if batch.types is None and case.family.names[0] == "bert":
        batch.types = torch.zeros_like(batch.tokens)
    wanted = their_outputs(case, theirs, batch)
    return wanted, our_outputs(ours, batch, wanted)
