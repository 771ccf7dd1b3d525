"""Which products go through oneDNN: those that are worth a call, and packed weights always."""

from __future__ import annotations

import torch

from quire.nn.products import packed, product, suits


def test_the_smallest_products_stay_with_torch() -> None:
    x, small, large = torch.randn(1, 64), torch.randn(64, 64), torch.randn(8192, 64)
    with torch.inference_mode():
        assert not suits(x, small)
        assert suits(x, large) == torch.backends.mkldnn.is_available()
        assert suits(x.expand(2000, 64), small) == torch.backends.mkldnn.is_available()
        there = packed(small, 16)
        assert suits(x, there) == there.is_mkldnn
        torch.testing.assert_close(product(x, there, None, "silu"), torch.nn.functional.silu(x @ small.T))
        torch.testing.assert_close(product(x, small, None, "silu"), torch.nn.functional.silu(x @ small.T))
