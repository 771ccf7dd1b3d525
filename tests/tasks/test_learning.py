"""Each task teaches its smallest model something about real text within seconds."""

from __future__ import annotations

import pytest
import torch

from quire.data.batches import Loader
from quire.tasks.task import Task, make
from quire.train.recipe import TaskPart

from .conftest import CONTEXT, small_model


@pytest.mark.parametrize(
    ("part", "steps", "rate", "falls"),
    [
        (TaskPart("causal"), 80, 5e-3, 1.2),
        (TaskPart("masked", next_sentence=True), 120, 5e-3, 0.5),
        (TaskPart("denoise"), 120, 5e-3, 0.6),
    ],
    ids=["causal", "masked", "denoise"],
)
def test_the_loss_falls_on_text_that_was_not_trained_on(
    part: TaskPart, steps: int, rate: float, falls: float, shard_of, tokenizers
) -> None:  # type: ignore[no-untyped-def]
    task: Task = make(part, tokenizers[part.name], CONTEXT)
    model, shard = small_model(task.model_kind), shard_of(tokenizers[part.name], task.separator)
    loader = Loader([shard], None, task, 16, CONTEXT, 0)
    before = task.evaluate(model, shard, limit=4000)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95))
    for _ in range(steps):
        batch = loader.next()
        counts = task.counts(batch)
        loss = sum(term / counts[name] for name, (term, _) in task.terms(model, batch).items())
        optimizer.zero_grad()
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        optimizer.step()
    after = task.evaluate(model, shard, limit=4000)
    assert after["loss"] < before["loss"] - falls
    if part.name == "causal":
        assert after["bits_per_byte"] < 0.8 * before["bits_per_byte"]
