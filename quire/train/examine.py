"""Rows looked at without training on them: the checks of a run, every one that can be made, also where an early one refuses.

With a model the rows are read as it reads them; without one the checks of the rows alone are left.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from .. import hub
from ..binding import Contract, bound
from ..data import suspects
from ..data.ledger import Finding, Ledger
from ..data.problems import FaultyRows
from ..data.readings import Reader
from ..data.rows import RowSets
from ..errors import ContextError, DataError, RecipeError
from ..families import ModelFolder
from ..recipe import replace
from ..tasks.tuning.example import Example, SupervisedTask
from ..tasks.tuning.make import make
from ..tasks.tuning.schemas import TASKS, Row
from .recipe import TrainRecipe
from .tuning import load_rows, look_at_readings, model_reads, row_tokens

_FIXED = "Nothing can be learned from them as they are: this cannot be allowed."


@dataclass
class Examined:
    """What was found. sets: None when the rows cannot be read; examples: [] without a model. seconds: of reading and of all checks."""

    ledger: Ledger
    sets: RowSets | None = None
    task: SupervisedTask | None = None
    reader: Reader | None = None
    examples: list[Example] = field(default_factory=list)
    seconds: float = 0.0


def examine(recipe: TrainRecipe) -> Examined:
    """Makes every check of `recipe` that needs no weights. Raises RecipeError and ModelError; what is wrong with rows is in the ledger."""
    start = time.perf_counter()
    found = Examined(Ledger(recipe.data.allow))
    try:
        found.sets = load_rows(recipe)
        reading = time.perf_counter() - start
        suspects.look(found.ledger, found.sets, given=bool(recipe.data.eval))
    except DataError as error:  # they are no rows, or none is left of the evaluation's
        count = error.count if isinstance(error, FaultyRows) else 0
        found.ledger.add("readable", Finding(True, str(error), count=count, key=_FIXED), time.perf_counter() - start)
    else:
        found.ledger.add("readable", None, reading)
        if recipe.model.start:
            _read(found, recipe, found.sets.train)
    found.seconds = time.perf_counter() - start
    return found


def _read(found: Examined, recipe: TrainRecipe, rows: list[Row]) -> None:
    """The checks of rows as the model reads them."""
    start = time.perf_counter()
    folder = hub.locate(recipe.model.start)
    opened, base, contract = ModelFolder.open(folder), bound(folder), Contract.open(folder)
    part = replace(recipe, "task.name", task_for(rows[0], recipe)).task
    context = row_tokens(recipe, opened)
    try:
        found.task = make(part, recipe.data.long, contract, context, rows, folder, opened.model_config.width)
        found.examples = found.task.examples(rows)
    except (DataError, ContextError) as error:
        found.ledger.add("learnable", Finding(True, str(error), key=_FIXED), time.perf_counter() - start)
        return
    found.ledger.add("learnable", None, time.perf_counter() - start)
    contract = getattr(found.task, "contract", contract)
    found.reader = Reader.of(contract)
    look_at_readings(found.ledger, recipe, rows, found.examples, found.task, contract, base, model_reads(recipe, opened))


def task_for(row: Row, recipe: TrainRecipe) -> str:
    """The task that the recipe names, or, where it names none on rows, the first that learns from rows of this kind."""
    if recipe.task.name in TASKS:
        return recipe.task.name
    found = next((task for task, learns in TASKS.items() if row.schema in learns.schemas), None)
    if found is None:
        raise RecipeError(f"no task learns from {row.schema} rows.")
    return found
