"""NF4 against what bitsandbytes 0.50.2 makes of the same matrix, and a base packed so with adapters on it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quire.adapt import LoRA, attach, merge, quantize_model, trainable
from quire.adapt.nf4 import DYNAMIC, LEVELS, NF4, NF4Linear
from quire.errors import ModelError
from quire.families import ModelFolder
from tests.adapt.oracle import disturb
from tests.small import write_model


def digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


def example() -> Tensor:
    """41 x 71: whole blocks and a shorter last one, an odd number of weights, made of exact integers."""
    place = torch.arange(41 * 71)
    return (((place * 7919) % 1009) - 504).float().view(41, 71) / 504 * 0.05 * (1 + place.view(41, 71) % 13)


def test_equal_to_bitsandbytes() -> None:
    """The figures are those of bitsandbytes.functional.quantize_4bit(w, blocksize=64, compress_statistics=True, quant_type="nf4")."""
    packed = NF4(example())
    largest = """1 16 47 195 221 245 245 19 19 44 191 226 250 240 37 22 48 165 209 232 255 32 19 52 185 213 218 254 50 15 38 61 197 218 249
    45 16 41 73 201 222 246 64 4 28 45"""
    assert digest(packed.codes) == "17ca6c5ab7e5ccbb"
    assert packed.largest.tolist() == [int(word) for word in largest.split()]
    assert packed.offset is not None and packed.offset.item() == pytest.approx(0.5302967429161072, rel=1e-7)
    assert packed.groups is not None and packed.groups.tolist() == pytest.approx([0.1171], abs=1e-4)
    assert digest(packed.unpack(torch.float32)) == "a042537227e7a35e"
    assert digest(packed.unpack(torch.bfloat16)) == "56f12f6b8d527745"


def test_the_tables() -> None:
    assert len(DYNAMIC) == 256 and bool((DYNAMIC.diff() > 0).all()) and DYNAMIC[127] == 0 and DYNAMIC[-1] == 1
    assert DYNAMIC[0].item() == pytest.approx(-0.99296875) and DYNAMIC[128].item() == pytest.approx(5.5e-7)
    assert len(LEVELS) == 16 and LEVELS[7] == 0 and LEVELS[0] == -1 and LEVELS[-1] == 1


def test_bits_and_error() -> None:
    weight = torch.randn(1024, 512, generator=torch.Generator().manual_seed(0))
    for double, bits in ((False, 4.5), (True, 4.127)):
        packed = NF4(weight, double)
        assert 8 * packed.bytes / weight.numel() == pytest.approx(bits, abs=1e-3)
        assert (packed.unpack(torch.float32) - weight).norm() / weight.norm() < 0.1
    assert not NF4(torch.zeros(8, 64), double=False).unpack(torch.float32).any()


def test_product_and_its_gradient() -> None:
    draw = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(48, 64, generator=draw), torch.randn(48, generator=draw)
    linear = NF4Linear(weight, bias)
    x = torch.randn(3, 5, 64, generator=draw, requires_grad=True)
    y = linear(x)
    half = linear.packed.unpack(torch.bfloat16)
    torch.testing.assert_close(y, (torch.nn.functional.linear(x.bfloat16(), half) + bias.bfloat16()).float())
    y.sum().backward()
    torch.testing.assert_close(x.grad, half.float().sum(0).expand_as(x), atol=0.05, rtol=0.02)
    assert y.dtype == torch.float32 and not any(parameter.requires_grad for parameter in linear.parameters())


@pytest.mark.parametrize("kind", ["llama", "bert", "t5"])
def test_a_model_in_four_bits(kind: str, tmp_path: Path) -> None:
    opened = ModelFolder.open(write_model(tmp_path / kind, kind))
    model = opened.build()
    dropped: list[Tensor] = []
    names = quantize_model(model, dropped=dropped.append)
    assert len(dropped) == len(names) and all(isinstance(model.get_submodule(name), NF4Linear) for name in names)
    assert not any(name.startswith("head.") for name in names)
    attach(model, LoRA(4), opened)
    disturb(model)
    merge(model)
    plain = opened.build()
    attach(plain, LoRA(4), opened)
    assert trainable(model).split("all params: ")[1].split()[0] != "0"
    with pytest.raises(ModelError, match="packed already"):
        quantize_model(quantized(opened))
    attach(plain, LoRA(4), opened, name="other")
    with pytest.raises(ModelError, match="Pack the base first"):
        quantize_model(plain)


def quantized(opened: ModelFolder):
    model = opened.build()
    quantize_model(model)
    return model


def test_the_count_is_that_of_the_plain_base(tmp_path: Path) -> None:
    opened = ModelFolder.open(write_model(tmp_path / "llama", "llama"))
    packed, plain = quantized(opened), opened.build()
    attach(packed, LoRA(4), opened)
    attach(plain, LoRA(4), opened)
    assert trainable(packed) == trainable(plain)


def test_merged_into_what_was_unpacked(tmp_path: Path) -> None:
    opened = ModelFolder.open(write_model(tmp_path / "llama", "llama"))
    model = quantized(opened)
    attach(model, LoRA(4, targets=("attn.q",), dora=True), opened)
    disturb(model)
    wrapper = model.decoder.layers[0].attn.q
    x = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    before = wrapper(x)
    merge(model)
    torch.testing.assert_close(model.decoder.layers[0].attn.q(x), before, atol=0.05, rtol=0.02)  # the base's product was in bf16
