"""The loader of rows: every example once an epoch, like lengths together, packed rows within their length, a place that is gone back to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from quire.data.grouped import ExampleLoader
from quire.errors import CheckpointError, DataError
from quire.nn.batch import IGNORE, Batch, rounded
from quire.tasks.tuning.example import Example, collate

LENGTHS = np.random.default_rng(0).integers(3, 60, size=203)


class Plain:
    """The part of a task that a loader needs; a row's first id is its number."""

    name, supervised, splittable, packs, metric, better = "plain", True, True, True, "loss", "lower"

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}

    def batch(self, examples: Sequence[Example]) -> Batch:
        return collate(examples, pad=0)


def examples(lengths: Sequence[int] = LENGTHS) -> list[Example]:
    rows = [np.r_[1000 + number, np.arange(1, length)] for number, length in enumerate(lengths)]
    return [Example(row, {"lm": row.copy()}, where=str(number)) for number, row in enumerate(rows)]


def loader(rows: int = 8, seed: int = 0, pack: int = 0, lengths: Sequence[int] = LENGTHS) -> ExampleLoader:
    return ExampleLoader(examples(lengths), Plain(), rows, seed, pack)  # type: ignore[arg-type]


def numbers(batch: Batch) -> list[int]:
    return batch.tokens[batch.tokens >= 1000].tolist()


@pytest.mark.parametrize("pack", [0, 64])
def test_every_example_is_there_once_an_epoch(pack: int) -> None:
    data = loader(pack=pack)
    for epoch in range(2):
        assert data.epoch == epoch
        seen = Counter(number for _ in range(len(data._order(epoch))) for number in numbers(data.next()))
        assert seen == Counter(range(1000, 1000 + len(LENGTHS)))
    assert data.steps(2.0) == data.step


def test_lengths_of_a_batch_are_alike_and_the_first_batch_is_the_widest() -> None:
    data = loader()
    batches = [data.next() for _ in range(data.steps_per_epoch)]
    waste = 1 - sum(LENGTHS) / sum(batch.tokens.numel() for batch in batches)
    assert waste < 0.15  # at random it is 0.45
    assert batches[0].tokens.numel() == max(batch.tokens.numel() for batch in batches)
    firsts = [batch.tokens.shape[1] for batch in batches]
    assert firsts != sorted(firsts) and firsts != sorted(firsts, reverse=True)


def test_packed_rows_hold_whole_examples_that_are_told_apart() -> None:
    data = loader(pack=64)
    for _ in range(data.steps_per_epoch):
        batch = data.next()
        assert batch.tokens.shape[1] <= 64
        for tokens, segments, positions, labels in zip(batch.tokens, batch.segments, batch.positions, batch.labels["lm"]):
            kept = segments >= 0
            for segment in segments[kept].unique():
                own = segments == segment
                number = int(tokens[own][0]) - 1000
                assert own.sum() == LENGTHS[number] and positions[own].tolist() == list(range(LENGTHS[number]))
            assert (labels[~kept] == IGNORE).all()


def test_a_place_is_gone_back_to_across_epochs_and_other_rows_are_refused() -> None:
    straight = loader()
    for _ in range(31):
        straight.next()
    state, expected = straight.state(), [straight.next().tokens for _ in range(40)]
    again = loader()
    again.load_state(state)
    assert all(torch.equal(batch, again.next().tokens) for batch in expected)
    with pytest.raises(CheckpointError, match="rows changed since this run stopped"):
        loader(lengths=[*LENGTHS[:-1], 7]).load_state(state)
    with pytest.raises(CheckpointError, match="rows = 8"):
        loader(rows=4).load_state(state)


def test_another_seed_is_another_order() -> None:
    assert not torch.equal(loader(seed=1).next().tokens[:, :1], loader(seed=2).next().tokens[:, :1]) or numbers(
        loader(seed=1).next()
    ) != numbers(loader(seed=2).next())


def test_rows_that_cannot_be() -> None:
    with pytest.raises(DataError, match="no row to train on"):
        loader(lengths=[])
    with pytest.raises(DataError, match="59 tokens does not fit into packed rows of 32"):
        loader(pack=32)


def test_padding_is_never_kept_and_never_a_label_and_goes_where_a_part_needs_it_no_more() -> None:
    batch = collate(examples([5, 70, 9, 8]), pad=0)
    assert batch.tokens.shape == (4, 72) and batch.keep is not None
    assert batch.keep.sum(1).tolist() == [5, 70, 9, 8]
    assert (batch.labels["lm"][~batch.keep] == IGNORE).all()
    parts = batch.split(2)
    assert [part.tokens.shape[1] for part in parts] == [72, 16]
    assert parts[1].keep is not None and parts[1].keep.sum(1).tolist() == [9, 8]


def test_widths_are_few_and_near() -> None:
    assert [rounded(width) for width in (1, 8, 9, 64, 65, 128, 129, 300, 512)] == [8, 8, 16, 64, 72, 128, 144, 320, 512]
    assert all(width <= rounded(width) <= max(width + 7, width * 9 / 8) for width in range(1, 3000))
