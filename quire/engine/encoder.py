"""Vectors, labels and ranks for many callers at once: their texts wait in one line, and each step reads as many of like length as fit.

    engine = EncoderEngine(quire.load("org/encoder"))
    reading = engine.submit("a text")                            # or submit((question, passage), use="classify")
    vector = engine.result(reading)                              # steps until it is there

The first in line is always read, with those beside it that leave little padding (`tasks.lengths`), so nobody waits for ever and nothing is
read twice. Who brings many texts shares the line with who brings few: one's next text stands behind the first of everybody who came since
(start-time fair queueing, Goyal et al. 1996). There is no state between steps. What goes wrong with one text ends that one alone.
Synchronous; several threads may share one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ..binding import Contract
from ..errors import RecipeError, about
from ..nn.config import LabelHead
from ..nn.transformer import Transformer
from ..tasks import classify, embed
from ..tasks.classify import Function
from ..tasks.embed import Kind
from ..tasks.lengths import batches
from ..tasks.reading import Long, Row, budget, labelled, read, rows_of, tell
from ..tasks.sentence import Sentence
from ..text.library import texts_of
from ..types import Text

Floats = npt.NDArray[np.float32]
Use = Literal["embed", "classify"]
_ON = 4  # one token in so many that are read moves the place of who comes new


class Reader(Protocol):
    """What `quire.load` returns, as far as it reads texts whole."""

    @property
    def model(self) -> Transformer: ...
    @property
    def contract(self) -> Contract: ...
    @property
    def identity(self) -> str: ...
    @property
    def sentence(self) -> Sentence: ...
    @property
    def labels(self) -> dict[int, str]: ...
    @property
    def function(self) -> Function: ...


@dataclass(eq=False)
class Reading:
    """One text on its way. key: only those of one key are read together; value: a vector (D,), or {label: score}.

    turn: its place in line, in tokens. cut: tokens of the text that were left out, for it was too long.
    """

    row: Row
    key: tuple[Use, int]
    finish: Callable[[Floats], Any]
    value: Any = None
    error: Exception | None = None
    done: bool = False
    turn: int = 0
    cut: int = 0


class EncoderEngine:
    """budget: tokens a step, padding included; None is what this device reads fast. Steps with `step`, or by asking for a result."""

    def __init__(self, loaded: Reader, *, budget: int | None = None) -> None:
        self.loaded, self.model, self.contract, self.identity = loaded, loaded.model.eval(), loaded.contract, loaded.identity
        if budget is not None and budget < 1:
            raise RecipeError(f"budget is {budget}; allowed: 1 token a step and more, or None.")
        self.budget = budget
        self.waiting: list[Reading] = []
        self._turn = 0  # of who comes now; in tokens
        self._lock = threading.RLock()

    # -- asking ------------------------------------------------------------------------------------------------------------------

    def submit(self, text: Text, use: Use = "embed", *, kind: Kind | None = None, long: Long | None = None) -> Reading:
        """Puts a text (or, to be classified, a pair) in line. kind: of the folder's prompts, "query" or "document"; long as in `embed`.

        Raises ContextError for one that is too long, ModelError for a model without the head, before any work.
        """
        [reading] = self.readings([text], use, kind, long)
        self.add([reading])
        return reading

    def readings(
        self,
        texts: Sequence[Text] | Sequence[Sequence[int]],
        use: Use = "embed",
        kind: Kind | None = None,
        long: Long | None = None,
        *,
        limit: int | None = None,
        dimensions: int | None = None,
    ) -> list[Reading]:
        """Texts (or pairs, to be classified), or rows of ids, made ready and not in line yet: `add` puts them there. Any thread may.

        A row of ids is read as it stands, nothing put around it or before it. kind, long: as in `submit`. limit: tokens of a text at most,
        where that is less than what the model reads. dimensions: of a vector, as in `embed.first`. Raises as `submit`, and RecipeError for
        an id that the model has not.
        """
        finish, how = self._finish(use, dimensions), self.loaded.sentence
        context, asked = self.model.config.context, long or "error"
        most = self.contract.limit(context) if use == "classify" else embed.longest(context, self.contract, how)
        most = most if limit is None else min(most, limit)
        listed = texts if isinstance(texts, str | bytes) else [*texts]
        skip, cut = 0, list[int]()
        if not isinstance(listed, str | bytes) and listed and all(_ids(row) for row in listed):
            rows = rows_of(self.contract, listed, self.model.config.vocab, most, asked, cut)  # whoever sends ids has cut them
        elif use == "embed":
            rows, skip = embed.prompted(context, self.contract, replace(how, limit=most), texts_of(listed), kind, long, cut)
        else:
            rows = read(self.contract, texts_of(listed, "texts or pairs"), most, long, cut)
        return [Reading(row, (use, skip), finish, cut=over) for row, over in zip(rows, cut, strict=True)]

    def _finish(self, use: Use, dimensions: int | None) -> Callable[[Floats], Any]:
        """What makes a result of what the model says of a row. Raises ModelError for a model that cannot say it."""
        if use == "embed":
            with about("dimensions"):
                return partial(embed.first, dimensions=embed.cut_to(dimensions, embed.size(self.model, self.loaded.sentence)))
        if use != "classify":
            raise RecipeError(f"use is {use!r}; allowed: embed, classify. For ranks there is rerank.")
        return partial(classify.listed, labels=self.loaded.labels, function=self.loaded.function)

    def add(self, readings: Sequence[Reading]) -> None:
        """Puts readings in line, each as far behind the first as there are tokens between them."""
        with self._lock:
            turn = self._turn
            for reading in readings:
                reading.turn, turn = turn, turn + len(reading.row)
            self.waiting = sorted([*self.waiting, *readings], key=lambda reading: reading.turn)  # of equal ones who came first

    def result(self, reading: Reading) -> Any:
        """The vector or the scores of a text, computing steps until they are there. Raises its error."""
        while not reading.done:
            if not self.step() and not reading.done:
                raise RecipeError("this text is not in line here: give a reading to the engine that it was submitted to.")
        if reading.error is not None:
            raise reading.error
        return reading.value

    def abort(self, *readings: Reading) -> None:
        """Forget texts that were not read yet; their results are then None."""
        with self._lock:
            gone = {reading for reading in readings if not reading.done}
            if not gone <= set(self.waiting):
                raise RecipeError("a text is not in line here: give a reading to the engine that it was submitted to.")
            for reading in gone:
                reading.done = True
            if gone:
                self.waiting = [reading for reading in self.waiting if reading not in gone]

    def embed(self, texts: Sequence[str], kind: Kind | None = None, *, long: Long | None = None, cut: list[int] | None = None) -> Floats:
        """(N, D) in fp32, as `model.embed`."""
        found = self._all(texts, "embed", kind, long, cut)
        return np.stack(found) if found else np.empty((0, embed.size(self.model, self.loaded.sentence)), dtype=np.float32)

    def classify(self, texts: Sequence[Text], *, long: Long | None = None, cut: list[int] | None = None) -> list[dict[str, float]]:
        """{label: score} of each text or pair, best first, as `model.classify`."""
        return self._all(texts, "classify", None, long, cut)

    def rerank(
        self, query: str, texts: Sequence[str], label: str | None = None, *, long: Long | None = None, cut: list[int] | None = None
    ) -> list[tuple[int, float]]:
        """(number, score) of each text, best first, as `model.rerank`."""
        if isinstance(self.model.config.head, LabelHead):
            label = classify.one_of(self.loaded.labels, label)
            scores = [row[label] for row in self.classify([(query, text) for text in texts], long=long, cut=cut)]
            return classify.ranked(scores)
        classify.none_of(label)
        if texts:
            asked, found = self.embed([query], "query", long=long, cut=cut)[0], self.embed(texts, "document", long=long, cut=cut)
            scores = embed.near(self.loaded.sentence, asked[None], found)[0].tolist()
        else:
            scores = []
        return classify.ranked(scores)

    def _all(self, texts: Sequence[Text], use: Use, kind: Kind | None, long: Long | None, cut: list[int] | None) -> list[Any]:
        readings = self.readings(texts, use, kind, long)
        lost = [reading.cut for reading in readings]
        if cut is not None:
            cut.extend(lost)
        elif long is None:
            tell(lost)
        self.add(readings)
        try:
            return [self.result(reading) for reading in readings]
        finally:
            self.abort(*readings)

    @property
    def busy(self) -> bool:
        return bool(self.waiting)

    # -- one step ----------------------------------------------------------------------------------------------------------------

    def step(self) -> int:
        """Reads the first text in line and those that go with it; returns how many tokens were read (0: nothing to do)."""
        with self._lock:
            if not self.waiting:
                return 0
            alike = [reading for reading in self.waiting if reading.key == self.waiting[0].key]
            lengths = [len(reading.row) for reading in alike]
            chosen = next(batch for batch in batches(lengths, self.budget or budget(self.model)) if 0 in batch)
            part = [alike[number] for number in chosen]
            self._read(part)
            gone, read = set(part), sum(len(reading.row) for reading in part)
            # A little more than whose turn it was, so that however many come new, those with many texts go on.
            self._turn = max(self._turn, self.waiting[0].turn) + -(-read // _ON)
            self.waiting = [reading for reading in self.waiting if reading not in gone]
            return read

    def _read(self, part: list[Reading]) -> None:
        """All at once; where that fails, each alone, so that only those that fail alone are lost."""
        use, skip = part[0].key
        rows = [reading.row for reading in part]
        try:
            if use == "embed":
                found = embed.vectors(self.model, rows, self.loaded.sentence, skip)
            else:
                found = labelled(self.model, rows, self.contract.decoder_start).numpy()
            values = [reading.finish(row) for reading, row in zip(part, found, strict=True)]
        except Exception as error:
            if len(part) > 1:
                for reading in part:
                    self._read([reading])
                return
            part[0].error, part[0].done = error, True
            return
        for reading, value in zip(part, values, strict=True):
            reading.value, reading.done = value, True


def _ids(row: object) -> bool:
    return isinstance(row, list | tuple) and not any(isinstance(part, str) for part in row)
