"""Language modelling over packed rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quire.errors import RecipeError
from quire.nn.attention import AttnContext
from quire.nn.batch import Batch
from quire.nn.config import FFN, Attn, Layer, ModelConfig, MoE, Norm, Stack
from quire.nn.init import initialise
from quire.nn.moe import balance_loss
from quire.nn.transformer import Transformer
from quire.tasks.causal import Causal
from quire.tasks.score import score_tokens, segment
from quire.tasks.task import make
from quire.train.recipe import TaskPart

from .conftest import CONTEXT, small_model

DRAW = np.random.default_rng(0)


@pytest.fixture(scope="module")
def task(tokenizers) -> Causal:  # type: ignore[no-untyped-def]
    found = make(TaskPart(), tokenizers["causal"], CONTEXT)
    assert isinstance(found, Causal)
    return found


def test_labels_are_the_next_tokens(task: Causal) -> None:
    rows = np.arange(66).reshape(2, 33)
    batch = task.batch(rows, DRAW)
    assert batch.tokens.tolist() == rows[:, :-1].tolist() and batch.labels["lm"].tolist() == rows[:, 1:].tolist()
    assert batch.segments is None and batch.positions is None
    assert task.counts(batch) == {"lm": 64}


def test_segments_open_with_their_separator_and_positions_start_again() -> None:
    segments, positions = segment(np.array([[5, 6, 0, 7, 8, 0, 0, 9], [0, 1, 2, 3, 4, 5, 6, 7]]), 0)
    assert segments.tolist() == [[0, 0, 1, 1, 1, 2, 3, 3], [1] * 8]
    assert positions.tolist() == [[0, 1, 0, 1, 2, 0, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7]]


def test_masked_boundaries_read_a_document_as_if_it_stood_alone(tokenizers) -> None:  # type: ignore[no-untyped-def]
    model, task = small_model("decoder"), Causal(tokenizers["causal"], CONTEXT, "mask")
    first, second = [11, 12, 13], [21, 22, 23, 24]
    row = np.array([[0, *first, 0, *second, 0]])
    packed = model(task.batch(row, DRAW))
    alone = model(Batch(torch.tensor([[0, *second]])))
    assert torch.allclose(packed[0, 4:], alone[0], atol=1e-5)
    attended = model(Causal(tokenizers["causal"], CONTEXT).batch(row, DRAW))
    assert not torch.allclose(attended[0, 4:], alone[0], atol=1e-3)


def test_terms_split_over_micro_batches_add_up(task: Causal) -> None:
    model = small_model("decoder")
    batch = task.batch(np.random.default_rng(0).integers(0, 512, (8, 33)), DRAW)
    loss, weight = task.terms(model, batch)["lm"]
    parts = [task.terms(model, part, chunk=7)["lm"] for part in batch.split(3)]
    assert weight == sum(part[1] for part in parts) == task.counts(batch)["lm"] == 256
    assert loss.item() == pytest.approx(sum(part[0].item() for part in parts), rel=1e-5)


def test_evaluation_is_the_same_each_time_and_of_the_whole_stream(task: Causal, shard_of, tokenizers) -> None:  # type: ignore[no-untyped-def]
    model, shard = small_model("decoder"), shard_of(tokenizers["causal"], 0)
    found = task.evaluate(model, shard)
    assert found == task.evaluate(model, shard) and found["tokens"] == shard.token_count - 1
    nats = np.nansum(score_tokens(model, shard.tokens, CONTEXT), dtype=np.float64)
    assert found["bits_per_byte"] == pytest.approx(nats / np.log(2) / shard.text_bytes, rel=1e-5)
    few = task.evaluate(model, shard, limit=1000, rows=4)
    assert few["tokens"] < 1100 and few["bits_per_byte"] == pytest.approx(found["bits_per_byte"], rel=0.2)


def test_masked_boundaries_are_evaluated_as_they_are_trained(shard_of, tokenizers) -> None:  # type: ignore[no-untyped-def]
    model, shard = small_model("decoder"), shard_of(tokenizers["causal"], 0)
    attend, mask = (Causal(tokenizers["causal"], CONTEXT, kind).evaluate(model, shard, limit=4000) for kind in ("attend", "mask"))
    assert attend["tokens"] == mask["tokens"] and attend["loss"] != mask["loss"]


def test_impossible_choices_are_refused(tokenizers) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RecipeError, match="the task 'causal' ends documents with an end-of-text token, and this tokenizer has none"):
        Causal(tokenizers["masked"], CONTEXT)
    with pytest.raises(RecipeError, match=r"data\.boundaries = 'wall' is not known\. It is 'attend' or 'mask'"):
        Causal(tokenizers["causal"], CONTEXT, "wall")  # type: ignore[arg-type]
    with pytest.raises(
        RecipeError, match=r"task\.name = 'casual' is not a task\. Did you mean 'causal'\? The tasks are: causal, masked, denoise"
    ):
        make(TaskPart(name="casual"), tokenizers["causal"], CONTEXT)  # type: ignore[arg-type]


def test_experts_add_their_balance_to_the_loss_of_training_alone(tokenizers) -> None:  # type: ignore[no-untyped-def]
    words = tokenizers["causal"]
    ffn = MoE(experts=3, top=2, expert=FFN(8, "silu", gated=True), balance=0.1)
    layer = Layer(Attn(2, 1, 4), ffn, Norm("rms", 1e-6))
    model = Transformer(ModelConfig(8, vocab=words.vocab_size, context=16, decoder=Stack((layer, layer))))
    initialise(model, torch.Generator().manual_seed(0))
    task = Causal(words, 8)
    batch = task.batch(np.random.default_rng(0).integers(words.vocab_size, size=(3, 9)), np.random.default_rng(0))
    with_balance, count = task.terms(model.train(), batch)["lm"]
    without, _ = task.terms(model.eval(), batch)["lm"]
    routing: list[torch.Tensor] = []
    model(batch, AttnContext(routing=routing))
    assert len(routing) == 2 and count == 24
    torch.testing.assert_close(with_balance - without, 0.1 * count * balance_loss(routing, ffn), atol=1e-4, rtol=1e-4)
    with_balance.backward()
    router = model.decoder.layers[0].ffn.router.weight.grad  # type: ignore[union-attr,index]
    assert router is not None and router.abs().sum() > 0
