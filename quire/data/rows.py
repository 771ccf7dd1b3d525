"""The rows of a supervised run: read, split, copies left out. What is read decides the side that a row falls on, never its order.

Rows that read and answer the same are kept once. A split of one source keeps the last row of a label for training: one that is held out
and never trained could not be answered. Whatever else is wrong with rows is told by the checks (`suspects`, `readings`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ..errors import DataError
from ..progress import many
from ..tasks.tuning.schemas import Labelled, Row, Tagged, labels_of
from . import pydoc_questions
from .columns import Plan
from .columns import rows as as_rows
from .ledger import share as share_of
from .overlap import sides as sides_of
from .overlap import without_copies
from .problems import Problems, shown
from .records import parse_columns, parse_names, read
from .values import as_number

_FEW = 50  # rows to hold out, below which a threshold of hashes may miss the share by far
_LEAST = 10  # rows held out, below which a figure says little
_NAMED = 5  # labels that are told by name


@dataclass
class RowSets:
    """train, held-out and test rows, and how many repeated ones were left out of each."""

    train: list[Row]
    held_out: list[Row]
    test: list[Row]
    repeated: dict[str, int] = field(default_factory=dict)
    overlapping: int = 0  # training rows that were left out because the evaluation reads them too
    unknown: int = 0  # rows of the evaluation that were left out because of labels that are never trained
    asked: float = 0.0  # the share that was to be held out; 0: none, or rows of its own
    columns: dict[str, Plan] = field(default_factory=dict)  # how the files of each side were read: 'train', 'held_out', 'test'

    def json(self) -> dict[str, Any]:
        sizes = {"train": len(self.train), "held_out": len(self.held_out), "test": len(self.test)}
        columns = {side: plan.json() for side, plan in self.columns.items()}
        labels = self._labels()
        told = {"labels": {"count": len(labels), "first": labels[:_NAMED]}} if labels else {}
        return {**sizes, **told, "columns": columns, "repeated": self.repeated, "overlapping": self.overlapping, "unknown": self.unknown}

    def leave_out_unknown(self) -> None:
        """Takes rows out of the evaluation that have a label which no training row has. Raises DataError when none is left of a file's."""
        known = {label for row in self.train for label in labels_of(row)}

        def kept(rows: list[Row]) -> list[Row]:
            found = [row for row in rows if known.issuperset(labels_of(row))]
            if rows and not found:
                raise DataError(
                    f"every row of the evaluation from {rows[0].where} on has a label that no training row has: there is nothing to "
                    f"measure on. The training rows have: {', '.join(sorted(known)[:20])}."
                )
            self.unknown += len(rows) - len(found)
            return found

        if known:
            self.held_out, self.test = kept(self.held_out), kept(self.test)

    def lines(self) -> list[str]:
        sizes = f"{many(len(self.train), 'row')} to train on, {len(self.held_out):,} held out, {len(self.test):,} to test on"
        left = [many(count, f"repeated {name} row") for name, count in self.repeated.items() if count]
        left += [f"{many(self.overlapping, 'training row')} that the evaluation reads too"] * bool(self.overlapping)
        left += [f"{many(self.unknown, 'row')} of the evaluation with labels that are never trained"] * bool(self.unknown)
        labels = self._labels()
        what = "tags" if isinstance(self.train[0], Tagged) else "labels"
        names = ", ".join(shown(label, 30) for label in labels[:_NAMED]) + ", …" * (len(labels) > _NAMED)
        named = [f"{what}: {len(labels):,}: {names}"] * bool(labels)
        return [*self._columns(), *named, sizes, *(f"left out: {what}" for what in left), *self._far()]

    def _labels(self) -> list[str]:
        """The names that the training rows are labelled with, in order."""
        return sorted({label for row in self.train for label in labels_of(row)})

    def _columns(self) -> list[str]:
        """Which column was taken as what; of the evaluation's files, where they are read otherwise than those that train."""
        said = {side: str(plan) for side, plan in self.columns.items()}
        names = {"train": "columns", "held_out": "columns of data.eval", "test": "columns of data.test"}
        return [f"{names[side]}: {text}" for side, text in said.items() if side == "train" or text != said.get("train")]

    def _far(self) -> list[str]:
        """Says where the share that came out is not the one that was asked for, or too small to measure on."""
        held, of = len(self.held_out), len(self.train) + len(self.held_out) + self.overlapping
        if not self.asked or (held >= _LEAST and self.asked / 2 <= held / of <= self.asked * 2):
            return []
        why = "figures on so few say little" if held < _LEAST else "rows of one text or context, and near copies, stay on one side"
        why = why if held else "no figure will tell which weights are best"
        as_asked = bool(held) and self.asked / 2 <= held / of <= self.asked * 2
        wanted = "" if as_asked else f", where {100 * self.asked:.2g} % was asked for"
        return [f"held out: {share_of(held, of)}{wanted}: {why}. Give rows with data.eval, or another data.held_out."]


