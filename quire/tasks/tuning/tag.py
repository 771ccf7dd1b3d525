"""Labels of words: one a word, learned and measured at the word's first token (Devlin et al. 2019), as transformers' run_ner does.

Words are joined by single spaces and the joined text is read as `quire tag` reads it, so the ids that are learned from are those of the
text that is asked about later. A token belongs to the word whose characters it stands for, and the first one carries the word's tag.

The others carry none, but one kind: a token that is only the space before a word (Unigram's lone '▁', byte-level 'Ġ') is a word of its
own to tools that decide by tokens, so it learns what goes on there: I-PER within a PER, O elsewhere. `quire tag` divides a plain text into
words as the corpora do (`spelled.divided`) and asks each word's first token alone, as it was taught; `evaluate` counts on a sample how
often its answer is the same (table "served"). Tools that make words of tokens see others where WordPiece divides at signs (names in
links); teaching those tokens what goes on was tried on WNUT-17: both the F1 of words and that of such answers fell.

A text that is too long is read in windows that overlap, and each word is learned once, in the window that shows more of what is around it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...binding.contract import Contract
from ...errors import DataError, nearest
from ...metrics.interval import Interval, ratio_interval
from ...metrics.labels import accuracy, harmonic
from ...metrics.spans import Span, from_tags
from ...nn.batch import IGNORE, Batch
from ...nn.transformer import Transformer
from ..lengths import by_length
from ..reading import Long, budget, labelled
from ..reading import Row as Read
from ..spelled import Spelled, divided, spell
from ..tag import PARAMETERS, tag, windows
from ..task import Array, Term
from .example import Evaluation, Example, as_trained, collate
from .schemas import Row, Tagged

OUTSIDE = "O"
_EXAMPLES = 5  # rows that an error or a table shows
_ALIKE, _LOOKED_AT = 0.95, 500  # share of words that a plain text is divided into too, and of how many rows
_SERVED = 64  # rows that are also given to `quire tag`'s own function
_LONE = "an I- tag continues nothing; it is learned as it stands, and read as the beginning of a stretch"
_UNREAD = "a word becomes no token (its characters are dropped by the tokenizer); its tag cannot be learned"


def _served_by(rows: Sequence[Tagged]) -> str:
    """How `quire tag` makes stretches of what is learned here, if nobody asks for another way: of words, where it can find them again. The
    words of a script without spaces, or of a corpus with rules of its own, it cannot: then of what stands between spaces."""
    many = alike = 0
    for row in rows[:_LOOKED_AT]:
        ends = list(accumulate(len(word) + 1 for word in row.words))
        places = {(end - 1 - len(word), end - 1) for end, word in zip(ends, row.words)}
        many, alike = many + len(places), alike + len(places.intersection(divided(" ".join(row.words))))
    return "words" if alike >= _ALIKE * many else "first"


class Tag:
    """`batch` has labels {"tag": (B, T) int64}, IGNORE on tokens that are not the first of a word."""

    name = "tag"
    schemas = ("tagged",)
    supervised, splittable, packs = True, True, False
    better: Literal["higher"] = "higher"

    def __init__(
        self,
        contract: Contract,
        context: int,
        rows: Sequence[Tagged],
        *,
        balanced: bool = False,
        long: Long = "cut",
        stride: int = 128,
    ) -> None:
        """balanced: each word weighs words / (tags * words of its tag). long: "error" refuses a row that one window does not hold."""
        self.context, self.long = context, long
        self.room = context - len(contract.before) - len(contract.after)
        self.stride = max(0, min(stride, self.room // 2))
        self.contract = as_trained(contract, context, long, None if long == "error" else self.stride)
        self.served_by = _served_by(rows)
        counts = Counter(tag for row in rows for tag in row.tags)
        self.labels = tuple(sorted(counts))
        self.numbers = {label: number for number, label in enumerate(self.labels)}
        if len(self.labels) < 2:
            raise DataError(f"every word has the tag {self.labels[0]!r}: there is nothing to tell apart. Give rows of two tags or more.")
        total = sum(counts.values())
        self.weights = {label: total / (len(counts) * counts[label]) for label in self.labels} if balanced else {}
        self.metric = "f1" if any(label == OUTSIDE or label[:2] in ("B-", "I-") for label in self.labels) else "accuracy"

    def describe(self) -> dict[str, Any]:
        ways = {"context": self.context, "long": self.long, "stride": self.stride}
        return {"name": self.name, **ways, "labels": list(self.labels), "weights": self.weights}

    def head(self) -> tuple[Literal["token"], tuple[str, ...], dict[str, Any]]:
        return "token", self.labels, {"task_specific_params": {PARAMETERS: {"aggregation": self.served_by}}}

    # -- rows to batches ---------------------------------------------------------------------------------------------------------

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        wanted = cast(Sequence[Tagged], rows)
        self.check(wanted)
        return [example for row in wanted for example in self._examples(row)]

    def check(self, rows: Sequence[Tagged]) -> None:
        """Raises DataError for rows that cannot be measured on."""
        unknown = [(row.where, label) for row in rows for label in dict.fromkeys(row.tags) if label not in self.numbers]
        if unknown:
            shown = "; ".join(f"{where}: {label!r}{nearest(label, list(self.labels))}" for where, label in unknown[:_EXAMPLES])
            raise DataError(
                f"{len(unknown)} rows have tags that are none of the {len(self.labels)} of the training rows: {shown}. The tags are: "
                f"{', '.join(self.labels[:20])}. Mend the rows, or add training rows with those tags."
            )

    def _examples(self, row: Tagged) -> list[Example]:
        spelled = spell(self.contract, row.words)
        there = spelled.first >= 0
        if not there.any():
            raise DataError(f"{row.where}: none of its {len(row.words)} words becomes a token. Take the row out.")
        labels = self._labels(row, spelled)
        notes = (*([_LONE] if _lone(row.tags) else []), *([_UNREAD] if not there.all() else []))
        made: list[Example] = []
        before = len(self.contract.before)
        for read, start, (low, high) in self._windows(spelled, row.where):
            own = np.full(len(read), IGNORE, dtype=np.int64)
            own[before + low - start : before + high - start] = labels[low:high]
            if (own != IGNORE).any():
                made.append(Example(np.array(read.ids), {"tag": own}, where=row.where, notes=() if made else notes))
        return made

    def _labels(self, row: Tagged, spelled: Spelled) -> Array:
        """The label of each token of the joined text."""
        labels = np.full(len(spelled.ids), IGNORE, dtype=np.int64)
        within = {word for _, start, end in from_tags(row.tags) for word in range(start + 1, end)}
        for token, word in spelled.spaces:
            labels[token] = self.numbers.get(row.tags[word] if word in within else OUTSIDE, IGNORE)
        there = spelled.first >= 0
        labels[spelled.first[there]] = [self.numbers[label] for label, known in zip(row.tags, there) if known]
        return labels

    def _windows(self, spelled: Spelled, where: str) -> list[tuple[Read, int, tuple[int, int]]]:
        """Each window as a row, its first token, and the tokens [low, high) that count in it: to the middle of an overlap."""
        count = len(spelled.ids)
        if count > self.room and self.long == "error":
            raise DataError(
                f"{where} has {count:,} tokens, and {self.room:,} are read at once here. Divide it, raise data.longest where the model "
                "reads more, or set data.long = cut: it is then read in windows that overlap."
            )
        found = windows(count, self.room, self.stride)
        cuts = [0, *((start + end) // 2 for (_, end), (start, _) in pairwise(found)), count]
        before, after = self.contract.before, self.contract.after
        return [
            (Read([*before, *spelled.ids[start:end], *after]), start, (low, high)) for (start, end), low, high in zip(found, cuts, cuts[1:])
        ]

    def batch(self, examples: Sequence[Example]) -> Batch:
        return collate(examples, self.contract.tokenizer.pad or 0)

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"tag": int((batch.labels["tag"] != IGNORE).sum())}

    def terms(self, model: Any, batch: Batch, chunk: int = 0) -> dict[str, Term]:
        logits = model.head(model(batch), batch.keep)  # (B, T, L)
        return {"tag": (self._loss(logits.flatten(0, 1), batch.labels["tag"].flatten()), self.counts(batch)["tag"])}

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Summed cross-entropy of logits (N, L)."""
        weight = torch.tensor([self.weights[label] for label in self.labels], device=logits.device) if self.weights else None
        return F.cross_entropy(logits.float(), labels, weight, ignore_index=IGNORE, reduction="sum")

    # -- what a tuned model is worth ----------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def evaluate(self, model: Transformer, rows: Sequence[Row]) -> Evaluation:
        wanted = cast(Sequence[Tagged], rows)
        self.check(wanted)
        spelled = [spell(self.contract, row.words) for row in wanted]
        found, loss = self._tags(model, wanted, spelled)
        mine, theirs = [from_tags(tags) for tags in found], [from_tags(row.tags) for row in wanted]
        right, said, there = _counts(mine, theirs)
        served = self._served(model, spelled, mine)
        words = [label for tags in found for label in tags]
        figures = {
            "f1": harmonic(right, said, there),
            "precision": right / said if said else 0.0,
            "recall": right / there if there else 0.0,
            "accuracy": accuracy(words, [label for row in wanted for label in row.tags]),
            "loss": loss,
        }
        tables = {"labels": _by_label(mine, theirs), "span_errors": _errors(wanted, mine, theirs), "served": served}
        return Evaluation(figures, _interval(mine, theirs), [{"tags": tags} for tags in found], tables)

    def _tags(self, model: Transformer, rows: Sequence[Tagged], spelled: Sequence[Spelled]) -> tuple[list[list[str]], float]:
        """A tag for each word of each row, and the loss a label. A word without a token is O (the first label, where there is no O)."""
        reads = [(number, *part) for number, one in enumerate(spelled) for part in self._windows(one, rows[number].where)]
        start, before = self.contract.decoder_start, len(self.contract.before)
        logits = by_length([read for _, read, _, _ in reads], lambda part: labelled(model, part, start).numpy(), budget(model))
        whole = [np.zeros((len(one.ids), len(self.labels)), dtype=np.float32) for one in spelled]
        for (number, _, first, (low, high)), found in zip(reads, logits):
            whole[number][low:high] = found[before + low - first : before + high - first]
        answers, total, count = [], 0.0, 0
        for row, one, scores in zip(rows, spelled, whole):
            there = one.first >= 0
            best = np.full(len(row.words), self.numbers.get(OUTSIDE, 0))
            best[there] = scores[one.first[there]].argmax(1)
            answers.append([self.labels[number] for number in best])
            labels = self._labels(row, one)
            total += float(self._loss(torch.from_numpy(scores), torch.from_numpy(labels)))
            count += int((labels != IGNORE).sum())
        return answers, total / max(1, count)

    def _served(self, model: Transformer, spelled: Sequence[Spelled], mine: Sequence[Sequence[Span]]) -> dict[str, Any]:
        """Does `quire tag` find the same stretches in the joined text? Of the first rows that one window holds."""
        sample = [number for number, one in enumerate(spelled) if len(one.ids) <= self.room][:_SERVED]
        texts = [spelled[number].text for number in sample]
        found = tag(model, self.contract, texts, dict(enumerate(self.labels)), self.served_by) if texts else []
        unlike = []
        for number, text, entities in zip(sample, texts, found):
            places = spelled[number].places
            ours = [(label, int(places[start, 0]), int(places[end - 1, 1])) for label, start, end in mine[number] if label != OUTSIDE]
            served = [(entity.label, entity.start + len(entity.text) - len(entity.text.lstrip()), entity.end) for entity in entities]
            if ours != served:
                unlike.append({"text": text, "tags": ours, "served": served})
        return {"rows": len(sample), "same": len(sample) - len(unlike), "unlike": unlike[:_EXAMPLES]}


