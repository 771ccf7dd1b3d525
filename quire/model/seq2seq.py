"""An opened encoder-decoder: it reads one text and writes another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

from ..decode.together import Rules
from ..engine.engine import Engine
from ..errors import DataError, ModelError
from ..tasks.reading import Long, Row
from ..tasks.rewrite import How, Plan, Task, plan, rewrite, written
from ..types import Chunk, Completion, Sampling
from .local import Progress, split_blanks
from .writer import Writer


class Seq2Seq(Writer):
    """A model that reads one text and writes another (T5 ...)."""

    def _start(self, prompt: str) -> tuple[list[int], list[int] | None]:
        return [self._first()], self.contract.whole(prompt)

    def _first(self) -> int:
        if self.contract.decoder_start is None:
            raise ModelError(f"{self.folder} does not say with which id its decoder starts. Set decoder_start_token_id in its config.json.")
        return self.contract.decoder_start

    @cached_property
    def engine(self) -> Engine:
        """Runs this model's requests, several at once."""
        return Engine(self)

    def _chunks(
        self, ids: Sequence[int], source: Sequence[int] | None, sampling: Sampling | None, stop_ids: Sequence[int] = ()
    ) -> Iterator[Chunk]:
        if self.model.front is not None:  # the engine puts soft prompts before a decoder's texts alone
            return super()._chunks(ids, source, sampling, stop_ids)
        return self.engine.stream(self.engine.request(source or [], sampling, stop_ids=stop_ids))

    def _several(self, starts: Sequence[tuple[list[int], list[int] | None]], sampling: Sampling | None) -> list[Completion]:
        sources = [Row(source or []) for _, source in starts]
        return written(self.model, self.contract, self._first(), sources, Plan("", sampling or self.defaults, Rules()))

    def _row(self, context: str, continuation: str) -> tuple[list[int], int, list[str], list[int] | None]:
        pieces = self.contract.tokenizer.target.pieces(continuation)
        texts = [continuation[start:end] for start, end in pieces.offsets]
        return [self._first(), *pieces.ids], 1, texts, self.contract.whole(context)

    def translate(
        self,
        texts: Sequence[str],
        how: How | None = None,
        *,
        source: str | None = None,
        target: str | None = None,
        long: Long | None = None,
        cut: list[int] | None = None,
        progress: Progress = None,
    ) -> list[Completion]:
        """Each text in another language. source, target: as the model's `translation_SOURCE_to_TARGET` names them, where it knows several.

        how: a Sampling or a Beam; None is what the folder says (`tasks.rewrite`). long="cut" leaves out what does not fit, and `cut`
        receives how many tokens of each text. Raises RecipeError listing the languages when the choice is not clear, ContextError with
        numbers for a text that is too long, ModelError for a folder that asks for what is not computed.
        """
        return self._rewrite("translation", texts, how, source, target, long, cut, progress)

    def summarize(
        self,
        texts: Sequence[str],
        how: How | None = None,
        *,
        long: Long | None = None,
        cut: list[int] | None = None,
        progress: Progress = None,
    ) -> list[Completion]:
        """Each text in fewer words; the arguments are those of `translate`."""
        return self._rewrite("summarization", texts, how, None, None, long, cut, progress)

    def text2text(
        self,
        texts: Sequence[str],
        how: How | None = None,
        *,
        long: Long | None = None,
        cut: list[int] | None = None,
        progress: Progress = None,
    ) -> list[Completion]:
        """What the model makes of each text as it stands (FLAN's prompts); the arguments are those of `translate`."""
        return self._rewrite("text2text", texts, how, None, None, long, cut, progress)

    def _rewrite(
        self,
        task: Task,
        texts: Sequence[str],
        how: How | None,
        source: str | None,
        target: str | None,
        long: Long | None,
        cut: list[int] | None,
        progress: Progress,
    ) -> list[Completion]:
        start = self._first()
        chosen = plan(self.folder, self.config.vocab, task, how, source, target, self.changed)
        return rewrite(self.model, self.contract, start, texts, chosen, long=long, cut=cut, progress=progress)

    def fill(self, text: str, blank: str = "___", sampling: Sampling | None = None) -> list[str]:
        """What a model trained by span corruption writes into each `blank` of a text, greedily unless `sampling` says otherwise.

        Raises DataError when the text has no blank, or the tokenizer no sentinels for so many.
        """
        tokenizer = self.contract.tokenizer
        parts, marks = split_blanks(text, blank), []
        for i in range(len(parts) - 1):
            mark = tokenizer.token_id(f"<extra_id_{i}>")
            if mark is None:
                raise DataError(f"{len(parts) - 1} blanks need <extra_id_{i}>, which this tokenizer does not have.")
            marks.append(mark)
        inside = [part for pair in zip(parts, [*marks, None]) for part in pair if part is not None]
        source = [*self.contract.before, *tokenizer.encode_parts(inside).ids, *self.contract.after]
        written = list(self._complete([self._first()], source, sampling or Sampling(temperature=0.0)).ids)
        fills = []
        for mark in marks:
            start = written.index(mark) + 1 if mark in written else len(written)
            end = next((i for i in range(start, len(written)) if tokenizer.is_special(written[i])), len(written))
            fills.append(tokenizer.decode(written[start:end]).strip())
        return fills
