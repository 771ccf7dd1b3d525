"""Extractive question answering: where in a context the answer to a question stands, as the pipeline of transformers 4 finds it.

Question and context are read as a pair; a context that is too long in windows that overlap. In each window two softmaxes over the context's
tokens (and the first token, which stands for "no answer") give every token a share as the beginning and as the end; a span scores the
product of the two. Spans grow to whole words; the same words found twice are one answer with the sum of both scores. The score of "no
answer" is the first token's, the smallest over the windows. It is said where the logarithm of its score is above that of the best answer by
more than a threshold: 0, or what a tuned model's folder records (`tuning.answer`; as SQuAD 2.0's evaluation, Rajpurkar et al. 2018).

Algorithm: transformers 4.57, `QuestionAnsweringPipeline` (removed in version 5), after DrQA (Chen et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from ..binding.contract import Contract
from ..errors import ContextError, ModelError, RecipeError
from ..nn.transformer import Transformer
from ..text.rows import Encoded
from ..types import Answer
from .lengths import by_length
from .reading import Row, budget, labelled, parameters_of, pieces
from .tag import windows

Floats = npt.NDArray[np.float64]
LENGTH, STRIDE, LONGEST = 384, 128, 15  # tokens, as the pipeline of transformers 4 reads, and of an answer
PARAMETERS = "question-answering"  # the table of task_specific_params in config.json that is about this task
_LEAST = 1e-30  # a smaller score has no logarithm worth comparing
_MOST = 100  # nats: more lies between no two scores


def threshold_of(config: Mapping[str, Any]) -> float:
    """The threshold that a folder's config.json records; 0 without one. Raises ModelError for what is no number."""
    found = parameters_of(config, PARAMETERS).get("no_answer_threshold", 0.0)
    if isinstance(found, bool) or not isinstance(found, int | float) or not -_MOST <= found <= _MOST:
        said = f"task_specific_params of config.json has no_answer_threshold = {str(found)[:80]!r}"
        raise ModelError(f"{said}; allowed is a number of nats from -{_MOST} to {_MOST}.")
    return float(found)


def longest_of(config: Mapping[str, Any]) -> int:
    """Tokens of the longest answer that a folder's config.json records; LONGEST without. Raises ModelError for what is no such number."""
    found = parameters_of(config, PARAMETERS).get("longest", LONGEST)
    if type(found) is not int or found < 1:
        said = f"task_specific_params of config.json has longest = {str(found)[:80]!r} for {PARAMETERS}"
        raise ModelError(f"{said}; allowed is a number of tokens, 1 and more. Mend it, or take it out for {LONGEST}.")
    return found


@dataclass(frozen=True)
class Window:
    """One row: context tokens [start, end) of pair `number` stand at `at` in it; cls: whether its first token can say "no answer"."""

    row: Row
    number: int
    start: int
    end: int
    at: int
    cls: bool

    def __len__(self) -> int:
        return len(self.row)


def answer(
    model: Transformer,
    contract: Contract,
    pairs: Sequence[tuple[str, str]],
    top: int = 1,
    length: int | None = None,
    stride: int | None = None,
    longest: int = LONGEST,
    no_answer: bool = False,
    progress: Callable[[int], None] | None = None,
    threshold: float = 0.0,
) -> list[list[Answer]]:
    """The `top` best answers to each (question, context), best first; fewer where the context has fewer.

    length: tokens of a window, question included (at most the model's positions); stride: by how many context tokens windows overlap (at
    most half a window); None is as in training, else LENGTH and STRIDE. longest: tokens of an answer. no_answer: that there is none may be
    an answer too: an empty text, start = end = 0, the first one where it is surer than the best other by `threshold` (nats).
    Raises ContextError before any work when a question leaves no room for context, RecipeError for a number outside its range.
    """
    length, stride = window(contract, model.config.context, length, stride)
    for name, value, low in (("top", top, 1), ("length", length, 1), ("stride", stride, 0), ("longest", longest, 1)):
        if value < low:
            raise RecipeError(f"{name} is {value}; allowed is {low} and more.")
    read = Read(contract, pairs, length, stride)
    return read.best(read.logits(model, progress), top, longest, no_answer, threshold)


def window(contract: Contract, context: int, length: int | None, stride: int | None) -> tuple[int, int]:
    """(tokens of a window, by how many windows overlap): as asked for, else as in training, else LENGTH and STRIDE."""
    told = contract.truncation
    length = (LENGTH if told is None else told.longest) if length is None else length
    stride = (STRIDE if told is None or told.stride is None else told.stride) if stride is None else stride
    return min(length, context), stride


