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
from quire.nn.dropout import kept, kept_scale, new_seed


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
    assert suits(q)
    assert attend(q, k, v, causal=True).grad_fn.name() == "_BlockedBackward"  # type: ignore[union-attr]
    assert not suits(q.float())
    assert not suits(q[:, :, :4])
    assert not suits(q.detach())
    with torch.no_grad():
        assert not suits(q)


def test_a_query_with_nothing_to_see_gives_numbers() -> None:
    q, k, v, _ = parts(40, 40, 2)
    keep = torch.zeros(3, 40, dtype=torch.bool)
    for causal in (True, False):
        out = blocked(q, k, v, build_mask(40, 40, causal=causal, keep=keep), causal, None)
        assert torch.isfinite(out).all()
        assert all(torch.isfinite(grad).all() for grad in torch.autograd.grad(out.sum(), (q, k, v)))


def test_dropout_is_drawn_again_in_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the same mathematics written out with the mask that was drawn: weights, then what is dropped of them, then values."""
    monkeypatch.setattr(module, "BLOCK", 64)
    monkeypatch.setattr(module, "SCORES", 1 << 20)  # one piece: one mask
    q, k, v = (torch.randn(2, 3, 40, 16).bfloat16().requires_grad_() for _ in range(3))
    torch.manual_seed(5)
    ours = blocked(q, k, v, None, False, None, 0.25)
    torch.manual_seed(5)
    gone = kept((6, 40, 40), 0.25, torch.Generator().manual_seed(new_seed())).view(2, 3, 40, 40) == 0
    assert 0.2 < gone.float().mean() < 0.3
    a, b, c = (x.detach().float().requires_grad_() for x in (q, k, v))
    theirs = (a @ b.transpose(-1, -2) / 4).softmax(-1).masked_fill(gone, 0.0) * kept_scale(0.25) @ c
    assert torch.cosine_similarity(ours.float().flatten(), theirs.flatten(), 0) > 0.999
    above = torch.randn(ours.shape)
    ours.backward(above.bfloat16())
    theirs.backward(above)
    for mine, other in ((q, a), (k, b), (v, c)):
        assert torch.cosine_similarity(mine.grad.float().flatten(), other.grad.flatten(), 0) > 0.999


def test_each_piece_has_its_own_mask_in_both_passes() -> None:
    """The output is linear in the values, so <out, above> = <values, their gradient> only if both passes drop the same weights."""
    q, k, v, above = parts(40, 40, 2, torch.bfloat16)
    out = blocked(q, k, v, None, True, None, 0.5)
    out.backward(above.detach())
    forward, backward = (out.detach().double() * above.detach().double()).sum(), (v.detach().double() * v.grad.double()).sum()
    assert float(forward) == pytest.approx(float(backward), abs=0.02 * float(out.detach().double().norm() * above.detach().double().norm()))
