"""An opened decoder: it continues text, answers in conversations, scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from ..decode.loop import complete
from ..engine.engine import Engine
from ..errors import DataError, ModelError
from ..types import Chunk, Completion, Message, Sampling
from .writer import Writer


class Decoder(Writer):
    """A model that continues text (GPT-2, LLaMA ...)."""

    @cached_property
    def engine(self) -> Engine:
        """Runs this model's requests, several at once, and remembers what texts begin with."""
        return Engine(self)

    def _chunks(
        self, ids: Sequence[int], source: Sequence[int] | None, sampling: Sampling | None, stop_ids: Sequence[int] = ()
    ) -> Iterator[Chunk]:
        return self.engine.stream(self.engine.request(ids, sampling, stop_ids=stop_ids))

    def _several(self, starts: Sequence[tuple[list[int], list[int] | None]], sampling: Sampling | None) -> list[Completion]:
        return self.engine.generate([ids for ids, _ in starts], sampling)

    def _start(self, prompt: str) -> tuple[list[int], list[int] | None]:
        return self.contract.prompt(prompt), None

    @property
    def chats(self) -> bool:
        """Whether this model was made to answer. A base model was not, though its tokenizer may have reserved the marks of turns."""
        task = self.binding.recorded.get("lineage", {}).get("task")
        return self.contract.template is not None and task != "causal"

    def chat_ids(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """The conversation as the model reads it, with the beginning of the answer. Raises ModelError for a base model."""
        template = self.contract.template
        if template is None:
            raise ModelError(
                f"{self.folder} is a base model: it has no chat template, so it does not know turns, only text to go on with. "
                "Use generate or stream, or `quire generate`; a model fine-tuned on conversations has a template."
            )
        return list(template.encode(self.contract.tokenizer, list(messages), list(tools), add_generation_prompt=True).ids)

    def chat(
        self, messages: Sequence[Message], sampling: Sampling | None = None, tools: Sequence[dict[str, Any]] = (), **more: Any
    ) -> Completion:
        """The answer to a conversation; sampling and more as in `generate`.

        Raises ModelError for a base model, ContextError when the conversation is too long.
        """
        ids = self.chat_ids(messages, tools)
        return complete(self._chunks(ids, None, self._how(sampling, more), self.contract.turn_end), len(ids))

    def stream_chat(
        self, messages: Sequence[Message], sampling: Sampling | None = None, tools: Sequence[dict[str, Any]] = (), **more: Any
    ) -> Iterator[Chunk]:
        return self._chunks(self.chat_ids(messages, tools), None, self._how(sampling, more), self.contract.turn_end)

    def _row(self, context: str, continuation: str) -> tuple[list[int], int, list[str], list[int] | None]:
        text = context + continuation
        pieces = self.contract.tokenizer.pieces(text)
        known = sum(1 for _, end in pieces.offsets if end <= len(context)) if context else 0
        before = list(self.contract.before)
        if not before and known == 0 and self.contract.tokenizer.bos is not None:
            before = [self.contract.tokenizer.bos]
        if continuation and len(before) + known == 0:
            raise DataError("the context is empty and this tokenizer has no begin-of-text token: nothing stands before the first token.")
        texts = [text[start:end] for start, end in pieces.offsets[known:]]
        return [*before, *pieces.ids], len(before) + known, texts, None
