"""What is asked of a model and what it says, free of any API's form. The routes translate between these and JSON; the worker answers them.

An `Ask` crosses to the worker as a dictionary of its fields; what comes back are `Piece`s of an answer, and one `End` for each choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Write:
    """Write on: a text or ids (`prompt`), or the next turn of a conversation (`messages`, as `types.Message` has its fields).

    sampling: the fields of `types.Sampling` that were given; the others are the model's own. forms: one of schema, regex, choice and
    grammar. n: so many answers. prompt_logprobs: also the log-probabilities of the prompt, with so many alternatives. tenant: whose cached
    beginnings may be shared. most_input: tokens of the prompt at most (None: what the model has). longest: tokens of the prompt and
    the answer together at most. continued: the last message is the beginning of the answer itself. suffix: a text behind the answer, for
    models that fill in what is between. echo: tell the prompt's text.
    """

    prompt: str | Sequence[int] | None = None
    messages: Sequence[Mapping[str, Any]] | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    n: int = 1
    forms: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str | Mapping[str, Any] = "auto"
    parallel: bool = True
    prompt_logprobs: int | None = None
    tenant: str = ""
    most_input: int | None = None
    longest: int | None = None
    continued: bool = False
    suffix: str | None = None
    echo: bool = False


@dataclass(frozen=True)
class Read:
    """Read texts, or rows of ids, whole: vectors, labels, or ranks of `texts` for `query`.

    kind: of the folder's prompts for vectors ("query", "document"); long: "error" refuses what is too long, "cut" leaves out its end,
    None is as the model was trained where its folder says how, else "error".
    limit: tokens of a text at most, where that is less than what the model reads. dimensions: the first numbers of a vector, of length 1.
    """

    use: Literal["embed", "classify", "rerank"]
    texts: Sequence[str | Sequence[str] | Sequence[int]]
    query: str | None = None
    label: str | None = None
    kind: Literal["query", "document"] | None = None
    long: Literal["error", "cut"] | None = None
    limit: int | None = None
    dimensions: int | None = None
    most_input: int | None = None


@dataclass(frozen=True)
class Tokens:
    """Ids of a text or a conversation (`whole`: with what the model puts around it), or the text of ids.

    tool_choice: given, the ids are those that a `Write` of the same fields would go on with, and what is wrong with it is refused.
    spelled: [id, spelling] of each, instead of ids.
    """

    text: str | None = None
    messages: Sequence[Mapping[str, Any]] | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    ids: Sequence[int] | None = None
    whole: bool = True
    tool_choice: str | Mapping[str, Any] | None = None
    continued: bool = False
    spelled: bool = False


Ask = Write | Read | Tokens


@dataclass(frozen=True, slots=True)
class Logprob:
    """odd: the bytes of those of its tokens that are no text alone: parts of a character."""

    id: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()
    odd: Mapping[int, bytes] = field(default_factory=dict)

    def bytes(self, id: int, text: str) -> bytes:
        """Of this token, or of one that might have come."""
        found = self.odd.get(id)
        return text.encode() if found is None else found


@dataclass(frozen=True, slots=True)
class Piece:
    """More of one answer. calls: pieces of tool calls, as OpenAI's streams have them."""

    choice: int
    text: str
    ids: tuple[int, ...]
    logprobs: tuple[Logprob, ...] = ()
    calls: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """An answer is whole: what its pieces add up to. reason: stop, length, context or tool_calls; stop: the stop string that ended it;
    tokens: that it has; cut: whether the last call is told as far as it came, for the answer ended in it; valid: as in
    `types.Completion`; cached: tokens of the prompt that needed no computing; prompt: the facts of the prompt's tokens, where they were
    asked for."""

    choice: int
    reason: str
    tokens: int
    text: str
    tool_calls: tuple[dict[str, Any], ...] = ()
    cut: bool = False
    valid: bool | None = None
    stop: str | None = None
    cached: int = 0
    prompt: tuple[Logprob | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Begun:
    """The ask is accepted and in line: nothing can be wrong with it any more. prompt_tokens: that its prompt has. pieces: what each of them
    adds to the prompt's text, where `echo` asked for it."""

    prompt_tokens: int
    pieces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a `Read` or of `Tokens`. tokens: that were read. cut: how many were left out of each text; the first is of a query,
    where that is read alone."""

    value: Any
    tokens: int
    cut: Sequence[int] = ()


Event = Begun | Piece | End | Found


def logprob(row: Sequence[Any]) -> Logprob:
    """From the five values that cross the border."""
    odd = {int(id): bytes.fromhex(found) for id, found in row[4].items()}
    return Logprob(row[0], row[1], row[2], tuple((id, text, value) for id, text, value in row[3]), odd)
