"""One request on its way: what is known of its tokens, how many of them are computed, and what has been said of it so far.

There are no phases: a request has `known` tokens, prompt and answer alike, of which `computed` have their keys and values in pages.
Reading a prompt, a part of it, one more token, or everything anew after it was put aside, is always the same: compute known - computed
tokens.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from ..decode.loop import HeldText, TextStream
from ..decode.sampler import Sampler
from ..types import Chunk, FinishReason, Sampling, TokenLogprob

State = Literal["new", "waiting", "running", "finished"]
Allowed = npt.NDArray[np.bool_]


class Constraint(Protocol):
    """What the answer must look like, token by token (`constrain.Grammar` is one). Each request has one of its own."""

    def allowed(self) -> Allowed | None:
        """Which tokens may come next (V,); None: any."""

    def accept(self, token: int) -> None: ...
    @property
    def complete(self) -> bool:
        """Whether what was accepted so far is a whole answer."""

    @property
    def closed(self) -> bool:
        """Whether it is complete and nothing more may come."""


@dataclass(eq=False)
class Request:
    """`prompt` ids to be continued as `sampling` says. tenant: whose cached prefixes it may share. arrival: its place in line.

    source: what an encoder-decoder reads first, as a whole; what its cross-attention needs of it lies in `source_blocks`. engine: made it.
    """

    engine: object = field(repr=False)
    prompt: list[int]
    sampling: Sampling
    limit: int  # tokens of the answer at most
    full: FinishReason  # why it ends there: "length", or "context" when the model's positions run out
    stop_ids: frozenset[int]
    ends: frozenset[int]  # those of them that are the model's own
    sampler: Sampler
    stream: TextStream
    held: HeldText
    arrival: int
    tenant: bytes = b""
    constraint: Constraint | None = None
    prompt_logprobs: int | None = None
    after: Request | None = None  # begins when this one's prompt is computed, to share it
    source: list[int] | None = None

    state: State = "new"
    answer: list[int] = field(default_factory=list)
    guessed: list[int] = field(default_factory=list)  # tokens behind the known ones, to be checked in the next step
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)  # of the full blocks of what is known
    remembered: int = 0  # blocks that can be found by others
    source_blocks: list[int] = field(default_factory=list)
    source_read: bool = False
    chunks: list[Chunk] = field(default_factory=list)  # what was said
    told: int = 0  # of them, those that `stream` has handed on
    reason: FinishReason | None = None
    error: Exception | None = None
    prompt_facts: list[TokenLogprob | None] = field(default_factory=list)
    cached: int = 0  # tokens of the prompt that needed no computing
    preempted: int = 0

    @property
    def known(self) -> int:
        return len(self.prompt) + len(self.answer)

    @cached_property
    def salt(self) -> bytes:
        """What must be equal, beside the tokens, for a beginning to be shared: what is written depends on what was read."""
        return self.tenant if self.source is None else self.tenant + b"\0" + array("I", self.source).tobytes()

    @property
    def unread(self) -> int:
        """Tokens of the source that the encoder has still to read."""
        return 0 if self.source is None or self.source_read else len(self.source)

    @property
    def done(self) -> bool:
        return self.state == "finished"

    def tokens(self, start: int, stop: int) -> Sequence[int]:
        """Known and guessed ids at places start..stop-1."""
        prompt = len(self.prompt)
        if stop <= prompt:
            return self.prompt[start:stop]
        behind = [*self.answer, *self.guessed]
        return [*self.prompt[start:], *behind[max(0, start - prompt) : stop - prompt]]
