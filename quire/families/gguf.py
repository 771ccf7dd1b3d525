"""A GGUF file seen as a Hugging Face folder: its metadata as a config.json, its tensors under the names that the family's table knows.

What the writers of GGUF changed is undone where a tensor is read: LLaMA's q and k rows, which they interleave for another form of rotary
positions, lie in halves again; Gemma's norms lose the one that was added; GPT-2's products are turned; experts in one tensor come apart.
A value under the architecture's name that is not understood here is refused by name, as a field of config.json would be.

Sources: llama.cpp's convert_hf_to_gguf.py, and gguf-py's table of tensor names. Read only: quire writes Hugging Face folders.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..binding import gguf
from ..binding.weights import Slot
from ..errors import WeightsError
from .dequantize import KINDS, dequantize
from .gguf_config import Dialect, Values, dialect_for
from .source import Maps

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Place:
    """One tensor of the folder: the bytes that hold it, and what makes of them what the folder would hold."""

    slot: Slot
    changes: tuple[Change, ...] = ()


class Gguf:
    """A `source.Source` over one file."""

    def __init__(self, path: Path) -> None:
        self._maps = Maps([path])
        self.container = gguf.read(path)
        dialect = dialect_for(self.container)
        values = Values(self.container)
        self.places: dict[str, Place] = {}
        for name, slot in self.container.slots.items():
            for known, place in _places(dialect, values, name, slot):
                if known in self.places:
                    raise WeightsError(f"{path}: two tensors are {known}. Fetch the file again.")
                self.places[known] = place
        # shapes as the folder has them; a GGUF file's own are those of the slots in `places`
        self.slots = {name: replace(place.slot, shape=_shape(place)) for name, place in self.places.items()}
        factors = {name: self._numbers(slot) for name, slot in self.container.slots.items() if name.startswith("rope_f")}
        self.config: dict[str, Any] = dialect.config(values, self.slots, factors)
        values.close()
        self._untie()

    def _numbers(self, slot: Slot) -> list[float]:
        """A short list that belongs to the config: divisors of rotary positions."""
        if slot.dtype != "F32" or len(slot.shape) != 1 or slot.shape[0] > 1 << 12:
            raise WeightsError(
                f"{slot.file}: rotary factors have type {slot.dtype} and shape {list(slot.shape)}; allowed is a list in F32."
            )
        found: list[float] = self._maps[slot.file].tensor(slot).tolist()
        return found

    def _untie(self) -> None:
        """A table for the output is a table of its own unless it repeats the embedding to the byte, as GPT-2's writers let it."""
        table, output = (self.container.slots.get(f"{name}.weight") for name in ("token_embd", "output"))
        tied = output is None
        if table is not None and output is not None and self.config["model_type"] == "gpt2":
            data = memoryview(self._maps[table.file].data)  # compared where it lies
            tied = (table.dtype, table.shape) == (output.dtype, output.shape) and (
                data[table.start : table.end] == data[output.start : output.end]
            )
        self.config["tie_word_embeddings"] = tied

    def tensor(self, name: str) -> Tensor:
        place = self.places[name]
        mapped = self._maps[place.slot.file]
        if place.slot.dtype in KINDS:
            raw = np.frombuffer(mapped.data, np.uint8, place.slot.end - place.slot.start, place.slot.start)
            found = torch.from_numpy(dequantize(place.slot.dtype, raw)).reshape(place.slot.shape)
        else:
            found = mapped.tensor(place.slot)
        for change in place.changes:
            found = change(found)
        return found

    def release(self, name: str) -> None:
        slot = self.places[name].slot
        self._maps[slot.file].release(slot)

    def close(self) -> None:
        self._maps.close()


def _shape(place: Place) -> tuple[int, ...]:
    found = torch.empty(place.slot.shape, device="meta")
    for change in place.changes:
        found = change(found)
    return tuple(found.shape)


def _places(dialect: Dialect, values: Values, name: str, slot: Slot) -> list[tuple[str, Place]]:
    """(name in the folder, place) of one tensor of the file; several for experts, none for what belongs to the config."""
    if name.startswith(("rope_freqs.", "rope_factors_")):
        return []
    stem, _, ending = name.rpartition(".")
    match = re.fullmatch(r"blk\.(\d{1,5})\.(\w+)", stem)
    if match is None:
        known = dialect.top.get(stem)
        return [(f"{known}.{ending}" if known else name, Place(slot, _changes(dialect, values, stem, name)))]
    layer, part = match.groups()
    known = dialect.layer.get(part)
    if known is None:
        return [(name, Place(slot))]  # the family's table will name it as left over
    known = f"{dialect.stem}.{layer}.{known}.{ending}"
    if "{e}" not in known:
        return [(known, Place(slot, _changes(dialect, values, part, name)))]
    return [(known.format(e=number), Place(piece)) for number, piece in enumerate(_experts(values, name, slot))]


def _experts(values: Values, name: str, slot: Slot) -> list[Slot]:
    """The parts of a tensor that holds one matrix an expert, one after the other."""
    count = values.integer("expert_count", high=1 << 12)
    if len(slot.shape) != 3 or slot.shape[0] != count:
        raise WeightsError(f"{slot.file}: {name} has shape {list(slot.shape)}; {count} experts have one matrix each. Fetch it again.")
    size = (slot.end - slot.start) // count
    return [replace(slot, shape=slot.shape[1:], start=slot.start + i * size, end=slot.start + (i + 1) * size) for i in range(count)]


def _changes(dialect: Dialect, values: Values, part: str, name: str) -> tuple[Change, ...]:
    if part in dialect.turned and name.endswith(".weight"):
        return (lambda t: t.t() if t.ndim == 2 else t,)
    if dialect.shifted and part.endswith("norm"):
        return (lambda t: t - 1,)
    if dialect.interleaved and part in ("attn_q", "attn_k"):
        heads = values.integer("attention.head_count", high=1 << 12)
        count = heads if part == "attn_q" else values.integer("attention.head_count_kv", heads, high=1 << 12)
        return (lambda t: halves(t, count, name),)
    return ()


def halves(tensor: Tensor, heads: int, name: str) -> Tensor:
    """Rows (head, channel pair, 2) as they turn in pairs -> (head, 2, channel pair), as they turn in halves."""
    if tensor.shape[0] % (2 * heads):
        raise WeightsError(f"{name} has {tensor.shape[0]} rows, which cannot be cut into {heads} heads of pairs. Fetch it again.")
    return tensor.reshape(heads, -1, 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
