"""What form the answers of one call must have, from the names that `generate` and `chat` take to the record of what was read.

    asked = form(contract, vocab, {"schema": {...}})            or tools(contract, vocab, [...], "auto", parallel=True)
    engine.generate(prompts, sampling, constraint=asked.constraint)
    answer = asked.read(answer)                                 parsed, valid, tool_calls

The form is compiled here, before any request is in line, and once for all answers of the call; each follows it with a matcher of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..binding import Contract
from ..errors import RecipeError, about
from ..types import Chunk, Completion
from . import constrain
from .constrain import Grammar
from .request import Constraint
from .tools import Calling, ToolChoice

_MAKERS = {"schema": constrain.json_schema, "regex": constrain.regex, "choice": constrain.choice, "grammar": constrain.grammar}
FORMS = tuple(_MAKERS)


@dataclass(frozen=True)
class Asked:
    """One form, calls of tools, or nothing in particular."""

    grammar: Grammar | None = None
    calling: Calling | None = None

    def constraint(self) -> Constraint | None:
        """For one request."""
        if self.grammar is not None:
            return self.grammar.fresh()
        return None if self.calling is None else self.calling.constraint()

    def read(self, answer: Completion) -> Completion:
        """The answer with what it holds. One that a limit cut is never valid, and keeps its finish_reason."""
        if self.grammar is not None:
            parsed = self.grammar.read(answer)
            return replace(answer, parsed=parsed.value, valid=parsed.valid)
        if self.calling is not None:
            turn = self.calling.read(answer)
            valid = answer.finish_reason == "stop" and not turn.broken
            return replace(answer, text=turn.content or "", tool_calls=turn.tool_calls, valid=valid)
        return answer

    def stream(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """Chunks as they come; of an answer that may call tools, `text` is what it says, and calls are in `calls`."""
        if self.calling is None:
            yield from chunks
            return
        reader = self.calling.reader()
        for chunk in chunks:
            deltas = reader.push(chunk)
            text = "".join(delta.get("content", "") for delta in deltas)
            yield replace(chunk, text=text, calls=tuple(call for delta in deltas for call in delta.get("tool_calls", ())))


def form(contract: Contract, vocab: int, given: Mapping[str, Any]) -> Asked:
    """What one of `FORMS` asks for; given: those by their names. Raises RecipeError for two, and for what cannot be compiled."""
    named = [name for name in FORMS if given.get(name) is not None]
    if len(named) > 1:
        raise RecipeError(f"an answer has one form; {' and '.join(named)} are given. Choose one of them.")
    with about("forms"):
        return Asked(_MAKERS[named[0]](contract.tokenizer, given[named[0]], vocab=vocab)) if named else Asked()


def tools(
    contract: Contract, vocab: int, given: Sequence[Mapping[str, Any]], choice: ToolChoice, parallel: bool, forms: Mapping[str, Any]
) -> Asked:
    """What tools ask for, or one of `FORMS` where there are none. Raises RecipeError where both are given."""
    asked = form(contract, vocab, forms)
    if not given and choice in ("auto", "none"):  # none: what tools there are is not shown either
        return asked
    if asked.grammar is not None:
        raise RecipeError("tools and a form of the whole answer are given; an answer is held to one of them. Leave the other out.")
    with about("tools"):
        return Asked(calling=Calling(contract, given, choice, parallel=parallel, vocab=vocab))
