"""Each kernel against its plain twin, on every instruction set that this processor runs, at sizes with every kind of remainder."""

from __future__ import annotations

import ctypes

import pytest
import torch

from quire.errors import ModelError
from quire.native.library import Kernels, Norm, byref
from quire.native.linears import PackedLinear
from quire.native.pack import Packed, Quant, pack, pack_plain, product, product_plain, quantized

SHAPES = [(1, 32), (7, 64), (16, 96), (50, 224), (130, 32), (67, 160)]  # rows and columns; the columns divide into blocks
ODD = [(3, 1), (5, 7), (9, 31), (18, 33), (66, 65), (21, 47)]  # for formats that take any number of columns
TOKENS = [1, 2, 3, 4, 5, 7, 8, 9, 13, 31, 32, 35, 199]  # the last: more than are computed at a time


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def weights(rows: int, cols: int) -> list[torch.Tensor | Packed]:
    w = drawn(rows, cols)
    plain: list[torch.Tensor | Packed] = [w, w.bfloat16()]
    return plain if cols % 32 else [*plain, pack(w, "int8"), pack(w, "int4")]


@pytest.mark.parametrize("shape", SHAPES + ODD)
def test_products_equal_their_twins(kernels: Kernels, shape: tuple[int, int]) -> None:
    rows, cols = shape
    for weight in weights(rows, cols):
        for tokens in TOKENS:
            x = drawn(tokens, cols, seed=5)
            y, twin = product(x, weight), product_plain(x, weight, rounds=kernels.bf16_rounds)
            torch.testing.assert_close(y, twin, atol=1e-4, rtol=1e-5)


def test_a_token_does_not_depend_on_its_neighbours_or_on_threads(kernels: Kernels) -> None:
    for rows, cols in [(67, 160), (21, 47)]:
        x = drawn(32, cols)
        for weight in weights(rows, cols):
            alone = torch.cat([product(x[i : i + 1], weight, asked=1) for i in range(32)])
            for tokens in (2, 3, 8, 31, 32):
                assert torch.equal(product(x[:tokens], weight, asked=1), alone[:tokens])
                assert torch.equal(product(x[:tokens], weight, asked=2), alone[:tokens])


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_a_long_prompt_has_the_bits_of_its_tokens_alone(kernels: Kernels, format: Quant) -> None:
    """More tokens, rows and columns than are held ready at a time, with a remainder of each."""
    tokens, rows, cols = (200, 67, 1120) if kernels.name != "portable" else (67, 35, 1056)
    x, packed, bias = drawn(tokens, cols), pack(drawn(rows, cols), format), drawn(rows, seed=3)
    some = [0, 5, 6, 63, tokens - 9, tokens - 1]
    alone = torch.cat([product(x[i : i + 1], packed, bias, "silu", asked=1) for i in some])
    for asked in (1, 2):
        y = product(x, packed, bias, "silu", asked)
        assert torch.equal(y[some], alone)
    torch.testing.assert_close(y, product_plain(x, packed, bias, "silu"), atol=1e-3, rtol=1e-5)


