"""`quire.load`: a model folder, ours or anyone's, as a small typed object: `Decoder`, `Encoder` or `Seq2Seq`.

Which one follows from the stacks that the folder's config describes. Every text goes through the folder's contract (tokenizer, template,
special ids, stop rule), and each object carries the binding id as its `identity`. Methods take texts and give the records of `types`.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from .. import hub, machine
from ..adapt import is_prefix, is_prompt, open_adapter, open_prefix, open_prompt, with_its_head
from ..adapt import merge as merge_active
from ..adapt.folder import RECORD, read_json, weights_hash
from ..binding import Binding, Contract, bound
from ..binding.truncation import CONFIG, Truncation
from ..errors import RecipeError
from ..families.folder import ModelFolder
from ..families.tensors import release
from ..native.linears import pack_model
from ..native.pack import Quant
from ..nn.transformer import Transformer
from ..types import Chat, Classifier, Embedder, Generator, Scorer
from .decoder import Decoder
from .encoder import Encoder
from .saving import DTYPES, Stored
from .seq2seq import Seq2Seq

__all__ = ["Decoder", "Encoder", "Seq2Seq", "described", "load", "merge"]

DTypeName = Literal["auto", "fp32", "bf16", "fp16"]


def load(
    path: Path | str,
    dtype: DTypeName = "auto",
    device: str = "auto",
    verify: bool = False,
    quant: Quant | None = None,
    adapter: Path | str | None = None,
) -> Decoder | Encoder | Seq2Seq:
    """Opens a model folder, the model of a run folder, a GGUF file, a pulled model by its name ("org/name", "org/name@revision"), or
    "minilm", the sentence encoder of the extra `minilm`.

    dtype: "auto" keeps the folder's where the device does it well, else fp32. verify: hash every file, not only stamp it. quant: pack a
    decoder's matrices as "int8" or "int4" on the CPU (`identity` then says so); matrices that cannot be packed are named by a warning.
    adapter: a folder of Quire or PEFT, with the head and the cut of long texts that it was trained with; merged into the weights in memory,
    or, a soft prompt, put before each text (`identity` says so too). One that does not record its base opens with a warning.
    Raises ModelError (not there, unknown, pickled, weights that do not fit), BindingError (not the model that its binding names, or an
    adapter of another base),
    RecipeError (a dtype or device that is not there).
    """
    folder = hub.locate(path)
    if verify:
        hub.verify(folder)
    opened, contract, _ = described(folder, adapter)
    binding = bound(folder, verify)
    on = machine.device(device)
    model = opened.build(_dtype(dtype, opened, on), on)
    read, note = ("", "") if adapter is None else _put_on(Path(adapter), model, opened, binding)
    if note:
        warnings.warn(note, stacklevel=2)
    left = pack_model(model, quant, release) if quant is not None else ()
    if left:
        warnings.warn(
            f"{len(left)} matrices stay as they are, their columns are no multiple of 32: {', '.join(left[:3])} ...", stacklevel=2
        )
    kinds: dict[str, type[Decoder] | type[Encoder] | type[Seq2Seq]] = {"decoder": Decoder, "encoder": Encoder, "seq2seq": Seq2Seq}
    loaded = kinds[opened.model_config.kind](folder, model, contract, binding, opened.changed, adapter)
    loaded.identity += f"+{read[:12]}" if read else ""
    loaded.identity += f"+{quant}" if quant is not None else ""
    return loaded


def described(path: Path | str, adapter: Path | str | None = None) -> tuple[ModelFolder, Contract, int]:
    """(the records, the contract, tokens of a text at most) of a model with its adapter, as `load` would open it; no weights are read."""
    folder = hub.locate(path)
    opened, contract = ModelFolder.open(folder), Contract.open(folder)
    if adapter is None:
        return opened, contract, opened.model_config.context
    adapter = Path(adapter)
    opened = with_its_head(adapter, opened)
    # one with a tokenizer says how it was trained, also by saying nothing
    if (adapter / RECORD).is_file() and (adapter / CONFIG).is_file():
        contract = replace(contract, truncation=Truncation.read(adapter))
    taken = read_json(adapter).get("num_virtual_tokens") if is_prompt(adapter) or is_prefix(adapter) else 0
    return opened, contract, opened.model_config.context - (taken if isinstance(taken, int) else 0)


def _put_on(adapter: Path, model: Transformer, opened: ModelFolder, base: Binding) -> tuple[str, str]:
    """(the hash of an adapter's weights, what its user should know)."""
    for is_one, put_on in ((is_prompt, open_prompt), (is_prefix, open_prefix)):
        if is_one(adapter):
            return weights_hash(adapter), put_on(adapter, model, opened, base)
    read = open_adapter(adapter, model, opened, base)
    merge_active(model)  # plain linears again, so every fused step knows them
    return read.id, read.note


def merge(base: Path | str, adapter: Path | str, folder: Path | str, dtype: Stored | None = None) -> Path:
    """Writes a base with an adapter merged into its weights as a whole model folder, which Quire and transformers open.

    Each matrix is summed in fp32 and rounded once. dtype: of the weights; None is the base's. Raises as `load` and `save` do.
    """
    return load(base, adapter=adapter).save(folder, dtype)


def _dtype(name: str, opened: ModelFolder, device: torch.device) -> torch.dtype:
    if name in DTYPES:
        return DTYPES[name]
    if name != "auto":
        raise RecipeError(f"dtype is {name!r}; allowed: auto, {', '.join(DTYPES)}")
    stored = {slot.dtype for slot in opened.slots.values()}
    good = machine.good_dtype(device)
    # A folder of 16 bits is not rounded to the other kind of 16 bits: what one cannot hold, fp32 can.
    return DTYPES[good] if stored == {{"bf16": "BF16", "fp16": "F16", "fp32": "F32"}[good]} else torch.float32


if TYPE_CHECKING:

    def _protocols(decoder: Decoder, seq2seq: Seq2Seq) -> tuple[Generator, Chat, Scorer, Generator, Scorer]:
        """What everything above a model knows it by."""
        return decoder, decoder, decoder, seq2seq, seq2seq

    def _readers(encoder: Encoder, decoder: Decoder) -> tuple[Embedder, Classifier, Embedder, Classifier]:
        return encoder, encoder, decoder, decoder
