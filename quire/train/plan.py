"""The plan of a run before it starts: parameters and memory by part, tokens, steps and time.

Activations are not guessed from a formula: the model's own layers run forward on one row and on two, and the bytes that autograd keeps for
the backward pass are added up. That takes a moment for any size of model and batch, and follows every family, number type and checkpointing
by itself. The logits, the program itself and the layer that is being recomputed are added by hand.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import machine
from ..adapt.nf4 import NF4Linear
from ..nn.batch import Batch
from ..nn.config import LMHead, MLMHead, ModelConfig, Stack
from ..nn.transformer import Transformer
from ..progress import many
from .conflicts import refuse_no_rate
from .optimizer import kinds
from .parallel import TORCH, Compute
from .recipe import TrainRecipe

_KERNELS = 128 << 20  # code and scratch that torch loads when it first computes, as measured
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
class Setting:
    """What a plan needs to know beside recipe and model: where it computes, rows of logits at a time, bytes of the program itself, and
    tokens of a row."""

    compute: Compute
    chunk: int
    program: int
    length: int


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
        full = self.tokens == self.steps * self.batch * self.context
        rows = f"{self.batch} x {self.context} tokens" if full else f"{many(self.batch, 'row')} of at most {self.context} tokens"
        return [
            f"parameters  {self.parameters:,} ({parts})",
            f"memory      {self.memory_mb['total']:,} MB ({memory})",
            f"work        {many(self.steps, 'step')} of {rows}: {self.tokens:,} tokens{epochs}{time}",
            f"compute     {self.device}, {self.dtype}, {many(self.threads, 'thread')}{compiled}",
            *self.notes,
        ]


def draw_up(recipe: TrainRecipe, model: Transformer, measured: Calibration, setting: Setting, tokens_a_step: int, epoch: float) -> Plan:
    """The plan of a recipe once its steps are known. `epoch`: tokens of one pass over the data. Raises RecipeError where no step learns."""
    refuse_no_rate(recipe.optim, measured.steps)
    part, tokens, compute = recipe.train, measured.steps * tokens_a_step, setting.compute
    memory, notes = estimate_memory(model, recipe, setting), [measured.note] if measured.note else []
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
        context=setting.length,
        loss_chunk=setting.chunk,
        dtype=compute.dtype,
        device=str(compute.device),
        threads=compute.threads,
        compile=measured.compile,
        notes=notes,
    )


def program_memory(compute: Compute, weights: int = 0, least: int = 0) -> int:
    """Bytes that are in use beside the model's `weights`, with what torch's kernels load when they first run. 0 for a GPU.

    least: what was in use before there was a model. Weights in a mapped file that nobody has read yet are not in use.
    """
    return max(machine.used_memory() - weights, least) + _KERNELS if compute.device.type == "cpu" else 0


def loss_chunk(recipe: TrainRecipe, vocab: int, length: int) -> int:
    """Rows of logits at a time: the recipe's, or 0 (all at once) while they are small."""
    if recipe.train.loss_chunk:
        return recipe.train.loss_chunk
    rows = (recipe.train.micro_batch or recipe.train.batch) * length
    return 0 if rows * vocab <= _CHUNK_NUMBERS else max(64, _CHUNK_NUMBERS // vocab)


def parameters_by_part(model: Transformer) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        words = name.split(".")
        part = next((_PART[word] for word in words if word in _PART), "norms")
        found[part] = found.get(part, 0) + parameter.numel()
    return found


def estimate_memory(model: Transformer, recipe: TrainRecipe, setting: Setting) -> dict[str, int]:
    """MB by part at the fullest moment of a step; `total` is their sum with the program's own memory."""
    part, compute = recipe.train, setting.compute
    rows, length, config = part.micro_batch or part.batch, setting.length, model.config
    rows = max(1, min(rows, part.micro_tokens // length)) if part.micro_tokens else rows
    muon, of_kind = recipe.optim.name == "muon", kinds(model)
    hidden = sum(p.numel() for name, p in model.named_parameters() if muon and of_kind.get(name) == "hidden")
    learned = 4 * sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    whole = all(parameter.requires_grad for parameter in model.parameters())
    kept = kept_bytes(config, rows, length, compute, part.checkpointing) if whole else _adapted_bytes(model, rows, length, compute)
    parts = {
        "program": setting.program,
        "weights": weights_bytes(model),
        "gradients": learned,
        "optimizer": 2 * learned - 4 * hidden,
        "activations": kept + logits_bytes(config, rows * length, setting, model.embed.weight.requires_grad),
    }
    megabytes = {name: round(size / 2**20) for name, size in parts.items()}
    return {**megabytes, "total": sum(megabytes.values())}


def weights_bytes(model: Transformer) -> int:
    """Parameters and what they are packed into, each as it is held."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))


def _adapted_bytes(model: Transformer, rows: int, length: int, compute: Compute) -> float:
    """The same as `kept_bytes` of a model that is trained in part, whose layers differ in what they keep: itself, on one row and on two."""
    one = _saved(model, 1, length, compute)
    kept = one + (rows - 1) * (_saved(model, 2, length, compute) - one if rows > 1 else 0)
    # A packed matrix is unpacked for its product: both numbers of a byte in fp32, the byte's place in the table, and the result.
    packed = [module for module in model.modules() if isinstance(module, NF4Linear)]
    return kept + max((8 * module.in_features * module.out_features for module in packed), default=0)


def kept_bytes(config: ModelConfig, rows: int, length: int, compute: Compute, checkpointing: bool) -> float:
    """Bytes that a forward of the stacks leaves behind for its backward, the casts of the weights among them.

    Measured with one layer a stack, and with each kind of layer once more beside it; the rest follows by adding up.
    """
    config = dataclasses.replace(config, vocab=min(config.vocab, 256))
    stacks = {name: stack for name, stack in (("encoder", config.encoder), ("decoder", config.decoder)) if stack is not None}
    ones = {name: dataclasses.replace(stack, layers=stack.layers[:1]) for name, stack in stacks.items()}

    def saved(checkpointing: bool, **changed: Stack) -> float:
        parts = {**ones, **changed}
        with torch.device("meta"):
            model = Transformer(dataclasses.replace(config, encoder=parts.get("encoder"), decoder=parts.get("decoder")))
        model.to_empty(device="cpu")  # the numbers do not matter, the shapes do
        model.checkpointing = checkpointing
        one, two = (_saved(model, count, length, compute) for count in (1, 2))
        return one + (rows - 1) * (two - one)

    base = saved(checkpointing)
    total = base
    for name, stack in stacks.items():
        for layer, count in Counter(stack.layers[1:]).items():
            total += count * (saved(checkpointing, **{name: dataclasses.replace(stack, layers=(stack.layers[0], layer))}) - base)
    return total + (saved(False) - base if checkpointing else 0)  # and the one layer that is being computed again


def _saved(model: Transformer, rows: int, length: int, compute: Compute) -> int:
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    training, device = model.training, model.embed.weight.device
    tokens = torch.zeros(rows, length, dtype=torch.long, device=device)
    batch = Batch(tokens, source=Batch(tokens) if model.config.kind == "seq2seq" else None)
    cast = torch.autocast(device.type, TORCH[compute.dtype]) if compute.dtype != "fp32" else nullcontext()
    with torch.random.fork_rng([]), _counting(own) as seen, cast:
        model.train()(batch)
    model.train(training)
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


def logits_bytes(config: ModelConfig, rows: int, setting: Setting, learned: bool = True) -> int:
    """Logits at the moment when most of their copies are there. learned: the table has a gradient of its own."""
    if not isinstance(config.head, LMHead | MLMHead):
        return 0
    table, chunk = config.vocab * config.width, setting.chunk
    if 0 < chunk < rows:  # logits, softmax and its cast, and the table's gradient that is being added up beside its own product
        return 10 * chunk * config.vocab + (8 * table if learned else 0) + 4 * rows * config.width
    share = 0.15 if config.kind == "encoder" else 1.0  # masked tokens alone have logits
    return int(share * rows * config.vocab * (12 if setting.compute.dtype == "fp32" else 14))
