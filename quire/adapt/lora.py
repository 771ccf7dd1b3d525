"""LoRA (Hu et al. 2021): a frozen matrix W computes as W + scale * B A, where B (out, r) and A (r, in) alone are trained.

scale is alpha / r, or alpha / sqrt(r) where it is rank-stabilised (Kalajdzievski 2023). DoRA (Liu et al. 2024) also trains the length of
every row of the sum: m * (W + scale * B A) / |W + scale * B A|, the length below the line taken as a constant in the backward pass.

What is adapted is wrapped, never changed: the base stays where it lies, in a mapped file or packed as NF4. Each wrapper holds several
adapters by name and computes with the active one; its leaves are of types that no fused step knows, so none of them passes it over.

Shapes: r the rank, in and out of a matrix; an embedding's table (V, D) counts as the matrix (D, V) that reads one token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import RecipeError
from ..nn.products import Linear
from .nf4 import NF4Linear

MAX_RANK = 1 << 14


@dataclass(frozen=True)
class LoRA:
    """How a model is adapted.

    targets: names or patterns (`*`, `?`) of linears, in Quire's words ("attn.q", "decoder.layers.0.*") or those of the folder ("q_proj");
    "all-linear" is every linear outside the head, and in models with experts outside the feed-forward parts; "embed" the token embedding.
    whole: linears that are trained whole beside, each adapter its own copy; None: of a label head what PEFT trains, its classifier, and
    what the base's file does not hold.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("all-linear",)
    stabilised: bool = False
    dora: bool = False
    whole: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= MAX_RANK:
            raise RecipeError(f"rank is {self.rank}; allowed is 1 to {MAX_RANK}.")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise RecipeError(f"alpha is {self.alpha}; allowed is a number above 0.")
        if not 0.0 <= self.dropout < 1.0:
            raise RecipeError(f"dropout is {self.dropout}; allowed is 0 up to, not including, 1.")
        if isinstance(self.targets, str) or not self.targets:
            raise RecipeError(f'targets is {self.targets!r}; allowed is a tuple of names, such as ("all-linear",) or ("attn.q", "attn.v").')

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.stabilised else self.rank)


def matrix(base: nn.Module) -> Tensor:
    """The weight (out, in) of what is adapted."""
    if isinstance(base, NF4Linear):
        return base.unpacked()
    weight = cast(Tensor, base.weight)
    return weight.t() if isinstance(base, nn.Embedding) else weight


def size(base: nn.Module) -> tuple[int, int]:
    """(out, in) of that weight, without unpacking it."""
    if isinstance(base, nn.Embedding):
        return base.embedding_dim, base.num_embeddings
    linear = cast(nn.Linear, base)
    return linear.out_features, linear.in_features


class LowRank(nn.Module):
    """One adapter of one matrix: A, B and, with DoRA, the lengths m (out,). Parts that are fused on disk share one A."""

    def __init__(self, spec: LoRA, base: nn.Module, a: nn.Parameter) -> None:
        super().__init__()
        self.spec, self.scale, self.dropout = spec, spec.scale, spec.dropout
        self.a = a
        self.b = nn.Parameter(torch.zeros(size(base)[0], a.shape[0], device=a.device))
        self.magnitude = nn.Parameter(lengths(matrix(base))) if spec.dora else None

    @torch.no_grad()
    def factor(self, base: nn.Module) -> Tensor:
        """1 / |W + scale * B A| of each row (out,), in fp32.

        |W + s BA|^2 = |W|^2 + 2 s (W A') . B + s^2 (B A A') . B, so the sum is never made: products with r columns are enough.
        """
        weight, a, b = matrix(base).float(), self.a.float(), self.b.float()
        square = weight.square().sum(1)
        square += 2 * self.scale * ((weight @ a.t()) * b).sum(1)
        square += self.scale**2 * ((b @ (a @ a.t())) * b).sum(1)
        return square.clamp_(min=torch.finfo(torch.float32).tiny).rsqrt_()

    def update(self, x: Tensor) -> Tensor:
        """scale * B A x for x (.., in)."""
        if x.dtype != self.a.dtype and not torch.is_autocast_enabled(x.device.type):
            x = x.to(self.a.dtype)
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        return F.linear(F.linear(x, self.a), self.b) * self.scale

    def forward(self, y: Tensor, update: Tensor, base: nn.Module) -> Tensor:
        """What the base made, y (.., out), with the update."""
        if self.magnitude is None:
            return (y + update).to(y.dtype)
        bias = getattr(base, "bias", None)
        plain = y if bias is None else y - bias
        out = (self.magnitude * self.factor(base)) * (plain + update)
        return (out if bias is None else out + bias).to(y.dtype)

    @torch.no_grad()
    def merged(self, base: nn.Module) -> Tensor:
        """The matrix (out, in) that computes the same alone; summed in fp32, in the dtype of the base."""
        weight = matrix(base)
        total = weight.float() + self.scale * (self.b.float() @ self.a.float())
        if self.magnitude is not None:
            total *= (self.magnitude * self.factor(base))[:, None]
        return total.to(weight.dtype)


