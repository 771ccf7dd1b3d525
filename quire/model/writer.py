"""Generation and scoring, for decoders and encoder-decoders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, overload

import torch

from ..decode.loop import complete, decode, room
from ..nn.attention import AttnContext
from ..nn.batch import Batch
from ..text.library import texts_of
from ..types import Chunk, Completion, Sampling, Score, TokenLogprob
from .local import TOKENS_A_FORWARD, Local


class Writer(Local):
    """Generation and scoring, for decoders and encoder-decoders."""

    def _start(self, prompt: str) -> tuple[list[int], list[int] | None]:
        """(ids to continue, ids of the encoder's side)."""
        raise NotImplementedError

    @overload
    def generate(self, prompts: str, sampling: Sampling | None = None, **more: Any) -> Completion: ...
    @overload
    def generate(self, prompts: Sequence[str], sampling: Sampling | None = None, **more: Any) -> list[Completion]: ...
    def generate(self, prompts: str | Sequence[str], sampling: Sampling | None = None, **more: Any) -> Completion | list[Completion]:
        """Continues a text, or each of several. Every one draws from a generator of its own, so what one draws does not
        depend on the others.

        sampling: None takes `defaults`; single fields of it can be given by name (max_tokens=20). Raises ContextError for a prompt that
        is too long, RecipeError for a value outside its range.
        """
        sampling = self._how(sampling, more)
        if isinstance(prompts, str):
            return self._complete(*self._start(prompts), sampling)
        starts = [self._start(prompt) for prompt in texts_of(prompts)]
        for ids, source in starts:  # all of them before any work
            room(len(ids), self.config.context, "prompt")
            room(len(source or [0]), self.config.context, "source", spare=0)
        return self._several(starts, sampling)

    def _several(self, starts: Sequence[tuple[list[int], list[int] | None]], sampling: Sampling | None) -> list[Completion]:
        return [self._complete(ids, source, sampling) for ids, source in starts]

    def stream(self, prompt: str, sampling: Sampling | None = None, **more: Any) -> Iterator[Chunk]:
        """A chunk a token; its text may be empty while a character or a stop string is not decided. The last one says why it ended."""
        return self._chunks(*self._start(prompt), self._how(sampling, more))

    def _chunks(
        self, ids: Sequence[int], source: Sequence[int] | None, sampling: Sampling | None, stop_ids: Sequence[int] = ()
    ) -> Iterator[Chunk]:
        contract, sampling = self.contract, sampling or self.defaults
        sampling = replace(sampling, stop=tuple(sampling.stop) + contract.stop_strings)
        stops = [token for token in (*(contract.stop_ids or ()), *stop_ids) if token < self.config.vocab]
        return decode(self.model, ids, sampling, contract.tokenizer.target, stop_ids=stops, source=source)

    def _complete(self, ids: Sequence[int], source: Sequence[int] | None, sampling: Sampling | None) -> Completion:
        return complete(self._chunks(ids, source, sampling), len(ids) if source is None else len(source))

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        """Log-probability of each continuation behind its context, token by token; and whether greedy decoding would have written it.

        A token that holds the end of the context and the beginning of the continuation counts as continuation. Raises ContextError when a
        pair does not fit, DataError when a continuation has nothing before it.
        """
        rows = [self._row(context, continuation) for context, continuation in texts_of(pairs, "pairs")]
        for ids, _, _, source in rows:
            room(max(len(ids), 1), self.config.context, "pair", spare=0)
            room(len(source or [0]), self.config.context, "source", spare=0)
        scores: list[Score] = [Score(0.0, (), True)] * len(rows)
        order = sorted((i for i, row in enumerate(rows) if len(row[0]) > row[1]), key=lambda i: len(rows[i][0]))
        while order:
            count = max(1, min(len(order), TOKENS_A_FORWARD // len(rows[order[-1]][0])))
            chosen, order = order[-count:], order[:-count]
            for i, score in zip(chosen, self._score([rows[i] for i in chosen])):
                scores[i] = score
        return scores

    def _row(self, context: str, continuation: str) -> tuple[list[int], int, list[str], list[int] | None]:
        """(ids, how many of them are context, texts of the others, the encoder's side)."""
        raise NotImplementedError

    @torch.inference_mode()
    def _score(self, rows: list[tuple[list[int], int, list[str], list[int] | None]]) -> list[Score]:
        tokens, _ = self.tensor([ids for ids, *_ in rows])  # padding lies behind: a causal stack never looks there
        memory = memory_keep = None
        if self.config.encoder is not None:
            sources, memory_keep = self.tensor([source or [] for *_, source in rows])
            memory = self.model.encode(Batch(sources, keep=memory_keep).tokens, AttnContext(keep=memory_keep))
        hidden = self.model.decode(tokens, None, memory, memory_keep)  # (B, T, D)
        assert self.model.head is not None
        found = []
        for i, (ids, known, texts, _) in enumerate(rows):
            # the position before a token predicts it
            scores = self.model.head(hidden[i, known - 1 : len(ids) - 1]).float().log_softmax(-1).cpu()  # (N, V)
            targets = torch.tensor(ids[known:])
            each = scores.gather(1, targets[:, None])[:, 0].tolist()
            greedy = bool((scores.argmax(-1) == targets).all())
            found.append(Score(sum(each), tuple(map(TokenLogprob, ids[known:], texts, each)), greedy))
        return found
