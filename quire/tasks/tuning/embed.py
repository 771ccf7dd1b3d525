"""Vectors of texts that are near where the texts belong together: what is read, pooled and normalised is what `quire embed` serves.

Pairs that belong together and texts with negatives learn by contrast within the batch, pairs with scores by their order or by value, and a
teacher's scores of candidates are distilled (`nearness` has the losses). A batch holds all texts of its examples as rows, each example's
text first; equal texts are never each other's negatives. The loss depends on the whole batch, so it is not split into micro-batches: a
smaller `train.batch` is another loss. Dense layers behind the pooling, where the folder has them, stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...binding.contract import Contract
from ...errors import DataError, RecipeError
from ...metrics.interval import drawn_interval, mean_interval
from ...metrics.rank import likeness, spearman
from ...metrics.ranking import places, recall, reciprocal
from ...nn.batch import Batch
from ...nn.transformer import Transformer
from .. import sentence
from ..embed import Kind, embed, near, pooled, prompted
from ..reading import Long
from ..sentence import Sentence
from ..task import Term
from . import nearness
from .example import Evaluation, Example, as_trained, collate, refuse_long
from .example import rows as rows_of
from .schemas import Ranked, Row, Similar, digest

Loss = Literal["contrast", "cosine", "cosent", "triplet", "margin-mse", "kl"]
LOSSES: tuple[Loss, ...] = ("contrast", "cosine", "cosent", "triplet", "margin-mse", "kl")
TEXT, POSITIVE, NEGATIVE = range(3)  # what a row of a batch is
_TEMPERATURE = {"contrast": 0.05, "cosent": 0.05, "kl": 1.0}
_AT_ONCE = 1 << 22  # similarities of an evaluation held at a time


class Embed:
    """Labels of a batch, one a row: "role" (TEXT begins an example), "text" (equal numbers are equal texts), "skip" (tokens of the prompt
    that are not pooled), "score" (a candidate's, or nan).
    """

    name = "embed"
    schemas = ("similar", "ranked")
    supervised, splittable, packs = True, False, False
    better: Literal["higher"] = "higher"

    def __init__(
        self,
        contract: Contract,
        context: int,
        rows: Sequence[Row],
        folder: Path,
        width: int,
        *,
        loss: str = "auto",
        temperature: float = 0.0,
        margin: float = 0.5,
        symmetric: bool = False,
        long: Long = "cut",
    ) -> None:
        """folder: the start model's, `width` wide; it says how vectors are made. Without that: the mean of all tokens, normalised."""
        self.context, self.long, self.folder, self.width = context, long, folder, width
        plain = not sentence.beside(folder)
        self.how = Sentence(steps=("normalize",), limit=context) if plain else sentence.read(folder, width, contract.tokenizer.settings())
        self.longest = min(self.how.limit or context, context)
        self.contract = as_trained(contract, self.longest, long)
        self.plain, self.scored = plain, _scored(rows)
        self.loss: Loss = self._chosen(loss, rows)
        self.temperature = temperature or _TEMPERATURE.get(self.loss, 1.0)
        self.margin, self.symmetric = margin, symmetric
        self.pairs = isinstance(rows[0], Similar) and self.scored
        self.metric = "spearman" if self.pairs else "mrr@10"

    def _chosen(self, loss: str, rows: Sequence[Row]) -> Loss:
        """The loss for rows of this kind. Raises RecipeError for one that does not fit, DataError naming rows that lack a part."""
        kind = rows[0].schema
        fits: dict[tuple[str, bool], tuple[Loss, ...]] = {
            ("similar", False): ("contrast",),
            ("similar", True): ("cosent", "cosine"),
            ("ranked", False): ("contrast", "triplet"),
            ("ranked", True): ("margin-mse", "kl", "contrast", "triplet"),
        }
        allowed = fits[kind, self.scored]
        chosen = allowed[0] if loss == "auto" else cast(Loss, loss)
        if chosen not in allowed:
            scores = "with scores" if self.scored else "without scores"
            raise RecipeError(f"task.loss = '{loss}' does not fit {kind} rows {scores}; they are learned by {', '.join(allowed)}.")
        if chosen in ("triplet", "margin-mse", "kl"):
            bare = [row.where for row in cast(Sequence[Ranked], rows) if not row.negatives]
            if bare:
                raise DataError(f"{len(bare)} rows have no negatives, first {bare[0]}; task.loss = {chosen} needs one in each row.")
        if chosen == "cosine":
            far = [(row.where, row.score) for row in cast(Sequence[Similar], rows) if row.score is not None and not -1 <= row.score <= 1]
            if far:
                raise DataError(
                    f"{far[0][0]} has the score {far[0][1]:g}, which no cosine can be ({len(far)} such rows; allowed: -1 to 1). "
                    "Divide the scores by the highest that there can be, or use task.loss = cosent, which reads their order alone."
                )
        return chosen

    def describe(self) -> dict[str, Any]:
        ways = {"loss": self.loss, "temperature": self.temperature, "margin": self.margin, "symmetric": self.symmetric}
        return {"name": self.name, "context": self.context, "long": self.long, **ways}

    def head(self) -> tuple[Literal["base"], tuple[str, ...], dict[str, Any]]:
        return "base", (), {}

    def write(self, folder: Path) -> None:
        """Puts beside the model in `folder` what makes a sentence model of it: as the start model had it, or the plain one."""
        if self.plain:
            sentence.write_plain(folder, self.width, self.longest)
        else:
            sentence.carry(self.folder, folder)
            sentence.limit_to(folder, self.longest)

    def freeze(self, model: Transformer) -> None:
        """Parts that no vector is made by learn nothing: a head that the file still holds, the writing side of an encoder-decoder."""
        for part in (model.head, model.decoder if model.encoder is not None else None):
            if part is not None:
                part.requires_grad_(False)

    # -- rows to batches ---------------------------------------------------------------------------------------------------------

    @property
    def kinds(self) -> tuple[Kind | None, Kind | None]:
        """Which prompts stand before texts and candidates: scored pairs are of one kind, others a question and what answers it."""
        return (None, None) if self.pairs else ("query", "document")

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        self._check(rows)
        parts = [row.reads() for row in rows]
        firsts = self._read([texts[0] for texts in parts], self.kinds[0])
        others = iter(self._read([text for texts in parts for text in texts[1:]], self.kinds[1]))
        found = []
        for row, texts, (ids, skip, over) in zip(rows, parts, firsts, strict=True):
            more, scores = [], scores_of(row)
            for place, text in enumerate(texts[1:]):
                other, others_skip, others_over = next(others)
                role = NEGATIVE if place else POSITIVE
                more.append(Example(other, _labels(role, text, others_skip, scores[place] if scores else None)))
                over += others_over
            found.append(Example(ids, _labels(TEXT, texts[0], skip, None), more=tuple(more), cut=over, where=row.where))
        if self.long == "error":
            refuse_long(rows, [one.cut for one in found], self.longest)
        return found

    def _read(self, texts: Sequence[str], kind: Kind | None) -> list[tuple[np.ndarray[Any, Any], int, int]]:
        """ids, how many of them are not pooled, and how many tokens were left out."""
        cut: list[int] = []
        long: Long = "cut" if self.long == "error" else self.long  # `examples` refuses a row by its place in its file
        rows, skip = prompted(self.context, self.contract, self.how, texts, kind, long, cut)
        return [(np.array(row.ids), skip, over) for row, over in zip(rows, cut, strict=True)]

    def _check(self, rows: Sequence[Row]) -> None:
        if _scored(rows) != self.scored:
            now, before = ("have", "have not") if not self.scored else ("have not", "have")
            raise DataError(f"{rows[0].where} and other rows {now} scores, and the training rows {before}. Give all of them, or none.")

    def batch(self, examples: Sequence[Example]) -> Batch:
        return collate(rows_of(examples), self.contract.tokenizer.pad or 0)

    def counts(self, batch: Batch) -> dict[str, int]:
        role = batch.labels["role"]
        what = NEGATIVE if self.loss in ("triplet", "margin-mse") else TEXT
        return {self.loss: int((role == what).sum())}

    @property
    def joint(self) -> bool:
        """Is the loss one between all texts of a batch? The others are sums over its examples."""
        return self.loss in ("contrast", "cosent")

    def begins(self, batch: Batch) -> Tensor:
        """(N,) bool: the rows that an example begins with."""
        return batch.labels["role"] == TEXT

    def terms(self, model: nn.Module, batch: Batch, chunk: int = 0) -> dict[str, Term]:
        return {self.loss: (self.loss_of(self.vectors(cast(Transformer, model), batch), batch), self.counts(batch)[self.loss])}

    def vectors(self, model: Transformer, batch: Batch) -> Tensor:
        """(N, D), one a row. Texts and candidates are read apart: questions are often much shorter than what answers them."""
        begins = self.begins(batch)
        sides = [side for side in (begins, ~begins) if side.any()]
        found = torch.cat([self._pooled(model, batch.take(side)) for side in sides])
        return found[torch.cat([side.nonzero().squeeze(1) for side in sides]).argsort()]

    def _pooled(self, model: Transformer, batch: Batch) -> Tensor:
        found = pooled(model, batch.trimmed(), self.how, batch.labels["skip"])
        return F.normalize(found, dim=-1) if self.how.similarity == "cosine" else found

    def loss_of(self, vectors: Tensor, batch: Batch) -> Tensor:
        """The summed loss of a batch whose rows have become `vectors` (N, D)."""
        begins = self.begins(batch)
        owner = (begins.cumsum(0) - 1)[~begins]
        with torch.autocast(vectors.device.type, enabled=False):
            return self._loss(vectors[begins], vectors[~begins], owner, batch.take(begins), batch.take(~begins))

    def _loss(self, texts: Tensor, candidates: Tensor, owner: Tensor, of_texts: Batch, of_candidates: Batch) -> Tensor:
        positive, score = of_candidates.labels["role"] == POSITIVE, of_candidates.labels["score"]
        if self.loss == "contrast":
            same = nearness.confusable(of_texts.labels["text"], of_candidates.labels["text"], owner, positive)
            return nearness.contrast(texts @ candidates.T, positive, same, self.temperature, self.symmetric)
        own = (texts[owner] * candidates).sum(-1)  # (M,)
        if self.loss == "cosine":
            return nearness.cosine(own, score)
        if self.loss == "cosent":
            return nearness.cosent(own, score, self.temperature) * len(texts)  # one number a batch, whatever its size
        if self.loss == "triplet":
            return nearness.triplet(own, owner, positive, self.margin)
        if self.loss == "margin-mse":
            return nearness.margin_mse(own, score, owner, positive)
        return nearness.kl(own, score, owner, self.temperature)

    # -- what a tuned model is worth ----------------------------------------------------------------------------------------------

    def evaluate(self, model: Transformer, rows: Sequence[Row]) -> Evaluation:
        """Scored pairs: does the similarity order them as the scores do? Others: where does what belongs to a text stand in a pool of all
        candidates of these rows? A text itself is no candidate for it.
        """
        self._check(rows)
        return self._ordered(model, cast(Sequence[Similar], rows)) if self.pairs else self._found(model, rows)

    def _embed(self, model: Transformer, texts: Sequence[str], kind: Kind | None) -> np.ndarray[Any, Any]:
        return embed(model, self.contract, self.how, texts, kind, self.long)

    def _ordered(self, model: Transformer, rows: Sequence[Similar]) -> Evaluation:
        texts = list(dict.fromkeys(text for row in rows for text in row.reads()))
        numbers = {text: number for number, text in enumerate(texts)}
        vectors = self._embed(model, texts, None)
        firsts, seconds = (vectors[[numbers[row.reads()[side]] for row in rows]] for side in (0, 1))
        mine = [near(self.how, first[None], second[None]).item() for first, second in zip(firsts, seconds, strict=True)]
        return ordered(mine, [cast(float, row.score) for row in rows])

    def _found(self, model: Transformer, rows: Sequence[Row]) -> Evaluation:
        parts = [row.reads() for row in rows]
        asked = list(dict.fromkeys(texts[0] for texts in parts))
        pool = list(dict.fromkeys(text for texts in parts for text in texts[1:]))
        numbers = {text: number for number, text in enumerate(pool)}
        right: dict[str, set[int]] = {}
        for texts in parts:
            right.setdefault(texts[0], set()).add(numbers[texts[1]])
        queries, documents = self._embed(model, asked, self.kinds[0]), self._embed(model, pool, self.kinds[1])
        stands: dict[str, list[int]] = {}
        best: dict[str, int] = {}
        step = max(1, _AT_ONCE // len(pool))
        for start in range(0, len(asked), step):
            for text, scores in zip(asked[start : start + step], near(self.how, queries[start : start + step], documents)):
                if text in numbers and numbers[text] not in right[text]:
                    scores[numbers[text]] = -np.inf
                wanted = np.isin(np.arange(len(pool)), list(right[text]))
                stands[text], best[text] = places(scores, wanted), int(scores.argmax())
        each = {
            "mrr@10": [reciprocal(stands[text]) for text in asked],
            "recall@1": [recall(stands[text], 1) for text in asked],
            "recall@10": [recall(stands[text], 10) for text in asked],
        }
        intervals = {name: mean_interval(values) for name, values in each.items()}
        figures = {name: interval.value for name, interval in intervals.items()} | {"pool": float(len(pool))}
        answers = [{"places": stands[texts[0]], "first": pool[best[texts[0]]]} for texts in parts]
        return Evaluation(figures, intervals, answers)


def ordered(mine: Sequence[float], theirs: Sequence[float]) -> Evaluation:
    """Do the numbers that a model gives to pairs rise with those that were given?"""
    a, b = np.array(mine), np.array(theirs)
    figures, intervals = likeness(mine, theirs), {}
    if math.isfinite(figures["spearman"]):
        intervals["spearman"] = drawn_interval(lambda drawn: spearman(a[drawn].tolist(), b[drawn].tolist()), len(a))
    return Evaluation(figures, intervals, [{"score": round(value, 4)} for value in mine])


def scores_of(row: Row) -> tuple[float, ...]:
    """A score for each candidate, the positive's first; () where the row has none."""
    if isinstance(row, Similar):
        return () if row.score is None else (row.score,)
    return cast(Ranked, row).scores


def _scored(rows: Sequence[Row]) -> bool:
    """Have the rows scores? Raises DataError where some have and others have not."""
    without = [row.where for row in rows if not scores_of(row)]
    if without and len(without) < len(rows):
        raise DataError(
            f"{len(without)} of {len(rows)} rows have no score, first {without[0]}, and others have. Give all of them one, or none."
        )
    return not without


def _labels(role: int, text: str, skip: int, score: float | None) -> dict[str, Any]:
    number = int.from_bytes(digest((text,))[:8], "big", signed=True)
    given = np.float32(np.nan if score is None else score)
    return {"role": np.int64(role), "text": np.int64(number), "skip": np.int64(skip), "score": given}
