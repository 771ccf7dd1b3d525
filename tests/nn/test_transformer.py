"""What holds for a model of any kind: packing, tracing, recomputing, narrow arithmetic, dropout, counting, and its words when misused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from quire.errors import ContextError
from quire.nn.attention import AttnContext
from quire.nn.batch import IGNORE, Batch
from quire.nn.cache import Cache
from quire.nn.config import FFN, Attn, Layer, LMHead, MLMHead, ModelConfig, Norm, Pooler, Relative, Rope, Stack
from quire.nn.heads import token_loss
from quire.nn.init import initialise
from quire.nn.transformer import Transformer

RMS, LAYER = Norm("rms", 1e-6), Norm("layer", 1e-5)
GROUPED = Layer(Attn(4, 2, 8, rope=Rope()), FFN(48, "silu", gated=True), RMS)
LEARNED = Layer(Attn(4, 4, 8, bias=True, out_bias=True), FFN(64, "gelu_tanh", bias=True), LAYER)
POST = Layer(Attn(4, 4, 8, bias=True, out_bias=True, causal=False), FFN(64, "gelu", bias=True), LAYER, wiring="post")
BOTH = Attn(4, 4, 8, causal=False, scale=1.0)
RELATIVE = Relative(8, 20)
CONFIGS = {
    "rotary": ModelConfig(32, 60, 64, decoder=Stack((GROUPED,) * 2, final_norm=RMS)),
    "learned": ModelConfig(32, 60, 64, decoder=Stack((LEARNED,) * 2, final_norm=LAYER, positions=64)),
    "post": ModelConfig(32, 60, 64, encoder=Stack((POST,) * 2, positions=64, types=2, embed_norm=LAYER), head=MLMHead(), init="bert"),
    "seq2seq": ModelConfig(
        32,
        60,
        64,
        encoder=Stack((Layer(BOTH, FFN(48, "relu", dropout=True), RMS),) * 2, RMS, RELATIVE),
        decoder=Stack((Layer(replace(BOTH, causal=True), FFN(48, "relu", dropout=True), RMS, cross=BOTH),) * 2, RMS, RELATIVE),
        head=LMHead(tied=False),
        init="t5",
        init_std=1.0,
    ),
}


def model_of(name: str, **changes: object) -> Transformer:
    model = Transformer(replace(CONFIGS[name], **changes)).eval()  # type: ignore[arg-type]
    initialise(model, torch.Generator().manual_seed(0))
    return model


def tokens(rows: int = 2, length: int = 8, seed: int = 0) -> Tensor:
    return torch.randint(0, 60, (rows, length), generator=torch.Generator().manual_seed(seed))


def batch_of(model: Transformer) -> Batch:
    labels = {"lm": tokens(seed=3)}
    return Batch(tokens(), labels, source=Batch(tokens(length=6, seed=1)) if model.config.kind == "seq2seq" else None)


def loss_of(model: Transformer, batch: Batch, chunk: int = 0) -> Tensor:
    total, count = token_loss(model.head, model(batch), batch.labels["lm"], chunk)
    return total / count


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_counted_without_building(name: str) -> None:
    variants = [CONFIGS[name], replace(CONFIGS[name], head=None), replace(CONFIGS[name], head=Pooler())]
    variants += [replace(CONFIGS[name], head=MLMHead(next_sentence=False)), replace(CONFIGS[name], head=LMHead(tied=True))]
    for config in variants:
        assert sum(p.numel() for p in Transformer(config).parameters()) == config.parameters()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_generator_gives_the_same_weights_and_nothing_else_draws(name: str) -> None:
    state = torch.get_rng_state()
    first = model_of(name).state_dict()
    torch.manual_seed(5)
    model = Transformer(CONFIGS[name])
    before = torch.get_rng_state()
    initialise(model, torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())
    torch.set_rng_state(state)
    assert all(torch.equal(first[key], value) for key, value in model.state_dict().items())
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_initial_sizes_follow_the_papers() -> None:
    wide = Transformer(ModelConfig(256, 500, 64, decoder=Stack((Layer(Attn(4, 4, 64), FFN(512, "silu", True), RMS),) * 2, RMS)))
    initialise(wide, torch.Generator().manual_seed(0))
    layer = wide.decoder.layers[1]
    assert layer.attn.q.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert layer.attn.o.weight.std().item() == pytest.approx(0.02 / 2, rel=0.05)  # 2 layers, 2 parts each
    assert layer.ffn.down.weight.std().item() == pytest.approx(0.02 / 2, rel=0.05)
    bert = model_of("post")
    assert bert.embed.weight.abs().max().item() <= 0.04
    assert not bert.head.dense.bias.any()
    t5 = model_of("seq2seq")
    assert t5.embed.weight.std().item() == pytest.approx(1.0, rel=0.1)
    assert t5.decoder.layers[0].attn.q.weight.std().item() == pytest.approx((32 * 8) ** -0.5, rel=0.1)


@pytest.mark.parametrize("name", ["rotary", "learned"])
def test_packed_documents_equal_documents_alone(name: str) -> None:
    """Segments keep attention inside a document; positions start again with it."""
    model = model_of(name)
    first, second = tokens(1, 5), tokens(1, 3, seed=1)
    packed = Batch(
        torch.cat((first, second), 1),
        segments=torch.tensor([[0] * 5 + [1] * 3]),
        positions=torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2]]),
    )
    with torch.no_grad():
        hidden = model(packed)
        torch.testing.assert_close(hidden[:, :5], model(Batch(first)), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(hidden[:, 5:], model(Batch(second)), atol=1e-5, rtol=1e-5)
        loose = model(replace(packed, segments=None, positions=None))
    assert (loose[:, 5:] - hidden[:, 5:]).abs().max() > 1e-3


@pytest.mark.parametrize("name", CONFIGS)
def test_a_trace_shows_the_weights_and_changes_nothing(name: str) -> None:
    model = model_of(name)
    batch = batch_of(model)
    trace: list[Tensor] = []
    with torch.no_grad():
        torch.testing.assert_close(model(batch, AttnContext(trace=trace)), model(batch), atol=1e-5, rtol=1e-5)
    shapes = {"seq2seq": [(2, 4, 6, 6)] * 2 + [(2, 4, 8, 8), (2, 4, 8, 6)] * 2}.get(name, [(2, 4, 8, 8)] * 2)
    assert [tuple(weights.shape) for weights in trace] == shapes
    for weights in trace:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


@pytest.mark.parametrize("name", CONFIGS)
def test_recomputing_activations_gives_the_same_gradients(name: str) -> None:
    model = model_of(name, attention_dropout=0.1).train()
    batch, grads = batch_of(model), []
    for checkpointing in (False, True):
        model.checkpointing = checkpointing
        torch.manual_seed(0)
        model.zero_grad()
        loss_of(model, batch).backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("chunk", [0, 5])
def test_autocast_stays_near_full_precision(name: str, chunk: int) -> None:
    model = model_of(name).train()
    batch = batch_of(model)
    batch.labels["lm"][0, :3] = IGNORE
    full = loss_of(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = loss_of(model, batch, chunk)
    assert narrow.dtype == torch.float32
    assert narrow.item() == pytest.approx(full.item(), rel=0.02)
    narrow.backward()
    for key, parameter in model.named_parameters():
        if not key.startswith(("head.pooler", "head.classifier", "encoder.types")):
            assert parameter.grad is not None, key
            assert parameter.grad.dtype == torch.float32
            assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("name", CONFIGS)
def test_half_precision_weights_run(name: str) -> None:
    model = model_of(name).bfloat16()
    batch = batch_of(model)
    with torch.no_grad():
        hidden = model(batch)
    assert hidden.dtype == torch.bfloat16
    assert torch.isfinite(hidden).all()


def test_dropout_acts_in_training_alone() -> None:
    model, batch = model_of("rotary", dropout=0.3), Batch(tokens())
    with torch.no_grad():
        assert torch.equal(model(batch), model(batch))
        model.train()
        assert not torch.equal(model(batch), model(batch))


def test_padding_changes_nothing_for_the_rest_and_is_never_nan() -> None:
    model = model_of("post")
    keep = torch.tensor([[True] * 5 + [False] * 3, [False] * 8])
    with torch.no_grad():
        hidden = model(Batch(tokens(), keep=keep))
        torch.testing.assert_close(hidden[:1, :5], model(Batch(tokens()[:1, :5])), atol=1e-5, rtol=1e-5)
    assert torch.isfinite(hidden).all()


def test_the_cache_forgets_what_is_cut() -> None:
    model, ids = model_of("rotary"), tokens(1, 8)
    cache = Cache(model.config, 1, 8)
    with torch.no_grad():
        model.decode(ids[:, :6], AttnContext(cache=cache))
        cache.cut(4)
        rest = model.decode(ids[:, 4:], AttnContext(cache=cache))
        torch.testing.assert_close(rest, model.decode(ids)[:, 4:], atol=1e-5, rtol=1e-5)


def test_cross_keys_are_computed_once() -> None:
    model = model_of("seq2seq")
    cache = Cache(model.config, 2, 8)
    with torch.no_grad():
        memory = model.encode(tokens(length=6, seed=1))
        model.decode(tokens()[:, :3], AttnContext(cache=cache), memory)
        stored = cache.cross[0]
        last = model.decode(tokens()[:, 3:], AttnContext(cache=cache))  # no memory any more
        assert cache.cross[0] is stored
        torch.testing.assert_close(last, model.decode(tokens(), None, memory)[:, 3:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Cache(CONFIGS["rotary"], 1, 4).room(5), "holds 4 positions; 0 are filled and 5 more"),
        (lambda: Cache(CONFIGS["rotary"], 1, 4).cut(1), "cannot be cut to 1. Allowed: 0 to 0"),
        (lambda: Cache(CONFIGS["post"], 1, 4), "An encoder alone has no cache"),
        (lambda: model_of("learned").decode(tokens(1, 65)), "65 tokens were given; this model has positions for 64"),
        (lambda: model_of("rotary").encode(tokens()), "no encoder"),
        (lambda: model_of("post").decode(tokens()), "no decoder"),
        (lambda: model_of("seq2seq")(Batch(tokens())), "needs batch.source"),
        (lambda: model_of("seq2seq").decode(tokens()), "nothing to look at"),
        (
            lambda: model_of("rotary").decode(tokens(), AttnContext(keep=torch.ones(2, 5, dtype=torch.bool))),
            "keep has 5 positions; it must cover all keys: 0 cached [+] 8 new = 8",
        ),
    ],
)
def test_misuse_is_named(act: object, message: str) -> None:
    with pytest.raises(ContextError, match=message):
        act()  # type: ignore[operator]


def test_a_batch_splits_and_moves_whole() -> None:
    batch = Batch(tokens(5), {"lm": tokens(5), "nsp": torch.arange(5)}, keep=tokens(5) > 3, source=Batch(tokens(5, 3)))
    pieces = batch.split(2)
    assert [len(piece) for piece in pieces] == [2, 2, 1]
    assert torch.equal(torch.cat([piece.labels["nsp"] for piece in pieces]), torch.arange(5))
    assert all(piece.source is not None and len(piece.source) == len(piece) for piece in pieces)
    assert torch.equal(batch.to("cpu").tokens, batch.tokens)
