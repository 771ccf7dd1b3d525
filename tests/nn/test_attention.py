"""The fused form and the one written out are the same mathematics; masks limit what they should and never make a not-a-number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from quire.nn.attention import attend, attend_plain, build_mask
from quire.nn.position import alibi


def parts(queries: int = 6, keys: int = 6, heads: int = 4, kv_heads: int = 2, rows: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(rows, heads, queries, 8, generator=generator)
    k = torch.randn(rows, kv_heads, keys, 8, generator=generator)
    v = torch.randn(rows, kv_heads, keys, 8, generator=generator)
    return q, k, v


KEEP = torch.tensor([[True, True, True, True, False, False], [False, False, True, True, True, True]])
SEGMENTS = torch.tensor([[0, 0, 0, 1, 1, 2], [0, 1, 1, 1, 1, 1]])
BIAS = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(1))
WAYS: list[dict[str, Any]] = [
    {},
    {"causal": True},
    {"causal": True, "keep": KEEP},
    {"keep": KEEP},
    {"causal": True, "segments": SEGMENTS},
    {"segments": SEGMENTS, "keep": KEEP},
    {"causal": True, "bias": BIAS, "keep": KEEP, "scale": 1.0},
    {"bias": BIAS, "scale": 0.3},
    {"causal": True, "keep": KEEP, "softcap": 0.5},
    {"causal": True, "mask": build_mask(6, 6, causal=True, window=3)},
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(way) or "all")
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_fused_and_plain_agree_with_gradients(way: dict[str, Any], kv_heads: int) -> None:
    q, k, v = (t.requires_grad_() for t in parts(kv_heads=kv_heads))
    fused = attend(q, k, v, **way)
    plain, weights = attend_plain(q, k, v, **way)
    assert weights.shape == (2, 4, 6, 6)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 6))
    torch.testing.assert_close(fused, plain, atol=1e-5, rtol=1e-5)
    ones = torch.randn(fused.shape, generator=torch.Generator().manual_seed(2))
    for a, b in zip(torch.autograd.grad(fused, (q, k, v), ones), torch.autograd.grad(plain, (q, k, v), ones), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("queries", [1, 2, 5])
def test_the_last_query_stands_at_the_last_key(queries: int) -> None:
    """With keys from a cache, the new queries see everything before them and nothing after."""
    q, k, v = parts()
    whole = attend(q, k, v, causal=True)
    tail = attend(q[:, :, -queries:], k, v, causal=True)
    torch.testing.assert_close(tail, whole[:, :, -queries:], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(attend_plain(q[:, :, -queries:], k, v, causal=True)[0], tail, atol=1e-6, rtol=1e-5)


def test_one_query_with_padding_and_groups() -> None:
    q, k, v = parts(queries=1)
    torch.testing.assert_close(attend(q, k, v, causal=True, keep=KEEP), attend_plain(q, k, v, causal=True, keep=KEEP)[0])


def test_cross_attention_has_its_own_length() -> None:
    q, k, v = parts(queries=3, keys=6)
    torch.testing.assert_close(attend(q, k, v, keep=KEEP), attend_plain(q, k, v, keep=KEEP)[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_a_query_with_nothing_to_see_gives_numbers_and_zero_influence(causal: bool) -> None:
    """A row of padding, and the padding before a row's first token."""
    keep = torch.tensor([[False] * 6, [False, False, True, True, True, True]])
    q, k, v = (t.requires_grad_() for t in parts())
    out = attend(q, k, v, causal=causal, keep=keep)
    assert torch.isfinite(out).all()
    assert torch.isfinite(attend_plain(q, k, v, causal=causal, keep=keep)[0]).all()
    # what a kept query says depends on kept keys alone
    (grad,) = torch.autograd.grad(out[1, :, 2:].sum(), k)
    assert torch.isfinite(grad).all()
    assert not grad[0].any()
    assert not grad[1, :, :2].any()


def test_no_mask_is_built_where_none_is_needed() -> None:
    assert build_mask(1, 7, causal=True) is None
    assert build_mask(4, 4, causal=False) is None
    mask = build_mask(2, 4, causal=True)
    assert mask is not None
    assert mask[0, 0].tolist() == [[True, True, True, False], [True, True, True, True]]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("queries", "keys", "window"), [(6, 6, 1), (6, 6, 3), (2, 6, 3), (1, 6, 4), (6, 6, 6), (1, 9, 2)])
def test_a_window_hides_what_is_as_far_or_farther(causal: bool, queries: int, keys: int, window: int) -> None:
    place = torch.arange(keys - queries, keys)[:, None]
    distance = place - torch.arange(keys)
    wanted = (distance.abs() < window) & ((distance >= 0) | torch.tensor(not causal))
    found = build_mask(queries, keys, causal=causal, window=window)
    assert torch.equal(torch.ones(queries, keys, dtype=torch.bool) if found is None else found[0, 0], wanted)


def test_slopes_fall_with_distance() -> None:
    bias = alibi((0.5, 0.25), start=2, queries=2, keys=4, device=torch.device("cpu"))
    assert bias.shape == (1, 2, 2, 4)
    assert bias[0, 0].tolist() == [[-1.0, -0.5, 0.0, 0.5], [-1.5, -1.0, -0.5, 0.0]]  # what lies ahead is masked, not biased
    assert torch.equal(bias[0, 1] * 2, bias[0, 0])
