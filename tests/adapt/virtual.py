"""Soft prompts and prefixes, put on, saved and opened, and what they make of a batch beside what PEFT makes of it."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from quire.adapt import attach_prefix, attach_prompt, open_prefix, open_prompt, save_prefix, save_prompt
from quire.nn.batch import Batch
from quire.nn.config import LabelHead
from tests.adapt.oracle import Case, batch_for
from tests.families.reference import our_outputs, their_outputs

WAYS = {"prompt": (attach_prompt, save_prompt, open_prompt), "prefix": (attach_prefix, save_prefix, open_prefix)}


def rows(case: Case, padded: bool) -> Batch:
    """PEFT hands on token types for labels of texts and of tokens alone."""
    batch, head = batch_for(case, padded), case.model.head
    if not isinstance(head, LabelHead) or head.over == "span":
        batch.types = None
    return batch


def said(case: Case, theirs: nn.Module, ours: Any, padded: bool) -> tuple[Tensor, Tensor]:
    """What both make of a batch, without PEFT's virtual tokens and what it makes of padding.

    Of a decoder PEFT's soft prompt takes the last position for a text's, padding or not: of padded rows the full one alone is right.
    """
    batch = rows(case, padded)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = their_outputs(case, theirs, batch)
    name = "logits" if "logits" in wanted else "hidden"
    found = our_outputs(ours, batch, {name: wanted[name]})[name]
    wanted, width = wanted[name], batch.tokens.shape[1]
    if wanted.ndim == 3:
        seen = torch.ones(3, width, dtype=torch.bool) if batch.keep is None else batch.keep
        return wanted[:, -width:][seen], found[:, -width:][seen]
    full = slice(1) if padded and case.model.kind == "decoder" else slice(None)
    return wanted[full], found[full]


def close(case: Case, theirs: nn.Module, ours: Any) -> None:
    for padded in (False, True):
        with torch.no_grad():
            wanted, found = said(case, theirs, ours, padded)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