def load(
    sources: Sequence[str],
    held_out: Sequence[str] = (),
    test: Sequence[str] = (),
    *,
    share: float = 0.1,
    schema: str = "auto",
    columns: Sequence[str] = (),
    names: Sequence[str] = (),
    number: bool | None = None,
    label_names: Sequence[str] = (),
    among: Sequence[str] = (),
    keep_repeated: bool = False,
    drop_overlap: bool = False,
) -> RowSets:
    """names: the columns of tables without a header. number, label_names, among: as `columns.rows` takes them, names also as "NUMBER=NAME".

    drop_overlap: leaves out training rows that are copies of rows of the evaluation, exact or near.
    Raises DataError naming file and line of what cannot be meant.
    """
    meant = parse_columns(columns)
    labels = parse_names(label_names)
    plans: dict[str, Plan] = {}

    def from_(specs: Sequence[str], side: str) -> list[Row]:
        files = [spec for spec in specs if spec != pydoc_questions.NAME]
        found = made = _asked(schema, meant) if len(files) < len(specs) else []
        if files:
            gathered = Problems()
            records, heard = read(files, names, problems=gathered), partial(plans.__setitem__, side)
            told = as_rows(records, schema, meant, number=number, label_names=labels, among=among, problems=gathered, on_plan=heard)
            found = [*made, *told]
        if made and found[-1].schema != made[0].schema:
            raise DataError(
                f"the source '{pydoc_questions.NAME}' makes {made[0].schema} rows, and {found[-1].where} is a {found[-1].schema} row."
            )
        return found

    evaluation = from_(held_out, "held_out") if held_out else [], from_(test, "test") if test else []
    sets = RowSets(from_(sources, "train"), *evaluation, columns=plans)
    if not sets.train:
        raise DataError(f"there is no row in {', '.join(sources)}.")
    _one_kind(sets, among)
    if not labels:
        _no_regression(sets)
    if not keep_repeated:
        before = len(sets.train)
        sets.train = list({row.digest(whole=True): row for row in reversed(sets.train)}.values())[::-1]
        sets.repeated["training"] = before - len(sets.train)
    if not held_out and share:
        sets.train, sets.held_out = _labels_trained(*_divided(sets.train, share))
        sets.asked = share
    if drop_overlap:
        sets.train, sets.overlapping = without_copies(sets.train, [*sets.held_out, *sets.test])
    return sets


def _one_kind(sets: RowSets, among: Sequence[str]) -> None:
    """Raises DataError for rows to evaluate on that the task of the training rows cannot read: better now than after the last step."""
    train = sets.train[0]
    for name, rows in (("data.eval", sets.held_out), ("data.test", sets.test)):
        if rows and rows[0].schema not in (among or (train.schema,)):
            raise DataError(f"{name}: {rows[0].where} is a {rows[0].schema} row, and the training rows are {train.schema} rows.")
        if rows and isinstance(train, Labelled) and isinstance(rows[0], Labelled) and (train.number is None) != (rows[0].number is None):
            kinds = ("a number", "a class") if train.number is None else ("a class", "a number")
            raise DataError(
                f"{name}: the label of {rows[0].where} is {kinds[0]}, and that of {train.where} is {kinds[1]}. Name the columns alike, or "
                "say with task.labels = 'number' that labels are numbers."
            )


def _no_regression(sets: RowSets) -> None:
    """Raises DataError for labels that are numbers one and all, some with a fraction. Where a file has types, such a value is refused by
    itself; a table writes a number as a text, and every score would be a class of its own."""
    labels = dict.fromkeys(label for row in sets.train for label in labels_of(row) if isinstance(row, Labelled))
    numbers = {label: as_number(label) for label in labels}
    if None in numbers.values():
        return
    found = next((label for label, number in numbers.items() if number is not None and number % 1), None)
    if found is not None:
        row = next(row for row in sets.train if found in labels_of(row))
        point = ", written with a point" if "," in found else ""
        raise DataError(
            f"{row.where}: '{sets.columns['train'].there['label']}' is {found!r}, a number with a fraction, and all "
            f"{many(len(labels), 'label')} are numbers. For a regression set task.labels to 'number'{point}; classes that look so must "
            "all be named in data.label_names."
        )


def _divided(rows: Sequence[Row], share: float) -> tuple[list[Row], list[Row]]:
    """(rows to train on, rows held out), picked by the hash of what must stay together: one text, one context, near copies.

    Of many rows those whose hash lies below a threshold: rows that are added then move no others, but near copies of theirs. Of few, or of
    few groups, a threshold holds out now one row, now twelve of sixty, so the groups with the lowest hashes are taken as long as they bring
    the share nearer.
    """
    cut, wanted = int(share * 2.0**64), share * len(rows)
    sides = sides_of(rows)
    low = {side for side in sides if int.from_bytes(side[:8], "big") < cut} if wanted >= _FEW else set()
    if not low:
        sizes, held = Counter(sides), 0
        for side in sorted(sizes):
            if held + sizes[side] < len(rows) and held + sizes[side] - wanted < wanted - held:
                low.add(side)
                held += sizes[side]
        if not low and len(sizes) > 1:  # each group is more than twice what was asked for
            low = {min(sizes, key=lambda side: (sizes[side], side))}
    found: tuple[list[Row], list[Row]] = [], []
    for row, side in zip(rows, sides, strict=True):
        found[side in low].append(row)
    return found


def _labels_trained(train: list[Row], held: list[Row]) -> tuple[list[Row], list[Row]]:
    """Moves rows whose labels no training row has to the training side."""
    known = {label for row in train for label in labels_of(row)}
    moved = [row for row in held if not known.issuperset(labels_of(row))]
    gone = set(map(id, moved))
    return [*train, *moved], [row for row in held if id(row) not in gone]


def _asked(schema: str, columns: Mapping[str, str]) -> list[Row]:
    """Questions about the standard library, which are chat rows whatever is said. Raises DataError where something else is."""
    if schema not in ("auto", "chat") or columns:
        said = f"data.schema = '{schema}'" if schema not in ("auto", "chat") else "data.columns"
        raise DataError(f"{said} does not go with the source '{pydoc_questions.NAME}': its rows are chat rows already. Leave it out.")
    made = enumerate(pydoc_questions.rows(), start=1)
    return [replace(row, where=f"{pydoc_questions.NAME}:{number} ({row.where})") for number, row in made]  # a place is one row's alone
