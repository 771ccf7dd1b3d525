"""A student beside a teacher: whatever task is learned, the student also learns what a larger model says of the same rows.

    loss = the task's own + weight * KL(teacher || student) of softened logits * T^2 + hidden * squared distance of hidden states

Logits are compared where the task has labels, or a row each (Hinton et al. 2015); of hidden states, those of each of the student's layers
with those of the teacher's layer at the same share of its depth (Romero et al. 2015, Jiao et al. 2020), through a learned projection where
the widths differ. The projection is a part of the student while it learns (`projection`), so the optimizer trains it and checkpoints hold
it; it is no part of any model folder. The student's forward pass is the task's own: what the model gave is looked at from outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...errors import ModelError
from ...nn.batch import IGNORE, Batch
from ...nn.config import LabelHead, LMHead, MLMHead, ModelConfig
from ...nn.transformer import Transformer
from ..task import Objective, Term

Over = Literal["words", "row", "token", "span", "next"]
_ROUND = 64  # rows of logits are filled up to a multiple of this, as `nn.heads.token_loss` does and for its reason
_STACKS = ("encoder", "decoder")
_HIDDEN = -1e9  # a logit of padding: no chance, and no infinity to subtract from another


class Distil:
    """`task` with a teacher. `attach` the student before its optimizer is made.

    Raises ModelError for a teacher that is of another kind or has another head than the student, or is too short for its rows.
    """

    def __init__(
        self,
        task: Objective,
        student: Transformer,
        teacher: Transformer,
        weight: float = 1.0,
        hidden: float = 0.0,
        temperature: float = 2.0,
    ) -> None:
        self.task, self.weight, self.hidden, self.temperature = task, weight, hidden, temperature
        self.teacher = teacher.eval().requires_grad_(False)
        self.over, theirs = over(student.config), over(teacher.config)
        if (student.config.kind, self.over) != (teacher.config.kind, theirs):
            raise ModelError(
                f"the teacher's kind is {teacher.config.kind} with a head over {theirs}, the student's {student.config.kind} "
                f"with one over {self.over}: what they say cannot be compared. Take a teacher that was made for the same task."
            )
        if isinstance(student.config.head, LabelHead) and isinstance(teacher.config.head, LabelHead):
            self._labels(student.config.head.labels, teacher.config.head.labels)

    @property
    def supervised(self) -> bool:
        return self.task.supervised

    def begins(self, batch: Batch) -> Tensor:
        """As of the task beside it, where its batches are not split."""
        return cast(Tensor, cast(Any, self.task).begins(batch))

    def _labels(self, mine: int, theirs: int) -> None:
        if mine != theirs:
            raise ModelError(f"the teacher tells {theirs} labels apart and the student {mine}. Both need the same labels.")

    def attach(self, student: Transformer, seed: int) -> None:
        """Gives the student the projection that it learns with, where hidden states of another width are compared."""
        mine, theirs = student.config.width, self.teacher.config.width
        if self.hidden and mine != theirs:
            made = nn.Linear(mine, theirs, bias=False)
            with torch.no_grad():
                made.weight.normal_(0.0, mine**-0.5, generator=torch.Generator().manual_seed(seed))
            student.add_module("projection", made.to(student.embed.weight.device))

    def detach(self, student: Transformer) -> None:
        """Takes the projection away again: no model folder has a place for it."""
        if hasattr(student, "projection"):
            del student.projection

    # -- the objective: what is not said here is the task's own ---------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def splittable(self) -> bool:
        return self.task.splittable

    @property
    def metric(self) -> str:
        return self.task.metric

    @property
    def better(self) -> Literal["lower", "higher"]:
        return self.task.better

    def describe(self) -> dict[str, Any]:
        ways = {"distil_weight": self.weight, "hidden_weight": self.hidden, "temperature": self.temperature}
        return {**self.task.describe(), **ways}

    def counts(self, batch: Batch) -> dict[str, int]:
        counts = dict(self.task.counts(batch))
        if self.weight:
            counts["kd"] = self._compared(batch)
        if self.hidden:
            sides = [batch] if batch.source is None else [batch, batch.source]
            counts["hidden"] = sum(side.tokens.numel() if side.keep is None else int(side.keep.sum()) for side in sides)
        return counts

    def _compared(self, batch: Batch) -> int:
        """How many distributions are compared."""
        if self.over in ("words", "token"):
            return int(self._places(batch).sum())
        return len(batch) * (2 if self.over == "span" else 1)

    def _places(self, batch: Batch) -> Tensor:
        """(B, T): the tokens that the task has labels for."""
        name = next(name for name in self.task.counts(batch) if batch.labels[name].shape == batch.tokens.shape)
        return batch.labels[name] != IGNORE

    def terms(self, model: nn.Module, batch: Batch, chunk: int = 0) -> dict[str, Term]:
        counts = self.counts(batch)
        with watched(model, self.hidden > 0) as mine:
            terms = dict(self.task.terms(model, batch, chunk))
        with torch.no_grad(), watched(self.teacher, self.hidden > 0) as theirs:
            self.teacher(batch)
        if self.weight:
            terms["kd"] = self.weight * self._said(model, mine.out, theirs.out, batch, chunk), counts["kd"]
        if self.hidden:
            terms["hidden"] = self.hidden * self._thought(model, mine, theirs, batch), counts["hidden"]
        return terms

    # -- what they say ---------------------------------------------------------------------------------------------------------------

    def _said(self, model: nn.Module, mine: Tensor, theirs: Tensor, batch: Batch, chunk: int) -> Tensor:
        if self.over == "words":
            return self._words(model, mine, theirs, self._places(batch), chunk)
        student, teacher = cast(Any, model.head), cast(Any, self.teacher.head)
        with torch.no_grad():
            wanted = teacher(theirs, batch.keep)
        logits = student(mine, batch.keep)
        if self.over == "token":
            places = self._places(batch)
            logits, wanted = logits[places], wanted[places]
        if self.over == "span":  # (B, T, 2) -> (B, 2, T): where it begins and where it ends
            logits, wanted = logits.transpose(1, 2).float(), wanted.transpose(1, 2).float()
            if batch.keep is not None:
                padding = ~batch.keep[:, None]
                logits, wanted = logits.masked_fill(padding, _HIDDEN), wanted.masked_fill(padding, _HIDDEN)
        problem = getattr(self.task, "problem", "single")
        if problem == "number" or logits.shape[-1] == 1:
            return F.mse_loss(logits.float(), wanted.float(), reduction="sum")
        return divergence(logits, wanted, self.temperature, several=problem == "several")

    def _words(self, model: nn.Module, mine: Tensor, theirs: Tensor, places: Tensor, chunk: int) -> Tensor:
        """Over the vocabulary, at most `chunk` rows of logits at a time: those of a chunk are made again in the backward pass."""
        rows = places.flatten().nonzero().squeeze(1)
        count = len(rows)
        rows = F.pad(rows, (0, -count % _ROUND))
        mine, theirs = mine.flatten(0, 1)[rows], theirs.flatten(0, 1)[rows]
        step = chunk if chunk > 0 else max(1, len(rows))
        student, teacher = cast(Any, model.head), cast(Any, self.teacher.head)

        def part(h: Tensor, other: Tensor, real: int) -> Tensor:
            with torch.no_grad():
                wanted = teacher(other)
            logits = student(h)
            vocab = min(logits.shape[-1], wanted.shape[-1])  # tables may be filled up beyond the vocabulary, each its own way
            return divergence(logits[:real, :vocab], wanted[:real, :vocab], self.temperature)

        found = []
        for start in range(0, len(rows), step):
            args = mine[start : start + step], theirs[start : start + step], max(0, min(step, count - start))
            found.append(part(*args) if step >= len(rows) else checkpoint(part, *args, use_reentrant=False))
        return torch.stack(found).sum()

    # -- what they think -------------------------------------------------------------------------------------------------------------

    def _thought(self, model: nn.Module, mine: Seen, theirs: Seen, batch: Batch) -> Tensor:
        """The squared distance of each token's state to the teacher's, as a mean over channels and layers, summed over tokens."""
        projection = cast(Any, model).projection if hasattr(model, "projection") else None
        total = torch.zeros((), device=batch.tokens.device)
        for stack in _STACKS:
            states, wanted = mine.layers.get(stack, []), theirs.layers.get(stack, [])
            keep = batch.source.keep if stack == "encoder" and batch.source is not None else batch.keep
            for place, other in enumerate(layer_map(len(states), len(wanted))):
                state = states[place] if projection is None else projection(states[place])
                far = (state.float() - wanted[other].float()).square().mean(-1)  # (B, T)
                total = total + (far if keep is None else far * keep).sum() / len(states)
        return total


@dataclass
class Seen:
    """What a model gave in one forward pass: hidden states (B, T, D) before its head, and behind each layer of each stack."""

    _out: Tensor | None = None
    layers: dict[str, list[Tensor]] = field(default_factory=dict)

    @property
    def out(self) -> Tensor:
        if self._out is None:
            raise ModelError("this task does not run the model as a whole, so a teacher cannot stand beside it.")
        return self._out


@contextmanager
def watched(model: nn.Module, layers: bool) -> Iterator[Seen]:
    """Looks at a forward pass of `model` inside; `layers`: at each of its layers too."""
    seen = Seen()

    def whole(module: nn.Module, args: Any, out: Tensor) -> None:
        seen._out = out

    hooks = [model.register_forward_hook(whole)]
    try:
        for stack in _STACKS if layers else ():
            parts = getattr(model, stack, None)
            for block in parts.layers if parts is not None else ():
                states = seen.layers.setdefault(stack, [])
                hooks.append(block.register_forward_hook(lambda module, args, out, states=states: states.append(out)))
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def over(config: ModelConfig) -> Over:
    """What a model's head speaks over. Raises ModelError for a model without one."""
    if isinstance(config.head, LMHead | MLMHead):
        return "words"
    if isinstance(config.head, LabelHead):
        return config.head.over
    raise ModelError("a model without a head says nothing that a student could learn. Take one with a head for the task.")


def layer_map(mine: int, theirs: int) -> Sequence[int]:
    """For each of the student's layers the teacher's at the same share of its depth; the last one for the last."""
    return [max(0, round((place + 1) * theirs / mine) - 1) for place in range(mine)]


def divergence(mine: Tensor, theirs: Tensor, temperature: float, several: bool = False) -> Tensor:
    """KL(theirs || mine) of logits (.., V) softened by the temperature, times its square so that gradients keep their size; summed.

    several: labels that do not exclude each other, as the mean over them.
    """
    mine, theirs = mine.float() / temperature, theirs.float() / temperature
    if several:
        chance = theirs.sigmoid()
        yes, no = F.logsigmoid(theirs) - F.logsigmoid(mine), F.logsigmoid(-theirs) - F.logsigmoid(-mine)
        return (chance * yes + (1 - chance) * no).mean(-1).sum() * temperature**2
    return F.kl_div(mine.log_softmax(-1), theirs.log_softmax(-1), reduction="sum", log_target=True) * temperature**2