def _lone(tags: Sequence[str]) -> bool:
    """Is there an I- that continues nothing?"""
    return any(tags[start][:2] == "I-" for _, start, _ in from_tags(tags))


def _counts(mine: Sequence[Sequence[Span]], theirs: Sequence[Sequence[Span]]) -> tuple[int, int, int]:
    """(right, found, wanted) stretches."""
    right = sum(len(set(a) & set(b)) for a, b in zip(mine, theirs))
    return right, sum(map(len, mine)), sum(map(len, theirs))


def _interval(mine: Sequence[Sequence[Span]], theirs: Sequence[Sequence[Span]]) -> dict[str, Interval]:
    """F1 is 2 right / (found + wanted): sums over the rows in which a stretch is found or wanted, which are drawn again."""
    pairs = [(set(a), set(b)) for a, b in zip(mine, theirs) if a or b]
    if not pairs:
        return {}
    return {"f1": ratio_interval([2.0 * len(a & b) for a, b in pairs], [float(len(a) + len(b)) for a, b in pairs])}


def _by_label(mine: Sequence[Sequence[Span]], theirs: Sequence[Sequence[Span]]) -> list[dict[str, Any]]:
    table = []
    for label in sorted({span[0] for spans in (*mine, *theirs) for span in spans}):
        one, other = ([[span for span in spans if span[0] == label] for spans in side] for side in (mine, theirs))
        right, found, wanted = _counts(one, other)
        rates = {"precision": right / found if found else 0.0, "recall": right / wanted if wanted else 0.0}
        table.append({"label": label, **rates, "f1": harmonic(right, found, wanted), "found": found, "wanted": wanted})
    return table


