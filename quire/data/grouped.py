"""The loader of supervised tasks: every example once an epoch, in batches of like length, or several packed into rows of one length.

An epoch is a permutation drawn from (seed, epoch). Within stretches of it examples are sorted by length before they are cut into batches,
and the batches are shuffled again: almost no padding, and no order that the model could learn from. The first batch of a run is the one
with the longest example, so what does not fit into memory fails at once. The last batch of an epoch is smaller where the numbers do not
divide: no example is dropped and none shown twice. All the state there is: how many batches were given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from ..errors import CheckpointError, DataError
from ..nn.batch import Batch
from ..tasks.tuning.example import Example, SupervisedTask, join
from ..tasks.tuning.example import rows as rows_of

_STRETCH = 64  # batches whose examples are sorted together


class ExampleLoader:
    """Batches of `rows` examples; `pack`: of rows of at most so many tokens that hold several examples each (0: one a row).

    Raises DataError when there is no example, or when one is longer than `pack`.
    """

    def __init__(self, examples: Sequence[Example], task: SupervisedTask, rows: int, seed: int, pack: int = 0) -> None:
        if not examples:
            raise DataError("there is no row to train on.")
        self.examples, self.task, self.rows, self.seed, self.pack = list(examples), task, rows, seed & (2**63 - 1), pack
        self.lengths = np.array([len(example) for example in self.examples])
        if pack and self.lengths.max() > pack:
            raise DataError(f"a row of {self.lengths.max():,} tokens does not fit into packed rows of {pack:,}.")
        self.row_tokens = pack or max(len(row) - sum(map(len, row.more)) for row in rows_of(self.examples))  # of the longest row of a batch
        self.step = 0
        self._epoch, self._before = 0, 0  # the epoch of the next batch, and how many batches the epochs before it had
        self._order = lru_cache(2)(self._plan)
        self.tokens_per_epoch = int(self.lengths.sum())
        self.tokens_per_step = round(self.tokens_per_epoch / len(self._order(0)))

    @property
    def steps_per_epoch(self) -> int:
        return len(self._order(0))

    @property
    def epoch(self) -> float:
        """Passes over the rows so far, with its fraction."""
        return self._epoch + (self.step - self._before) / len(self._order(self._epoch))

    def steps(self, epochs: float) -> int:
        """How many batches so many passes have."""
        whole = sum(len(self._order(epoch)) for epoch in range(int(epochs)))
        part = epochs - int(epochs)
        return max(1, whole + round(part * len(self._order(int(epochs)))) if part else whole)

    def next(self) -> Batch:
        """The batch of the next optimizer step."""
        self._turn()
        rows = self._order(self._epoch)[self.step - self._before]
        parts = [[self.examples[number] for number in row] for row in rows]
        self.tokens_per_step = sum(len(example) for part in parts for example in part)
        self.step += 1
        return self.task.batch([part[0] if len(part) == 1 and not self.pack else join(part) for part in parts])

    def _turn(self) -> None:
        while self.step - self._before >= (there := len(self._order(self._epoch))):
            self._before, self._epoch = self._before + there, self._epoch + 1

    def _plan(self, epoch: int) -> list[list[list[int]]]:
        """The batches of an epoch: each a list of rows, each row the numbers of its examples."""
        draw = np.random.default_rng([3, self.seed, epoch])
        order = draw.permutation(len(self.examples))
        batches: list[list[list[int]]] = []
        size = _STRETCH * self.rows * (max(1, int(self.pack // self.lengths.mean())) if self.pack else 1)
        rows: list[list[int]] = []
        for start in range(0, len(order), size):
            stretch = order[start : start + size]
            stretch = stretch[np.argsort(-self.lengths[stretch], kind="stable")]
            rows = self._packed(stretch.tolist()) if self.pack else [[number] for number in stretch.tolist()]
            if self.pack:
                rows = [rows[place] for place in draw.permutation(len(rows))]
            batches += [rows[place : place + self.rows] for place in range(0, len(rows), self.rows)]
        batches = [batches[place] for place in draw.permutation(len(batches))]
        if epoch == 0:
            longest = int(np.argmax([max(self.lengths[number] for row in batch for number in row) * len(batch) for batch in batches]))
            batches[0], batches[longest] = batches[longest], batches[0]
        return batches

    def _packed(self, numbers: Sequence[int]) -> list[list[int]]:
        """First fit, the longest first (Johnson 1973): rows of at most `pack` tokens."""
        rows: list[list[int]] = []
        room: list[int] = []
        for number in numbers:
            length = int(self.lengths[number])
            place = next((place for place, left in enumerate(room) if left >= length), None)
            if place is None:
                rows.append([number])
                room.append(self.pack - length)
            else:
                rows[place].append(number)
                room[place] -= length
        return rows

    def _facts(self) -> dict[str, Any]:
        return {"examples": self._digest, "seed": self.seed, "rows": self.rows, "pack": self.pack, "task": self.task.describe()}

    @cached_property
    def _digest(self) -> str:
        """Of all examples; the trainer asks for the place in the data before every step."""
        found = hashlib.sha256()
        for example in rows_of(self.examples):
            found.update(example.ids.astype("<i8").tobytes() + b"|" + b"".join(label.tobytes() for label in example.labels.values()))
        return found.hexdigest()

    def state(self) -> dict[str, Any]:
        """The place in the data as JSON: a loader of the same facts that loads it gives the same batches from here on."""
        return {"step": self.step, **self._facts()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes to the place that `state` names. Raises CheckpointError when the rows or what decides the batches is not the same."""
        for name, now in self._facts().items():
            if state[name] != now:
                what = (
                    "the training rows changed since this run stopped"
                    if name == "examples"
                    else f"this run's data had {name} = {state[name]}"
                )
                raise CheckpointError(f"{what}; now it is {str(now)[:120]}. Put back what was there, or start a new run from its model.")
        self.step, self._epoch, self._before = state["step"], 0, 0
        self._turn()
