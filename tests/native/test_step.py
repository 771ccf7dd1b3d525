"""The fused decoding step: the logits of `Transformer.decode` for every family it understands, over scattered blocks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from quire.errors import ContextError, ModelError
from quire.families import FAMILIES
from quire.native.library import Kernels
from quire.native.linears import pack_model
from quire.native.plain import PlainStep
from quire.native.step import NativeStep, make_step, refusal, understands
from quire.nn.config import Stack
from quire.nn.init import initialise
from quire.nn.transformer import Transformer

DECODERS = sorted(name for name, family in FAMILIES.items() if family.kind == "decoder")
FUSED = [name for name in DECODERS if understands(FAMILIES[name].build(FAMILIES[name].tiny))]
SLOTS, TOKENS = 4, 18


def tiny(name: str, dtype: torch.dtype = torch.float32, **changes: int) -> Transformer:
    model = Transformer(FAMILIES[name].build(FAMILIES[name].tiny | changes))
    draw = torch.Generator().manual_seed(3)
    initialise(model, draw)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=draw) * 0.2)
    return model.to(dtype).eval()


def pools(model: Transformer, dtype: torch.dtype = torch.float32, blocks: int = 24) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Filled with not-a-number, so that reading a place that nobody wrote shows."""

    def made() -> list[torch.Tensor]:
        layers = model.config.decoder.layers
        return [torch.full((blocks, x.attn.kv_heads, SLOTS, x.attn.head_dim), float("nan"), dtype=dtype) for x in layers]

    return made(), made()


