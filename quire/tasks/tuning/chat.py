"""Answers in conversations, and texts that go on from a prompt: a decoder learns what the assistant writes, with the end of each turn.

Rows are read through the model's template or as plain text (`conversation`), so what is trained is what `quire chat` and `quire generate`
serve. Several rows may share one (`data.pack`): each sees itself alone and its positions begin at 0, so loss and gradients are those of
the rows on their own. Held-out rows have the loss of their answers; some of them are also answered, greedily and with the stop rule of
`quire chat`: do the answers say what was wanted (ROUGE-L, Lin 2004; exact matches), and do they end?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ...binding.contract import Contract
from ...decode.together import write
from ...metrics.interval import Interval, mean_interval, ratio_interval
from ...metrics.rouge import rouge
from ...nn.batch import IGNORE, Batch
from ...nn.transformer import Transformer
from ...types import Completion, Sampling
from ..causal import next_token_loss
from ..lengths import by_length
from ..reading import Long, budget
from ..task import Term
from .conversation import Reader, last_answer, settled, turns_of
from .example import Evaluation, Example, collate
from .schemas import Prompt, Row

_LOGITS = 1 << 22  # numbers of logits at once
_TOGETHER = 32  # answers that are written at once
_LONGER = 2  # an answer may become so many times as long as the longest that was wanted, or _LEAST tokens
_LEAST = 64
_SAMPLES = 4
_GLANCED = 16  # rows that are answered while a model learns: an answer costs as much as several steps


@dataclass(frozen=True)
class Judged:
    """What a model thinks of one row's answers: nats over `tokens` learned ids, of which it would have written `right`."""

    nats: float
    tokens: int
    right: int


