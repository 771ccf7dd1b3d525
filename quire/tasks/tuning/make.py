"""The supervised task that a recipe names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

from ...binding.contract import Contract
from ...errors import DataError, RecipeError
from ..reading import Long
from .example import SupervisedTask
from .schemas import TASKS, Labelled, Question, Rewrite, Row, Tagged

Way = Literal["auto", Long]


def make(part: Any, long: Way, contract: Contract, context: int, rows: Sequence[Row], folder: Path, width: int) -> SupervisedTask:
    """`part`: the recipe's [task]; rows: those to train on, which decide the labels; folder: the start model's, `width` wide.

    long: "auto" is what is usual: of a text with a label its beginning and its end say most (Sun et al. 2019), of others the beginning is
    read. Raises DataError for rows of another kind.
    """
    if long == "auto":
        long = "head-tail" if part.name == "classify" else "cut"
    schema = rows[0].schema
    wanted = TASKS[part.name].schemas
    if schema not in wanted:
        raise DataError(
            f"{rows[0].where}: task.name = '{part.name}' learns from {' or '.join(wanted)} rows, and these are {schema} rows. "
            f"Tasks that learn from them: {', '.join(name for name, learns in TASKS.items() if schema in learns.schemas)}."
        )
    if part.name == "classify":
        from .classify import Classify

        return Classify(
            contract, context, cast(Sequence[Labelled], rows), problem=part.labels, balanced=part.class_weights == "balanced", long=long
        )
    if part.name == "tag":
        from .tag import Tag

        balanced = part.class_weights == "balanced"
        return Tag(contract, context, cast(Sequence[Tagged], rows), balanced=balanced, long=long, stride=part.stride)
    if part.name == "answer":
        from .answer import Answer

        return Answer(contract, context, cast(Sequence[Question], rows), long=long, stride=part.stride)
    if part.name == "rewrite":
        from .rewrite import Rewriting

        how = {"verb": part.verb, "prefix": part.prefix, "beams": part.beams, "length_penalty": part.length_penalty}
        return Rewriting(contract, context, cast(Sequence[Rewrite], rows), smoothing=part.smoothing, best=part.best, long=long, **how)
    if part.name == "embed":
        from .embed import Embed

        ways = {"loss": part.loss, "temperature": part.temperature, "margin": part.margin, "symmetric": part.symmetric}
        return Embed(contract, context, rows, folder, width, long=long, **ways)
    if part.name == "rerank":
        from .rerank import Rerank

        return Rerank(contract, context, rows, loss=part.loss, long=long)
    if part.name == "chat":
        from .chat import Chat

        return Chat(contract, context, rows, long=long, generate_rows=part.generate_rows)
    raise RecipeError(f"task.name = '{part.name}' is not there yet.")
