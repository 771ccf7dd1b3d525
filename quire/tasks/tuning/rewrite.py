"""A text for a text: translation, summaries, whatever a prefix asks for, learned by an encoder-decoder.

Where a row has several targets the first is learned; BLEU and ROUGE compare with all of them.

The source is read as the verbs read it, with the prefix before it; the target is what the tokenizer puts around a whole text, and the
decoder reads it shifted right behind the id that it starts with. What `quire translate`, `summarize` and `text2text` need to know (prefix,
beams, the longest answer) goes into the model's config.json, and the figures of the end are made by the same words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from torch import nn

from ...binding.contract import Contract
from ...binding.truncation import ways
from ...errors import ContextError, DataError, ModelError
from ...metrics.bleu import bleu_interval
from ...metrics.interval import Interval, mean_interval, ratio_interval
from ...metrics.rouge import rouge
from ...nn.batch import IGNORE, Batch
from ...nn.heads import token_loss
from ...nn.transformer import Transformer
from ...types import Completion
from ..lengths import batches
from ..reading import TOKENS_A_BATCH, Long, encoded, read
from ..rewrite import Plan, planned, written
from ..rewrite import Task as Verb
from ..score import evaluating
from ..task import Array, Term
from .example import Evaluation, Example, as_trained, collate, matrix
from .schemas import Rewrite, Row

Best = Literal["loss", "bleu", "rouge"]
_FIGURE = {"loss": "loss", "bleu": "bleu", "rouge": "rougeL"}
_GLANCED = 32  # rows that are written out while a model learns, where its loss decides
_SHOWN = 4  # rows of which a person sees the answers
_SEVERAL = "there are several targets: the first is learned, and all of them count when a model is measured"
_LONGER = 1.5  # an answer may be so many times as long as the longest that was learned


class Rewriting:
    """`batch` has source (B, S), tokens (B, T) shifted right, and labels {"lm"} (B, T)."""

    name = "rewrite"
    schemas = ("rewrite",)
    supervised, splittable, packs = True, True, False

    def __init__(
        self,
        contract: Contract,
        context: int,
        rows: Sequence[Rewrite],
        *,
        verb: Verb = "text2text",
        prefix: str = "",
        smoothing: float = 0.0,
        best: Best = "loss",
        beams: int = 4,
        length_penalty: float = 1.0,
        long: Long = "cut",
    ) -> None:
        if contract.decoder_start is None:
            raise ModelError(
                "this model does not say with which id a decoder starts, so it is no encoder-decoder, or decoder_start_token_id is missing "
                "from its config.json. Task 'rewrite' needs an encoder-decoder (T5, BART, Marian)."
            )
        self.contract, self.context, self.long = as_trained(contract, context, long), context, long
        self.start = contract.decoder_start
        self.verb, self.prefix, self.smoothing, self.beams, self.length_penalty = verb, prefix, smoothing, beams, length_penalty
        self.metric = _FIGURE[best]
        self.better: Literal["lower", "higher"] = "lower" if best == "loss" else "higher"
        targets, _ = self._targets(rows)
        self.longest = min(context - 1, round(_LONGER * max(map(len, targets))))

    def describe(self) -> dict[str, Any]:
        told = {"prefix": self.prefix, "smoothing": self.smoothing, "start": self.start}
        return {"name": self.name, "context": self.context, "long": self.long, **told}

    def head(self) -> tuple[Literal["words"], tuple[str, ...], dict[str, Any]]:
        return "words", (), {"task_specific_params": {self.verb: self._told(self.beams)}}

    def _told(self, beams: int) -> dict[str, Any]:
        """How answers are written, in the words of config.json; the reference counts the id that the decoder starts with.

        Everything is said, so that no length or penalty of the task that the base was made for goes on (BART's summaries of 56 tokens
        and more).
        """
        told: dict[str, Any] = {"prefix": self.prefix, "num_beams": beams, "max_length": self.longest + 1, "min_length": 0}
        told |= {"do_sample": False, "early_stopping": False, "no_repeat_ngram_size": 0, "repetition_penalty": 1.0}
        new = {"max_new_tokens": self.longest, "min_new_tokens": 0}  # these come before the two above where a folder has them
        told |= {name: value for name, value in new.items() if name in self.contract.defaults}
        return told | ({"length_penalty": self.length_penalty} if beams > 1 else {})

    def plan(self, vocab: int, beams: int) -> Plan:
        """What the verb will make of the saved model, with so many beams."""
        config = {"task_specific_params": {self.verb: self._told(beams)}}
        generation = {"pad_token_id": self.contract.tokenizer.pad, **self.contract.defaults}
        return planned(config, generation, Path("model"), vocab, self.verb)

    # -- rows to batches ---------------------------------------------------------------------------------------------------------

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        wanted = cast(Sequence[Rewrite], rows)
        empty = next((row for row in wanted if not row.target.strip()), None)
        if empty is not None:
            raise DataError(f"{empty.where}: the target is empty, so the model would learn to say nothing. Mend the row or leave it out.")
        over: list[int] = []
        long: Long = "cut" if self.long == "error" else self.long  # the error below knows the row's place in its file
        sources = read(self.contract, [self.prefix + row.source for row in wanted], self.context, long, over)
        if self.long == "error":
            self._refuse(wanted, over, "source", "reads")
        targets, cut = self._targets(wanted)
        return [
            Example(
                np.array(source.ids),
                {"lm": target},
                target=target,
                cut=more + less,
                where=row.where,
                notes=(_SEVERAL,) if row.others else (),
            )
            for row, source, target, more, less in zip(wanted, sources, targets, over, cut)
        ]

    def _targets(self, rows: Sequence[Rewrite]) -> tuple[list[Array], list[int]]:
        """Targets with what stands around them, and how many tokens of each were left out. One that is cut short does not end."""
        before, after = list(self.contract.before), list(self.contract.after)
        if not after and self.contract.tokenizer.eos is not None:
            after = [self.contract.tokenizer.eos]
        made, cut = [], []
        texts = [row.target for row in rows]
        target = self.contract.tokenizer.target
        found = encoded(self.contract, texts) if target is self.contract.tokenizer else target.library_batch(texts)
        for ids in found:
            whole = [*before, *ids, *after]
            over = max(0, len(whole) - self.context)
            made.append(np.array(whole[: self.context]))
            cut.append(over)
        if self.long == "error":
            self._refuse(rows, cut, "target", "writes")
        return made, cut

    def _refuse(self, rows: Sequence[Rewrite], over: Sequence[int], side: str, does: str) -> None:
        long = [(row.where, more) for row, more in zip(rows, over) if more]
        if long:
            where, more = long[0]
            cut = ways("{!r}") if side == "source" else "'cut'"  # of a target the beginning is kept, whatever is asked for
            raise ContextError(
                f"{where}: the {side} has {self.context + more:,} tokens with those around it; this model {does} {self.context:,}. "
                f"There are {len(long):,} such rows. Shorten them, or cut them with data.long = {cut}."
            )

    def batch(self, examples: Sequence[Example]) -> Batch:
        targets = [cast(Array, example.target) for example in examples]
        source = collate([Example(example.ids, {}, example.types) for example in examples], self.contract.tokenizer.pad or 0)
        # Padding of the target stands to the right, where no causal query looks: nothing needs to be masked.
        shifted = [np.concatenate(([self.start], target[:-1])) for target in targets]
        return Batch(matrix(shifted, self.contract.tokenizer.pad or 0), {"lm": matrix(targets, IGNORE)}, source=source)

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"lm": int((batch.labels["lm"] != IGNORE).sum())}

    def terms(self, model: nn.Module, batch: Batch, chunk: int = 0) -> dict[str, Term]:
        return {"lm": token_loss(model.head, model(batch), batch.labels["lm"], chunk, self.smoothing)}

    # -- what a tuned model is worth ---------------------------------------------------------------------------------------------

    def evaluate(self, model: Transformer, rows: Sequence[Row]) -> Evaluation:
        """All rows, written as the verb will write them. The loss is that of the targets themselves, without smoothing."""
        return self._evaluated(model, cast(Sequence[Rewrite], rows), self.beams, len(rows))

    def glance(self, model: Transformer, rows: Sequence[Row]) -> Evaluation:
        """The same while a model learns: written greedily, and only the first rows where the loss decides."""
        return self._evaluated(model, cast(Sequence[Rewrite], rows), 1, _GLANCED if self.metric == "loss" else len(rows))

    def samples(self, model: Transformer, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """What the model makes of the first rows, for a person."""
        wanted = cast(Sequence[Rewrite], rows[:_SHOWN])
        found = self._written(model, wanted, 1)
        return [{"prompt": row.source, "text": one.text, "wanted": row.target} for row, one in zip(wanted, found)]

    def _evaluated(self, model: Transformer, rows: Sequence[Rewrite], beams: int, most: int) -> Evaluation:
        losses, counts = self._losses(model, rows)
        if not np.isfinite(losses).all():  # such a model writes nothing, and there is no interval around what is no number
            return Evaluation({self.metric: math.nan, "loss": sum(losses) / sum(counts)}, found=[{} for _ in rows])
        shown = rows[:most]
        found = self._written(model, shown, beams)
        texts, wanted = [one.text for one in found], [row.answers() for row in shown]
        scores = rouge(texts, wanted)
        intervals: dict[str, Interval] = {
            "loss": ratio_interval(losses, counts),
            "bleu": bleu_interval(texts, wanted),
            **{f"rouge{name}": mean_interval(column) for name, column in zip("12L", zip(*scores))},
        }
        figures = {name: interval.value for name, interval in intervals.items()}
        figures["ended"] = sum(one.finish_reason == "stop" for one in found) / len(found)
        return Evaluation(figures, intervals, [{"text": text} for text in texts])

    def _written(self, model: Transformer, rows: Sequence[Rewrite], beams: int) -> list[Completion]:
        plan = self.plan(model.config.vocab, beams)
        sources = read(
            self.contract, [plan.prefix + row.source for row in rows], self.context, "cut" if self.long == "error" else self.long
        )
        return written(model, self.contract, self.start, sources, plan)

    def _losses(self, model: Transformer, rows: Sequence[Rewrite]) -> tuple[list[float], list[int]]:
        """Nats of each row's target, and its number of tokens."""
        examples = self.examples(rows)
        losses, counts = [0.0] * len(rows), [len(cast(Array, example.target)) for example in examples]
        with evaluating(model) as device:
            for numbers in batches([len(example) for example in examples], TOKENS_A_BATCH):
                batch = self.batch([examples[number] for number in numbers]).to(device)
                hidden = model(batch)
                for place, number in enumerate(numbers):
                    losses[number] = float(token_loss(model.head, hidden[place], batch.labels["lm"][place])[0])
        return losses, counts
