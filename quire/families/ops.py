"""How a tensor on disk becomes parameters of ours, and back: pairs of small functions, one the inverse of the other.

torch is loaded only when an operation runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Op:
    """One invertible step. load(theirs, our shapes) -> ours; save(ours) -> theirs."""

    name: str
    load: Callable[[Tensor, Sequence[tuple[int, ...]]], list[Tensor]]
    save: Callable[[list[Tensor]], Tensor]


def _turned(tensor: Tensor) -> Tensor:
    return tensor.t() if tensor.ndim == 2 else tensor


def _cut(tensor: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    import torch

    return list(torch.split(tensor, [shape[0] for shape in shapes]))


def _joined(parts: list[Tensor]) -> Tensor:
    import torch

    return torch.cat(parts)


COPY = Op("copy", lambda t, shapes: [t], lambda parts: parts[0])
TRANSPOSE = Op("transpose", lambda t, shapes: [_turned(t)], lambda parts: _turned(parts[0]))
SPLIT = Op("split", _cut, _joined)
SPLIT_TRANSPOSED = Op("split, transposed", lambda t, shapes: _cut(_turned(t), shapes), lambda parts: _turned(_joined(parts)))


def per_head(heads: int) -> Op:
    """Fused q, k and v that lie side by side within each head: (H * 3 * C, ..) <-> three of (H * C, ..) (GPT-NeoX, BLOOM)."""

    def load(tensor: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        parts = tensor.reshape(heads, len(shapes), -1, *tensor.shape[1:])
        return [parts[:, i].reshape(shape) for i, shape in enumerate(shapes)]

    def save(parts: list[Tensor]) -> Tensor:
        import torch

        return torch.stack([part.reshape(heads, -1, *part.shape[1:]) for part in parts], 1).flatten(0, 2)

    return Op("split within heads", load, save)


def _stacked(parts: list[Tensor]) -> Tensor:
    import torch

    return torch.stack(parts)


def _halves(parts: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    return parts[: len(parts) // 2], parts[len(parts) // 2 :]


def _gates_and_ups(tensor: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    return [*tensor[:, : shapes[0][0]], *tensor[:, shapes[0][0] :]]


# experts in one tensor: (E, ..), and (E, 2 H, D) of every expert's gate above its up
STACK = Op("stack", lambda t, shapes: list(t), _stacked)
STACK_PAIRS = Op("stack pairs", _gates_and_ups, lambda parts: _stacked([_joined([*pair]) for pair in zip(*_halves(parts), strict=True)]))
