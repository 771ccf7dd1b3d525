"""The kinds of rows that supervised tasks learn from. What a file calls its columns is settled before (`data.columns`).

Every row knows `where` it came from ("train.jsonl:12"), what a model reads of it (`reads`) and what it is to answer (`answers`):
duplicates, split and overlap with the evaluation set are told by these two alone, whatever the task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ...types import Message


@dataclass(frozen=True, slots=True)
class Row:
    """What all kinds have in common. `where`: file and line, or row, for a person.

    group: rows that must lie on the same side of a split although they read differently (questions about one thing); "" for one alone.
    """

    schema: ClassVar[str] = ""
    where: str = field(default="", kw_only=True, compare=False)
    group: str = field(default="", kw_only=True, compare=False)

    def reads(self) -> tuple[str, ...]:
        """The texts that a model is given."""
        raise NotImplementedError

    def answers(self) -> tuple[str, ...]:
        """What it is to say, as texts."""
        raise NotImplementedError

    def digest(self, whole: bool = False) -> bytes:
        """16 bytes of SHA-256 of what is read; `whole`: with the answers."""
        return digest((*self.reads(), "\0", *self.answers()) if whole else self.reads())

    def side(self) -> bytes:
        """What decides the side of a split: the digest of the group, else of what is read."""
        return digest(("group", self.group)) if self.group else self.digest()


def digest(texts: Sequence[str]) -> bytes:
    found = hashlib.sha256()
    for text in texts:
        found.update(len(text).to_bytes(8, "little") + text.encode("utf-8", "surrogatepass"))
    return found.digest()[:16]


@dataclass(frozen=True, slots=True)
class Chat(Row):
    """A conversation with at least one turn of the assistant. tools: OpenAI-style function definitions."""

    schema: ClassVar[str] = "chat"
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()

    def reads(self) -> tuple[str, ...]:
        return tuple(f"{turn.role}: {turn.content}" for turn in self.messages if turn.role != "assistant")

    def digest(self, whole: bool = False) -> bytes:
        """The same turns with other tools are another row, not a repeated one."""
        own = super(Chat, self).digest(whole)
        return digest((own.hex(), repr(self.tools))) if whole and self.tools else own

    def answers(self) -> tuple[str, ...]:
        spoken = [turn for turn in self.messages if turn.role == "assistant"]
        return tuple(turn.content + (repr(turn.tool_calls) if turn.tool_calls else "") for turn in spoken)


@dataclass(frozen=True, slots=True)
class Prompt(Row):
    """A text and how it goes on; the continuation alone is learned."""

    schema: ClassVar[str] = "prompt"
    prompt: str
    completion: str

    def reads(self) -> tuple[str, ...]:
        return (self.prompt,)

    def answers(self) -> tuple[str, ...]:
        return (self.completion,)


@dataclass(frozen=True, slots=True)
class Labelled(Row):
    """A text, or a pair of texts, with its labels by name (one, or any number where several may hold), or a number."""

    schema: ClassVar[str] = "labelled"
    text: str
    labels: tuple[str, ...] = ()
    pair: str | None = None
    number: float | None = None

    def reads(self) -> tuple[str, ...]:
        return (self.text,) if self.pair is None else (self.text, self.pair)

    def answers(self) -> tuple[str, ...]:
        return self.labels if self.number is None else (repr(self.number),)


@dataclass(frozen=True, slots=True)
class Tagged(Row):
    """Words with one tag each (B-, I-, O or plain)."""

    schema: ClassVar[str] = "tagged"
    words: tuple[str, ...]
    tags: tuple[str, ...]

    def reads(self) -> tuple[str, ...]:
        return self.words

    def answers(self) -> tuple[str, ...]:
        return self.tags


@dataclass(frozen=True, slots=True)
class Question(Row):
    """A question about a context; `spans`: (text, first character) of each answer that counts as right, none where it has no answer."""

    schema: ClassVar[str] = "question"
    question: str
    context: str
    spans: tuple[tuple[str, int], ...] = ()
    id: str = ""

    def side(self) -> bytes:
        """Questions about one context lie on one side."""
        return digest(("group", self.group or self.context))

    def reads(self) -> tuple[str, ...]:
        return (self.question, self.context)

    def answers(self) -> tuple[str, ...]:
        return tuple(text for text, _ in self.spans)


@dataclass(frozen=True, slots=True)
class Rewrite(Row):
    """A text and the text that is to be made of it, which is learned; others would be as good and count when a model is measured."""

    schema: ClassVar[str] = "rewrite"
    source: str
    target: str
    others: tuple[str, ...] = ()

    def reads(self) -> tuple[str, ...]:
        return (self.source,)

    def answers(self) -> tuple[str, ...]:
        return (self.target, *self.others)


@dataclass(frozen=True, slots=True)
class Similar(Row):
    """Two texts that belong together, or how much they do (`score`)."""

    schema: ClassVar[str] = "similar"
    first: str
    second: str
    score: float | None = None

    def reads(self) -> tuple[str, ...]:
        return (self.first, self.second)

    def answers(self) -> tuple[str, ...]:
        return () if self.score is None else (repr(self.score),)

    def side(self) -> bytes:
        """A text with several that belong to it is one question: its rows are held out together. Scored pairs stand for themselves."""
        return super(Similar, self).side() if self.group or self.score is not None else digest(("group", self.first))


@dataclass(frozen=True, slots=True)
class Ranked(Row):
    """A text, one that belongs to it, and texts that do not; `scores`: a teacher's, the positive's first (for distillation)."""

    schema: ClassVar[str] = "ranked"
    anchor: str
    positive: str
    negatives: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()

    def reads(self) -> tuple[str, ...]:
        return (self.anchor, self.positive, *self.negatives)

    def answers(self) -> tuple[str, ...]:
        return tuple(map(repr, self.scores))

    def side(self) -> bytes:
        """As a pair's: all rows of one text are held out together."""
        return super(Ranked, self).side() if self.group else digest(("group", self.anchor))


def labels_of(row: Row) -> tuple[str, ...]:
    """The names that a row is labelled with: those of a text, or of its words; () for other kinds."""
    return row.labels if isinstance(row, Labelled) else row.tags if isinstance(row, Tagged) else ()


Kind = Literal["encoder", "decoder", "seq2seq"]


@dataclass(frozen=True)
class Learns:
    """What a task learns from: `schemas` of rows, and the `kinds` of models that learn it, each the usual first."""

    schemas: tuple[str, ...]
    kinds: tuple[Kind, ...]


TASKS: dict[str, Learns] = {
    "chat": Learns(("chat", "prompt"), ("decoder",)),
    "classify": Learns(("labelled",), ("encoder", "decoder", "seq2seq")),
    "tag": Learns(("tagged",), ("encoder",)),
    "answer": Learns(("question",), ("encoder",)),
    "rewrite": Learns(("rewrite",), ("seq2seq",)),
    "embed": Learns(("similar", "ranked"), ("encoder", "decoder", "seq2seq")),
    "rerank": Learns(("ranked", "similar"), ("encoder", "decoder")),
}

SCHEMAS: dict[str, type[Row]] = {kind.schema: kind for kind in (Chat, Prompt, Labelled, Tagged, Question, Rewrite, Similar, Ranked)}
