"""What soft prompts and prefixes share: how they are put on a model, and their files.

Beside a head of labels, its classifier is trained whole, in a copy of the adapter's own, as PEFT does. On disk both are PEFT's:
`prompt_embeddings`, and behind `base_model.` what is trained whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from ..binding import Binding
from ..errors import ModelError, RecipeError, WeightsError
from ..families.folder import ModelFolder
from ..nn.config import LabelHead, MLMHead, ModelConfig
from ..nn.transformer import Front, Transformer
from . import whole
from .folder import CONFIG, WEIGHTS, proven, read_json, read_slots, read_tensors, refuse_unknown, task_type, weights_hash, write
from .lora import Wrapper
from .names import Place, Places
from .surgery import activate, attach_whole, put

MAX_TOKENS = 1 << 16
_KEY, _STEM = "prompt_embeddings", "base_model."
_HARMLESS = frozenset("auto_mapping base_model_name_or_path revision inference_mode peft_version task_type modules_to_save".split())
_READ = frozenset("peft_type num_virtual_tokens token_dim num_transformer_submodules num_attention_heads num_layers".split())


def takes(config: ModelConfig, what: str) -> None:
    """Raises ModelError for a model whose task PEFT has no form for with this kind of adapter."""
    head = config.head
    if isinstance(head, MLMHead) or (isinstance(head, LabelHead) and head.over == "next"):
        raise ModelError(f"PEFT has no {what} for a head over hidden words or following sentences. Adapt this model with LoRA.")
    if isinstance(head, LabelHead) and config.kind == "seq2seq":
        raise ModelError(
            f"PEFT cannot run an encoder-decoder with a head of labels and a {what}: it finds the state that stands for a text by the "
            "text's own ids. Adapt this model with LoRA."
        )


def check_length(config: ModelConfig, length: int, what: str) -> None:
    """Raises RecipeError for a length that the model's context does not hold beside a text."""
    most = min(config.context, MAX_TOKENS) - 1
    if not 1 <= length <= most:
        raise RecipeError(f"the {what}'s length is {length}; allowed is 1 to {most}.")


def put_on(
    model: Transformer,
    opened: ModelFolder,
    kind: type[Wrapper],
    front: Callable[[Transformer], Front],
    vectors: nn.Module,
    name: str,
    heads: Sequence[str] | None = None,
) -> None:
    """Puts vectors beside the embedding as the adapter `name`, and makes it the active one.

    kind: the embedding's wrapper. front: what reads the vectors in each forward. heads: linears that are trained whole beside; None: those
    of a label head that PEFT trains. Raises ModelError where the embedding or the head is adapted in another way.
    """
    places = Places(opened)
    if isinstance(model.embed, Wrapper) and not isinstance(model.embed, kind):
        raise ModelError("The embedding is adapted already. Soft prompts, prefixes and low rank of the embedding do not go together.")
    attach_whole(model, places, whole.of_labels(model, places) if heads is None else heads, name)
    if not isinstance(model.embed, kind):
        put(model, "embed", kind(cast(nn.Module, model.embed)).train(model.training))
        model.front = front(model)
    embed = cast(Wrapper, model.embed)
    embed.adapters[name] = vectors.to(cast(Tensor, embed.weight).device).train(model.training)
    activate(model, name)


def save(
    path: Path | str, vectors: Tensor, said: Mapping[str, Any], model: Transformer, opened: ModelFolder, base: Binding | None, name: str
) -> Path:
    """Writes vectors, and what of the head `name` trains whole, as a folder that Quire and PEFT open, whole or not at all.

    said: the fields of adapter_config.json that are of this kind alone. Raises StorageError for a folder that is not empty.
    """
    places = Places(opened)
    tensors, heads = whole.tensors(model, places, name, _STEM)
    config = {
        "task_type": task_type(opened.model_config),
        "base_model_name_or_path": str(opened.path),
        "inference_mode": True,
        "num_virtual_tokens": vectors.shape[0],
        "modules_to_save": whole.modules_to_save(heads, places),
        **said,
    }
    return write(Path(path), {_KEY: vectors} | tensors, config, base, opened.changed)


@dataclass(frozen=True)
class Virtual:
    """What a folder holds: the vectors in fp32, the linears that are trained whole with their numbers, and a note, "" for none."""

    vectors: Tensor
    heads: list[tuple[Place, whole.Keys]]
    tensors: dict[str, Tensor]
    note: str

    @property
    def names(self) -> list[str]:
        """Of the linears that are trained whole."""
        return [place.ours[0] for place, _ in self.heads]

    def fill(self, model: Transformer, name: str) -> None:
        """Gives the linears of the adapter `name` their numbers."""
        whole.fill(model, self.heads, self.tensors, name)


def length_of(config: Mapping[str, Any], model: ModelConfig, kinds: Collection[str], harmless: Collection[str]) -> int:
    """How many virtual tokens adapter_config.json asks for. Raises ModelError naming a field that cannot be."""
    if config.get("peft_type") not in kinds:
        raise ModelError(f"{CONFIG}: peft_type is {str(config.get('peft_type'))[:80]!r}; allowed is {' or '.join(kinds)}.")
    refuse_unknown(config, _HARMLESS | _READ | set(harmless))
    count, most = config.get("num_virtual_tokens"), min(model.context, MAX_TOKENS) - 1
    if type(count) is not int or not 1 <= count <= most:
        raise ModelError(f"{CONFIG}: num_virtual_tokens is {str(count)[:80]!r}; allowed is 1 to {most}.")
    return count


def check_fields(config: Mapping[str, Any], wanted: Mapping[str, Collection[int]]) -> None:
    """Raises ModelError for a field with a value that this base does not have; one that is not there is as the base is."""
    for field, values in wanted.items():
        if config.get(field) not in (None, *values):
            raise ModelError(
                f"{CONFIG}: {field} is {str(config[field])[:80]!r}; this base has {' or '.join(str(value) for value in values)}."
            )


def read(path: Path, size: tuple[int, int], what: str, model: Transformer, opened: ModelFolder, base: Binding | None) -> Virtual:
    """The weights of a folder whose vectors must be of this size.

    Raises BindingError for another base or changed weights, WeightsError for weights that do not fit.
    """
    slots = read_slots(path)
    note = proven(path, base, weights_hash(path), opened.path)
    if _KEY not in slots or slots[_KEY].shape != size:
        there = f"{_KEY} of shape {slots[_KEY].shape}" if _KEY in slots else f"no {_KEY}"
        raise WeightsError(f"{path / WEIGHTS} holds {there}; a {what} of this base is {_KEY} of shape {size}.")
    heads = whole.sorted_out(path, [key for key in slots if key != _KEY], _STEM, Places(opened))
    whole.check(path, model, heads, slots)
    tensors = read_tensors(path, slots)
    return Virtual(tensors.pop(_KEY), heads, tensors, note)


def peft_type(path: Path | str) -> str:
    """What an adapter's folder holds, in PEFT's word."""
    return str(read_json(Path(path)).get("peft_type"))
