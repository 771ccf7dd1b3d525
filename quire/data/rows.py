"""The rows of a supervised run: read, told apart, split. What is read decides the side that a row falls on, never its order or its answer.

Rows that read and answer the same are kept once; rows that read the same and answer otherwise are told. A row that the evaluation reads
too would be learned by heart and is refused with both places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import DataError
from ..tasks.tuning.schemas import Row
from . import pydoc_questions
from .columns import rows as as_rows
from .records import parse_columns, read

_EXAMPLES = 5


@dataclass
class RowSets:
    """train, held-out and test rows, and how many repeated ones were left out of each."""

    train: list[Row]
    held_out: list[Row]
    test: list[Row]
    repeated: dict[str, int] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        return {"train": len(self.train), "held_out": len(self.held_out), "test": len(self.test), "repeated": self.repeated}

    def lines(self) -> list[str]:
        sizes = f"{len(self.train):,} rows to train on, {len(self.held_out):,} held out, {len(self.test):,} to test on"
        return [sizes, *(f"left out: {count:,} repeated {name} rows" for name, count in self.repeated.items() if count)]


def load(
    sources: Sequence[str],
    held_out: Sequence[str] = (),
    test: Sequence[str] = (),
    *,
    share: float = 0.1,
    schema: str = "auto",
    columns: Sequence[str] = (),
    header: Sequence[str] = (),
    keep_repeated: bool = False,
) -> RowSets:
    """Raises DataError naming file and line of what cannot be meant."""
    meant = parse_columns(columns)

    def from_(specs: Sequence[str]) -> list[Row]:
        files = [spec for spec in specs if spec != pydoc_questions.NAME]
        made = _asked(schema, meant) if len(files) < len(specs) else []
        found = made + (list(as_rows(read(files, header), schema, meant)) if files else [])
        if made and found[-1].schema != made[0].schema:
            raise DataError(
                f"the source '{pydoc_questions.NAME}' makes {made[0].schema} rows, and {found[-1].where} is a {found[-1].schema} row."
            )
        return found

    sets = RowSets(from_(sources), from_(held_out) if held_out else [], from_(test) if test else [])
    if not sets.train:
        raise DataError(f"there is no row in {', '.join(sources)}.")
    if not keep_repeated:
        before = len(sets.train)
        sets.train = list({row.digest(whole=True): row for row in reversed(sets.train)}.values())[::-1]
        sets.repeated["training"] = before - len(sets.train)
    if not held_out and share:
        cut = int(share * 2.0**64)
        sides: tuple[list[Row], list[Row]] = [], []
        for row in sets.train:
            sides[int.from_bytes(row.side()[:8], "big") < cut].append(row)
        sets.train, sets.held_out = sides
    return sets


def _asked(schema: str, columns: Mapping[str, str]) -> list[Row]:
    """Questions about the standard library, which are chat rows whatever is said. Raises DataError where something else is."""
    if schema not in ("auto", "chat") or columns:
        said = f"data.schema = '{schema}'" if schema not in ("auto", "chat") else "data.columns"
        raise DataError(f"{said} does not go with the source '{pydoc_questions.NAME}': its rows are chat rows already. Leave it out.")
    return list(pydoc_questions.rows())
