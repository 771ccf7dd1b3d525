"""Rotary tables against complex numbers, and T5's buckets against the rule written out for one distance at a time."""

from __future__ import annotations

import math

import pytest
import torch

from quire.nn.config import Relative, Rope
from quire.nn.position import RelativeBias, Rotary, turn


def test_turning_is_multiplication_by_a_complex_number() -> None:
    """Channel c and c + C/2 are the two parts of a number turned by position * theta^(-2c/C)."""
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    cos, sin = Rotary(Rope(100.0), 8)(0, 5, None, x.device, x.dtype)
    number = torch.complex(x[..., :4], x[..., 4:]).to(torch.complex128)
    angle = torch.arange(5.0)[:, None] * torch.tensor([100.0 ** (-2 * c / 8) for c in range(4)])
    turned = number * torch.polar(torch.ones_like(angle), angle).to(torch.complex128)
    torch.testing.assert_close(turn(x, cos, sin), torch.cat((turned.real, turned.imag), -1).float(), atol=1e-5, rtol=1e-5)


def test_scores_depend_on_the_distance_alone() -> None:
    rotary = Rotary(Rope(), 16)
    q, k = torch.randn(2, 1, 1, 1, 16, generator=torch.Generator().manual_seed(0))

    def score(at: int, of: int) -> float:
        device, dtype = q.device, q.dtype
        return (turn(q, *rotary(at, 1, None, device, dtype)) * turn(k, *rotary(of, 1, None, device, dtype))).sum().item()

    assert score(3, 1) == pytest.approx(score(503, 501), abs=1e-4)
    assert abs(score(3, 1) - score(3, 2)) > 1e-3


def test_given_positions_pick_rows_of_the_table() -> None:
    rotary = Rotary(Rope(), 8)
    device, dtype = torch.device("cpu"), torch.float32
    cos, sin = rotary(0, 3, torch.tensor([[0, 5, 400]]), device, dtype, 401)
    whole = rotary(0, 401, None, device, dtype)
    assert cos.shape == sin.shape == (1, 1, 3, 8)
    assert torch.equal(cos[0, 0], whole[0][[0, 5, 400]])
    assert torch.equal(sin[0, 0], whole[1][[0, 5, 400]])


def bucket(distance: int, buckets: int, furthest: int, both_ways: bool) -> int:
    """Raffel et al. 2020, for one distance = key - query."""
    offset = 0
    if both_ways:
        buckets //= 2
        offset = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return offset + distance
    far = exact + int(math.log(distance / exact) / math.log(furthest / exact) * (buckets - exact))
    return offset + min(far, buckets - 1)


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (8, 20)])
def test_buckets(both_ways: bool, buckets: int, furthest: int) -> None:
    bias = RelativeBias(Relative(buckets, furthest), 2, both_ways)
    distances = [d for d in range(-200, 201) if d == 0 or not math.log2(abs(d)).is_integer()]  # a power of two may round either way
    got = bias.bucket(torch.tensor(distances)).tolist()
    assert got == [bucket(d, buckets, furthest, both_ways) for d in distances]


@pytest.mark.parametrize(("start", "queries", "keys"), [(0, 5, 5), (7, 1, 8), (3, 4, 7), (300, 2, 302)])
def test_bias_is_the_bucket_of_every_pair(start: int, queries: int, keys: int) -> None:
    module = RelativeBias(Relative(8, 20), 3, both_ways=False)
    torch.nn.init.normal_(module.weight, generator=torch.Generator().manual_seed(0))
    distance = torch.arange(keys)[None] - torch.arange(start, start + queries)[:, None]
    wanted = module.weight[module.bucket(distance)].permute(2, 0, 1)[None]
    got = module(start, queries, keys)
    assert torch.equal(got, wanted)
    got.sum().backward()
    assert module.weight.grad is not None
    assert module.weight.grad.sum().item() == 3 * queries * keys
