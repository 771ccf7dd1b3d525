"""The plan of a run before it starts: parameters and memory by part, tokens, steps and time.

Activations are not guessed from a formula: one forward of the real model runs on tensors without storage (torch's FakeTensorMode), and the
bytes that autograd would keep for the backward pass are added up. It costs no memory and well under a second, and follows every family,
number type and checkpointing by itself. The logits, the program itself and the layer that is being recomputed are added by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from .. import machine
from ..nn.batch import Batch
from ..nn.config import ModelConfig
from ..nn.transformer import Transformer
from .optimizer import kinds
from .parallel import TORCH, Compute, blocks
from .recipe import TrainRecipe

_CHUNK_NUMBERS = 1 << 24  # logits held at once when the loss is made in chunks: 64 MB in fp32
_EMBEDDING, _ATTENTION = dict.fromkeys(("embed", "positions", "types"), "embedding"), dict.fromkeys(("attn", "cross"), "attention")
_PART = {**_EMBEDDING, **_ATTENTION, "head": "head", "ffn": "feed forward"}


@dataclass(frozen=True)
class Calibration:
    """What was measured: `seconds` a step (0 where nothing had to be), whether layers are compiled, steps, steps between evaluations."""

    seconds: float
    compile: bool
    steps: int
    note: str = ""
    eval_every: int = 0


@dataclass(frozen=True)
class Plan:
    """Everything is per run; memory in MB of 2**20 bytes. `minutes` and `tokens_per_s` are None until something was timed."""

    parameters: int
    parameters_by_part: dict[str, int]
    memory_mb: dict[str, int]
    steps: int
    tokens: int
    epochs: float | None
    minutes: float | None
    tokens_per_s: float | None
    batch: int
    micro_batch: int
    context: int
    loss_chunk: int
    dtype: str
    device: str
    threads: int
    compile: bool
    notes: list[str] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """For the terminal."""
        parts = ", ".join(f"{name} {count:,}" for name, count in self.parameters_by_part.items())
        memory = ", ".join(f"{name} {size:,}" for name, size in self.memory_mb.items() if name != "total")
        time = "" if self.minutes is None else f", about {self.minutes:.1f} minutes at {self.tokens_per_s:,.0f} tokens/s"
        epochs = "" if self.epochs is None else f" ({self.epochs:.2f} epochs)"
        compiled = ", compiled" if self.compile else ""
        return [
            f"parameters  {self.parameters:,} ({parts})",
            f"memory      {self.memory_mb['total']:,} MB ({memory})",
            f"work        {self.steps:,} steps of {self.batch} x {self.context} tokens: {self.tokens:,} tokens{epochs}{time}",
            f"compute     {self.device}, {self.dtype}, {self.threads} threads{compiled}",
            *self.notes,
        ]


def draw_up(
    recipe: TrainRecipe, model: Transformer, measured: Calibration, compute: Compute, chunk: int, tokens_a_step: int, epoch: float
) -> Plan:
    """The plan of a recipe once its steps are known. `epoch`: tokens of one pass over the data."""
    part, tokens = recipe.train, measured.steps * tokens_a_step
    memory, notes = estimate_memory(model.config, recipe, compute, chunk), [measured.note] if measured.note else []
    has = machine.memory()[0] // 2**20
    if compute.device.type == "cpu" and 0 < has < memory["total"]:
        notes.append(f"this machine has {has:,} MB: lower train.micro_batch, or set train.checkpointing")
    seconds = measured.seconds
    return Plan(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        parameters_by_part=parameters_by_part(model),
        memory_mb=memory,
        steps=measured.steps,
        tokens=tokens,
        epochs=round(tokens / epoch, 4) if epoch else None,
        minutes=part.minutes or (round(measured.steps * seconds / 60, 3) if seconds else None),
        tokens_per_s=round(tokens_a_step / seconds, 1) if seconds else None,
        batch=part.batch,
        micro_batch=part.micro_batch or part.batch,
        context=recipe.model.context,
        loss_chunk=chunk,
        dtype=compute.dtype,
        device=str(compute.device),
        threads=compute.threads,
        compile=measured.compile,
        notes=notes,
    )


def loss_chunk(recipe: TrainRecipe, vocab: int) -> int:
    """Rows of logits at a time: the recipe's, or 0 (all at once) while they are small."""
    if recipe.train.loss_chunk:
        return recipe.train.loss_chunk
    rows = (recipe.train.micro_batch or recipe.train.batch) * recipe.model.context
    return 0 if rows * vocab <= _CHUNK_NUMBERS else max(64, _CHUNK_NUMBERS // vocab)


def parameters_by_part(model: Transformer) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        words = name.split(".")
        part = next((_PART[word] for word in words if word in _PART), "norms")
        found[part] = found.get(part, 0) + parameter.numel()
    return found


def estimate_memory(config: ModelConfig, recipe: TrainRecipe, compute: Compute, chunk: int) -> dict[str, int]:
    """MB by part at the fullest moment of a step; `total` is their sum with the program's own memory."""
    part = recipe.train
    rows, length = part.micro_batch or part.batch, recipe.model.context
    with FakeTensorMode():
        model = Transformer(config)
        numbers = sum(parameter.numel() for parameter in model.parameters())
        kept = _kept(model, rows, length, compute, part.checkpointing)
        muon, of_kind = recipe.optim.name == "muon", kinds(model)
        hidden = sum(p.numel() for name, p in model.named_parameters() if muon and of_kind[name] == "hidden")
    weights, logits = 4 * numbers, _logits_bytes(config, rows * length, chunk, compute)
    parts = {
        "program": machine.used_memory() if compute.device.type == "cpu" else 0,
        "weights": weights,
        "gradients": weights,
        "optimizer": 2 * weights - 4 * hidden,
        "activations": kept + logits,
    }
    megabytes = {name: round(size / 2**20) for name, size in parts.items()}
    return {**megabytes, "total": sum(megabytes.values())}


def _kept(model: Transformer, rows: int, length: int, compute: Compute, checkpointing: bool) -> int:
    """Bytes that a forward of the stacks leaves behind for its backward, the weights' casts among them."""
    whole = _saved(model.train(), rows, length, compute)
    if not checkpointing:
        return whole
    model.checkpointing = True
    layers = len(blocks(model))
    return _saved(model, rows, length, compute) + whole // layers  # and the layer whose activations are there again


def _saved(model: Transformer, rows: int, length: int, compute: Compute) -> int:
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    tokens = torch.zeros(rows, length, dtype=torch.long)
    batch = Batch(tokens, source=Batch(tokens) if model.config.kind == "seq2seq" else None)
    cast = torch.autocast("cpu", TORCH[compute.dtype]) if compute.dtype != "fp32" else nullcontext()
    with _counting(own) as seen, cast:
        model(batch)
    return sum(size for size, _ in seen.values())


@contextmanager
def _counting(own: set[int]) -> Iterator[dict[int, tuple[int, Any]]]:
    """Collects the storages that autograd saves inside, each once, without those of `own`."""
    seen: dict[int, tuple[int, Any]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            seen[storage._cdata] = storage.nbytes(), storage  # held, so that no other storage gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield seen


def _logits_bytes(config: ModelConfig, rows: int, chunk: int, compute: Compute) -> int:
    """Logits at the moment when most of their copies are there."""
    table = config.vocab * config.width
    if chunk:  # logits, softmax and its cast, and the table's gradient that is being added up beside its own product
        return 10 * chunk * config.vocab + 8 * table + 4 * rows * config.width
    share = 0.15 if config.kind == "encoder" else 1.0  # masked tokens alone have logits
    return int(share * rows * config.vocab * (12 if compute.dtype == "fp32" else 14))