class Chat:
    """`batch` reads rows (B, T); labels {"lm": (B, T)}, the next id where it is learned.

    generate_rows: how many held-out rows are answered at the end, and at most _GLANCED of them before.
    """

    name = "chat"
    schemas = ("chat", "prompt")
    supervised, splittable, packs = True, True, True
    metric = "loss"
    better: Literal["lower"] = "lower"

    def __init__(self, contract: Contract, context: int, rows: Sequence[Row], *, long: Long = "cut", generate_rows: int = 200) -> None:
        self.contract, self.context, self.long, self.generate_rows = settled(contract, rows), context, long, generate_rows
        self.reader = Reader(self.contract, context, long)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "context": self.context, "long": self.long, "contract": self.contract.id}

    def head(self) -> tuple[Literal["words"], tuple[str, ...], dict[str, Any]]:
        return "words", (), {}

    # -- rows to batches ---------------------------------------------------------------------------------------------------------

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        return self.reader.examples(rows)

    def batch(self, examples: Sequence[Example]) -> Batch:
        return collate(examples, self.contract.tokenizer.pad or 0)

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"lm": int((batch.labels["lm"] != IGNORE).sum())}

    def terms(self, model: nn.Module, batch: Batch, chunk: int = 0) -> dict[str, Term]:
        return {"lm": next_token_loss(model, batch, chunk)}

    # -- what a tuned model is worth ----------------------------------------------------------------------------------------------

    def evaluate(self, model: Transformer, rows: Sequence[Row]) -> Evaluation:
        return self._evaluated(model, rows, self.generate_rows)

    def glance(self, model: Transformer, rows: Sequence[Row]) -> Evaluation:
        """The same while a model learns, with fewer answers."""
        return self._evaluated(model, rows, min(_GLANCED, self.generate_rows))

    @torch.inference_mode()
    def _evaluated(self, model: Transformer, rows: Sequence[Row], answers: int) -> Evaluation:
        examples = self.examples(rows)
        judged: list[Judged] = by_length(examples, lambda part: self._judged(model, part), budget(model))
        tokens = [float(one.tokens) for one in judged]
        nats = [one.nats for one in judged]
        if not np.isfinite(nats).all():  # such a model writes nothing, and there is no interval around what is no number
            gone = sum(nats) / sum(tokens)
            return Evaluation({"loss": gone, "perplexity": float(np.exp(gone))}, found=[{} for _ in judged])
        loss = ratio_interval(nats, tokens)
        accuracy = ratio_interval([float(one.right) for one in judged], tokens)
        found: list[dict[str, Any]] = [{"loss": round(one.nats / one.tokens, 4)} for one in judged]
        figures = {"loss": loss.value, "perplexity": float(np.exp(loss.value)), "accuracy": accuracy.value}
        intervals: dict[str, Interval] = {"loss": loss, "accuracy": accuracy}
        chosen = self._chosen(examples, answers)
        if chosen:
            written = self._written(model, [rows[place] for place in chosen], [examples[place] for place in chosen])
            for place, (done, _) in zip(chosen, written):
                found[place] |= {"answer": done.text, "ended": done.finish_reason == "stop"}
            more, beside = self._compared(written)
            figures, intervals = figures | more, intervals | beside
        return Evaluation(figures, intervals, found)

    def samples(self, model: Transformer, rows: Sequence[Row]) -> list[dict[str, str]]:
        """A few held-out questions with the model's answers and those that were wanted."""
        more = min(len(rows), 4 * _SAMPLES)  # some may be too long
        some = [rows[place] for place in np.linspace(0, len(rows) - 1, more).round().astype(int)]
        examples = self.examples(some)
        whole = [place for place, one in enumerate(examples) if not one.cut]
        whole = whole[:: max(1, len(whole) // _SAMPLES)][:_SAMPLES]
        with torch.inference_mode():
            written = self._written(model, [some[place] for place in whole], [examples[place] for place in whole])
        return [
            {"prompt": _asked(some[place], self.contract.template is not None), "text": done.text, "wanted": self._text(wanted)}
            for place, (done, wanted) in zip(whole, written)
        ]

    def _judged(self, model: Transformer, examples: Sequence[Example]) -> list[Judged]:
        batch = self.batch(examples).to(model.embed.weight.device)
        counted = batch.labels["lm"] != IGNORE
        hidden, wanted = model(replace(batch, keep=None))[counted], batch.labels["lm"][counted]  # (N, D), (N,)
        nats, right = [], []
        assert model.head is not None
        step = max(1, _LOGITS // model.config.vocab)
        for at in range(0, len(wanted), step):
            logits = model.head(hidden[at : at + step]).float()
            nats.append(F.cross_entropy(logits, wanted[at : at + step], reduction="none"))
            right.append(logits.argmax(-1) == wanted[at : at + step])
        sizes = counted.sum(1).tolist()
        parts = zip(torch.cat(nats).cpu().split(sizes), torch.cat(right).cpu().split(sizes), sizes)
        return [Judged(float(one.sum(dtype=torch.float64)), size, int(hits.sum())) for one, hits, size in parts]

    # -- answers -------------------------------------------------------------------------------------------------------------------

    def _chosen(self, examples: Sequence[Example], answers: int) -> list[int]:
        """Rows to be answered, spread evenly. One that was cut is asked with other words than it has, so it is left out."""
        whole = [place for place, one in enumerate(examples) if not one.cut]
        take = min(len(whole), answers)
        return [whole[place] for place in np.linspace(0, len(whole) - 1, take).round().astype(int)] if take else []

    def _written(self, model: Transformer, rows: Sequence[Row], examples: Sequence[Example]) -> list[tuple[Completion, list[int]]]:
        """The model's answer to each row, and the ids of the one that was wanted, without the id that ends it."""
        wanted = [last_answer(one).tolist()[:-1] for one in examples]
        most = max(_LEAST, _LONGER * max(map(len, wanted), default=0))
        sampling = Sampling(max_tokens=most, temperature=0, stop=self.contract.stop_strings)
        prompts = [self.reader.prompt(row) for row in rows]
        by_size: dict[int, list[int]] = {}
        for place, prompt in enumerate(prompts):
            by_size.setdefault(len(prompt), []).append(place)
        found: dict[int, Completion] = {}
        for places in by_size.values():
            for start in range(0, len(places), _TOGETHER):
                part = places[start : start + _TOGETHER]
                some = write(
                    model, [prompts[place] for place in part], sampling, self.contract.tokenizer, stop_ids=sorted(self.reader.stops)
                )
                found.update(zip(part, some))
        return [(found[place], wanted[place]) for place in range(len(rows))]

    def _text(self, ids: list[int]) -> str:
        return self.contract.tokenizer.decode(ids)

    def _compared(self, written: Sequence[tuple[Completion, list[int]]]) -> tuple[dict[str, float], dict[str, Interval]]:
        """Figures of the answers. An answer that says nothing has not ended by itself: it has not begun."""
        texts, wanted = [done.text.strip() for done, _ in written], [self._text(ids).strip() for _, ids in written]
        ended = [done.finish_reason == "stop" and bool(text) for (done, _), text in zip(written, texts)]
        lengths = [(len(done.ids) - (done.finish_reason == "stop")) / max(1, len(ids)) for done, ids in written]
        shares = {
            "rouge_l": [one.longest for one in rouge(texts, wanted)],
            "exact": [float(text == right) for text, right in zip(texts, wanted)],
            "ended": [float(one) for one in ended],
            "within_2x": [float(0.5 <= one <= 2) for one in lengths],
        }
        intervals = {name: mean_interval(values) for name, values in shares.items()}
        return {name: one.value for name, one in intervals.items()} | {"length_ratio": median(lengths)}, intervals


def _asked(row: Row, turns: bool) -> str:
    """The last question, on a line of its own; a plain prompt as it is, for its answer goes on with it."""
    if isinstance(row, Prompt) and not turns:
        return row.prompt
    return next(turn.content for turn in reversed(turns_of(row)[0][:-1])) + "\n"
