"""Labels of texts and pairs of texts: one of several (softmax), any of several (a sigmoid each), or a number (squared error).

Labels are known by name and numbered in the order of their sorted names; a label that only the rows of an evaluation have is refused.
`balanced` weighs each row by rows / (labels * rows of its label) (King and Zeng 2001), so that rare labels count like frequent ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ...binding.contract import Contract
from ...errors import DataError, nearest
from ...metrics.interval import mean_interval
from ...metrics.labels import f1, several
from ...metrics.rank import likeness
from ...nn.batch import Batch
from ...nn.transformer import Transformer
from ...types import Text
from ..classify import scores
from ..lengths import by_length
from ..reading import Long, budget, labelled, read
from ..reading import Row as Read
from ..task import Term
from .example import Evaluation, Example, as_trained, collate, refuse_long
from .schemas import Labelled, Row

Problem = Literal["single", "several", "number"]
_PROBLEM = {"single": "single_label_classification", "several": "multi_label_classification", "number": "regression"}
_EXAMPLES = 5


def problem_of(rows: Sequence[Labelled]) -> Problem:
    """What the rows' labels are."""
    if any(row.number is not None for row in rows):
        return "number"
    return "single" if all(len(row.labels) == 1 for row in rows) else "several"


class Classify:
    """`batch` has labels {"label": (B,) int64, (B, L) float or (B,) float}, and {"weight": (B,)} where labels are balanced."""

    name = "classify"
    schemas = ("labelled",)
    supervised, splittable, packs = True, True, False
    better: Literal["higher"] = "higher"

    def __init__(
        self,
        contract: Contract,
        context: int,
        rows: Sequence[Labelled],
        *,
        problem: Literal["auto", "single", "several", "number"] = "auto",
        balanced: bool = False,
        long: Long = "cut",
    ) -> None:
        self.contract, self.context, self.long = as_trained(contract, context, long), context, long
        self.problem: Problem = problem_of(rows) if problem == "auto" else problem
        counts = Counter(label for row in rows for label in row.labels)
        self.labels = tuple(sorted(counts)) if self.problem != "number" else ("score",)
        self.numbers = {label: number for number, label in enumerate(self.labels)}
        if len(self.labels) < 2 and self.problem == "single":
            raise DataError(f"every row has the label {self.labels[0]!r}: there is nothing to tell apart. Give rows of two labels or more.")
        self.weights: dict[str, float] = {}
        if balanced and self.problem == "single":
            self.weights = {label: len(rows) / (len(counts) * count) for label, count in counts.items()}
        self.metric = {"single": "accuracy", "several": "f1", "number": "spearman"}[self.problem]

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "context": self.context, "long": self.long, "labels": list(self.labels), "weights": self.weights}

    def head(self) -> tuple[Literal["row"], tuple[str, ...], dict[str, Any]]:
        return "row", self.labels, {"problem_type": _PROBLEM[self.problem]}

    # -- rows to batches ---------------------------------------------------------------------------------------------------------

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        wanted = cast(Sequence[Labelled], rows)
        self._check_labels(wanted)
        reads, cut = self._read(wanted)
        return [
            Example(np.array(ids.ids), self._label(row), np.array(ids.types) if ids.types else None, cut=over, where=row.where)
            for row, ids, over in zip(wanted, reads, cut)
        ]

    def _read(self, rows: Sequence[Labelled]) -> tuple[list[Read], list[int]]:
        """Texts and pairs as rows of ids, and how many tokens of each were left out."""
        cut: list[int] = []
        texts: list[Text] = [row.text if row.pair is None else (row.text, row.pair) for row in rows]
        reads = read(self.contract, texts, self.context, "cut" if self.long == "error" else self.long, cut)
        if self.long == "error":
            refuse_long(rows, cut, self.context)
        return reads, cut

    def _check_labels(self, rows: Sequence[Labelled]) -> None:
        unknown = [(row.where, label) for row in rows for label in row.labels if label not in self.numbers]
        if unknown and self.problem != "number":
            shown = "; ".join(f"{where}: {label!r}{nearest(label, list(self.labels))}" for where, label in unknown[:_EXAMPLES])
            raise DataError(
                f"{len(unknown)} labels are none of the {len(self.labels)} that the training rows have: {shown}. The labels are: "
                f"{', '.join(self.labels[:20])}. Mend the rows, or add training rows with those labels."
            )

    def _label(self, row: Labelled) -> dict[str, Any]:
        if self.problem == "number":
            if row.number is None:
                raise DataError(f"{row.where} has no number to learn, and others have. Give each row one.")
            return {"label": np.float32(row.number)}
        if self.problem == "several":
            return {"label": np.isin(self.labels, row.labels).astype(np.float32)}
        if len(row.labels) != 1:
            raise DataError(f"{row.where} has {len(row.labels)} labels; with task.labels = single each row has one. Use several.")
        label = row.labels[0]
        return {"label": np.int64(self.numbers[label])} | ({"weight": np.float32(self.weights[label])} if self.weights else {})

    def batch(self, examples: Sequence[Example]) -> Batch:
        return collate(examples, self.contract.tokenizer.pad or 0)

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"label": len(batch)}

    def terms(self, model: nn.Module, batch: Batch, chunk: int = 0) -> dict[str, Term]:
        head = cast(Callable[..., torch.Tensor], model.head)
        logits = head(model(batch), batch.keep).float()  # (B, L)
        label = batch.labels["label"]
        if self.problem == "number":
            loss = F.mse_loss(logits.squeeze(-1), label, reduction="none")
        elif self.problem == "several":
            loss = F.binary_cross_entropy_with_logits(logits, label, reduction="none").mean(-1)
        else:
            loss = F.cross_entropy(logits, label, reduction="none")
        weight = batch.labels.get("weight")
        return {"label": ((loss if weight is None else loss * weight).sum(), len(batch))}

    # -- what a tuned model is worth ----------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def evaluate(self, model: Transformer, rows: Sequence[Row]) -> Evaluation:
        wanted = cast(Sequence[Labelled], rows)
        self._check_labels(wanted)
        reads, _ = self._read(wanted)
        start = self.contract.decoder_start
        found = np.stack(by_length(reads, lambda part: labelled(model, part, start).numpy(), budget(model)))
        loss = self._loss(found, wanted)
        if self.problem == "number":
            mine, theirs = found[:, 0].tolist(), [float(cast(float, row.number)) for row in wanted]
            apart = np.abs(np.subtract(mine, theirs))
            figures = {**likeness(mine, theirs), "mae": float(apart.mean()), "rmse": float(np.sqrt((apart**2).mean())), "loss": loss}
            return Evaluation(figures, found=[{"number": round(value, 4)} for value in mine])
        if self.problem == "several":
            chosen = [[label for label, score in zip(self.labels, row) if score > 0] for row in found]
            right = [set(mine) == set(row.labels) for mine, row in zip(chosen, wanted)]
            figures = {"f1": several(chosen, [row.labels for row in wanted]), "exact": sum(right) / len(right), "loss": loss}
            return Evaluation(figures, {"exact": mean_interval([float(each) for each in right])}, [{"labels": each} for each in chosen])
        labels = [self.labels[int(place)] for place in found.argmax(1)]
        truth = [row.labels[0] for row in wanted]
        right = [mine == theirs for mine, theirs in zip(labels, truth)]
        sure = scores(found, "softmax").max(1)
        return Evaluation(
            {"accuracy": sum(right) / len(right), "f1": f1(labels, truth), "loss": loss},
            {"accuracy": mean_interval([float(each) for each in right])},
            [{"label": label, "score": round(float(score), 4)} for label, score in zip(labels, sure)],
            {"confusion": self._confusion(labels, truth)},
        )

    def _loss(self, logits: np.ndarray[Any, Any], rows: Sequence[Labelled]) -> float:
        batch = Batch(torch.zeros(len(rows), 1), {"label": torch.from_numpy(np.stack([self._label(row)["label"] for row in rows]))})
        total, count = self.terms(_Given(torch.from_numpy(logits)), batch)["label"]
        return float(total) / count

    def _confusion(self, found: Sequence[str], wanted: Sequence[str]) -> Mapping[str, Any]:
        """{"labels", "counts"}: counts[true][found]."""
        counts = np.zeros((len(self.labels),) * 2, dtype=int)
        np.add.at(counts, ([self.numbers[label] for label in wanted], [self.numbers[label] for label in found]), 1)
        return {"labels": list(self.labels), "counts": counts.tolist()}


class _Given(nn.Module):
    """Stands for a model whose logits are known, so that a held-out loss is the training loss's own formula."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.logits

    def head(self, hidden: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
        return hidden
