"""The reference implementation as an oracle: tiny random models of the `transformers` library, one for each config that a family names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quire.families import FAMILIES, Family
from quire.nn.batch import Batch
from quire.nn.config import LMHead, MLMHead
from quire.nn.transformer import Transformer

VOCAB = 96  # of every TINY


@dataclass(frozen=True)
class Case:
    """A family with one of the configs that exercise it."""

    family: Family
    config: dict[str, Any]

    def __str__(self) -> str:
        changed = [f"{k}={v}" for k, v in self.config.items() if self.family.tiny.get(k) != v]
        return "-".join([self.family.names[0], *changed]).replace(" ", "")


CASES = [Case(family, family.tiny | variant) for _, family in sorted(FAMILIES.items()) for variant in ({}, *family.variants)]
FULL = [case for case in CASES if isinstance(case.family.build(case.config).head, LMHead | MLMHead)]  # with a vocabulary at the end


def their_class(case: Case) -> Any:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return getattr(transformers, case.config["architectures"][0])


def their_model(case: Case, seed: int = 0) -> nn.Module:
    """Random weights everywhere, norms and biases included, so that a swapped or forgotten tensor shows."""
    import transformers

    model = their_class(case)(transformers.AutoConfig.for_model(**case.config)).eval()
    if case.config.get("tie_word_embeddings") is False and model.get_output_embeddings() is not None:
        # T5's config class forces the tie when a model is made from scratch; files of 1.1 have a table of their own
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def tokens(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(2, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def right_padding(lengths: list[int], width: int) -> Tensor:
    """keep (B, T): True for the first lengths[b] positions."""
    return torch.arange(width)[None] < torch.tensor(lengths)[:, None]


def their_outputs(case: Case, model: nn.Module, batch: Batch, **more: Any) -> dict[str, Tensor]:
    """What the reference computes for a batch, under our names: hidden or logits, and next_sentence or pooled where there are any."""
    if case.family.kind == "seq2seq":
        source = batch.source
        assert source is not None
        arguments: dict[str, Any] = {"input_ids": source.tokens, "decoder_input_ids": batch.tokens}
        arguments["attention_mask"] = None if source.keep is None else source.keep.long()
        arguments["decoder_attention_mask"] = None if batch.keep is None else batch.keep.long()
    else:
        arguments = {"input_ids": batch.tokens, "attention_mask": None if batch.keep is None else batch.keep.long()}
        if batch.positions is not None:
            arguments["position_ids"] = batch.positions
        if batch.types is not None:
            arguments["token_type_ids"] = batch.types
    out = model(**arguments, **more)
    names = {
        "logits": "logits",
        "prediction_logits": "logits",
        "last_hidden_state": "hidden",
        "seq_relationship_logits": "next_sentence",
        "pooler_output": "pooled",
    }
    return {ours: out[theirs] for theirs, ours in names.items() if out.get(theirs) is not None}


def our_outputs(model: Transformer, batch: Batch, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    hidden = model(batch)
    ways = {
        "hidden": lambda: hidden,
        "logits": lambda: model.head(hidden),
        "pooled": lambda: model.head(hidden),
        "next_sentence": lambda: model.head.next_sentence(hidden),
    }
    return {name: ways[name]() for name in wanted}


def batch_for(case: Case, padded: bool) -> Batch:
    """Three rows; unequal lengths when padded. Token types where the family has them."""
    lengths, width = [9, 4, 1], 9
    keep = right_padding(lengths, width) if padded else None
    batch = Batch(tokens(3, width), keep=keep)
    if case.family.kind == "encoder":
        batch.types = (torch.arange(width)[None] >= torch.tensor([5, 2, 1])[:, None]).long()
    if case.family.kind == "seq2seq":
        batch.source = Batch(tokens(3, 12, seed=1), keep=right_padding([12, 7, 2], 12) if padded else None)
    return batch


def save_theirs(model: nn.Module, folder: Path) -> Path:
    model.save_pretrained(folder)  # type: ignore[operator]
    return folder
