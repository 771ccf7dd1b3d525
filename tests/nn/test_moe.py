"""Experts: each token through its likeliest few, weighted; and the loss that keeps them evenly used, equal to the reference's."""

from __future__ import annotations

import pytest
import torch

from quire.nn.config import FFN, MoE
from quire.nn.moe import Experts, balance_loss


def experts(top: int, normalise: bool) -> Experts:
    torch.manual_seed(0)
    return Experts(MoE(5, top, FFN(12, "silu", gated=True), normalise), 8)


@pytest.mark.parametrize("top", [1, 2, 5])
@pytest.mark.parametrize("normalise", [True, False])
def test_equals_every_expert_weighted_by_what_is_left_of_its_probability(top: int, normalise: bool) -> None:
    layer = experts(top, normalise)
    x = torch.randn(2, 7, 8, requires_grad=True)
    routing: list[torch.Tensor] = []
    got = layer(x, routing)
    probability = routing[0].softmax(-1).view(2, 7, 5)
    least = probability.topk(top, -1).values[..., -1:]
    weight = probability * (probability >= least)
    weight = weight / weight.sum(-1, keepdim=True) if normalise else weight
    wanted = sum(weight[..., e, None] * expert(x) for e, expert in enumerate(layer.experts))
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-5)
    ours, theirs = (torch.autograd.grad(value.sum(), [x, layer.router.weight], retain_graph=True) for value in (got, wanted))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("padded", [False, True])
def test_the_balance_loss_is_the_references(padded: bool) -> None:
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    layer = experts(2, True)
    routing = [torch.randn(14, 5, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    keep = torch.arange(7)[None] < torch.tensor([[7], [4]]) if padded else None
    wanted = load_balancing_loss_func(tuple(routing), 5, 2, None if keep is None else keep.long())
    torch.testing.assert_close(balance_loss(routing, layer.moe, keep), wanted)
