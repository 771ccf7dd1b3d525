"""What the first two steps of a run show, while nothing is lost yet: is the loss what it claims to be, and does what should learn learn?

    before step 1   a few examples of the batch, without dropout: every term together = one by one; with padding = without; packed = apart
    at step 1       every trainable weight has a gradient and moves; every other one, a teacher's too, stays as it is
    at step 2       no adapter is still zero

A loss that tells the texts of a batch apart (`tasks.tuning.embed`) is another one for fewer of them, rightly. There the vectors are
compared that it is made of: of texts together, alone, and beside a longer one; and its value with the examples in reverse.

Steps are those that were applied: a skipped one shows nothing. A fact that does not hold raises TrainingError before the next step.
Nothing here draws a number or changes a weight, so a run has the same bits with it. The cost is a fraction of a step, whatever the length
of the run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapt.lora import LowRank
from ..data.ledger import Finding, first
from ..data.readings import padding_labels
from ..errors import TrainingError
from ..nn.batch import IGNORE, Batch, of_tokens
from ..nn.heads import LMHeadModule
from ..nn.transformer import Transformer
from ..tasks.task import Objective
from ..tasks.tuning.embed import Embed
from ..tasks.tuning.example import Example
from ..text.tokenizer import Tokenizer
from .optimizer import Optimizer
from .parallel import Compute
from .recipe import OptimPart

_ROWS = 4  # that are looked at before step 1
_PAD = 8  # columns that are added, where the model has positions for them
_CLOSE = {"fp32": 1e-3, "bf16": 3e-2, "fp16": 1e-2}  # of a loss: two orders of the sums give other roundings
_SAMPLE = 16  # elements of a frozen weight that must stay
_TELLING = 1e-6  # of the whole norm: a smaller gradient may vanish in the rounding of its weight
_TWIN = 0.99  # cosine
_SHOWN = 4
LOOKED_AT = 2  # applied steps


class FirstSteps:
    """The facts of one run. Call `before` and `gradients` and `moved` in the order of a step; `over` says when there is nothing left."""

    def __init__(
        self, model: Transformer, optimizer: Optimizer, task: Objective, compute: Compute, chunk: int, taken: int = 0, applied: int = 0
    ) -> None:
        """taken: positions of the model that a soft prompt has. applied: steps that an earlier sitting has looked at."""
        self.model, self.optimizer, self.task, self.compute, self.chunk = model, optimizer, task, compute, chunk
        self.context = model.config.context - taken
        self.applied = applied
        # trainable weight -> its element with the largest gradient, that element's value, and the share of the rate that it must move
        self.strongest: dict[str, tuple[int, float, float]] = {}
        self.still = {name: _sample(weight) for name, weight in self._every().items() if name not in optimizer.named}

    @property
    def over(self) -> bool:
        """Is there nothing left to look at?"""
        return self.applied >= LOOKED_AT

    def _every(self) -> dict[str, Tensor]:
        """The weights of the model and of its teacher, by name."""
        teacher = getattr(self.task, "teacher", None)
        theirs = {} if teacher is None else {f"teacher.{name}": weight for name, weight in teacher.named_parameters()}
        return dict(self.model.named_parameters()) | theirs

    def before(self, batch: Batch) -> None:
        """Raises TrainingError when the loss of this batch depends on how its rows are laid out."""
        if count := padding_labels(batch):
            raise TrainingError(
                f"{count:,} padded places of the first batch have a label, so the loss would be about predicting padding. "
                f"Task '{self.task.name}' must give them the label {IGNORE}."
            )
        if not (self.task.splittable or self.task.supervised):
            return
        rows, parts = few(self.task, batch)
        self.model.eval()
        try:
            with torch.no_grad(), torch.compiler.set_stance("force_eager"), self.compute.autocast():
                self._layouts(rows, parts)
                if isinstance(self.task, Embed):
                    self._vectors(self.task, rows, parts)
        finally:
            self.model.train()

    def _layouts(self, rows: Batch, parts: Sequence[Batch]) -> None:
        """The terms of `rows` are those of `parts`, of more padding, and of what was packed by itself."""
        whole = self._loss([rows])
        if len(parts) > 1 and not (isinstance(self.task, Embed) and self.task.joint):
            self._same(whole, self._loss(parts), "the rows of the first batch one by one", "accumulation")
        if not self.task.supervised:
            return
        if rows.segments is not None:
            self._same(whole, self._loss(list(apart(rows))), "what was packed into the first rows, each by itself", "packing")
        elif columns := self._room(rows):
            self._same(whole, self._loss([padded(rows, columns)]), f"the same rows with {columns} columns of padding", "padding")

    def _room(self, rows: Batch) -> int:
        """Columns of padding that the model has positions for."""
        width = max(side.tokens.shape[1] for side in (rows, rows.source) if side is not None)
        return max(0, min(_PAD, self.context - width))

    def _vectors(self, task: Embed, rows: Batch, parts: Sequence[Batch]) -> None:
        """What a loss between texts is made of is of each text alone, and the order of the examples is nothing to it."""
        device = self.compute.device
        whole = task.vectors(self.model, rows.to(device))
        alone = torch.cat([task.vectors(self.model, row.to(device)) for row in rows.split(1)])
        self._alike(whole, alone, "by itself", "what stands beside it")
        if columns := self._room(rows):
            self._alike(whole, task.vectors(self.model, beside(rows, columns).to(device))[:-1], "beside a longer one", "padding")
        backwards = torch.cat(torch.arange(len(rows)).split([len(part) for part in parts])[::-1])
        ways = (whole, rows), (whole[backwards.to(device)], rows.take(backwards))
        first, other = ({str(task.loss): float(task.loss_of(vectors, batch.to(device)))} for vectors, batch in ways)
        self._same(first, other, "the same examples in reverse", "their order")

    def _alike(self, one: Tensor, other: Tensor, what: str, why: str) -> None:
        far = (one - other).float().norm(dim=1) / one.float().norm(dim=1).clamp(min=1.0)
        if float(far.max()) > _CLOSE[self.compute.dtype]:
            raise TrainingError(
                f"the vector of text {int(far.argmax())} of the first rows is another one {what} (by {float(far.max()):.1%} of its "
                f"length): it depends on {why}. The fault is in task '{self.task.name}' or in the model, not in the rows."
            )

    def _loss(self, parts: Sequence[Batch]) -> dict[str, float]:
        sums: dict[str, float] = {}
        for part in parts:
            if any(self.task.counts(part).values()):
                for name, (total, _) in self.task.terms(self.model, part.to(self.compute.device), self.chunk).items():
                    sums[name] = sums.get(name, 0.0) + float(total)
        return sums

    def _same(self, one: Mapping[str, float], other: Mapping[str, float], what: str, why: str) -> None:
        for name in sorted({*one, *other}):
            value, also = one.get(name, 0.0), other.get(name, 0.0)
            if abs(value - also) > _CLOSE[self.compute.dtype] * max(abs(value), abs(also), 1e-2):
                raise TrainingError(
                    f"the loss '{name}' of the first rows is {value:.5g}, and {also:.5g} for {what}: it depends on {why}: other "
                    f"batch settings would train another model. The fault is in task '{self.task.name}' or in the model, not in the rows."
                )

    def gradients(self, norm: float, part: OptimPart, scale: float = 1.0) -> None:
        """After the backward pass of a step that will be applied; norm: of all gradients, true to size. scale: by how much those that the
        weights hold are larger (fp16). Raises TrainingError for a weight without one.
        """
        named = dict(self.model.named_parameters())
        stray = [name for name, weight in named.items() if weight.requires_grad and name not in self.optimizer.named]
        if stray:
            raise TrainingError(
                f"{_listed(stray)} can be trained now, and could not when the optimizer was planned: something has unfrozen it since. "
                "Freeze it again, or leave it out of adapt.frozen."
            )
        without = [name for name, weight in self.optimizer.named.items() if weight.grad is None and not _may_rest(name)]
        if without:
            raise TrainingError(
                f"{_listed(without)} is to be trained and gets no gradient, so it would stay as it is. Freeze it by name (adapt.frozen), "
                "or, where it should learn, look at what cuts it off (recomputed activations, a detached input)."
            )
        if self.applied:
            return
        for name, weight in self.optimizer.named.items():
            if weight.grad is not None:
                flat = weight.grad.flatten()
                place = int(flat.abs().argmax())
                size = abs(float(flat[place])) / scale
                if size > _TELLING * norm:
                    size *= min(1.0, part.clip / norm) if part.clip else 1.0
                    self.strongest[name] = place, float(weight.detach().flatten()[place]), size / (size + part.eps)

    def moved(self, step: int, share: float) -> None:
        """After the optimizer's step at this share of the rates. Raises TrainingError for a weight that did not move and should, or did
        and should not.
        """
        rates = {name: group.lr * share for group in self.optimizer.groups for name in group.names}  # a lower layer may have a lower one
        named = self._every()
        self.applied += 1
        went = [name for name, before in self.still.items() if name in named and not torch.equal(before, _sample(named[name]))]
        if went:
            raise TrainingError(
                f"step {step}: {_listed(went)} is frozen and has moved. Something besides the optimizer writes to it; checkpoints from "
                "before are sound."
            )
        if self.applied == 1:
            stuck = [
                name
                for name, (place, value, moves) in self.strongest.items()
                if float(named[name].detach().flatten()[place]) == value
                and rates[name] * moves > 4 * torch.finfo(named[name].dtype).eps * abs(value)  # more than rounding swallows
            ]
            if stuck:
                raise TrainingError(
                    f"step {step}: {_listed(stuck)} has a gradient and did not move. Look at its learning rate and its precision."
                )
        if self.over:
            zero = [
                name
                for name, module in self.model.named_modules()
                if isinstance(module, LowRank) and not (module.a.any() and module.b.any())
            ]
            if zero and any(rate > 0 for rate in rates.values()):
                raise TrainingError(f"step {step}: {_listed(zero)} is still zero after two steps, so this adapter does nothing.")


def few(task: Objective, batch: Batch) -> tuple[Batch, list[Batch]]:
    """The first examples of a batch, together and each by itself. Where batches are not split, an example may have several rows."""
    if task.splittable:
        rows = batch.split(min(_ROWS, len(batch)))[0]
        return rows, rows.split(1)
    starts = [*cast(Any, task).begins(batch).nonzero().flatten().tolist(), len(batch)][: _ROWS + 1]
    rows = batch.take(torch.arange(starts[-1])).trimmed()
    return rows, [rows.take(torch.arange(start, end)).trimmed() for start, end in pairwise(starts)]


def beside(batch: Batch, columns: int) -> Batch:
    """The batch with one more row, so many columns longer than the others: no trimming takes their padding away."""
    wide = padded(batch, columns)
    assert wide.keep is not None
    more = wide.take(torch.tensor([0]))
    more.keep = torch.ones_like(wide.keep[:1])
    return Batch(
        torch.cat([wide.tokens, more.tokens]),
        {name: torch.cat([label, more.labels[name]]) for name, label in wide.labels.items()},
        keep=torch.cat([wide.keep, more.keep]),
        types=None if wide.types is None or more.types is None else torch.cat([wide.types, more.types]),
    )


def padded(batch: Batch, columns: int) -> Batch:
    """The batch with so many further columns of padding on the right of each side, whatever id stands in them."""

    def wider(tensor: Tensor, fill: float) -> Tensor:
        return F.pad(tensor, (0, columns), value=fill)

    keep = torch.ones_like(batch.tokens, dtype=torch.bool) if batch.keep is None else batch.keep
    labels = {name: wider(label, IGNORE) if of_tokens(label, batch.tokens) else label for name, label in batch.labels.items()}
    return dataclasses.replace(
        batch,
        tokens=wider(batch.tokens, 0),
        keep=wider(keep, False),
        labels=labels,
        types=None if batch.types is None else wider(batch.types, 0),
        positions=None if batch.positions is None else wider(batch.positions, 0),
        source=None if batch.source is None else padded(batch.source, columns),
    )


def apart(batch: Batch) -> Iterator[Batch]:
    """Each segment of each packed row as a row of its own."""
    assert batch.segments is not None
    for number, segments in enumerate(batch.segments):
        for segment in sorted(set(segments[segments >= 0].tolist())):
            own = segments == segment
            labels = {name: label[number : number + 1, own] for name, label in batch.labels.items()}
            yield Batch(batch.tokens[number : number + 1, own], labels)


def new_tokens_frozen(model: Transformer, tokenizer: Tokenizer, examples: Sequence[Example], given: bool) -> Finding | None:
    """Special tokens that the rows use, that the start model never learned, and whose rows of the embedding stay as they are.

    given: the start model had no template, so the marks of the one that it gets were never met. Otherwise a row of the table tells: it is
    zero, or closer to the mean of all rows than a tenth of the usual distance, as resizing leaves it. Or it points where another row
    points: a token that no text had is pushed away from whatever comes next, and so is every other such token, by the same steps (measured
    on decoders that were trained here: cosine 0.99 and more; of a token that some text had at most 0.97 after a tuning of a few hundred
    steps). Of marks that were met too rarely some still do; none was ever met only where all of them do.
    """
    if any(weight.requires_grad for weight in model.embed.parameters()):
        return None
    table = model.get_parameter("embed.weight" if isinstance(model.embed, nn.Embedding) else "embed.base.weight").detach()
    used = set(np.unique(np.concatenate([example.ids for example in examples])).tolist())
    roles = set(tokenizer.special_ids.values())
    marks = {name: id for name, id in tokenizer.special_tokens.items() if id in used and id < len(table)}
    mean = table[:: max(1, len(table) // 4096)].float().mean(0)
    usual = float((table[:: max(1, len(table) // 4096)].float() - mean).norm(dim=1).median())

    def untouched(id: int) -> bool:
        return not bool(table[id].any()) or float((table[id].float() - mean).norm()) < 0.1 * usual

    new = [name for name, id in marks.items() if (given and id not in roles) or untouched(id)]
    own = {name: id for name, id in marks.items() if id not in roles}
    if not new and own and _pushed(model, table, list(own.values())):
        new = list(own)
    if not new:
        return None
    says = f"the rows use {', '.join(map(repr, new[:_SHOWN]))}, which this model never learned, and its embedding is frozen."
    where = first(example.where for example in examples if any(tokenizer.special_tokens[name] in example.ids for name in new))
    fix = 'Train with adapt.method = "full". "embed" in adapt.targets lets them be read, but a tied head still writes by the base\'s.'
    return Finding(True, says, where, fix, len(new))


def _pushed(model: Transformer, table: Tensor, ids: Sequence[int]) -> bool:
    """Does each of these tokens have a twin in the table that words are chosen by? Where that is another than the one that is read, it
    tells nothing: a mark that is only read is pushed there as an unused one is."""
    if not isinstance(model.head, LMHeadModule) or model.head.table()[0].data_ptr() != table.data_ptr():
        return False
    own = F.normalize(table[list(ids)].float(), dim=1)
    nearest, start = torch.full((len(ids),), -1.0, device=table.device), 0
    for part in table.split(8192):  # a large table in fp32 would be gigabytes
        near = own @ F.normalize(part.float(), dim=1).T
        for row, id in enumerate(ids):
            if start <= id < start + len(part):
                near[row, id - start] = -1.0
        nearest, start = torch.maximum(nearest, near.max(1).values), start + len(part)
    return bool((nearest > _TWIN).all())


def _may_rest(name: str) -> bool:
    """A step may leave experts alone that no token went to, and a part of the head that this task does not ask (BERT's pooler)."""
    return ".experts." in name or (name.startswith("head.") and ".adapters." not in name)


def _sample(weight: Tensor) -> Tensor:
    flat = weight.detach().flatten()
    return flat[:: max(1, len(flat) // _SAMPLE)].clone()


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
