"""Dropout keeps the mean, takes the share it is asked for, leaves no pattern, and draws from the generator that the trainer seeds."""

from __future__ import annotations

import pytest
import torch

from quire.nn.dropout import dropped, kept, kept_scale


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
def test_share_and_mean(p: float) -> None:
    torch.manual_seed(0)
    y = dropped(torch.ones(500, 1001), p)
    assert (y == 0).float().mean() == pytest.approx(p, abs=0.004)
    assert y.mean() == pytest.approx(1.0, abs=0.005)
    assert y.unique().tolist() == [0.0, pytest.approx(kept_scale(p))]


def test_neighbours_are_independent() -> None:
    gone = kept((1000, 1024), 0.5, torch.Generator().manual_seed(0)).float() + 0.5
    for step in (1, 7, 8, 64):
        assert abs(float((gone[:, :-step] * gone[:, step:]).mean())) < 0.002


def test_the_seed_decides_and_gradients_go_where_values_went() -> None:
    x = torch.ones(64, 64, requires_grad=True)
    torch.manual_seed(3)
    first = dropped(x, 0.2)
    torch.manual_seed(3)
    assert torch.equal(first, dropped(x, 0.2))
    first.sum().backward()
    assert torch.equal(x.grad, first.detach())
