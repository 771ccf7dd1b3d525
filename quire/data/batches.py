"""The loader: which rows each optimizer step sees, in an order that a few numbers of JSON restore exactly.

The order of an epoch is a keyed permutation computed on the fly (a Feistel network over the row numbers with cycle walking, Black and
Rogaway 2002), so nothing is shuffled in memory and row k of epoch e costs the same for any corpus. All the state there is: how many rows
each source has given. Sources are mixed by always taking from the one that is furthest behind its share, so the proportions hold at
every step and not only on average. Masks and other draws come from a generator made from (seed, step).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import CheckpointError, DataError
from ..nn.batch import Batch
from ..tasks.task import Array, RowArrays, Rows, Task
from .shards import Shard

_ROUNDS = 4


def _mix(x: Array) -> Array:
    """splitmix64's finaliser (Steele et al. 2014): every bit of the input reaches every bit of the output."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def permuted(numbers: Array, count: int, keys: Array) -> Array:
    """Where a keyed permutation of 0..count-1 sends `numbers` (int64): distinct inputs give distinct outputs below `count`."""
    half = np.uint64(max(1, (max(count - 1, 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    out = numbers.astype(np.uint64)
    todo = np.ones(len(out), dtype=bool)
    while todo.any():  # the network permutes 0..4**half-1; walk on from where it leaves our range (fewer than 4 steps on average)
        x = out[todo]
        left, right = x >> half, x & low
        for key in keys:
            left, right = right, left ^ (_mix(right + key) & low)
        out[todo] = (left << half) | right
        todo[todo] = out[todo] >= count
    return out.astype(np.int64)


class _Stretch:
    """A run of documents of one source in one shard, with its rows and how often it is shown."""

    def __init__(self, rows: Rows, weight: float, seed: int, number: int) -> None:
        self.rows, self.weight, self.seed, self.number = rows, weight, seed, number
        self.share = weight * rows.count
        self.taken = 0

    def next(self, want: int, stride: int) -> Iterator[RowArrays]:
        """The next `want` rows, in one part for each epoch they are in."""
        while want:
            epoch, cursor = divmod(self.taken, self.rows.count)
            now = min(want, self.rows.count - cursor)
            draw = np.random.default_rng([1, self.seed, self.number, epoch])
            keys = draw.integers(0, 2**63, size=_ROUNDS, dtype=np.uint64)
            shift = int(draw.integers(stride)) if epoch else 0
            numbers = permuted(np.arange(cursor, cursor + now), self.rows.count, keys)
            self.taken += now
            want -= now
            yield self.rows.read(numbers, shift)


class Loader:
    """Batches of `rows` rows, one for each optimizer step.

    `weights`: one number a shard, or None for the weights that the shards' own sources recorded (PATH*2.0). An epoch shows a source of
    weight 1 once and one of weight 2 twice. Raises DataError when the corpus does not fill one batch, with the numbers.
    """

    def __init__(self, shards: Sequence[Shard], weights: Sequence[float] | None, task: Task, rows: int, context: int, seed: int) -> None:
        self.shards, self.task, self.batch_rows, self.context, self.seed = list(shards), task, rows, context, seed & (2**63 - 1)
        self.step = 0  # batches given so far
        self._stretches: list[_Stretch] = []
        for i, shard in enumerate(self.shards):
            for source in shard.sources:
                found = task.rows(shard, source.start, source.stop)
                if found.count:
                    weight = source.weight if weights is None else weights[i]
                    self._stretches.append(_Stretch(found, weight, self.seed, len(self._stretches)))
        self._refuse_small()
        total = sum(stretch.share for stretch in self._stretches)
        self._shares = [stretch.share / total for stretch in self._stretches]
        used = sum(stretch.weight * stretch.rows.used for stretch in self._stretches)
        self.tokens_per_epoch = round(used)
        self.tokens_per_step = round(rows * used / total)  # tokens of the corpus that one batch uses up

    def _refuse_small(self) -> None:
        there, row = sum(stretch.rows.whole for stretch in self._stretches), self.task.tokens_per_row
        if there >= self.batch_rows:
            return
        less = f"lower train.batch to {there} or less, " if there else ""
        raise DataError(
            f"the training text is smaller than one batch: it has {sum(shard.token_count for shard in self.shards):,} tokens, which make "
            f"{there:,} rows of {row:,}, and a batch needs {self.batch_rows:,} rows ({self.batch_rows * row:,} tokens). "
            f"Add text to data.sources, {less}or lower model.context."
        )

    @property
    def steps_per_epoch(self) -> float:
        return self.tokens_per_epoch / self.tokens_per_step

    @property
    def epoch(self) -> float:
        """Passes over the corpus so far, with its fraction."""
        return self.step / self.steps_per_epoch

    def next(self) -> Batch:
        """The batch of the next optimizer step."""
        stride = self.task.tokens_per_row
        parts = [part for stretch, want in zip(self._stretches, self._quota(), strict=True) for part in stretch.next(want, stride)]
        rows = parts[0] if len(parts) == 1 else [row for part in parts for row in part]
        batch = self.task.batch(rows, np.random.default_rng([2, self.seed, self.step]))
        self.step += 1
        return batch

    def _quota(self) -> list[int]:
        """How many rows of the next batch each stretch gives: always one from the stretch that is furthest behind its share."""
        if len(self._stretches) == 1:
            return [self.batch_rows]
        taken, quota = [stretch.taken for stretch in self._stretches], [0] * len(self._stretches)
        for k in range(sum(taken) + 1, sum(taken) + self.batch_rows + 1):
            behind = [share * k - t for share, t in zip(self._shares, taken, strict=True)]
            i = behind.index(max(behind))
            taken[i] += 1
            quota[i] += 1
        return quota

    def _facts(self) -> dict[str, Any]:
        """What a saved place in the data is worth only together with."""
        return {
            "shards": [{"name": shard.name, "sha256": shard.sha256} for shard in self.shards],
            "seed": self.seed,
            "rows": self.batch_rows,
            "task": self.task.describe(),
            "weights": [stretch.weight for stretch in self._stretches],
        }

    def state(self) -> dict[str, Any]:
        """The place in the data as JSON: a loader of the same facts that loads it gives the same batches from here on."""
        return {"step": self.step, "taken": [stretch.taken for stretch in self._stretches], **self._facts()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes to the place that `state` names. Raises CheckpointError when the data or what decides the batches is not the same."""
        for then, now in zip(state["shards"], self._facts()["shards"], strict=False):
            if then != now:
                raise CheckpointError(
                    f"the training data changed since this run stopped: {now['name']} had SHA-256 {then['sha256'][:16]}… and now has "
                    f"{now['sha256'][:16]}…. Put the old file back, or start a new run from the model folder with model.start."
                )
        for name, now in self._facts().items():
            if state[name] != now:
                raise CheckpointError(
                    f"this checkpoint's place in the data is for {name} = {state[name]}, and the loader was made with {now}. "
                    "Resume with the recipe of the run, or start a new run from its model folder with model.start."
                )
        if len(state["taken"]) != len(self._stretches):
            raise CheckpointError(f"this checkpoint has places in {len(state['taken'])} sources, and the data has {len(self._stretches)}.")
        self.step = state["step"]
        for stretch, taken in zip(self._stretches, state["taken"], strict=True):
            stretch.taken = taken
