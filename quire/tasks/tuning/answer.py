"""Where in a context the answer to a question stands, learned as BERT does (Devlin et al. 2019): a softmax over a window's tokens for where
it begins, and one for where it ends. A window that does not hold the answer points at its first token, which stands for "no answer".

Windows are those of `quire answer` (`tasks.answer.Read`): the question first, the context behind it, read on with a stride if it is long.
Of several answers the first one is learned, as in transformers' run_qa; every one counts as right when a model is measured.

How sure "no answer" must be is no matter of training: where the held-out rows have such questions, the threshold that gives the highest F1
on them is looked for once, at the end. It is recorded in the folders of the model and its adapter, with how long an answer may be, and
`quire answer` reads it there. Figures are those at the threshold, and beside them those at 0; on the held-out rows the former are a little
too good, on test rows they are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...binding.contract import Contract
from ...errors import ContextError, DataError
from ...metrics.interval import Interval, mean_interval
from ...metrics.spans import answer_f1, best_threshold, exact_match, plain
from ...nn.batch import IGNORE, Batch
from ...nn.transformer import Transformer
from ...text.rows import Encoded
from ..answer import PARAMETERS, Read, Window
from ..reading import Long, parameters_of
from ..task import Array, Term
from .example import Evaluation, Example, as_trained, collate
from .schemas import Question, Row

LONGEST = 30  # tokens of an answer, as run_qa looks for it
BEGINS, ENDS = 1, 2  # what a label says of a token; 0: neither
_EXAMPLES = 5
_NOT_WHOLE = "the answer does not begin and end where tokens do; the tokens that hold it are learned"


class Answer:
    """`batch` has labels {"span": (B, T) int64}: BEGINS and ENDS added up where the answer does, IGNORE on padding.

    The loss is the mean of both softmaxes' cross-entropies, over every token of the window; padding takes no part in it, so that it does
    not depend on the batch that a row is in.
    """

    name = "answer"
    schemas = ("question",)
    supervised, splittable, packs = True, True, False
    metric = "f1"
    better: Literal["higher"] = "higher"

    def __init__(self, contract: Contract, context: int, rows: Sequence[Question], *, long: Long = "cut", stride: int = 128) -> None:
        """long: "error" refuses a row that one window does not hold. Raises DataError where "no answer" cannot be said and must be."""
        self.contract, self.context = as_trained(contract, context, long, stride), context
        self.long, self.stride = long, stride
        self.no_answer = any(not row.spans for row in rows)
        self.threshold = 0.0
        layout, cls = contract.pair_layout, contract.tokenizer.cls
        self.can_refuse = cls is not None and layout[0][0] == cls
        if self.no_answer and not self.can_refuse:
            where = next(row.where for row in rows if not row.spans)
            raise DataError(
                f"{where} has no answer, and this model's texts do not begin with a token that could say so ([CLS], <s>). "
                "Take such rows out, or tune an encoder."
            )

    def describe(self) -> dict[str, Any]:
        ways = {"context": self.context, "long": self.long, "stride": self.stride}
        return {"name": self.name, **ways, "no_answer": self.no_answer, "longest": LONGEST}

    def head(self) -> tuple[Literal["span"], tuple[str, ...], dict[str, Any]]:
        return "span", (), {}

    # -- rows to batches ---------------------------------------------------------------------------------------------------------

    def _read(self, rows: Sequence[Question]) -> Read:
        try:
            read = Read(self.contract, [(row.question, row.context) for row in rows], self.context, self.stride)
        except ContextError as error:
            raise DataError(self._too_long(rows)) from error
        if self.long == "error" and len(read.windows) > len(rows):
            number = next(window.number for window in read.windows if window.start > 0)
            raise DataError(
                f"{rows[number].where} has {len(read.contexts[number].ids):,} tokens of context, more than a window of {self.context:,} "
                "holds beside the question. Divide it, or set data.long = cut: it is then read in windows that overlap."
            )
        return read

    def _too_long(self, rows: Sequence[Question]) -> str:
        """Which row it is whose question leaves no room for its context."""
        for row in rows:
            try:
                Read(self.contract, [(row.question, row.context)], self.context, self.stride)
            except ContextError as error:
                return f"{row.where}: {str(error).replace(' of pair 0', '')}"
        raise AssertionError("no row is too long alone")

    def check(self, rows: Sequence[Row]) -> None:
        """Raises DataError for rows that cannot be measured on: an answer need not be whole in a window for that."""
        self._read(cast(Sequence[Question], rows))

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        """One a window, in the order of the rows. Raises DataError for answers that are no tokens, or whole in no window."""
        wanted = cast(Sequence[Question], rows)
        read = self._read(wanted)
        made: list[Example] = []
        nowhere, divided = [], []
        for number, group in groupby(read.windows, key=lambda window: window.number):
            row, windows, place = wanted[number], list(group), None
            if row.spans:
                place = tokens_of(read.contexts[number], *row.spans[0])
                if place is None:
                    nowhere.append(f"{row.where}: {row.spans[0][0]!r}")
                    continue
                if not any(_holds(window, place) for window in windows):
                    divided.append(f"{row.where}: {place[1] - place[0] + 1} tokens")
            made += self._examples(row, read.contexts[number], windows, place)
        if nowhere:
            raise DataError(
                f"{len(nowhere)} answers become no token (this tokenizer drops their characters): {'; '.join(nowhere[:_EXAMPLES])}. "
                "Take the rows out."
            )
        if divided:
            raise DataError(
                f"{len(divided)} answers are longer than the {self.stride} tokens by which windows overlap, and no window holds the whole: "
                f"{'; '.join(divided[:_EXAMPLES])}. Raise task.stride or data.longest, shorten the answers, or take the rows out."
            )
        return made

    def _examples(self, row: Question, context: Encoded, windows: Sequence[Window], place: tuple[int, int] | None) -> list[Example]:
        notes: tuple[str, ...] = ()
        if place is not None:
            held = row.context[context.offsets[place[0]][0] : context.offsets[place[1]][1]]
            notes = () if held.strip() == row.spans[0][0].strip() else (_NOT_WHOLE,)
        made: list[Example] = []
        for window in windows:
            inside = place is not None and _holds(window, place)
            if inside or self.can_refuse:
                label = {"span": _marks(window, place if inside else None)}
                types = np.array(window.row.types) if window.row.types else None
                made.append(Example(np.array(window.row.ids), label, types, where=row.where, notes=() if made else notes))
        return made

    def batch(self, examples: Sequence[Example]) -> Batch:
        return collate(examples, self.contract.tokenizer.pad or 0)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Two softmaxes a window."""
        return {"span": 2 * len(batch)}

    def terms(self, model: Any, batch: Batch, chunk: int = 0) -> dict[str, Term]:
        logits = model.head(model(batch), batch.keep).float()  # (B, T, 2)
        return {"span": (_loss(logits, batch.labels["span"]), 2 * len(batch))}

    # -- what a tuned model is worth ----------------------------------------------------------------------------------------------

    def evaluate(self, model: Transformer, rows: Sequence[Row]) -> Evaluation:
        """What `quire answer` finds, "no answer" among it where the training rows had such; exact match and F1 as SQuAD counts them."""
        wanted = cast(Sequence[Question], rows)
        read = self._read(wanted)
        return self._evaluated(read, self._logits(read, model), wanted)

    def evaluate_last(self, model: Transformer, rows: Sequence[Row]) -> Evaluation:
        """The same of held-out rows at the end of a run: sets the threshold first."""
        wanted = cast(Sequence[Question], rows)
        read = self._read(wanted)
        logits = self._logits(read, model)
        there = [bool(row.spans) for row in wanted]
        if self.no_answer and any(there) and not all(there):
            texts, margins = zip(*read.margins(logits, LONGEST))
            scores = [answer_f1([text], [row.answers()]) for text, row in zip(texts, wanted)]
            self.threshold = best_threshold(margins, scores, there)
        return self._evaluated(read, logits, wanted)

    def settings(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The field of config.json in which `quire answer` reads what it needs to know; what else `config` says there is kept."""
        tables = config.get("task_specific_params")
        own = {name: value for name, value in parameters_of(config, PARAMETERS).items() if name != "no_answer_threshold"}
        own |= {"longest": LONGEST} | ({"no_answer_threshold": self.threshold} if self.threshold else {})
        return {"task_specific_params": {**(tables if isinstance(tables, Mapping) else {}), PARAMETERS: own}}

    @torch.inference_mode()
    def _logits(self, read: Read, model: Transformer) -> list[Array]:
        return list(read.logits(model))

    def _evaluated(self, read: Read, logits: Sequence[Array], wanted: Sequence[Question]) -> Evaluation:
        best = read.best(logits, 1, LONGEST, self.no_answer, self.threshold)
        found = [answers[0].text if answers else "" for answers in best]
        figures, intervals = _figures(found, wanted)
        if self.threshold:
            plain_best = read.best(logits, 1, LONGEST, self.no_answer)
            at_zero, around = _figures([answers[0].text if answers else "" for answers in plain_best], wanted)
            figures |= {f"{name}_at_0": at_zero[name] for name in ("exact", "f1")} | {"threshold": self.threshold}
            intervals |= {f"{name}_at_0": around[name] for name in ("exact", "f1")}
        return Evaluation(
            figures | {"loss": self._held_out_loss(read, logits, wanted)},
            intervals,
            [{"answer": text, "score": round(answers[0].score, 4) if answers else 0.0} for text, answers in zip(found, best)],
            {"errors": _errors(wanted, found)},
        )

    def _held_out_loss(self, read: Read, logits: Sequence[Array], rows: Sequence[Question]) -> float:
        """The mean loss of the windows, as it is learned; answers that no window or no token holds are left out."""
        total, count = 0.0, 0
        for window, values in zip(read.windows, logits):
            row = rows[window.number]
            place = tokens_of(read.contexts[window.number], *row.spans[0]) if row.spans else None
            inside = place is not None and _holds(window, place)
            if (inside or self.can_refuse) and (place is not None or not row.spans):
                label = torch.from_numpy(_marks(window, place if inside else None))
                total += float(_loss(torch.from_numpy(np.asarray(values))[None], label[None]))
                count += 2
        return total / max(1, count)


def _figures(found: Sequence[str], rows: Sequence[Question]) -> tuple[dict[str, float], dict[str, Interval]]:
    """Exact match and F1 over all rows, and over those with and without an answer where there are both."""
    golds = [row.answers() for row in rows]
    exact = [exact_match([text], [gold]) for text, gold in zip(found, golds)]
    overlap = [answer_f1([text], [gold]) for text, gold in zip(found, golds)]
    there = [number for number, gold in enumerate(golds) if gold]
    parts = {"": list(range(len(rows))), "has_answer_": there, "no_answer_": sorted(set(range(len(rows))) - set(there))}
    intervals = {
        name + metric: mean_interval([values[number] for number in numbers])
        for name, numbers in parts.items()
        for metric, values in (("exact", exact), ("f1", overlap))
        if numbers and (name == "" or len(numbers) < len(rows))
    }
    return {name: interval.value for name, interval in intervals.items()}, intervals


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Both cross-entropies, summed over the rows, of logits (B, T, 2) and marks (B, T)."""
    logits = logits.masked_fill((labels == IGNORE).unsqueeze(-1), float("-inf"))
    total = logits.new_zeros(())
    for column, mark in enumerate((BEGINS, ENDS)):
        place = ((labels > 0) & (labels & mark > 0)).to(torch.int64).argmax(1)  # (B,)
        total = total + F.cross_entropy(logits[..., column], place, reduction="sum")
    return total


def tokens_of(context: Encoded, text: str, start: int) -> tuple[int, int] | None:
    """The first and the last token that stand for characters of an answer; None where none does."""
    end = start + len(text)
    held = [token for token, (low, high) in enumerate(context.offsets) if low < end and high > start and low < high]
    return (held[0], held[-1]) if held else None


def _marks(window: Window, place: tuple[int, int] | None) -> Array:
    """The labels of a window's tokens: context tokens `place` begin and end the answer, the first token of all where it has none."""
    marks = np.zeros(len(window), dtype=np.int64)
    first, last = (0, 0) if place is None else (window.at + token - window.start for token in place)
    marks[first] += BEGINS
    marks[last] += ENDS
    return marks


def _holds(window: Window, place: tuple[int, int]) -> bool:
    return window.start <= place[0] and place[1] < window.end


def _errors(rows: Sequence[Question], found: Sequence[str]) -> dict[str, Any]:
    """{"counts", "examples"}: what became of questions whose answer is not exactly one of those wanted."""
    kinds: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("found where there is none", "none found", "too long", "too short", "partly", "elsewhere")
    }
    for row, text in zip(rows, found):
        if exact_match([text], [row.answers()]):
            continue
        words, golds = plain(text).split(), [plain(gold).split() for gold in row.answers()]
        if not golds:
            kind = "found where there is none"
        elif not words:
            kind = "none found"
        elif any(_within(gold, words) for gold in golds):
            kind = "too long"
        elif any(_within(words, gold) for gold in golds):
            kind = "too short"
        else:
            kind = "partly" if answer_f1([text], [row.answers()]) else "elsewhere"
        kinds[kind].append({"where": row.where, "question": row.question, "wanted": list(row.answers()), "found": text})
    counts = {kind: len(listed) for kind, listed in kinds.items()}
    return {"counts": counts, "examples": {kind: listed[:_EXAMPLES] for kind, listed in kinds.items()}}


def _within(short: Sequence[str], long: Sequence[str]) -> bool:
    return any(list(long[at : at + len(short)]) == list(short) for at in range(len(long) - len(short) + 1))
