"""Masked language modelling (BERT, Devlin et al. 2018): restore hidden tokens from both sides; and, if asked, say whether B follows A.

    [CLS] text … [SEP]                 rows packed across documents, [SEP] between them (RoBERTa's FULL-SENTENCES, Liu et al. 2019)
    [CLS] A … [SEP] B … [SEP]          with next_sentence: rows of one document, cut in two; half of them get another row's second part

Of the text, `rate` is chosen, by whole words or token by token; of the chosen tokens 80 % become [MASK], 10 % a random token and 10 % stay.
Words are taken in random order for as long as the middle of the next one lies below the number wanted, so the share comes out right on
average and is off by at most half a word. The random second part is that of another row of the same step: by construction not what follows.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DataError, RecipeError
from ..nn.batch import IGNORE, Batch
from ..nn.heads import token_loss
from ..text.tokenizer import Tokenizer
from .rows import Pieces, Windows
from .score import evaluating
from .task import Array, RowArrays, Rows, Term, TokenView
from .words import Words

NEXT, RANDOM = 0, 1  # labels of the second term, as BERT's checkpoints have them
_EVALUATION_ROWS = 16  # part of the figure's definition: masks are drawn batch by batch


class Masked:
    """labels {"mlm": (B, T)}, and {"nsp": (B,)} with `next_sentence`."""

    name = "masked"
    model_kind: Literal["encoder"] = "encoder"
    splittable, supervised = True, False
    metric = "loss"
    better: Literal["lower"] = "lower"

    def __init__(
        self, tokenizer: Tokenizer, context: int, rate: float = 0.15, whole_words: bool = True, next_sentence: bool = False
    ) -> None:
        if tokenizer.cls is None or tokenizer.sep is None or tokenizer.mask is None or tokenizer.pad is None:
            lacks = [role for role in ("cls", "sep", "mask", "pad") if tokenizer.special_ids.get(role) is None]
            raise RecipeError(
                f"the task 'masked' needs the special tokens cls, sep, mask and pad; this tokenizer has no {', '.join(lacks)}."
            )
        if not 0 < rate < 1:
            raise RecipeError(f"task.mask_rate = {rate} is not a share of the tokens: it lies between 0 and 1 (0.15 is usual).")
        if context < 8:
            raise RecipeError(f"model.context = {context} is too short to hide words in; give 8 or more.")
        self.cls, self.separator, self.mask, self.pad = tokenizer.cls, tokenizer.sep, tokenizer.mask, tokenizer.pad
        self.context, self.rate, self.whole_words, self.next_sentence = context, rate, whole_words, next_sentence
        self.tokens_per_row = context - (3 if next_sentence else 2)
        self.words = Words(tokenizer)

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "context": self.context,
            "separator": self.separator,
            "mask_rate": self.rate,
            "whole_words": self.whole_words,
            "next_sentence": self.next_sentence,
        }

    def rows(self, view: TokenView, start: int, stop: int) -> Rows:
        if self.next_sentence:
            return Pieces(view.tokens, view.offsets, start, stop, self.tokens_per_row)
        return Windows(view.tokens, start, stop, self.tokens_per_row, self.tokens_per_row)

    def batch(self, rows: RowArrays, draw: np.random.Generator) -> Batch:
        if self.next_sentence:
            tokens, types, keep, follows = self._pairs(rows, draw)
            labels = {"nsp": torch.from_numpy(follows)}
        else:
            tokens, labels = np.full((len(rows), self.context), self.separator, dtype=np.int64), {}
            tokens[:, 0], tokens[:, 1:-1] = self.cls, np.asarray(rows)
        chosen = self.choose(tokens, draw)
        hidden, wanted = self.corrupt(tokens, chosen, draw), np.where(chosen, tokens, IGNORE)
        batch = Batch(torch.from_numpy(hidden), {"mlm": torch.from_numpy(wanted), **labels})
        if self.next_sentence:
            batch.types, batch.keep = torch.from_numpy(types), torch.from_numpy(keep)
        return batch

    def _pairs(self, rows: RowArrays, draw: np.random.Generator) -> tuple[Array, Array, Array, Array]:
        """tokens, types, keep (B, T) and labels (B,): every row cut in two at a random place, half of the second parts exchanged."""
        if len(rows) < 2:
            raise DataError(
                "next-sentence prediction takes its random second parts from the other rows of a step: set train.batch to 2 or more."
            )
        count = len(rows)
        cuts = [int(draw.integers(1, len(row))) for row in rows]
        other = (np.arange(count) + draw.integers(1, count, size=count)) % count  # any row but itself
        random = draw.random(count) < 0.5
        tokens = np.full((count, self.context), self.pad, dtype=np.int64)
        types = np.zeros((count, self.context), dtype=np.int64)
        keep = np.zeros((count, self.context), dtype=bool)
        for i, (row, cut) in enumerate(zip(rows, cuts, strict=True)):
            second = rows[other[i]][cuts[other[i]] :] if random[i] else row[cut:]
            second = second[: self.tokens_per_row - cut]
            end = cut + len(second) + 3
            tokens[i, :end] = np.concatenate(([self.cls], row[:cut], [self.separator], second, [self.separator]))
            types[i, cut + 2 : end] = 1
            keep[i, :end] = True
        return tokens, types, keep, np.where(random, RANDOM, NEXT).astype(np.int64)

    def choose(self, tokens: Array, draw: np.random.Generator) -> Array:
        """Which tokens (B, T) are to be restored: about `rate` of each row's text, in whole words, never a special token."""
        text = ~self.words.special[tokens]
        starts = self.words.starts(tokens) if self.whole_words else np.ones(tokens.shape, dtype=bool)
        starts[:, 0] = True
        word = starts.ravel().cumsum() - 1  # number of the word that each token is in, over the whole batch
        first = np.flatnonzero(starts.ravel())
        row = first // tokens.shape[1]
        size = np.bincount(word, weights=text.ravel()).astype(np.int64)  # 0 for a special token
        want = np.maximum(1, np.round(self.rate * text.sum(axis=1)))
        order = np.lexsort((draw.random(len(first)), size == 0, row))  # a random order within each row
        before = size[order].cumsum() - size[order]
        begins = np.searchsorted(row, np.arange(len(tokens)))  # where each row's words begin, in `order` as in `row`
        before -= before[begins][row]
        take = (before + size[order] / 2 < want[row]) | (before == 0)
        taken = np.zeros(len(first), dtype=bool)
        taken[order] = take & (size[order] > 0)
        chosen: Array = taken[word].reshape(tokens.shape) & text
        return chosen

    def corrupt(self, tokens: Array, chosen: Array, draw: np.random.Generator) -> Array:
        """80 % of the chosen tokens become the mask, 10 % any ordinary token, 10 % stay."""
        fate = draw.random(tokens.shape)
        random = self.words.ordinary[draw.integers(len(self.words.ordinary), size=tokens.shape)]
        return np.where(chosen & (fate < 0.8), self.mask, np.where(chosen & (fate >= 0.9), random, tokens))

    def counts(self, batch: Batch) -> dict[str, int]:
        counts = {"mlm": int((batch.labels["mlm"] != IGNORE).sum())}
        return {**counts, "nsp": len(batch)} if self.next_sentence else counts

    def terms(self, model: nn.Module, batch: Batch, chunk: int = 0) -> dict[str, Term]:
        hidden = model(batch)  # (B, T, D)
        terms = {"mlm": token_loss(model.head, hidden, batch.labels["mlm"], chunk)}
        if self.next_sentence:
            logits = self._follows(model, hidden)
            terms["nsp"] = F.cross_entropy(logits.float(), batch.labels["nsp"], reduction="sum"), len(batch)
        return terms

    def _follows(self, model: nn.Module, hidden: Tensor) -> Tensor:
        """Logits (B, 2)."""
        head: Any = model.head
        logits: Tensor = head.next_sentence(hidden)
        return logits

    def evaluate(self, model: nn.Module, view: TokenView, limit: int = 0, rows: int = 0) -> dict[str, float]:
        """loss in nats and accuracy over the hidden tokens; nsp_loss and nsp_accuracy with `next_sentence`.

        Rows and masks are the same at every call, so figures of one run can be compared.
        """
        found = self.rows(view, 1, len(view.tokens))
        numbers = np.arange(found.count)
        if 0 < limit < found.count * self.tokens_per_row:
            numbers = np.linspace(0, found.count - 1, max(2, limit // self.tokens_per_row)).round().astype(np.int64)
        draw, sums = np.random.default_rng([3, 0]), np.zeros(6)
        with evaluating(model) as device:
            for at in range(0, len(numbers), _EVALUATION_ROWS):
                now = numbers[at : at + _EVALUATION_ROWS]
                if self.next_sentence and len(now) < 2:
                    break  # a last row alone has no other to take a second part from
                for part in self.batch(found.read(now), draw).split(rows or _EVALUATION_ROWS):
                    sums += self._figures(model, part.to(device))
        if not sums[2]:
            raise DataError(f"the held-out text has {found.count} rows for the task 'masked', too few to evaluate. Hold out more text.")
        loss, hits, count, pair_loss, pair_hits, pairs = sums.tolist()
        figures = {"loss": loss / count, "accuracy": hits / count, "tokens": count}
        return {**figures, "nsp_loss": pair_loss / pairs, "nsp_accuracy": pair_hits / pairs} if self.next_sentence else figures

    def _figures(self, model: nn.Module, batch: Batch) -> Array:
        """Loss, hits and number of the hidden tokens, and the same of the pairs."""
        hidden, labels = model(batch), batch.labels["mlm"]
        places = labels != IGNORE
        head: Any = model.head
        logits, wanted = head(hidden[places]).float(), labels[places]
        found = [
            float(F.cross_entropy(logits, wanted, reduction="sum")),
            float((logits.argmax(-1) == wanted).sum()),
            len(wanted),
            0.0,
            0.0,
            0.0,
        ]
        if self.next_sentence:
            pairs, follows = self._follows(model, hidden).float(), batch.labels["nsp"]
            found[3:] = float(F.cross_entropy(pairs, follows, reduction="sum")), float((pairs.argmax(-1) == follows).sum()), len(follows)
        return np.array(found)
