"""An example is a row as a model reads it; a supervised task makes examples of rows, batches of examples, and figures of a model's answers.

What is trained is what is served: every task makes its examples by the same reading (`tasks.reading`, `text.template`) as the verb that
uses the tuned model, and its `evaluate` calls that verb's own function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from ...binding.contract import Contract
from ...binding.truncation import Truncation, ways
from ...errors import DataError
from ...metrics.interval import Interval
from ...nn.batch import IGNORE, Batch, rounded
from ...nn.transformer import Transformer
from ...types import Long
from ..task import Array, Objective
from .schemas import Row

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Example:
    """ids (T,): what is read. labels, one a loss term: (T,) a token, or of any other shape for the whole row. types (T,): token types.

    target (S,): what an encoder-decoder writes. more: further rows that belong to this one (a positive, negatives). segments (T,): which
    of several packed rows a token is of. cut: tokens of the row that were left out. where: file and line, for a person. notes: what is
    told, once and with a count, of how rows like this one are learned.
    """

    ids: Array
    labels: Mapping[str, Array]
    types: Array | None = None
    target: Array | None = None
    more: tuple[Example, ...] = ()
    segments: Array | None = None
    cut: int = 0
    where: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids) + (0 if self.target is None else len(self.target)) + sum(map(len, self.more))


@dataclass(frozen=True)
class Evaluation:
    """figures: the metric among them. intervals: those that have one. found: an answer a row, as JSON, in the order of the rows.

    tables: what a person looks at beside figures, by name ("confusion", "errors"), as JSON.
    """

    figures: dict[str, float]
    intervals: dict[str, Interval] = field(default_factory=dict)
    found: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, Any] = field(default_factory=dict)


class SupervisedTask(Objective, Protocol):
    """A task on rows of a known kind."""

    @property
    def schemas(self) -> tuple[str, ...]:
        """The kinds of rows that it learns from."""

    @property
    def packs(self) -> bool:
        """May several examples stand in one row, told apart by segments?"""

    def head(self) -> tuple[Literal["row", "token", "span", "words", "base"], tuple[str, ...], dict[str, Any]]:
        """The head that the model needs, the names of its labels, and further fields of config.json."""

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        """One a row, in order; of a row that is read in windows several. Raises DataError naming rows that cannot be learned from."""

    def batch(self, examples: Sequence[Example]) -> Batch: ...
    def evaluate(self, model: Transformer, rows: Sequence[Row]) -> Evaluation: ...


def as_trained(contract: Contract, longest: int, long: Long, stride: int | None = None) -> Contract:
    """The contract of a model that learns from texts that are cut so, and is measured as it is trained."""
    return replace(contract, truncation=Truncation(longest, long, stride))


def as_used(contract: Contract, named: bool, bounded: bool, examples: Sequence[Example]) -> Contract:
    """The contract that goes into the model's folder. named: the recipe says how a long text is cut; bounded: how long one may be.

    The model cuts as it was told to, or as its rows were cut. What one that never saw a cut makes of it nobody has measured: a text that is
    too long is refused there, as by a model that was never tuned. Windows stay as they are, since they leave nothing out.
    """
    told = contract.truncation
    if told is None or named or any(_is_cut(row, told.longest) for row in examples):
        return contract
    return replace(contract, truncation=replace(told, long="error") if bounded or told.stride is not None else None)


def _is_cut(example: Example, longest: int) -> bool:
    """Was a text of it cut? What fills the limit was, where something was left out; else it was left out of what is to be written."""
    return example.cut > 0 and any(len(row.ids) >= longest for row in rows([example]))


def refuse_long(rows: Sequence[Row], cut: Sequence[int], most: int) -> None:
    """Raises DataError where tokens of a row would be left out, naming the rows; cut: how many of each."""
    over = [(row.where, count) for row, count in zip(rows, cut) if count]
    if over:
        shown = "; ".join(f"{where}: {count:,} tokens too many" for where, count in over[:_SHOWN])
        raise DataError(
            f"{len(over):,} {'row has' if len(over) == 1 else 'rows have'} more than {most:,} tokens ({shown}). Shorten them, raise "
            f"data.longest where the model reads more, or leave out what does not fit with data.long = {ways('{!r}')}."
        )


def matrix(rows: Sequence[Array], fill: int) -> Tensor:
    """Rows of unequal length as one matrix (B, T), filled up on the right."""
    width = rounded(max(map(len, rows)))
    found = np.full((len(rows), width), fill, dtype=np.int64)
    for place, row in enumerate(rows):
        found[place, : len(row)] = row
    return torch.from_numpy(found)


def collate(examples: Sequence[Example], pad: int) -> Batch:
    """Examples as one batch, filled up on the right with `pad`; padding is never kept and never a label.

    What belongs to an example (`more`) is not read: `rows` lays examples out with it.
    """
    lengths = np.array([len(example.ids) for example in examples])
    batch = Batch(matrix([example.ids for example in examples], pad))
    width = batch.tokens.shape[1]
    if lengths.min() < width:
        batch.keep = torch.from_numpy(np.arange(width) < lengths[:, None])
    if any(example.types is not None for example in examples):
        none = [np.zeros(len(example.ids), dtype=np.int64) if example.types is None else example.types for example in examples]
        batch.types = matrix(none, 0)
    for name, label in examples[0].labels.items():
        parts = [example.labels[name] for example in examples]
        # numbers are of a row as a whole, however many there are: as many labels as tokens are no labels of tokens
        whole = label.shape == examples[0].ids.shape and np.issubdtype(label.dtype, np.integer)
        batch.labels[name] = matrix(parts, IGNORE) if whole else torch.from_numpy(np.stack(parts))
    if examples[0].segments is not None:
        segments = [example.segments if example.segments is not None else np.zeros(0) for example in examples]
        batch.segments = matrix(segments, -1)
        batch.positions = matrix([_positions(part) for part in segments], 0)
    return batch


def rows(examples: Sequence[Example]) -> list[Example]:
    """Every row of the examples: each one followed by those that belong to it."""
    return [row for example in examples for row in (example, *example.more)]


def _positions(segments: Array) -> Array:
    """Counted anew in each segment."""
    places = np.arange(len(segments))
    begins = np.r_[True, segments[1:] != segments[:-1]]
    return np.asarray(places - np.maximum.accumulate(np.where(begins, places, 0)))


def join(examples: Sequence[Example]) -> Example:
    """Several examples as one row; each has its number in `segments`."""
    return Example(
        np.concatenate([example.ids for example in examples]),
        {name: np.concatenate([example.labels[name] for example in examples]) for name in examples[0].labels},
        segments=np.repeat(np.arange(len(examples)), [len(example.ids) for example in examples]),
        cut=sum(example.cut for example in examples),
        where=", ".join(example.where for example in examples),
    )
