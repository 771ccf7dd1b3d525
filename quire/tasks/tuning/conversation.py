"""Conversations, and prompts with what follows them, as ids: which of these are learned, and what is left out of a row that is too long.

Chat rows go through the model's own template, as `quire chat` reads them, and the template says what the assistant writes. Prompt rows do
too, as a question and its answer, where the model has a template; else they are plain text: what the contract puts before a text, the
prompt, the completion, and the id that ends a text.

The seam of a plain row is proven: the ids of the whole text begin with those of the prompt alone. Where they do not (the tokenizer joins
letters of both), the two are encoded one by one, as they would be when the model goes on with the prompt, if that spells the same text.
For a template with generation marks it is proven that answers begin where the template lets them begin when the model is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ...binding.contract import Contract, chatml
from ...binding.truncation import ways
from ...errors import DataError
from ...nn.batch import IGNORE
from ...types import Message
from ..reading import Long, cut_to
from ..task import Array
from .example import Example
from .schemas import Chat, Prompt, Row

_SHOWN = 5
_PROVEN = 50  # rows of a template with generation marks whose seam is looked at: it is the template's doing, not a row's


def settled(contract: Contract, rows: Sequence[Row]) -> Contract:
    """The contract of a model that is tuned on such rows: what ends a turn of its template stops it, and chat rows have a template.

    A base model whose tokenizer has reserved ChatML's marks gets that template. Raises DataError for one without.
    """
    if contract.template is None:
        if not any(isinstance(row, Chat) for row in rows):
            return contract
        template = chatml(contract.tokenizer)
        if template is None:
            raise DataError(
                f"{rows[0].where}: these rows are conversations, and the model to start from has no chat template, nor has its "
                "tokenizer the marks of one (<|im_start|>, <|im_end|>). Start from a model with a template, put the template that it was "
                "made for into its folder as chat_template.jinja, or give rows with the columns prompt and completion."
            )
        contract = replace(contract, template=template)
    return replace(contract, stop_ids=tuple(sorted({*(contract.stop_ids or ()), *contract.turn_end})))


@dataclass(frozen=True, slots=True)
class Ids:
    """A row: its ids, whether each is learned, and how many more there were before it was cut."""

    ids: list[int]
    trained: list[bool]
    cut: int = 0


class Reader:
    """Rows as examples of at most `context` ids. contract: as `settled` returns it."""

    def __init__(self, contract: Contract, context: int, long: Long = "cut") -> None:
        self.contract, self.context, self.long = contract, context, long
        self.tokenizer, self.template = contract.tokenizer, contract.template
        self.stops = frozenset(contract.stop_ids or ())
        if not self.stops:
            raise DataError(
                "this model has no id that ends a text: neither its tokenizer nor generation_config.json names an eos_token, so its "
                "answers would never end. Name one in its generation_config.json (eos_token_id)."
            )
        self.end = min(self.stops) if self.tokenizer.eos not in self.stops else self.tokenizer.eos

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        """One a row, in order, with labels {"lm": (T,)}: the next id where it is learned. Raises DataError with the places of faults."""
        found: list[Example] = []
        faults: list[tuple[str, str]] = []
        for row in rows:
            try:
                read = self.read(row)
                self._check_learned(read)
                if len(found) < _PROVEN:
                    self._prove(row, read)
            except DataError as error:
                faults.append((row.where, str(error)))
                continue
            found.append(example(read, row.where, self._notes(row, read)))
        if faults:
            shown = "\n  ".join(f"{where}: {reason}" for where, reason in faults[:_SHOWN])
            more = (
                f"\n  and {len(faults) - _SHOWN:,} more: {', '.join(where for where, _ in faults[_SHOWN:25])}"
                if len(faults) > _SHOWN
                else ""
            )
            raise DataError(f"{len(faults):,} of {len(rows):,} rows cannot be learned from.\n  {shown}{more}")
        return found

    def _notes(self, row: Row, read: Ids) -> tuple[str, ...]:
        found = []
        if self.template is not None and isinstance(row, Prompt):
            found.append("a prompt and its completion are read as a question and its answer, through the model's chat template")
        if read.cut:
            ends = read.trained[-1] and read.ids[-1] in self.stops
            lost = "the end of its answer is kept, and something before it is left out" if ends else "its answer is cut and teaches no end"
            found.append(f"longer than {self.context:,} tokens: {lost}")
        return tuple(found)

    # -- one row -----------------------------------------------------------------------------------------------------------------

    def read(self, row: Row) -> Ids:
        """Raises DataError for what the template refuses, and for a row that is too long where that is an error."""
        if self.template is None:
            return self._fitting(self._plain(row))
        turns, tools = turns_of(row)
        whole = self._encoded(turns, tools)
        if len(whole.ids) <= self.context or self.long == "error":
            return self._fitting(whole)
        last = whole
        for fewer in _without_oldest(turns):
            try:
                last = self._encoded(fewer, tools)
            except DataError:
                break  # a template that wants the conversation from its beginning
            if len(last.ids) <= self.context:
                break
        found = self._fitting(last)
        return replace(found, cut=found.cut + len(whole.ids) - len(last.ids))

    def prompt(self, row: Row) -> list[int]:
        """What stands before the last answer, as the model reads it when it is used."""
        if self.template is None:
            assert isinstance(row, Prompt)
            return self.contract.prompt(row.prompt)
        turns, tools = turns_of(row)
        return list(self.template.encode(self.tokenizer, turns[:-1], tools, add_generation_prompt=True).ids)

    def _encoded(self, turns: Sequence[Message], tools: Sequence[dict[str, Any]]) -> Ids:
        assert self.template is not None
        found = self.template.encode(self.tokenizer, turns, tools)
        last = max((place for place, trained in enumerate(found.trained) if trained), default=len(found.ids) - 1)
        return Ids(list(found.ids[: last + 1]), list(found.trained[: last + 1]))  # what follows the last answer teaches nothing

    def _plain(self, row: Row) -> Ids:
        if not isinstance(row, Prompt):
            raise DataError("a conversation, where the rows before it are prompts with completions. Train on one kind at a time.")
        prompt = self.contract.prompt(row.prompt)
        whole = [*self.contract.before, *self.tokenizer.encode(row.prompt + row.completion)]
        rest = whole[len(prompt) :]
        if whole[: len(prompt)] != prompt:
            rest = self.tokenizer.encode(row.completion)
            if self.tokenizer.decode([*prompt, *rest]) != self.tokenizer.decode(whole):
                raise DataError(
                    f"the completion {row.completion[:30]!r} cannot be written behind the prompt: this tokenizer joins what is on both "
                    "sides of the seam. Let the prompt end, or the completion begin, with white space."
                )
        return Ids([*prompt, *rest, self.end], [False] * len(prompt) + [True] * (len(rest) + 1))

    def _fitting(self, whole: Ids) -> Ids:
        """At most `context` ids. Where the middle was cut out, the id behind the gap is not learned: it follows from what is gone."""
        over = len(whole.ids) - self.context
        if over <= 0:
            return whole
        if self.long == "error":
            raise DataError(
                f"{len(whole.ids):,} tokens, and {self.context:,} are read at once. Shorten or divide it, or set data.long to "
                f"{ways('{!r}')}."
            )
        places = cut_to(list(range(len(whole.ids))), self.context, self.long)
        follows = [True] + [place == before + 1 for before, place in pairwise(places)]
        return Ids(
            [whole.ids[place] for place in places], [whole.trained[place] and next_to for place, next_to in zip(places, follows)], over
        )

    # -- what would teach the wrong thing ---------------------------------------------------------------------------------------------

    def _check_learned(self, read: Ids) -> None:
        if not any(read.trained[1:]):
            if read.cut:
                raise DataError(
                    f"nothing of its answer is left within {self.context:,} tokens ({read.cut:,} were cut). Shorten it, raise data.longest "
                    "as far as the model reads, or set data.long to 'head-tail', which keeps the end."
                )
            raise DataError("no token of it is the assistant's to write, so nothing would be learned. Give it an answer.")

    def _prove(self, row: Row, read: Ids) -> None:
        if self.template is None or read.cut or not self.template.marks_generation or turns_of(row)[0][-1].content[:1].isspace():
            return
        prompt = self.prompt(row)
        if read.ids[: len(prompt)] != prompt or not any(read.trained[len(prompt) :][:1]):
            raise DataError(
                "the template writes something else before an answer when the model is used than when it is trained: "
                f"{self.tokenizer.decode(prompt[-12:], special=True)!r} against "
                f"{self.tokenizer.decode(read.ids[len(prompt) - 12 : len(prompt)], special=True)!r}. Mend what it does with "
                "add_generation_prompt."
            )


def turns_of(row: Row) -> tuple[tuple[Message, ...], tuple[dict[str, Any], ...]]:
    """A row as turns and tools, up to the last one of the assistant; a prompt with its completion is a question with its answer."""
    if isinstance(row, Prompt):
        return (Message("user", row.prompt), Message("assistant", row.completion)), ()
    assert isinstance(row, Chat)
    last = max(number for number, turn in enumerate(row.messages) if turn.role == "assistant")
    return row.messages[: last + 1], row.tools


def _without_oldest(turns: Sequence[Message]) -> Iterator[list[Message]]:
    """The conversation without its first question and all that belongs to it, without its first two, ...; a system turn stays."""
    first = [turn for turn in turns[:1] if turn.role == "system"]
    asked = [number for number, turn in enumerate(turns) if turn.role == "user"]
    for number in asked[1:]:
        yield [*first, *turns[number:]]


def example(read: Ids, where: str, notes: tuple[str, ...] = ()) -> Example:
    """With labels {"lm": (T,)}: at each place the id that follows, where that is learned."""
    ids = np.array(read.ids, dtype=np.int64)
    labels = np.full(len(ids), IGNORE, dtype=np.int64)
    learned = np.array(read.trained[1:], dtype=bool)
    labels[:-1][learned] = ids[1:][learned]
    return Example(ids, {"lm": labels}, cut=read.cut, where=where, notes=notes)


def last_answer(one: Example) -> Array:
    """The ids of an example that was not cut which its last answer has, with the one that ends it."""
    labels = one.labels["lm"][:-1]
    gaps = np.flatnonzero(labels == IGNORE)
    return np.asarray(labels[gaps[-1] + 1 if len(gaps) else 0 :])
