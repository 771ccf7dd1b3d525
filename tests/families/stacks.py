"""The stack of one of the reference's encoders against ours, whatever head it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quire.families import FAMILIES, ModelFolder
from quire.nn.batch import Batch
from quire.nn.transformer import Transformer
from tests.families.reference import Case, save_theirs, their_model


def case_of(name: str, **change: Any) -> Case:
    return Case(FAMILIES[name], FAMILIES[name].tiny | change)


def opened(case: Case, folder: Path) -> tuple[Any, Transformer]:
    """(the reference's model, ours from its folder)."""
    theirs = their_model(case)
    return theirs, ModelFolder.open(save_theirs(theirs, folder)).build()


def hidden(theirs: Any, ids: Tensor, keep: Tensor | None = None) -> Tensor:
    """The last hidden states of the reference's stack, whatever head it has."""
    with torch.no_grad():
        found: Tensor = theirs.base_model(input_ids=ids, attention_mask=None if keep is None else keep.long())[0]
    return found


def ours(model: Transformer, ids: Tensor, keep: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return model(Batch(ids, keep=keep))


def near(a: Tensor, b: Tensor, limit: float = 1e-5) -> None:
    assert a.shape == b.shape
    assert (a - b).abs().max().item() < limit