def test_bf16_goes_in_and_comes_out_as_if_widened_and_rounded(kernels: Kernels) -> None:
    for rows, cols in [(67, 160), (21, 47)]:
        x = drawn(35, cols).bfloat16()
        for weight in weights(rows, cols):
            y = product(x, weight)
            assert y.dtype == torch.bfloat16 and torch.equal(y, product(x.float(), weight).bfloat16())


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_a_packed_linear_layer_reads_any_number_of_rows(built: Kernels, format: Quant, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = PackedLinear(pack(drawn(48, 96), format), drawn(48, seed=1))
    x = drawn(3, 70, 96).bfloat16()
    y = layer(x, "silu")
    assert y.shape == (3, 70, 48) and torch.equal(y[2, 69:], layer(x[2, 69:], "silu"))
    monkeypatch.setattr("quire.native.linears.find", lambda: (None, ""))
    torch.testing.assert_close(layer(x, "silu").float(), y.float(), atol=0.5, rtol=0.05)  # through a matrix in bf16


def test_integer_products_are_the_same_bits_with_every_instruction_set_that_fuses(built: Kernels) -> None:
    x, w = drawn(3, 224), pack(drawn(50, 224), "int4")
    found = {}
    for name in ("avx512bf16", "avx512", "avx2"):
        if built.lib.qn_select(name.encode()) if name in built.lib.qn_supported().decode().split() else 0:
            found[name] = product(x, w)
    built.lib.qn_select(built.name.encode())
    assert all(torch.equal(y, next(iter(found.values()))) for y in found.values())


@pytest.mark.parametrize("act", ["silu", "gelu", "gelu_tanh", "relu", "tanh"])
def test_activations_and_bias(kernels: Kernels, act: str) -> None:
    x = torch.cat([drawn(2, 33) * scale for scale in (0.001, 0.1, 3.0, 40.0)])
    w, bias = drawn(37, 33, seed=1), drawn(37, seed=2)
    torch.testing.assert_close(product(x, w, bias, act), product_plain(x, w, bias, act), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("format", ["int8", "int4"])
def test_packing_gives_the_bytes_of_its_twin(built: Kernels, format: str, dtype: torch.dtype) -> None:
    for rows, cols in SHAPES:
        w = drawn(rows, cols).to(dtype)
        w[0, :32] = 0
        w[-1, :3] = torch.tensor([1e-6, -3e-7, 0.0])
        w[rows // 2, :4] = torch.tensor([127.0, 0.5, -63.5, 1.5])  # halves, which are rounded away from zero
        ours, twin = pack(w, format), pack_plain(w, format)
        assert torch.equal(ours.data, twin.data)
        assert torch.equal(ours.scales.view(torch.int16), twin.scales.view(torch.int16))
        step = {"int8": 0.57 / 127, "int4": 1.01 / 8}[format]
        far = (ours.unpack() - w.float()).abs().view(rows, -1, 32).amax(-1)
        assert (far <= w.float().abs().view(rows, -1, 32).amax(-1) * step + 1e-7).all()


def test_bits_a_weight() -> None:
    w = drawn(64, 64)
    assert pack_plain(w, "int8").bytes * 8 / w.numel() == 8.5 and pack_plain(w, "int4").bytes * 8 / w.numel() == 4.5


def test_subnormal_scales_survive(kernels: Kernels) -> None:
    w = drawn(16, 64) * 1e-5
    packed = pack(w, "int8")
    x = drawn(2, 64)
    torch.testing.assert_close(product(x, packed), product_plain(x, packed), atol=1e-9, rtol=1e-4)


def test_activations_of_zeros_and_extremes(kernels: Kernels) -> None:
    w = pack(drawn(16, 64), "int8")
    x = torch.zeros(3, 64)
    x[1, 5], x[2] = 1e30, -1e-30
    torch.testing.assert_close(product(x, w), product_plain(x, w), rtol=1e-3, atol=0)
    q, d = quantized(x)
    assert q.abs().max() == 127 and d[0].max() == 0
    x[1, 7] = float("nan")
    assert product(x, w).isnan().all(1).tolist() == [False, True, False]


@pytest.mark.parametrize(("rows", "cols"), [(33, 47)])
def test_weights_are_read_in_place(built: Kernels, rows: int, cols: int) -> None:
    w, x = drawn(rows, cols), drawn(2, cols)
    before = product(x, w)
    w[0] += 1
    assert not torch.equal(product(x, w), before)


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("width", [1, 3, 16, 33, 130])
def test_norms(kernels: Kernels, kind: str, width: int) -> None:
    x, w, b = drawn(3, width) * 5 + 2, drawn(width, seed=1), drawn(width, seed=2)
    y = torch.empty_like(x)
    bias = b.data_ptr() if kind == "layer" else ctypes.c_void_p(None)
    kernels.lib.qn_norm(byref(Norm({"rms": 1, "layer": 2}[kind], 1e-5, w.data_ptr(), bias)), x.data_ptr(), y.data_ptr(), 3, width)
    functional = torch.nn.functional
    twin = functional.rms_norm(x, (width,), w, 1e-5) if kind == "rms" else functional.layer_norm(x, (width,), w, b, 1e-5)
    torch.testing.assert_close(y, twin, atol=1e-4, rtol=1e-5)


def test_what_cannot_be_packed_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="5x33 .* multiple of 32"):
        pack(drawn(5, 33), "int8")
    with pytest.raises(ModelError, match="'int3'"):
        pack(drawn(5, 32), "int3")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="torch.float16"):
        pack(drawn(5, 32).half(), "int8")
    with pytest.raises(ModelError, match="not finite"):
        pack(torch.full((5, 32), float("inf")), "int8")
    with pytest.raises(ModelError, match="does not fit"):
        product(drawn(2, 31), drawn(5, 32))
