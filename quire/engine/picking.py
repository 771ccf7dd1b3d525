"""What becomes of a request's logits: the prompt's own log-probabilities, the next token, its text, and a reason to end."""

from __future__ import annotations

from ..decode.loop import Vocabulary, facts
from ..decode.sampler import logprobs
from ..errors import RecipeError
from ..types import Chunk, FinishReason, TokenLogprob
from . import asking
from .request import Constraint, Request
from .runner import Logits
from .scheduler import Piece


def prompt_facts(piece: Piece, logits: Logits, words: Vocabulary) -> Logits:
    """Notes the log-probabilities of the prompt's tokens; returns the rows that are left, those behind the prompt."""
    request, prompt = piece.request, len(piece.request.prompt)
    assert request.prompt_logprobs is not None
    if piece.start == 0 and not request.prompt_facts:
        request.prompt_facts.append(None)  # nothing stands before the first
    for number in range(max(0, min(piece.count, prompt - 1 - piece.start))):
        place = piece.start + number + 1
        if len(request.prompt_facts) > place:
            continue  # computed again after it was put aside
        token = request.prompt[place]
        value, top = logprobs(logits[number], token, request.prompt_logprobs)
        named = tuple((other, words.decode([other], special=True), chance) for other, chance in top)
        request.prompt_facts.append(TokenLogprob(token, words.decode([token], special=True), value, named))
    return logits[max(0, request.known - 1 - piece.start) :]


def pick(request: Request, row: Logits, words: Vocabulary) -> int:
    """The next token of a request from its logits (V,), and what follows from it: text, a reason to end."""
    count = len(request.answer) + 1
    early = count < request.sampling.min_tokens
    constraint = request.constraint
    may_end = constraint is None or constraint.complete  # what a form still needs is text, a stop id or not
    banned = request.stop_ids if may_end and count <= request.sampling.min_tokens else frozenset()
    if constraint is not None:
        row = _allowed(row, constraint, request)
    chosen = request.sampler.pick(row, banned)
    request.answer.append(chosen.id)
    reason: FinishReason | None = None
    if may_end and chosen.id in request.stop_ids:
        reason, text = "stop", request.held.rest(request.stream.end())
    else:
        if constraint is not None:
            constraint.accept(chosen.id)
        text, stopped = request.held.push(request.stream.push(chosen.id), heed=not early)
        if stopped or (constraint is not None and constraint.closed):
            reason = "stop"
        elif count == request.limit:
            reason = request.full
        if reason is not None and not stopped:
            tail, stopped = request.held.push(request.stream.end())
            text, reason = text + tail + request.held.rest(), "stop" if stopped else reason
    listed = facts(chosen, words) if request.sampling.logprobs else ()
    request.chunks.append(Chunk(text, (chosen.id,), reason, listed))
    request.reason = reason
    return chosen.id


def _allowed(row: Logits, constraint: Constraint, request: Request) -> Logits:
    """Logits with what the constraint rules out at minus infinity.

    A stop id may come where the answer is whole. Before, the caller's are text like any other, since the form may need them, and the
    model's own are ruled out unless nothing else goes on.
    """
    allowed = asking.mask(constraint, len(row))
    if allowed is None:
        return row
    text, allowed = allowed, allowed.copy()
    allowed[list(request.stop_ids if constraint.complete else request.ends)] = constraint.complete
    if not allowed.any():
        allowed = text
    if not allowed.any():
        raise RecipeError("the constraint allows no token here, and the answer is not closed: it must allow one, or say that it is closed.")
    masked = row.copy()
    masked[~allowed] = -float("inf")
    return masked