def _errors(rows: Sequence[Tagged], mine: Sequence[Sequence[Span]], theirs: Sequence[Sequence[Span]]) -> dict[str, Any]:
    """{"counts": {kind: number}, "examples": {kind: [...]}}: what became of stretches that are not right.

    A wanted one is missed, has the wrong type, the wrong boundary or both; a found one that touches none that is wanted is invented.
    """
    names = ("missed", "wrong type", "wrong boundary", "wrong type and boundary", "invented")
    kinds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for row, found, wanted in zip(rows, mine, theirs):
        for span in [span for span in wanted if span not in found]:
            touching = [other for other in found if _touch(span, other)]
            kinds[_kind(span, touching)].append(_shown(row, [span], touching))
        for span in [span for span in found if not any(_touch(span, other) for other in wanted)]:
            kinds["invented"].append(_shown(row, [], [span]))
    counts = {kind: len(listed) for kind, listed in kinds.items()}
    return {"counts": counts, "examples": {kind: listed[:_EXAMPLES] for kind, listed in kinds.items()}}


def _shown(row: Tagged, wanted: Sequence[Span], found: Sequence[Span]) -> dict[str, Any]:
    named = [[f"{label}: {' '.join(row.words[start:end])}" for label, start, end in spans] for spans in (wanted, found)]
    return {"where": row.where, "wanted": named[0], "found": named[1], "text": " ".join(row.words)}


def _touch(one: Span, other: Span) -> bool:
    return one[1] < other[2] and other[1] < one[2]


def _kind(span: Span, touching: Sequence[Span]) -> str:
    if not touching:
        return "missed"
    if any(other[1:] == span[1:] for other in touching):
        return "wrong type"
    return "wrong boundary" if any(other[0] == span[0] for other in touching) else "wrong type and boundary"
