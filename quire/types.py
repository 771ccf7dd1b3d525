"""The records and protocols that everything above the model talks through. No torch here.

A thing that generates, chats or scores is known by its protocol alone, so a local model, a remote endpoint and a test's fake
are interchangeable. `identity` names what answered (a binding id, or a remote's name and version) so that receipts can record it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "context"]
Long = Literal["error", "cut", "head-tail"]  # a text that does not fit: refused, cut at its end, cut in its middle (Sun et al. 2019)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. `tool_calls` are OpenAI-style dictionaries; `tool_call_id` answers one of them."""

    role: Role
    content: str
    tool_calls: tuple[dict[str, Any], ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True)
class Sampling:
    """How the next token is picked. Greedy is `temperature=0`; a value of 1.0 (or 0, for penalties and top_k) means off.

    Sources: nucleus (Holtzman et al. 2020), min-p (Nguyen et al. 2024), locally typical (Meister et al. 2023),
    repetition penalty (Keskar et al. 2019), presence and frequency penalties as OpenAI's API defines them.
    """

    max_tokens: int = 128
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()  # (id, what is added to its logit), after the penalties; a mapping becomes this
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    logprobs: int = 0  # how many alternatives to report at each step

    def __post_init__(self) -> None:
        if isinstance(self.logit_bias, Mapping):
            object.__setattr__(self, "logit_bias", tuple(self.logit_bias.items()))


@dataclass(frozen=True)
class Beam:
    """Beam search (Sutskever et al. 2014): the likeliest whole text found with `width` of them in the race.

    length_penalty: sums of log-probabilities are divided by length ** length_penalty (Wu et al. 2016). no_repeat_ngram: no run of so
    many tokens is written twice (Paulus et al. 2017); 0: off. early_stopping: end with the `width`-th finished text, not when none can
    get better. forced_first, forced_last: ids that must begin and end the text (BART, mBART). forbidden: ids never written.
    """

    width: int = 4
    max_tokens: int = 128
    min_tokens: int = 0
    length_penalty: float = 1.0
    no_repeat_ngram: int = 0
    repetition_penalty: float = 1.0
    early_stopping: bool = False
    forced_first: int | None = None
    forced_last: int | None = None
    forbidden: tuple[int, ...] = ()


@dataclass(frozen=True)
class TokenLogprob:
    """One generated or scored token: natural-log probability under the model, and the best alternatives with theirs."""

    id: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True)
class Completion:
    text: str
    ids: tuple[int, ...]
    finish_reason: FinishReason  # stop: a stop rule; length: max_tokens; context: the model's positions ran out
    prompt_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()
    parsed: Any = None  # the value, where a form was asked for and the answer has it
    valid: bool | None = None  # whole, and of the form or calls asked for (None: nothing was asked); what a limit cut is not
    tool_calls: tuple[dict[str, Any], ...] = ()  # whole ones, as OpenAI's API has them; `text` is then what is said beside them


@dataclass(frozen=True)
class Chunk:
    """A piece of a stream. The last one has a `finish_reason`; text is never half a character."""

    text: str
    ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    calls: tuple[dict[str, Any], ...] = ()  # pieces of tool calls, as OpenAI's streams have them


@dataclass(frozen=True)
class Score:
    """Log-probability of a continuation given its context (natural log), per token, and whether greedy decoding would have written it."""

    logprob: float
    tokens: tuple[TokenLogprob, ...] = field(default=(), repr=False)
    greedy: bool = False


@dataclass(frozen=True)
class Entity:
    """A stretch of a text with a label (token classification); `start` and `end` count characters."""

    label: str
    score: float
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Answer:
    """A stretch of a context that answers a question; an empty text with start = end = 0 says that the context does not answer it."""

    text: str
    score: float
    start: int
    end: int


@dataclass(frozen=True)
class Hit:
    """One text found: its place in what was searched, and how near it is."""

    index: int
    score: float
    text: str


Text = str | tuple[str, str]  # one text, or a pair read together


class Generator(Protocol):
    identity: str

    def generate(self, prompts: Sequence[str], sampling: Sampling = ...) -> list[Completion]: ...
    def stream(self, prompt: str, sampling: Sampling = ...) -> Iterator[Chunk]: ...


class Chat(Protocol):
    identity: str

    def chat(self, messages: Sequence[Message], sampling: Sampling = ...) -> Completion: ...


class Scorer(Protocol):
    identity: str

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Score]: ...


class Embedder(Protocol):
    identity: str

    def embed(
        self,
        texts: Sequence[str],
        kind: Literal["document", "query"] | None = ...,
        *,
        long: Long | None = ...,
        cut: list[int] | None = ...,
    ) -> npt.NDArray[np.float32]:
        """Vectors (N, D). long: what happens to a text that is too long; `cut` receives how many tokens of each were left out."""
        ...


class Classifier(Protocol):
    identity: str

    def classify(self, texts: Sequence[Text]) -> list[dict[str, float]]: ...
