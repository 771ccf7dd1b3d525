"""What a task is: one object that the trainer, the evaluator and the data loader share.

A task decides once how tokens become rows, rows a `Batch`, and a batch loss terms. Two points carry the design:
`counts` is known before any forward, so the trainer divides each term by its weight over the whole window (every micro-batch, every
rank) and 1 x 8 rows give the gradient of 8 x 1; and every random draw comes from the generator that is passed in, which the loader
makes from (seed, step) alone, so a resumed run sees the same rows, masks and pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from ..errors import RecipeError, nearest
from ..nn.batch import Batch
from ..text.tokenizer import Tokenizer

Array = npt.NDArray[Any]
RowArrays = Sequence[Array] | Array  # one array a row, or one matrix when all are of one length
Term = tuple[Tensor, int]  # the summed loss, and how many things it sums over


NAMES = ("causal", "masked", "denoise")


class TokenView(Protocol):
    """A token shard as a task sees it (`data.shards.Shard` is one).

    `tokens` (N,) is one separator, then the documents, each followed by a separator; `offsets` (documents + 1,) says where each
    document begins, so document i with its closing separator is tokens[offsets[i]:offsets[i + 1]] and tokens[offsets[i] - 1] is always
    a separator. `byte_offsets` (documents + 1,) says the same in bytes of UTF-8; `text_bytes` is the size of all the text.
    """

    @property
    def tokens(self) -> Array: ...
    @property
    def offsets(self) -> Array: ...
    @property
    def byte_offsets(self) -> Array: ...
    @property
    def text_bytes(self) -> int: ...


class Rows(Protocol):
    """The rows of one pass over a stretch of a shard, by number; `shift` moves where they begin (another one for each epoch)."""

    @property
    def count(self) -> int: ...
    @property
    def whole(self) -> int:
        """How many of them no token is in twice: fewer than `count` only where a stretch is shorter than a row."""

    @property
    def used(self) -> int:
        """Tokens of the corpus that one pass reads."""

    def read(self, numbers: Array, shift: int = 0) -> RowArrays: ...


class Objective(Protocol):
    """The part of a task that a training step needs, whatever its batches are made of."""

    @property
    def name(self) -> str: ...
    @property
    def splittable(self) -> bool:
        """May a batch be split into micro-batches without changing the loss?"""

    @property
    def supervised(self) -> bool:
        """Does it learn from rows of a known kind (`tuning.example.SupervisedTask`), of unequal length? Else from running text."""

    @property
    def metric(self) -> str:
        """The figure of `evaluate` that decides which checkpoint is best."""

    @property
    def better(self) -> Literal["lower", "higher"]: ...
    def describe(self) -> dict[str, Any]:
        """What decides the batches, as JSON: compared when a run is resumed."""

    def counts(self, batch: Batch) -> dict[str, int]:
        """The weight of every term, before any forward: {"lm": number of labels}. Keys equal those of `terms` and `batch.labels`."""

    def terms(self, model: nn.Module, batch: Batch, chunk: int = 0) -> dict[str, Term]:
        """Summed losses in nats with their weights. `chunk`: rows of logits at a time (`token_loss`); 0: all at once."""


class Task(Objective, Protocol):
    """A task on the running text of shards."""

    @property
    def model_kind(self) -> Literal["decoder", "encoder", "seq2seq"]:
        """The kind of model (`ModelConfig.kind`) that can learn it."""

    @property
    def separator(self) -> int:
        """The token written after every document of a shard."""

    @property
    def context(self) -> int: ...
    @property
    def tokens_per_row(self) -> int:
        """The most tokens of the corpus that a row uses up."""

    def rows(self, view: TokenView, start: int, stop: int) -> Rows:
        """The rows of the stretch tokens[start:stop] of a shard, which begins and ends with whole documents."""

    def batch(self, rows: RowArrays, draw: np.random.Generator) -> Batch: ...
    def evaluate(self, model: nn.Module, view: TokenView, limit: int = 0, rows: int = 0) -> dict[str, float]:
        """Held-out figures; the same call on the same shard gives the same rows and masks. `limit`: tokens at most (0: all);
        `rows`: rows a forward (0: decide by size)."""


class TaskChoice(Protocol):
    """The part of a recipe that chooses a task (`train.recipe.TaskPart` is one)."""

    @property
    def name(self) -> str: ...
    @property
    def mask_rate(self) -> float: ...
    @property
    def whole_words(self) -> bool: ...
    @property
    def next_sentence(self) -> bool: ...
    @property
    def mean_span(self) -> float: ...


def make(choice: TaskChoice, tokenizer: Tokenizer, context: int, boundaries: Literal["attend", "mask"] = "attend") -> Task:
    """The task that a recipe names, for rows of `context` tokens. `boundaries` is `causal`'s (see there)."""
    if choice.name == "causal":
        from .causal import Causal

        return Causal(tokenizer, context, boundaries)
    if choice.name == "masked":
        from .masked import Masked

        return Masked(tokenizer, context, choice.mask_rate, choice.whole_words, choice.next_sentence)
    if choice.name == "denoise":
        from .denoise import Denoise

        return Denoise(tokenizer, context, choice.mask_rate, choice.mean_span)
    raise RecipeError(f"task.name = '{choice.name}' is not a task.{nearest(choice.name, list(NAMES))} The tasks are: {', '.join(NAMES)}.")
