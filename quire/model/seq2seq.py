"""An opened encoder-decoder: it reads one text and writes another."""

from __future__ import annotations

from ..errors import DataError, ModelError
from ..types import Sampling
from .local import split_blanks
from .writer import Writer


class Seq2Seq(Writer):
    """A model that reads one text and writes another (T5 ...)."""

    def _start(self, prompt: str) -> tuple[list[int], list[int] | None]:
        return [self._first()], self.contract.whole(prompt)

    def _first(self) -> int:
        if self.contract.decoder_start is None:
            raise ModelError(f"{self.folder} does not say with which id its decoder starts. Set decoder_start_token_id in its config.json.")
        return self.contract.decoder_start

    def _row(self, context: str, continuation: str) -> tuple[list[int], int, list[str], list[int] | None]:
        pieces = self.contract.tokenizer.pieces(continuation)
        texts = [continuation[start:end] for start, end in pieces.offsets]
        return [self._first(), *pieces.ids], 1, texts, self.contract.whole(context)

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
