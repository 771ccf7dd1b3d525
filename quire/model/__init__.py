"""`quire.load`: a model folder, ours or anyone's, as a small typed object: `Decoder`, `Encoder` or `Seq2Seq`.

Which one follows from the stacks that the folder's config describes. Every text goes through the folder's contract (tokenizer, template,
special ids, stop rule), and each object carries the binding id as its `identity`. Methods take texts and give the records of `types`.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from .. import hub, machine, minilm
from ..binding import Contract, bound
from ..binding.gguf import SUFFIX
from ..errors import ModelError, RecipeError, nearest
from ..families.folder import ModelFolder
from ..native.linears import pack_model
from ..native.pack import Quant
from ..types import Chat, Classifier, Embedder, Generator, Scorer
from .decoder import Decoder
from .encoder import Encoder
from .saving import DTYPES
from .seq2seq import Seq2Seq

__all__ = ["Decoder", "Encoder", "Seq2Seq", "load", "locate"]

DTypeName = Literal["auto", "fp32", "bf16", "fp16"]


def load(
    path: Path | str, dtype: DTypeName = "auto", device: str = "auto", verify: bool = False, quant: Quant | None = None
) -> Decoder | Encoder | Seq2Seq:
    """Opens a model folder, the model of a run folder, a GGUF file, a pulled model by its name ("org/name", "org/name@revision"), or
    "minilm", the sentence encoder of the extra `minilm`.

    dtype: "auto" keeps the folder's where the device does it well, else fp32. verify: hash every file, not only stamp it. quant: pack a
    decoder's matrices as "int8" or "int4" on the CPU (`identity` then says so); matrices that cannot be packed are named by a warning.
    Raises ModelError (not there, unknown, pickled, weights that do not fit), BindingError (not the model that its binding names),
    RecipeError (a dtype or device that is not there).
    """
    folder = locate(path)
    if verify:
        hub.verify(folder)
    opened = ModelFolder.open(folder)
    binding, contract = bound(folder, verify), Contract.open(folder)
    on = machine.device(device)
    model = opened.build(_dtype(dtype, opened, on), on)
    left = pack_model(model, quant) if quant is not None else ()
    if left:
        warnings.warn(
            f"{len(left)} matrices stay as they are, their columns are no multiple of 32: {', '.join(left[:3])} ...", stacklevel=2
        )
    kinds: dict[str, type[Decoder] | type[Encoder] | type[Seq2Seq]] = {"decoder": Decoder, "encoder": Encoder, "seq2seq": Seq2Seq}
    loaded = kinds[opened.model_config.kind](folder, model, contract, binding)
    loaded.identity += f"+{quant}" if quant is not None else ""
    return loaded


def locate(path: Path | str) -> Path:
    """The model at `path`: a GGUF file, a folder, `model/` in it, or (no network) what was pulled by that name. ModelError: what to do."""
    text, path = str(path), Path(path).expanduser()
    if text == minilm.NAME and not path.exists():
        return minilm.folder()
    for place in (path, path / "model"):
        if (place / "config.json").is_file():
            return place
    pulled, pull = (None, "") if path.exists() else hub.place_of(text)
    if pulled is not None:
        return pulled
    if path.is_file() and path.suffix.lower() == SUFFIX:
        return path
    if path.is_file():
        other = ""
        if path.suffix.lower() == ".bin":
            other = f" Is it a model of llama2.c? Make a folder of it: quire convert {path} FOLDER --tokenizer TOKENIZER.bin"
        raise ModelError(
            f"{path} is a file. A model is a folder with config.json and model.safetensors, or a {SUFFIX} file; give that.{other}"
        )
    inside = sorted(file for file in path.glob("*") if file.suffix.lower() == SUFFIX) if path.is_dir() else []
    if inside:
        more = f" ({len(inside)} such files)" if len(inside) > 1 else ""
        raise ModelError(f"{path} holds no config.json, but a {SUFFIX} file{more}, which is a model itself. Give it: {inside[0]}")
    if (path / "recipe.toml").is_file():
        raise ModelError(f"the run in {path} has no model yet. It is written when the run ends; go on with it: quire resume {path}")
    here = sorted(place.parent.parent for root in {path.parent, Path("runs")} for place in root.glob("*/model/config.json"))
    here += sorted(place.parent for place in path.parent.glob("*/config.json"))
    names = list(dict.fromkeys(map(str, here)))
    beside = [name for name in names if Path(name).parent == path.parent]
    meant = nearest(str(path), [name for name in names if nearest(path.name, [Path(name).name])])
    what = "holds no config.json" if path.is_dir() else "is not there"
    said = [f"no model at {path}: it {what}. Give a model folder or a run folder.{meant}"]
    if beside and not meant:
        said.append(f"Models near it: {', '.join(beside[:6])}.")
    if pull and not meant and (path.parent == Path() or not path.parent.is_dir()):  # runs/x is a folder that is missing, and no owner's x
        said.append(f"{pull}.")
    if not meant:
        said.append("Train one: quire quickstart")
    raise ModelError(" ".join(said))


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
