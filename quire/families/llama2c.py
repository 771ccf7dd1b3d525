"""Models in llama2.c's own form (its first, which has no name and no version), seen as a Hugging Face folder.

Seven numbers, then every weight of one sort over all layers, in fp32. The rows of q and k lie in pairs, as llama2.c turns them, and are
laid in halves here. The rotary tables in the file must be those that follow from a base of 10,000, which the folder then says instead.
Every size is checked, and their sum compared with the file's, before a byte of weights is read.

Source: https://github.com/karpathy/llama2.c (export.py, legacy_export; run.c, whose epsilon of 1e-5 the file does not hold).
"""

from __future__ import annotations

import struct
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..binding.weights import Slot
from ..errors import WeightsError
from .gguf import Place, halves
from .source import Maps

NUMBERS = ("width", "hidden", "layers", "heads", "kv_heads", "vocab", "context")
LARGEST = {"layers": 1000, "heads": 1 << 12, "kv_heads": 1 << 12}
THETA = 10_000.0
MAGIC = (0x616B3432).to_bytes(4, "little")  # of later forms


class Llama2c:
    """A `source.Source` over one file. Raises WeightsError for a file that is no such model or of a newer form."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._maps = Maps([path])
        sizes = self._sizes()
        width, heads, kv_heads = sizes["width"], sizes["heads"], sizes["kv_heads"]
        tied, vocab = sizes["vocab"] > 0, abs(sizes["vocab"])
        self.config: dict[str, Any] = {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": vocab,
            "hidden_size": width,
            "intermediate_size": sizes["hidden"],
            "num_hidden_layers": sizes["layers"],
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": width // heads,
            "hidden_act": "silu",
            "max_position_embeddings": sizes["context"],
            "rms_norm_eps": 1e-5,
            "rope_theta": THETA,
            "rope_parameters": {"rope_type": "default", "rope_theta": THETA},
            "tie_word_embeddings": tied,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": None,
        }
        self.places = self._laid_out(sizes, vocab, tied)
        self.slots = {name: place.slot for name, place in self.places.items()}
        self._check_turns(sizes["context"], width // heads)

    def _sizes(self) -> dict[str, int]:
        with self.path.open("rb") as file:
            head = file.read(28)
        if head[:4] == MAGIC:
            raise WeightsError(f"{self.path} is of a later form of llama2.c (a version with a magic number). Export it with --version 0.")
        sizes = dict(zip(NUMBERS, struct.unpack("<7i", head))) if len(head) == 28 else {}
        wrong = [name for name, size in sizes.items() if not 1 <= abs(size) <= LARGEST.get(name, 1 << 24) or (size < 0 and name != "vocab")]
        if not sizes or wrong or sizes["width"] % (2 * sizes["heads"]) or sizes["heads"] % sizes["kv_heads"]:
            raise WeightsError(f"{self.path} is no model of llama2.c: its first numbers {sizes} cannot be sizes of one.")
        return sizes

    def _laid_out(self, sizes: dict[str, int], vocab: int, tied: bool) -> dict[str, Place]:
        """Every tensor, in the order of the file. Raises WeightsError when they do not fill it exactly."""
        width, hidden, layers, heads, kv_heads = (sizes[name] for name in NUMBERS[:5])
        narrow = width // heads * kv_heads
        sorts: list[tuple[str, tuple[int, ...], int]] = [
            ("input_layernorm", (width,), 0),
            ("self_attn.q_proj", (width, width), heads),
            ("self_attn.k_proj", (narrow, width), kv_heads),
            ("self_attn.v_proj", (narrow, width), 0),
            ("self_attn.o_proj", (width, width), 0),
            ("post_attention_layernorm", (width,), 0),
            ("mlp.gate_proj", (hidden, width), 0),
            ("mlp.down_proj", (width, hidden), 0),
            ("mlp.up_proj", (hidden, width), 0),
        ]
        places: dict[str, Place] = {}
        at = 28

        def put(name: str, shape: tuple[int, ...], turned: int = 0) -> None:
            nonlocal at
            slot = Slot(self.path, "F32", shape, at, at + 4 * prod(shape))
            places[name] = Place(slot, (lambda t: halves(t, turned, name),) if turned else ())
            at = slot.end

        put("model.embed_tokens.weight", (vocab, width))
        for sort, shape, turned in sorts:
            for layer in range(layers):
                put(f"model.layers.{layer}.{sort}.weight", shape, turned)
        put("model.norm.weight", (width,))
        self._turns = at
        at += 4 * sizes["context"] * (width // heads)  # two tables of half as many columns
        if not tied:
            put("lm_head.weight", (vocab, width))
        size = self.path.stat().st_size
        if at != size:
            raise WeightsError(f"{self.path} has {size} bytes, but a model of its sizes has {at}: it was cut short, or is something else.")
        return places

    def _check_turns(self, context: int, channels: int) -> None:
        table = Slot(self.path, "F32", (2, context, channels // 2), self._turns, self._turns + 4 * context * channels)
        angles = torch.arange(context)[:, None] * THETA ** -(torch.arange(0, channels, 2) / channels)
        if not torch.allclose(self._maps[self.path].tensor(table), torch.stack([angles.cos(), angles.sin()]), atol=1e-3):
            raise WeightsError(f"{self.path}: its rotary tables do not follow from a base of {THETA:g}, and no other is read.")

    def tensor(self, name: str) -> Tensor:
        place = self.places[name]
        found = self._maps[self.path].tensor(place.slot)
        for change in place.changes:
            found = change(found)
        return found

    def release(self, name: str) -> None:
        self._maps[self.path].release(self.places[name].slot)

    def close(self) -> None:
        self._maps.close()
