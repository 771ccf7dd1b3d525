"""Vectors, labels and ranks for many callers at once: their texts wait in one line, and each step reads as many of like length as fit.

    engine = EncoderEngine(quire.load("org/encoder"))
    reading = engine.submit("a text")                            # or submit((question, passage), use="classify")
    vector = engine.result(reading)                              # steps until it is there

The first in line is always read, with those beside it that leave little padding (`tasks.lengths`), so nobody waits for ever and nothing is
read twice. There is no state between steps. What goes wrong with one text ends that one alone. Synchronous; several threads may share one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ..binding import Contract
from ..errors import RecipeError
from ..nn.config import LabelHead
from ..nn.transformer import Transformer
from ..tasks import classify, embed
from ..tasks.classify import Function
from ..tasks.embed import Kind
from ..tasks.lengths import batches
from ..tasks.reading import Long, Row, budget, labelled, read
from ..tasks.sentence import Sentence
from ..text.library import texts_of
from ..types import Text

Floats = npt.NDArray[np.float32]
Use = Literal["embed", "classify"]


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
    """One text on its way. key: only those of one key are read together; value: a vector (D,), or {label: score}."""

    row: Row
    key: tuple[Use, int]
    finish: Callable[[Floats], Any]
    value: Any = None
    error: Exception | None = None
    done: bool = False


class EncoderEngine:
    """budget: tokens a step, padding included; None is what this device reads fast. Steps with `step`, or by asking for a result."""

    def __init__(self, loaded: Reader, *, budget: int | None = None) -> None:
        self.loaded, self.model, self.contract, self.identity = loaded, loaded.model.eval(), loaded.contract, loaded.identity
        if budget is not None and budget < 1:
            raise RecipeError(f"budget is {budget}; allowed: 1 token a step and more, or None.")
        self.budget = budget
        self.waiting: list[Reading] = []
        self._lock = threading.RLock()

    # -- asking ------------------------------------------------------------------------------------------------------------------

    def submit(self, text: Text, use: Use = "embed", *, kind: Kind | None = None, long: Long = "error") -> Reading:
        """Puts a text (or, to be classified, a pair) in line. kind: of the folder's prompts, "query" or "document"; long as in `embed`.

        Raises ContextError for one that is too long, ModelError for a model without the head, before any work.
        """
        [reading] = self._readings([text], use, kind, long)
        with self._lock:
            self.waiting.append(reading)
        return reading

    def _readings(self, texts: Sequence[Text], use: Use, kind: Kind | None, long: Long) -> list[Reading]:
        if use == "embed":
            rows, skip = embed.prompted(self.model, self.contract, self.loaded.sentence, texts_of(texts), kind, long)
            return [Reading(row, (use, skip), lambda vector: vector) for row in rows]
        if use != "classify":
            raise RecipeError(f"use is {use!r}; allowed: embed, classify. For ranks there is rerank.")
        labels, function = self.loaded.labels, self.loaded.function
        rows = read(self.contract, texts_of(texts, "texts or pairs"), self.model.config.context, long)
        return [Reading(row, (use, 0), lambda logits: classify.listed(logits, labels, function)) for row in rows]

    def result(self, reading: Reading) -> Any:
        """The vector or the scores of a text, computing steps until they are there. Raises its error."""
        while not reading.done:
            if not self.step() and not reading.done:
                raise RecipeError("this text is not in line here: give a reading to the engine that it was submitted to.")
        if reading.error is not None:
            raise reading.error
        return reading.value

    def abort(self, reading: Reading) -> None:
        """Forget a text that was not read yet; its result is then None."""
        with self._lock:
            if not reading.done:
                if reading not in self.waiting:
                    raise RecipeError("this text is not in line here: give a reading to the engine that it was submitted to.")
                reading.done = True
                self.waiting.remove(reading)

    def embed(self, texts: Sequence[str], kind: Kind | None = None, *, long: Long = "error") -> Floats:
        """(N, D) in fp32, as `model.embed`."""
        found = self._all(texts, "embed", kind, long)
        return np.stack(found) if found else np.empty((0, embed.size(self.model, self.loaded.sentence)), dtype=np.float32)

    def classify(self, texts: Sequence[Text], *, long: Long = "error") -> list[dict[str, float]]:
        """{label: score} of each text or pair, best first, as `model.classify`."""
        return self._all(texts, "classify", None, long)

    def rerank(self, query: str, texts: Sequence[str], label: str | None = None, *, long: Long = "error") -> list[tuple[int, float]]:
        """(number, score) of each text, best first, as `model.rerank`."""
        if isinstance(self.model.config.head, LabelHead):
            label = classify.one_of(self.loaded.labels, label)
            scores = [row[label] for row in self.classify([(query, text) for text in texts], long=long)]
        elif texts:
            asked, found = self.embed([query], "query", long=long)[0], self.embed(texts, "document", long=long)
            scores = embed.near(self.loaded.sentence, asked[None], found)[0].tolist()
        else:
            scores = []
        return classify.ranked(scores)

    def _all(self, texts: Sequence[Text], use: Use, kind: Kind | None, long: Long) -> list[Any]:
        readings = self._readings(texts, use, kind, long)
        with self._lock:
            self.waiting += readings
        try:
            return [self.result(reading) for reading in readings]
        finally:
            for reading in readings:
                self.abort(reading)

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
            gone = set(part)
            self.waiting = [reading for reading in self.waiting if reading not in gone]
            return sum(len(reading.row) for reading in part)

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
