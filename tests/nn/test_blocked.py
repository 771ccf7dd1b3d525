"""The blocked form against the one written out, in fp32 to rounding; in bf16 as near to the truth as torch's own kernel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from quire.nn import blocked as module
from quire.nn.attention import attend, attend_plain, build_mask
from quire.nn.blocked import blocked, suits


def parts(queries: int, keys: int, kv_heads: int, dtype: torch.dtype = torch.float32, rows: int = 3) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(rows, 4, queries, 8), (rows, kv_heads, keys, 8), (rows, kv_heads, keys, 8), (rows, 4, queries, 8)]
    return tuple(torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes)


def masks(queries: int, keys: int, causal: bool, kind: str) -> Tensor | None:
    generator = torch.Generator().manual_seed(1)
    keep = torch.arange(keys)[None] < torch.tensor([keys, keys - 3, keys // 2])[:, None]
    segments = torch.tensor([[0] * (keys // 3) + [1] * (keys - keys // 3)] * 3)
    bias = torch.randn(1, 4, queries, keys, generator=generator)
    ways: dict[str, dict[str, Any]] = {
        "none": {},
        "keep": {"keep": keep},
        "segments": {"segments": segments},
        "bias": {"bias": bias},
        "bias and keep": {"bias": bias, "keep": keep},
    }
    if kind == "none":
        return None
    mask = build_mask(queries, keys, causal=causal, **ways[kind])
    return mask if mask is None or mask.dtype == torch.bool else mask.detach().requires_grad_()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks and several groups of rows even in a small case."""
    monkeypatch.setattr(module, "BLOCK", 16)
    monkeypatch.setattr(module, "SCORES", 4 * 16 * 40 * 2)


@pytest.mark.parametrize("kind", ["none", "keep", "segments", "bias", "bias and keep"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize(("queries", "keys"), [(40, 40), (16, 16), (20, 37)])
def test_equals_the_plain_form_with_gradients(kind: str, causal: bool, kv_heads: int, queries: int, keys: int) -> None:
    q, k, v, direction = parts(queries, keys, kv_heads)
    mask = masks(queries, keys, causal, kind)
    plain_mask = mask if mask is not None else build_mask(queries, keys, causal=causal)
    wanted, _ = attend_plain(q, k, v, mask=plain_mask)
    got = blocked(q, k, v, mask, causal, None)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    inputs = [q, k, v] + ([mask] if mask is not None and mask.requires_grad else [])
    theirs = torch.autograd.grad(wanted, inputs, direction)
    for a, b in zip(torch.autograd.grad(got, inputs, direction), theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("offset", [0.0, 20.0])
def test_rounding_is_near_that_of_the_fused_kernel(offset: float) -> None:
    """Distance to fp32 of the output and the gradients; also where all keys share a large part, which would swamp rounded scores."""
    q, k, v, direction = parts(64, 64, 2, torch.bfloat16)
    k = (k + offset).detach().requires_grad_()

    def distances(out: Tensor) -> list[float]:
        grads = torch.autograd.grad(out, (q, k, v), direction)
        return [((a.float() - b).norm() / b.norm()).item() for a, b in zip((out, *grads), truth, strict=True)]

    wide = [t.detach().float().requires_grad_() for t in (q, k, v)]
    true_out = F.scaled_dot_product_attention(*wide, is_causal=True, enable_gqa=True)
    truth = [true_out, *torch.autograd.grad(true_out, wide, direction.float())]
    fused = distances(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))
    ours = distances(blocked(q, k, v, None, True, None))
    for a, b in zip(ours, fused, strict=True):
        assert a < 3 * b, (ours, fused)


def test_it_runs_where_it_is_faster_and_nowhere_else() -> None:
    q, k, v, _ = parts(64, 64, 2, torch.bfloat16)
    assert suits(q, 0.0)
    assert attend(q, k, v, causal=True).grad_fn.name() == "_BlockedBackward"  # type: ignore[union-attr]
    assert not suits(q, 0.1)
    assert not suits(q.float(), 0.0)
    assert not suits(q[:, :, :4], 0.0)
    assert not suits(q.detach(), 0.0)
    with torch.no_grad():
        assert not suits(q, 0.0)


def test_a_query_with_nothing_to_see_gives_numbers() -> None:
    q, k, v, _ = parts(40, 40, 2)
    keep = torch.zeros(3, 40, dtype=torch.bool)
    for causal in (True, False):
        out = blocked(q, k, v, build_mask(40, 40, causal=causal, keep=keep), causal, None)
        assert torch.isfinite(out).all()
        assert all(torch.isfinite(grad).all() for grad in torch.autograd.grad(out.sum(), (q, k, v)))
