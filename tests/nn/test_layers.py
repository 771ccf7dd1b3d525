"""Norms and gated layers of our own equal torch's, forward and backward, in every dtype that they meet."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from quire.nn import heads
from quire.nn.config import FFN, Act, LabelHead
from quire.nn.layers import FeedForward, RMSNorm
from quire.nn.products import activate


def norm(width: int = 32, dtype: torch.dtype = torch.float32) -> RMSNorm:
    module = RMSNorm(width, 1e-5)
    with torch.no_grad():
        module.weight.copy_(torch.rand(width, generator=torch.Generator().manual_seed(0)) + 0.5)
    return module.to(dtype)


def test_gradient_against_finite_differences() -> None:
    module = norm(6, torch.float64)
    x = torch.randn(3, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: torch.func.functional_call(module, {"weight": w}, (x,)), (x, module.weight))


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
def test_equals_torch(dtype: torch.dtype, limit: float) -> None:
    module = norm(dtype=dtype)
    x = (torch.randn(4, 7, 32, generator=torch.Generator().manual_seed(1)) * 3 + 1).to(dtype).requires_grad_()
    ours, torchs = module(x), F.rms_norm(x, (32,), module.weight, 1e-5)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, torchs, atol=limit, rtol=limit)
    direction = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    for a, b in zip(
        torch.autograd.grad(ours, (x, module.weight), direction), torch.autograd.grad(torchs, (x, module.weight), direction), strict=True
    ):
        assert a.dtype == dtype
        torch.testing.assert_close(a, b, atol=10 * limit, rtol=limit)
    with torch.no_grad():
        torch.testing.assert_close(module(x), ours, atol=limit, rtol=limit)
        torch.testing.assert_close(module(x[:1, :1]), ours[:1, :1], atol=limit, rtol=limit)


def test_a_narrow_output_is_the_wide_one_rounded_once() -> None:
    module, x = norm(), torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(module(x, torch.bfloat16), module(x).to(torch.bfloat16))
    with torch.no_grad():
        assert torch.equal(module(x, torch.bfloat16), module(x).to(torch.bfloat16))


def test_zeros_stay_zeros() -> None:
    assert not norm()(torch.zeros(2, 1, 32)).any()


@pytest.mark.parametrize("act", ["silu", "gelu", "gelu_tanh", "relu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gated_layer_keeps_less_and_gives_the_same_bits(act: Act, dtype: torch.dtype) -> None:
    layer = FeedForward(FFN(hidden=48, act=act, gated=True), 32).to(dtype)
    assert layer.gate is not None
    x = torch.randn(4, 7, 32, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    found, wide = [], []
    for forward in (layer, lambda x: layer.down(activate(act, layer.gate(x)) * layer.up(x))):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = forward(x)
        found.append((y, *torch.autograd.grad(y.float().square().sum(), (x, *layer.parameters()))))
        wide.append(kept.count(4 * 7 * 48))
        kept.clear()
    assert all(torch.equal(ours, plain) for ours, plain in zip(*found, strict=True))
    assert wide[0] == wide[1] - (act != "relu")


@pytest.mark.parametrize(
    ("head", "times"),
    [(LabelHead(3), 1), (LabelHead(3, twice=True), 2), (LabelHead(3, "token", dense=False), 1), (LabelHead(2, "span", dense=False), 0)],
)
def test_dropout_of_a_label_head_falls_where_its_family_has_it(monkeypatch: pytest.MonkeyPatch, head: LabelHead, times: int) -> None:
    calls: list[float] = []

    def counted(x: torch.Tensor, p: float) -> torch.Tensor:
        calls.append(p)
        return x

    monkeypatch.setattr(heads, "dropped", counted)
    module = heads.LabelHeadModule(head, 8, dropout=0.1)
    module(torch.zeros(2, 4, 8))
    assert calls == [0.1] * times
    module.eval()
    module(torch.zeros(2, 4, 8))
    assert len(calls) == times
