"""The teacher of a run (`task.teacher`): opened, held against the student, and put beside the task."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from .. import hub
from ..binding import Contract, bound
from ..errors import CheckpointError, ModelError, RecipeError
from ..families import ModelFolder
from ..nn.config import LabelHead
from ..nn.transformer import Transformer
from ..tasks.classify import names
from ..tasks.task import Objective
from ..tasks.tuning.distil import Distil
from ..text.tokenizer import Tokenizer
from .adapting import PROMPTS
from .folder import RunFolder
from .parallel import TORCH, Compute
from .recipe import TaskPart, TrainRecipe

_TEMPERATURE = 2.0


def settle(recipe: TrainRecipe) -> TrainRecipe:
    """Raises RecipeError for a combination that cannot be meant."""
    part, usual = recipe.task, TaskPart()
    if not part.teacher:
        for name in ("distil_weight", "hidden_weight"):
            if getattr(part, name) != getattr(usual, name):
                raise RecipeError(f"task.{name} = {getattr(part, name)} needs a teacher: give its folder or name with task.teacher.")
        return recipe
    if part.name == "embed":
        raise RecipeError("task.name = 'embed' learns a teacher's scores from its rows (data with scores), not from task.teacher.")
    if recipe.adapt.method in PROMPTS:
        raise RecipeError(f"adapt.method = '{recipe.adapt.method}' puts tokens before each row that a teacher does not know; use another.")
    if part.distil_weight < 0 or part.hidden_weight < 0 or not part.distil_weight + part.hidden_weight:
        raise RecipeError(
            f"task.distil_weight = {part.distil_weight} and task.hidden_weight = {part.hidden_weight}: neither may be negative, "
            "and one must be above 0 for the teacher to teach."
        )
    if not part.hidden_weight:
        return recipe
    if recipe.train.compile == "on":
        raise RecipeError(
            "train.compile = 'on' with task.hidden_weight: a compiled layer cannot be looked into. Set one of them to 'off' or 0."
        )
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, compile="off"))


def beside(
    run: RunFolder,
    recipe: TrainRecipe,
    task: Objective,
    student: Transformer,
    tokenizer: Tokenizer,
    compute: Compute,
    row_tokens: int,
    labels: Sequence[str] = (),
) -> Objective:
    """`task`, or `task` with the recipe's teacher. labels: those of the student's head.

    Raises ModelError for a teacher with other words, labels, kind or head, CheckpointError where it is not the one that the run began with.
    """
    part = recipe.task
    if not part.teacher:
        return task
    folder = hub.locate(part.teacher)
    opened, identity = ModelFolder.open(folder), bound(folder).id
    began = run.read("teacher.json").get("binding")
    if began not in (None, identity):
        raise CheckpointError(
            f"the teacher {folder} is not the one that this run began with ({began[:12]}, now {identity[:12]}). Put it back."
        )
    theirs = Contract.open(folder).tokenizer
    if theirs.hash != tokenizer.hash:
        raise ModelError(
            f"the teacher {folder} has another vocabulary than the student ({theirs.vocab_size:,} tokens, {theirs.hash[:12]}; "
            f"{tokenizer.vocab_size:,} tokens, {tokenizer.hash[:12]}): the same ids would be other words. Use the teacher's tokenizer."
        )
    head = opened.model_config.head
    if isinstance(head, LabelHead) and len(labels) > 1 and tuple(names(opened.config, head.labels).values()) != tuple(labels):
        said = ", ".join(names(opened.config, head.labels).values())
        raise ModelError(
            f"the teacher {folder} has the labels {said}; the student has {', '.join(labels)}. Both need the same, in one order."
        )
    if opened.model_config.context < row_tokens:
        raise ModelError(f"the teacher {folder} reads {opened.model_config.context:,} tokens, and rows have {row_tokens:,}. Shorten them.")
    teacher = opened.build(TORCH[compute.dtype], compute.device)
    made = Distil(task, student, teacher, part.distil_weight, part.hidden_weight, part.temperature or _TEMPERATURE)
    made.attach(student, recipe.seed)
    run.write("teacher.json", {"folder": str(folder), "binding": identity})
    return made