def lengths(weight: Tensor) -> Tensor:
    """The length of every row of a matrix (out, in), in fp32."""
    return cast(Tensor, torch.linalg.vector_norm(weight.detach(), dim=1, dtype=torch.float32))


class Wrapper(nn.Module):
    """A base, adapters by name, and which of them computes; None: the base alone."""

    base: nn.Module
    adapters: nn.ModuleDict

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base, self.adapters = base, nn.ModuleDict()
        self.active: str | None = None

    def merged(self) -> nn.Module:
        """A module of the base's kind that computes what this one does, without adapters."""
        raise NotImplementedError


class AdaptedLinear(Wrapper):
    """x (.., in) -> base(x) and the active adapter's update (.., out)."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        if self.active is None:
            return y
        part = cast(LowRank, self.adapters[self.active])
        return cast(Tensor, part(y, part.update(x), self.base))

    def merged(self) -> nn.Module:
        if self.active is None:
            return self.base
        bias = cast(Tensor | None, self.base.bias)
        weight = cast(LowRank, self.adapters[self.active]).merged(self.base)
        with torch.device("meta"):
            linear = Linear(weight.shape[1], weight.shape[0], bias is not None)
        linear.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
        return linear.train(self.training)


class AdaptedEmbedding(Wrapper):
    """tokens (B, T) -> (B, T, D). A head that is tied to the table goes on reading the base's, as in PEFT."""

    @property
    def weight(self) -> Tensor:
        """The base's table: for its dtype, device and size."""
        return cast(nn.Embedding, self.base).weight

    def forward(self, tokens: Tensor) -> Tensor:
        y: Tensor = self.base(tokens)
        if self.active is None:
            return y
        part = cast(LowRank, self.adapters[self.active])
        update = F.linear(F.embedding(tokens, part.a.t()), part.b) * part.scale  # as W x, for an x that is one token
        return cast(Tensor, part(y, update, self.base))

    def merged(self) -> nn.Module:
        if self.active is None:
            return self.base
        table = cast(LowRank, self.adapters[self.active]).merged(self.base).t().contiguous()
        return cast(nn.Module, nn.Embedding.from_pretrained(table, freeze=True).train(self.training))


class WholeLinear(Wrapper):
    """A linear that each adapter trains whole, in a copy of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, (self.base if self.active is None else self.adapters[self.active])(x))

    def add(self, name: str) -> None:
        base = cast(nn.Linear, self.base)
        with torch.device("meta"):
            copy = WholeCopy(base.in_features, base.out_features, base.bias is not None)
        copy.weight = nn.Parameter(base.weight.detach().float().clone())
        if base.bias is not None:
            copy.bias = nn.Parameter(base.bias.detach().float().clone())
        self.adapters[name] = copy

    def merged(self) -> nn.Module:
        if self.active is None:
            return self.base
        base, copy = cast(nn.Linear, self.base), cast(nn.Linear, self.adapters[self.active])
        with torch.device("meta"):
            linear = Linear(base.in_features, base.out_features, base.bias is not None)
        linear.weight = nn.Parameter(copy.weight.detach().to(base.weight.dtype), requires_grad=False)
        if base.bias is not None:
            linear.bias = nn.Parameter(copy.bias.detach().to(base.bias.dtype), requires_grad=False)
        return linear.train(self.training)


class WholeCopy(nn.Linear):
    """A copy in fp32, whatever the base's dtype; a type of its own, so that no fused step takes the base for it."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            return F.linear(x, self.weight, self.bias)
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias).to(x.dtype)


def first_a(spec: LoRA, base: nn.Module, generator: torch.Generator) -> nn.Parameter:
    """The first A (r, in), drawn as the paper's code does; of an embedding it is zero, and B is drawn (`draw_b`)."""
    a = torch.zeros(spec.rank, size(base)[1])
    if not isinstance(base, nn.Embedding):
        a.uniform_(-1.0, 1.0, generator=generator).div_(math.sqrt(a.shape[1]))  # Kaiming's bound with a = sqrt(5)
    held = next(tensor for tensor in (*base.parameters(), *base.buffers()))
    return nn.Parameter(a.to(held.device))


@torch.no_grad()
def draw_b(part: LowRank, generator: torch.Generator) -> None:
    part.b.copy_(torch.randn(part.b.shape, generator=generator))


def adapters_of(wrappers: Mapping[str, Wrapper]) -> list[str]:
    """The names of the adapters, in the order in which they came."""
    return list(dict.fromkeys(name for wrapper in wrappers.values() for name in wrapper.adapters))
