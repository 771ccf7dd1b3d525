"""A step of Muon over a decoder's hidden matrices: torch's optimizer, and Newton-Schulz over stacks of matrices of one shape.

Widths 128 and 192 are of the quickstart's order, 384 is the 10.7M-parameter GPT. The stacked form is the one that a library of our own
would have: fewer calls for small matrices. It is here to show what it would gain.
"""

from __future__ import annotations

import datetime

import torch
from torch import Tensor

from benchmarks.paired import interleaved, table
from quire import machine

SHAPES = ((128, 352, 4), (192, 512, 6), (384, 1536, 6))  # width, feed-forward width, layers
A, B, C = 3.4445, -4.7750, 2.0315  # Jordan et al. 2024


def orthogonal(stack: Tensor, dtype: torch.dtype) -> Tensor:
    """Newton-Schulz over matrices (N, rows, columns) at once."""
    x = stack.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x.mT if tall else x


class Stacked:
    def __init__(self, parameters: list[Tensor], dtype: torch.dtype) -> None:
        shapes = sorted({tuple(parameter.shape) for parameter in parameters})
        self.groups = [[parameter for parameter in parameters if tuple(parameter.shape) == shape] for shape in shapes]
        self.momenta = [torch.zeros(len(group), *group[0].shape) for group in self.groups]
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:
        for group, momentum in zip(self.groups, self.momenta, strict=True):
            gradients = torch.stack([parameter.grad for parameter in group if parameter.grad is not None])
            momentum.lerp_(gradients, 0.05)
            update = orthogonal(gradients.lerp_(momentum, 0.95), self.dtype)
            rate = 0.02 * max(1.0, update.shape[-2] / update.shape[-1]) ** 0.5
            torch._foreach_mul_(group, 0.999)
            torch._foreach_add_(group, list(update.float().unbind()), alpha=-rate)


def main() -> None:
    torch.set_num_threads(machine.threads())
    print(f"{datetime.date.today()}, {machine.processor()}, {machine.threads()} threads, torch {torch.__version__}")
    for width, wide, layers in SHAPES:
        draw = torch.Generator().manual_seed(0)
        shapes = ([(width, width)] * 4 + [(wide, width)] * 2 + [(width, wide)]) * layers
        parameters = [torch.nn.Parameter(torch.randn(shape, generator=draw)) for shape in shapes]
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        tensors: list[Tensor] = list(parameters)
        ways = {
            "torch.optim.Muon (bf16)": torch.optim.Muon(parameters, lr=0.02).step,
            "stacked, bf16": Stacked(tensors, torch.bfloat16).step,
            "stacked, fp32": Stacked(tensors, torch.float32).step,
        }
        print(f"\n{len(parameters)} matrices, width {width}")
        print(table(interleaved(ways)))


if __name__ == "__main__":
    main()
