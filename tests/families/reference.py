"""The reference implementation as an oracle: tiny random models of the `transformers` library, one for each config that a family names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from quire.families import FAMILIES, Family
from quire.nn.batch import Batch
from quire.nn.config import LabelHead, LMHead, MLMHead, ModelConfig
from quire.nn.transformer import Transformer

VOCAB = 96  # of every TINY
FIRST = 5  # the first id that is no special token in any TINY


@dataclass(frozen=True)
class Case:
    """A family with one of the configs that exercise it."""

    family: Family
    config: dict[str, Any]

    @property
    def model(self) -> ModelConfig:
        return self.family.build(self.config)

    @property
    def eos_pooled(self) -> bool:
        """Whether an encoder-decoder labels a row by what it makes of the row's last token."""
        return isinstance(self.model.head, LabelHead) and self.model.head.pool == "eos"

    def __str__(self) -> str:
        changed = [f"{k}={v}" for k, v in self.config.items() if self.family.tiny.get(k) != v]
        return "-".join([self.family.names[0], *changed]).replace(" ", "")


_FAMILIES = [family for name, family in sorted(FAMILIES.items()) if name == family.names[0]]  # each once, whatever its names
CASES = [Case(family, family.tiny | variant) for family in _FAMILIES for variant in ({}, *family.variants)]
FULL = [case for case in CASES if isinstance(case.model.head, LMHead | MLMHead)]  # with a vocabulary at the end


def their_class(case: Case) -> Any:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return getattr(transformers, case.config["architectures"][0])


def their_model(case: Case, seed: int = 0) -> nn.Module:
    """Random weights everywhere, norms and biases included, so that a swapped or forgotten tensor shows."""
    import transformers

    torch.manual_seed(seed)  # buffers that a checkpoint holds, and what a class draws for itself
    model = their_class(case)(transformers.AutoConfig.for_model(**case.config)).eval()
    if case.config.get("tie_word_embeddings") is False and model.get_output_embeddings() is not None:
        # T5's config class forces the tie when a model is made from scratch; files of 1.1 have a table of their own
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    if "final_logits_bias" in model._buffers:  # learned here as any other, so that its gradient shows too
        model.register_parameter("final_logits_bias", nn.Parameter(model._buffers.pop("final_logits_bias")))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]  # Marian's tables of sines are frozen
        for parameter in learned:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def tokens(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(FIRST, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def right_padding(lengths: list[int], width: int) -> Tensor:
    """keep (B, T): True for the first lengths[b] positions."""
    return torch.arange(width)[None] < torch.tensor(lengths)[:, None]


def their_outputs(case: Case, model: nn.Module, batch: Batch, **more: Any) -> dict[str, Tensor]:
    """What the reference computes for a batch, under our names: hidden or logits, and next_sentence or pooled where there are any."""
    if case.model.kind == "seq2seq":
        source = batch.source
        assert source is not None
        arguments: dict[str, Any] = {"input_ids": source.tokens, "decoder_input_ids": batch.tokens}
        arguments["attention_mask"] = None if source.keep is None else source.keep.long()
        arguments["decoder_attention_mask"] = None if batch.keep is None else batch.keep.long()
        if case.eos_pooled:  # their model makes the decoder's side itself
            del arguments["decoder_input_ids"], arguments["decoder_attention_mask"]
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
    if "start_logits" in out:
        return {"logits": torch.stack((out["start_logits"], out["end_logits"]), -1)}
    return {ours: out[theirs] for theirs, ours in names.items() if out.get(theirs) is not None}


def our_outputs(model: Transformer, batch: Batch, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    hidden = model(batch)
    keep = batch.keep if batch.source is None else batch.source.keep
    ways = {
        "hidden": lambda: hidden,
        "logits": lambda: model.head(hidden, keep) if isinstance(model.config.head, LabelHead) else model.head(hidden),
        "pooled": lambda: model.head(hidden),
        "next_sentence": lambda: model.head.next_sentence(hidden),
    }
    return {name: ways[name]() for name in wanted}


def batch_for(case: Case, padded: bool) -> Batch:
    """Three rows; unequal lengths when padded. Token types where the family has them."""
    lengths, width = [9, 4, 1], 9
    keep = right_padding(lengths, width) if padded else None
    batch = Batch(tokens(3, width), keep=keep)
    if keep is not None:  # the reference finds the last token of a row by the number of its padding
        batch.tokens = batch.tokens.masked_fill(~keep, case.config.get("pad_token_id") or 0)
    if case.eos_pooled:
        return _read_on_both_sides(case, batch)
    if case.model.encoder is not None and case.model.encoder.types > 1:
        batch.types = (torch.arange(width)[None] >= torch.tensor([5, 2, 1])[:, None]).long()
    if case.model.kind == "seq2seq":
        batch.source = Batch(tokens(3, 12, seed=1), keep=right_padding([12, 7, 2], 12) if padded else None)
    return batch


def _read_on_both_sides(case: Case, source: Batch) -> Batch:
    """The rows end with the end-of-text token, and the decoder reads them one place later, behind its start."""
    last = torch.full((3,), 8) if source.keep is None else source.keep.sum(1) - 1
    source.tokens[torch.arange(3), last] = case.config["eos_token_id"]
    start = torch.full((3, 1), case.config["decoder_start_token_id"])
    return Batch(torch.cat((start, source.tokens[:, :-1]), 1), source=source)


def save_theirs(model: nn.Module, folder: Path) -> Path:
    model.save_pretrained(folder)  # type: ignore[operator]
    return folder


def written_gradients(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    """name on disk -> gradient (zeros where there is none): the reference writes them in the place of its weights, which are gone then.

    In memory it joins experts in one tensor and has other names for some weights; a file is what both sides agree on.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    return load_file(save_theirs(model, folder) / "model.safetensors")