def tokens_and_tables(model: Transformer, rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(8)
    each = -(-TOKENS // SLOTS)
    tables = torch.randperm(24, generator=draw)[: rows * each].view(rows, each)
    return torch.randint(model.config.vocab, (rows, TOKENS), generator=draw), tables


def run(step: NativeStep | PlainStep, tokens: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """Logits (R, T, V) of one token after the other."""
    return torch.stack([step(tokens[:, t], torch.full((len(tokens),), t), tables) for t in range(tokens.shape[1])], 1)


def test_the_common_families_are_understood() -> None:
    assert {"llama", "gpt2", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo2", "phi", "bloom", "mpt"} <= set(FUSED)


@pytest.mark.parametrize("name", FUSED)
def test_equals_decode(kernels: Kernels, name: str) -> None:
    model = tiny(name)
    tokens, tables = tokens_and_tables(model)
    with torch.inference_mode():
        wanted = model.head(model.decode(tokens))
    torch.testing.assert_close(run(NativeStep(model, *pools(model), asked=2), tokens, tables), wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", FUSED)
def test_the_plain_step_equals_decode(name: str) -> None:
    model = tiny(name)
    tokens, tables = tokens_and_tables(model)
    with torch.inference_mode():
        wanted = model.head(model.decode(tokens))
    torch.testing.assert_close(run(PlainStep(model, *pools(model)), tokens, tables), wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma", "qwen3"])
def test_bf16_is_as_near_as_bf16_allows(kernels: Kernels, name: str) -> None:
    model = tiny(name, torch.bfloat16)
    tokens, tables = tokens_and_tables(model)
    with torch.inference_mode():
        theirs = model.head(model.decode(tokens)).float()
        wide = tiny(name)
        wide.load_state_dict(model.state_dict())
        exact = wide.head(wide.decode(tokens))
    ours = run(NativeStep(model, *pools(model, torch.bfloat16), asked=1), tokens, tables)
    assert (ours - exact).abs().max() <= 2 * (theirs - exact).abs().max()


@pytest.mark.parametrize("quant", ["int8", "int4"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_packed_weights_equal_their_twin(kernels: Kernels, name: str, quant: str) -> None:
    model = tiny(name, **({"intermediate_size": 64} if name == "llama" else {}))
    tokens, tables = tokens_and_tables(model)
    assert pack_model(model, quant) == []
    ours = run(NativeStep(model, *pools(model), asked=1), tokens, tables)
    twin = run(PlainStep(model, *pools(model)), tokens, tables)
    # a rounding on the edge may fall to the other side, and one step of an activation is 1/127 of its block
    assert (ours - twin).abs().mean() < 2e-3 * twin.abs().mean() and (ours - twin).abs().max() < 0.05 * twin.abs().max()


def test_a_row_does_not_depend_on_the_others(kernels: Kernels) -> None:
    for quant, dtype in ((None, torch.float32), (None, torch.bfloat16), ("int8", torch.float32), ("int4", torch.float32)):
        model = tiny("llama", dtype, intermediate_size=64)
        tokens, tables = tokens_and_tables(model)
        if quant is not None:
            pack_model(model, quant)
        together = run(NativeStep(model, *pools(model), asked=2), tokens, tables)
        for row in range(len(tokens)):
            alone = run(NativeStep(model, *pools(model), asked=1), tokens[row : row + 1], tables[row : row + 1])
            assert torch.equal(together[row], alone[0])


def test_rows_at_different_places(built: Kernels) -> None:
    """Each row starts when another is already at work, as requests do."""
    model = tiny("qwen2")
    tokens, tables = tokens_and_tables(model)
    with torch.inference_mode():
        wanted = model.head(model.decode(tokens))
    step = NativeStep(model, *pools(model))
    for time in range(TOKENS + 6):
        rows = [row for row in range(3) if 0 <= time - 3 * row < TOKENS]
        places = torch.tensor([time - 3 * row for row in rows])
        got = step(tokens[rows, places], places, tables[rows])
        torch.testing.assert_close(got, wanted[rows, places], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_several_tokens_of_one_text_are_rows_of_one_step(built: Kernels, threads: int) -> None:
    """Guessed tokens: the bits are those of one token after the other, in pools of both kinds."""
    for name, dtype in (("llama", torch.float32), ("qwen2", torch.bfloat16), ("gemma2", torch.float32)):
        model = tiny(name)
        tokens, tables = tokens_and_tables(model)
        wanted = run(NativeStep(model, *pools(model, dtype), asked=1), tokens, tables)
        step, got, at = NativeStep(model, *pools(model, dtype), asked=threads), [], 0
        for count in (1, 5, 2, 7, 3):
            places = torch.arange(at, at + count)
            rows = torch.arange(3).repeat_interleave(count)
            part = step(tokens[:, at : at + count].flatten(), places.repeat(3), tables[rows])
            got.append(part.view(3, count, -1))
            at += count
        assert torch.equal(torch.cat(got, 1), wanted[:, :at])


def test_a_poisoned_row_keeps_to_itself(built: Kernels) -> None:
    model = tiny("llama")
    tokens, tables = tokens_and_tables(model)
    clean = run(NativeStep(model, *pools(model)), tokens, tables)
    keys, values = pools(model)
    step = NativeStep(model, keys, values)
    found = []
    for t in range(TOKENS):
        found.append(step(tokens[:, t], torch.full((3,), t), tables))
        keys[0][tables[1]] = float("nan")
    found = torch.stack(found, 1)
    assert torch.equal(found[[0, 2]], clean[[0, 2]]) and found[1, 1:].isnan().all()


def test_other_strides_and_hidden_states(built: Kernels) -> None:
    model = tiny("llama")
    tokens, tables = tokens_and_tables(model)
    keys, values = ([x.transpose(1, 2).contiguous().transpose(1, 2) for x in side] for side in pools(model))  # slots outside heads
    step = NativeStep(model, keys, values)
    with torch.inference_mode():
        hidden = model.decode(tokens)
    for t in range(TOKENS):
        got = step(tokens[:, t], torch.full((3,), t), tables, logits=False)
        torch.testing.assert_close(got, hidden[:, t], atol=1e-4, rtol=1e-5)


def test_far_positions_grow_the_rotary_tables(built: Kernels) -> None:
    model = tiny("llama")
    keys, values = ([torch.zeros(120, *x.shape[1:]) for x in side] for side in pools(model))
    tables, token, place = torch.arange(120)[None], torch.tensor([5]), torch.tensor([401])
    ours, twin = (kind(model, [k.clone() for k in keys], [v.clone() for v in values]) for kind in (NativeStep, PlainStep))
    torch.testing.assert_close(ours(token, place, tables), twin(token, place, tables), atol=1e-4, rtol=1e-5)


def test_what_is_out_of_range_is_refused_before_anything_is_written(built: Kernels) -> None:
    model = tiny("gpt2")
    keys, values = pools(model)
    step = NativeStep(model, keys, values, rows=2)
    one, tables = torch.tensor([1]), torch.tensor([[0, 1, -1, 24]])
    for place, told in ((-1, "-1"), (16, "0 to 15"), (8, "row 0 is at position 8"), (12, "pool of 24")):
        with pytest.raises(ContextError, match=told):
            step(one, torch.tensor([place]), tables)
    with pytest.raises(ContextError, match="1 to 2"):
        step(one.repeat(3), torch.zeros(3), tables.repeat(3, 1))
    assert all(k.isnan().all() for k in keys)


def test_what_is_not_understood_says_why(built: Kernels) -> None:
    assert "experts" in refusal(FAMILIES["mixtral"].build(FAMILIES["mixtral"].tiny))
    assert "decoder alone" in refusal(FAMILIES["t5"].build(FAMILIES["t5"].tiny))
    config = FAMILIES["llama"].build(FAMILIES["llama"].tiny)
    assert isinstance(config.decoder, Stack)
    post = replace(config, decoder=replace(config.decoder, layers=tuple(replace(x, wiring="post") for x in config.decoder.layers)))
    assert "behind" in refusal(post) and not understands(post)
    model = tiny("llama")
    model.decoder.layers[0].attn.q = torch.nn.Sequential(model.decoder.layers[0].attn.q, torch.nn.Dropout(0.1))
    with pytest.raises(ModelError, match="Dropout"):
        NativeStep(model, *pools(model))
    assert isinstance(make_step(tiny("llama"), *pools(tiny("llama"))), NativeStep)
    with pytest.raises(ModelError, match="layer 0: a pool"):
        NativeStep(tiny("llama"), *([x[..., :3] for x in side] for side in pools(tiny("llama"))))
