"""Many rows through a model, few of them padding: sorted by length, as many at once as a budget of tokens holds, back in their order.

A batch is as wide as its longest row, so rows of like length go together. The longest go first: what does not fit into memory fails at
once, and the time left that is shown after the first batch is too long rather than too short. A batch that would be padded by more than
an eighth ends early, unless it is still small: a product over few tokens costs nearly as much as one over some hundreds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import TypeVar

Row = TypeVar("Row", bound=Sized)
Result = TypeVar("Result")

_SMALL = 4  # a batch under a quarter of the budget is not ended for its padding
_PADDING = 8  # one in so many tokens


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Numbers of the rows of each batch, the longest rows first: rows x longest <= `budget`, or one row alone."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    batch: list[int] = []
    tokens = 0  # without padding
    for number in order:
        length = lengths[number]
        width = lengths[batch[0]] if batch else length
        size = (len(batch) + 1) * width
        wasteful = (size - tokens - length) * _PADDING > size and len(batch) * width * _SMALL >= budget
        if batch and (size > budget or wasteful):
            yield batch
            batch, tokens = [], 0
        batch.append(number)
        tokens += length
    if batch:
        yield batch


def by_length(
    rows: Sequence[Row], forward: Callable[[list[Row]], Iterable[Result]], budget: int, progress: Callable[[int], None] | None = None
) -> list[Result]:
    """`forward` over all rows, which returns one result a row; the results in the order of `rows`.

    budget: tokens of a batch, padding included (`len` of its longest row times its rows). progress: called with the number of rows done.
    """
    found: dict[int, Result] = {}
    for batch in batches([len(row) for row in rows], budget):
        found.update(zip(batch, forward([rows[number] for number in batch]), strict=True))
        if progress is not None:
            progress(len(found))
    return [found[number] for number in range(len(rows))]
