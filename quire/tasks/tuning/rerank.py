"""How well a text answers a question: both are read together, and a head with one label says it (a cross-encoder, Nogueira and Cho 2019).

    binary    each pair for itself: does it belong together (cross-entropy of a sigmoid), or how much, where rows have scores from 0 to 1
    list      a question's candidates share out one answer among them (cross-entropy of a softmax, Cao et al. 2007); needs negatives
    mse       the logit is a teacher's score

The verb that uses the model is `rerank`; other tools open it as a cross-encoder, whose score is the sigmoid of the logit. Every candidate
is a row of the batch. `list` looks at all of a question's candidates at once, so it is not split into micro-batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from ...binding.contract import Contract
from ...errors import DataError, RecipeError
from ...metrics.interval import mean_interval
from ...metrics.ranking import ndcg, places, reciprocal
from ...nn.batch import Batch
from ...nn.transformer import Transformer
from ..classify import classify
from ..reading import Long, read
from ..task import Term
from .embed import ordered, scores_of
from .example import Evaluation, Example, as_trained, collate, refuse_long
from .example import rows as rows_of
from .schemas import Ranked, Row, Similar

Loss = Literal["binary", "list", "mse"]
LOSSES: tuple[Loss, ...] = ("binary", "list", "mse")
_LABEL = "score"


class Rerank:
    """Labels of a batch, one a row: "first" (1 begins a question's candidates, which is the right one), "score" (what is to be said)."""

    name = "rerank"
    schemas = ("ranked", "similar")
    supervised, packs = True, False
    better: Literal["higher"] = "higher"

    def __init__(self, contract: Contract, context: int, rows: Sequence[Row], *, loss: str = "auto", long: Long = "cut") -> None:
        self.contract, self.context, self.long = as_trained(contract, context, long), context, long
        self.pairs = isinstance(rows[0], Similar)
        self.loss: Loss = self._chosen(loss, rows)
        self.splittable = self.loss != "list"
        self.metric = "spearman" if self.pairs else "mrr@10"

    def _chosen(self, loss: str, rows: Sequence[Row]) -> Loss:
        """The loss for these rows. Raises RecipeError for one that they cannot be learned by, DataError naming rows that lack a part."""
        scored = [bool(scores_of(row)) for row in rows]
        if any(scored) and not all(scored):
            bare = rows[scored.index(False)].where
            raise DataError(f"{scored.count(False)} of {len(rows)} rows have no score, first {bare}. Give all of them one, or none.")
        if self.pairs and not all(scored):
            raise DataError(
                f"{rows[0].where}: pairs without scores say what belongs together and never what does not. "
                "Give rows with negatives, or a score for each pair."
            )
        chosen: Loss = cast(Loss, loss) if loss != "auto" else "mse" if all(scored) and not self.pairs else "binary"
        allowed: tuple[Loss, ...] = ("binary", "mse") if self.pairs else LOSSES if all(scored) else ("binary", "list")
        if chosen not in allowed:
            kind = f"{rows[0].schema} rows {'with' if all(scored) else 'without'} scores"
            raise RecipeError(f"task.loss = '{loss}' does not fit {kind}; they are learned by {', '.join(allowed)}.")
        if not self.pairs:
            bare_rows = [row.where for row in cast(Sequence[Ranked], rows) if not row.negatives]
            if (chosen == "list" and bare_rows) or len(bare_rows) == len(rows):
                raise DataError(
                    f"{len(bare_rows)} of {len(rows)} rows have no negatives, first {bare_rows[0]}: there is nothing to rank them above."
                )
        elif chosen == "binary":
            beyond = [(row.where, scores_of(row)[0]) for row in rows if not 0 <= scores_of(row)[0] <= 1]
            if beyond:
                raise DataError(
                    f"{beyond[0][0]} has the score {beyond[0][1]:g}; task.loss = binary needs 0 to 1 ({len(beyond)} rows are beyond). "
                    "Divide the scores by the highest that there can be, or use task.loss = mse."
                )
        return chosen

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "context": self.context, "long": self.long, "loss": self.loss}

    def head(self) -> tuple[Literal["row"], tuple[str, ...], dict[str, Any]]:
        return "row", (_LABEL,), {"problem_type": None}  # one label without a problem type is read with a sigmoid

    # -- rows to batches ---------------------------------------------------------------------------------------------------------

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        cut: list[int] = []
        pairs = [(row.reads()[0], text) for row in rows for text in row.reads()[1:]]
        long: Long = "cut" if self.long == "error" else self.long  # the error below knows the row's place in its file
        reads = iter(zip(read(self.contract, pairs, self.context, long, cut), cut, strict=True))
        found = []
        for row in rows:
            wanted = self._wanted(row)
            parts = [(next(reads), place, score) for place, score in enumerate(wanted)]
            made = [
                Example(
                    np.array(ids.ids),
                    {"first": np.array(int(place == 0)), "score": np.array(score, np.float32)},
                    np.array(ids.types) if ids.types else None,
                    cut=over,
                    where=row.where,
                )
                for (ids, over), place, score in parts
            ]
            found.append(_joined(made))
        if self.long == "error":
            refuse_long(rows, [one.cut for one in found], self.context)
        return found

    def _wanted(self, row: Row) -> tuple[float, ...]:
        """What is to be said of each candidate of a row."""
        scores = scores_of(row)
        if scores and (self.pairs or self.loss == "mse"):
            return scores
        return (1.0, *(0.0 for _ in row.reads()[2:]))

    def batch(self, examples: Sequence[Example]) -> Batch:
        return collate(rows_of(examples), self.contract.tokenizer.pad or 0)

    def counts(self, batch: Batch) -> dict[str, int]:
        return {self.loss: int(batch.labels["first"].sum()) if self.loss == "list" else len(batch)}

    def begins(self, batch: Batch) -> Tensor:
        """(N,) bool: the rows that an example begins with."""
        return batch.labels["first"] > 0

    def terms(self, model: nn.Module, batch: Batch, chunk: int = 0) -> dict[str, Term]:
        head: Any = model.head
        logits = head(model(batch), batch.keep).float().squeeze(-1)  # (N,)
        first, score = batch.labels["first"], batch.labels["score"]
        if self.loss == "list":
            owner = first.cumsum(0) - 1
            begins = first.nonzero().squeeze(1)
            place = owner.new_tensor(range(len(owner))) - begins[owner]
            spread = logits.new_full((len(begins), int(place.max()) + 1), float("-inf")).index_put((owner, place), logits)
            loss = F.cross_entropy(spread, owner.new_zeros(len(begins)), reduction="sum")
        elif self.loss == "binary":
            loss = F.binary_cross_entropy_with_logits(logits, score, reduction="sum")
        else:
            loss = F.mse_loss(logits, score, reduction="sum")
        return {self.loss: (loss, self.counts(batch)[self.loss])}

    # -- what a tuned model is worth ----------------------------------------------------------------------------------------------

    def evaluate(self, model: Transformer, rows: Sequence[Row]) -> Evaluation:
        """Where the right candidates of each question stand among its own, by the score of `rerank`; of pairs, their order."""
        pairs = list(dict.fromkeys((row.reads()[0], text) for row in rows for text in row.reads()[1:]))
        said = classify(model, self.contract, pairs, {0: _LABEL}, "none", self.long)
        logits = {pair: labels[_LABEL] for pair, labels in zip(pairs, said, strict=True)}
        if self.pairs:
            return ordered([logits[row.reads()[0], row.reads()[1]] for row in rows], [scores_of(row)[0] for row in rows])
        candidates: dict[str, dict[str, bool]] = {}
        for row in rows:
            anchor, positive, *negatives = row.reads()
            mine = candidates.setdefault(anchor, {})
            mine |= {text: mine.get(text, False) for text in negatives} | {positive: True}
        stands = {anchor: places([logits[anchor, text] for text in texts], list(texts.values())) for anchor, texts in candidates.items()}
        intervals = {
            "mrr@10": mean_interval([reciprocal(found) for found in stands.values()]),
            "ndcg@10": mean_interval([ndcg(found) for found in stands.values()]),
        }
        figures = {name: interval.value for name, interval in intervals.items()}
        return Evaluation(figures, intervals, [{"places": stands[row.reads()[0]]} for row in rows])


def _joined(parts: Sequence[Example]) -> Example:
    first, *rest = parts
    over = sum(part.cut for part in parts)
    return Example(first.ids, first.labels, first.types, more=tuple(rest), cut=over, where=first.where)
