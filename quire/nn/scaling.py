"""How fast each pair of channels turns: plain rotary frequencies, and the five ways in use to stretch them to longer texts.

Each way is a record of `config`; a family has already turned its config.json into plain numbers. All arithmetic is in fp32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .config import Dynamic, Linear, Llama3, LongRope, Rope, Yarn


def frequencies(rope: Rope, channels: int, length: int, device: torch.device | str = "cpu") -> tuple[Tensor, float]:
    """(radians a position (channels / 2,), factor on cos and sin) for a text of `length` tokens, what is cached included."""
    scaling, theta = rope.scaling, rope.theta
    if isinstance(scaling, Dynamic):
        stretch = scaling.factor * max(length, scaling.original) / scaling.original - (scaling.factor - 1)
        theta *= stretch ** (channels / (channels - 2))
    plain = 1.0 / theta ** (torch.arange(0, channels, 2, dtype=torch.float32, device=device) / channels)
    if isinstance(scaling, Linear):
        return plain / scaling.factor, 1.0
    if isinstance(scaling, Llama3):
        return _llama3(scaling, plain), 1.0
    if isinstance(scaling, Yarn):
        return _yarn(scaling, plain, theta, channels), scaling.attention
    if isinstance(scaling, LongRope):
        divisors = scaling.long if length > scaling.original else scaling.short
        return plain / torch.tensor(divisors, dtype=torch.float32, device=device), scaling.attention
    return plain, 1.0


def regime(rope: Rope, length: int) -> int:
    """Texts of equal regime share their frequencies, so one table serves them all."""
    if isinstance(rope.scaling, Dynamic):
        return max(length, rope.scaling.original)
    return int(isinstance(rope.scaling, LongRope) and length > rope.scaling.original)


def _llama3(scaling: Llama3, plain: Tensor) -> Tensor:
    wavelength = 2 * math.pi / plain
    kept = ((scaling.original / wavelength - scaling.low) / (scaling.high - scaling.low)).clamp(0, 1)
    return (1 - kept) * plain / scaling.factor + kept * plain


def _yarn(scaling: Yarn, plain: Tensor, theta: float, channels: int) -> Tensor:
    def channel(turns: float) -> float:
        """The channel that turns so often within the original positions."""
        return channels * math.log(scaling.original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = channel(scaling.fast), channel(scaling.slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, channels - 1)
    high = high + 0.001 if low == high else high
    divided = ((torch.arange(len(plain), dtype=torch.float32, device=plain.device) - low) / (high - low)).clamp(0, 1)
    return plain / scaling.factor * divided + plain * (1 - divided)
