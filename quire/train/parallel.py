"""Where and in which numbers a step is computed: device, threads, autocast, loss scaling for fp16, and the norm of all gradients.

bf16 runs where the processor or GPU multiplies it in hardware (weights stay in fp32, autocast casts); fp16 is for older GPUs and needs its
loss scaled up so that small gradients survive (Micikevicius et al. 2018). One number a step travels from the device to the host: the loss
and the gradient norm together, because the decision to skip a step needs both.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import machine
from ..errors import RecipeError
from ..machine import DType
from ..nn.transformer import Transformer
from .recipe import TrainPart

TORCH: dict[DType, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """The device, the number type that products are made in, and the threads."""

    device: torch.device
    dtype: DType
    threads: int

    def autocast(self) -> AbstractContextManager[Any]:
        if self.dtype == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, TORCH[self.dtype])

    def seed(self, seed: int) -> None:
        """Seeds the generators that dropout draws from. Not `torch.manual_seed`: without a GPU it queues a call for one each time."""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        elif self.device.type == "mps":
            torch.mps.manual_seed(seed)

    def peak_memory(self) -> int:
        """The most bytes that have been in use so far, where the model is."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else machine.peak_memory()


def compute(part: TrainPart) -> Compute:
    """Settles device, number type and threads from the recipe and the machine, and sets torch's threads.

    Raises RecipeError for a device that is not here and for fp16 on a CPU, which has no hardware for it.
    """
    device = machine.device(part.device)
    dtype = machine.good_dtype(device) if part.dtype == "auto" else part.dtype
    if dtype == "fp16" and device.type == "cpu":
        raise RecipeError("train.dtype = 'fp16' is for GPUs; on a CPU use auto, bf16 or fp32")
    threads = part.threads or machine.threads()
    torch.set_num_threads(threads)
    if device.type == "cuda":
        # The same command gives the same weights only with kernels that add in a fixed order.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    return Compute(device, dtype, threads)


class LossScale:
    """fp16's loss scale: halved when a gradient overflows, doubled after `patience` steps without. 1 and constant for other types."""

    def __init__(self, dtype: DType, patience: int = 2000) -> None:
        self.moving = dtype == "fp16"
        self.value = 65536.0 if self.moving else 1.0
        self.patience, self.good = patience, 0

    def overflowed(self) -> bool:
        """Takes note of a gradient that is not finite. True when a smaller scale may cure it: no fault of the model's."""
        if not self.moving or self.value <= 1.0:
            return False
        self.value, self.good = self.value / 2, 0
        return True

    def went_well(self) -> None:
        self.good += 1
        if self.moving and self.good >= self.patience:
            self.value, self.good = self.value * 2, 0

    def state(self) -> dict[str, float]:
        return {"value": self.value, "good": self.good}

    def load_state(self, state: dict[str, float]) -> None:
        self.value, self.good = float(state["value"]), int(state["good"])


def global_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The 2-norm of all gradients as one vector, on their device."""
    if not gradients:
        return torch.zeros(())
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(gradients))))
    return norm


def scale_all(gradients: Sequence[Tensor], factor: float) -> None:
    """gradients *= factor, in place; nothing is touched for a factor of 1."""
    if factor != 1.0 and gradients:
        torch._foreach_mul_(list(gradients), factor)


def blocks(model: Transformer) -> list[nn.Module]:
    """Every layer of every stack."""
    return [block for stack in (model.encoder, model.decoder) if stack is not None for block in stack.layers]


def compile_layers(model: Transformer) -> None:
    """Compiles each layer in place: equal layers share one graph, so it costs one layer's compilation, and parameters keep their names."""
    for block in blocks(model):
        block.compile()


def plain_layers(model: Transformer) -> None:
    """Takes `compile_layers` back."""
    for block in blocks(model):
        block._compiled_call_impl = None
    torch.compiler.reset()


def can_compile(device: torch.device) -> bool:
    """On a CPU torch.compile needs a C++ compiler."""
    return device.type == "cuda" or any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++") if name)