class Read:
    """Pairs as a model reads them: `contexts`, one a pair, and the `windows` of all, in order. Training reads by this too.

    length, stride: as of `answer`. Raises ContextError for a question that leaves no room for context.
    """

    def __init__(self, contract: Contract, pairs: Sequence[tuple[str, str]], length: int, stride: int) -> None:
        self.contract, self.pairs = contract, pairs
        known = {context: pieces(contract, context) for context in dict.fromkeys(context for _, context in pairs)}
        self.contexts = [known[context] for _, context in pairs]
        self.windows: list[Window] = []
        for number, ((question, _), context) in enumerate(zip(pairs, self.contexts)):
            ids = contract.tokenizer.encode(question)
            self.windows += _windows(contract, number, ids, context, length, min(stride, length // 2))

    def logits(self, model: Transformer, progress: Callable[[int], None] | None = None) -> list[npt.NDArray[np.float32]]:
        """Logits (T, 2) of each window."""
        return by_length(self.windows, lambda part: _rows(model, part, self.contract.decoder_start), budget(model), progress)

    def best(
        self, logits: Sequence[npt.NDArray[np.float32]], top: int, longest: int, no_answer: bool, threshold: float = 0.0
    ) -> list[list[Answer]]:
        """The answers to each pair, best first."""
        found = []
        for answers, nothing in self._spans(logits, top, longest):
            rank = [(one.score, one) for one in answers]
            if no_answer:
                rank.append((nothing * math.exp(-threshold), Answer("", nothing, 0, 0)))
            found.append([one for _, one in sorted(rank, key=lambda pair: -pair[0])[:top]])
        return found

    def margins(self, logits: Sequence[npt.NDArray[np.float32]], longest: int) -> list[tuple[str, float]]:
        """The best answer to each pair, and by how much "no answer" is surer than it (nats): what a threshold is held against."""
        return [
            (
                max(answers, key=lambda one: one.score).text if answers else "",
                _log(nothing) - _log(max((a.score for a in answers), default=0)),
            )
            for answers, nothing in self._spans(logits, 1, longest)
        ]

    def _spans(self, logits: Sequence[npt.NDArray[np.float32]], top: int, longest: int) -> Iterator[tuple[list[Answer], float]]:
        """The answers to each pair, and the score of "no answer"."""
        groups = {number: list(group) for number, group in groupby(zip(self.windows, logits), key=lambda pair: pair[0].number)}
        for number, (_, text) in enumerate(self.pairs):
            yield _spans_of(groups.get(number, []), text, self.contexts[number], top, longest)


def _log(score: float) -> float:
    return math.log(max(score, _LEAST))


def _rows(model: Transformer, windows: list[Window], start: int | None) -> list[npt.NDArray[np.float32]]:
    """Logits (T, 2) of each window, without its padding."""
    logits = labelled(model, [window.row for window in windows], start).numpy()
    return [row[: len(window)] for window, row in zip(windows, logits)]


def _windows(contract: Contract, number: int, question: list[int], context: Encoded, length: int, stride: int) -> list[Window]:
    layout = [part for part, _ in contract.pair_layout]
    around = sum(isinstance(part, int) for part in layout)
    room = length - around - len(question)
    if len(context.ids) > room <= stride:
        raise ContextError(
            f"the question of pair {number} has {len(question):,} tokens; with {around} around it a window of {length:,} keeps "
            f"{max(room, 0):,} for the context, and windows overlap by {stride:,}. "
            "Shorten the question, raise the length, or lower the stride."
        )
    at = sum(1 if isinstance(part, int) else len(question) for part in layout[: layout.index("B")])
    made = []
    for start, end in windows(len(context.ids), room, stride):
        ids, types = contract.join(question, context.ids[start:end])
        cls = contract.tokenizer.cls is not None and ids[0] == contract.tokenizer.cls
        made.append(Window(Row(ids, types), number, start, end, at, cls))
    return made


def spans(start: Floats, end: Floats, count: int, longest: int) -> list[tuple[int, int, float]]:
    """The `count` best (first token, last token, score) by start[first] * end[last], of at most `longest` tokens; scores of 0 are none."""
    outer = np.tril(np.triu(np.outer(start, end)), min(longest, len(end)) - 1)
    flat = outer.ravel()
    chosen = np.argpartition(-flat, count)[:count] if count < len(flat) else np.arange(len(flat))
    chosen = chosen[np.argsort(-flat[chosen], kind="stable")]
    return [(int(i // len(end)), int(i % len(end)), float(flat[i])) for i in chosen if flat[i] > 0]


def shares(logits: npt.NDArray[np.float32], window: Window) -> tuple[Floats, Floats, float]:
    """(start, end) of each context token of a window, and the score of "no answer", from logits (T, 2)."""
    places = [*([0] if window.cls else []), *range(window.at, window.at + window.end - window.start)]
    values = logits[places].astype(np.float64)  # (1 + N, 2)
    if not len(values):
        return np.empty(0), np.empty(0), 0.0
    values = np.exp(values - values.max(0))
    values /= values.sum(0)
    none = float(values[0].prod()) if window.cls else 0.0
    values = values[1:] if window.cls else values
    return values[:, 0], values[:, 1], none


def _spans_of(
    rows: list[tuple[Window, npt.NDArray[np.float32]]], text: str, context: Encoded, top: int, longest: int
) -> tuple[list[Answer], float]:
    answers: dict[str, Answer] = {}  # by their words, whatever their case
    nothing = 1.0
    for window, logits in rows:
        start, end, none = shares(logits, window)
        nothing = min(nothing, none)
        for first, last, score in spans(start, end, 2 * top + 10, longest):
            begin, stop = _whole(context, window, window.start + first, window.start + last)
            words = text[begin:stop]
            known = answers.get(words.lower())
            answers[words.lower()] = (
                Answer(words, score, begin, stop) if known is None else Answer(known.text, known.score + score, known.start, known.end)
            )
    return list(answers.values()), nothing


def _whole(context: Encoded, window: Window, first: int, last: int) -> tuple[int, int]:
    """The characters of tokens [first, last], grown to whole words as far as the window shows them."""
    if context.words[first] is None or context.words[last] is None:
        return context.offsets[first][0], context.offsets[last][1]
    while first > window.start and context.words[first - 1] == context.words[first]:
        first -= 1
    while last + 1 < window.end and context.words[last + 1] == context.words[last]:
        last += 1
    return context.offsets[first][0], context.offsets[last][1]
