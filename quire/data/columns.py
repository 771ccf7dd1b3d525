"""Which schema records have and which column is what, decided once by the first record's columns; then typed rows, each value checked.

Where two readings are possible, none is taken: the error names both and the option that decides. A later record with other columns is a
fault, since it would be another kind of row or a half-empty one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, nearest
from ..tasks.tuning.schemas import SCHEMAS, Row
from .forms import FORMS, Form, Reading
from .lines import lines
from .problems import Problems, shown
from .records import Record
from .values import Cells, Wrong, is_there, named

AUTO = "auto"


class AmbiguousRows(DataError):
    """Rows that can be read as several schemas. schemas: these."""

    def __init__(self, message: str, schemas: Sequence[str]) -> None:
        super().__init__(message)
        self.schemas = tuple(schemas)


@dataclass(frozen=True)
class Plan:
    """How records are read. places: {our name: the file's}; keys: the first record's columns; beside: ones that may come and go.

    told: the user named every column that is needed, so the others do not tell what kind of row it is. there: the places that the first
    record has.
    """

    form: Form
    places: Mapping[str, str]
    keys: frozenset[str]
    beside: frozenset[str]
    told: bool
    where: str
    there: Mapping[str, str]

    @property
    def unread(self) -> list[str]:
        """Columns of the first record that are left out."""
        return sorted(self.keys - _parts(self.there.values()))

    def json(self) -> dict[str, Any]:
        return {"read": dict(self.there), "unread": self.unread}

    def __str__(self) -> str:
        read = ", ".join(f"{ours} = {theirs}" for ours, theirs in self.there.items())
        return read + (f"; not read: {_listed(self.unread)}" if self.unread else "")

    def fits(self, fields: Mapping[str, Any]) -> bool:
        """Is this a record of the same kind as the first one?"""
        if fields.keys() == self.keys:
            return True
        if self.told:
            return all(is_there(fields, self.places[ours]) for ours in self.form.needs)
        return fields.keys() - self.beside == self.keys - self.beside


def rows(
    records: Iterable[Record],
    schema: str = AUTO,
    columns: Mapping[str, str] | None = None,
    *,
    number: bool | None = None,
    label_names: Sequence[str] | Mapping[str, str] = (),
    among: Sequence[str] = (),
    problems: Problems | None = None,
    on_plan: Callable[[Plan], None] | None = None,
) -> Iterator[Row]:
    """Typed rows of records.

    schema: one of SCHEMAS, or 'auto'. columns: {our name: the file's}; the file's may be a key inside a column ('translation.en') or
    texts to join ('title+body'). number: labels are numbers to be predicted (None: where their column is called score). label_names: what
    the numbers in labels and tags stand for, in order from 0, or {number: name}. among: schemas that are meant where several would fit.
    problems: what `records` gathers its faults in, so that those of files and of values are told together. on_plan: hears how the rows are
    read, once the first one has decided it.
    Raises DataError at the first record when it cannot be told how to read it, and at the end when any row had a fault (what came before
    is then not to be used).
    """
    if schema != AUTO and schema not in SCHEMAS:
        raise DataError(f"data.schema is {schema!r}; allowed: {AUTO}, {', '.join(SCHEMAS)}.{nearest(schema, list(SCHEMAS))}")
    reading = Reading(number, named(label_names))
    problems = Problems() if problems is None else problems
    plan: Plan | None = None
    several: tuple[bool, str] | None = None  # whether the labels of the first row are a list, and where that was
    for record in records:
        if plan is None:
            plan = settle(record, schema, columns or {}, reading, among)
            if on_plan:
                on_plan(plan)
        if not plan.fits(record.fields):
            problems.add(record.where, _mixed(record, plan))
            continue
        try:
            row = plan.form.make(Cells(record.fields, plan.places), reading, record.where)
        except Wrong as wrong:
            problems.add(record.where, str(wrong))
            continue
        if plan.form.schema == "labelled":
            listed = isinstance(record.fields.get(plan.places["label"]), list | tuple)
            several = several or (listed, record.where)
            if several[0] != listed:
                kinds = ("one label", "a list of labels")
                problems.add(
                    record.where, f"'{plan.places['label']}' is {kinds[listed]}, but {kinds[not listed]} in {several[1]}. Write all alike."
                )
                continue
        yield row
    problems.finish()
    if plan is None:
        raise DataError("there are no rows. Name files that hold some.")


def _mixed(record: Record, plan: Plan) -> str:
    here, first = set(record.fields) - plan.beside, plan.keys - plan.beside
    parts = [f"lacks {shown(sorted(first - here))}"] * bool(first - here) + [f"has also {shown(sorted(here - first))}"] * bool(here - first)
    return (
        f"mixed schemas: it {' and '.join(parts)}, unlike the first row ({plan.where}: {plan.form.name}, with the columns "
        f"{shown(sorted(plan.keys), 200)}). Give every row the same columns, train on one kind of rows at a time, or name all columns that "
        "count in data.columns "
        f"({', '.join(f'{ours}={plan.places[ours]}' for ours in plan.form.needs)}): others may then come and go."
    )


@dataclass(frozen=True)
class _Fit:
    """A form against a record's columns: where its columns are, which are missing, and which could be either of several."""

    form: Form
    places: dict[str, str]
    missing: list[str]
    clashes: dict[str, list[str]]
    blocked: str = ""

    def words(self) -> str:
        return f"{self.form.schema} ({self.form.name}: {', '.join(shown(place) for place in self.places.values())})"


def settle(record: Record, schema: str, columns: Mapping[str, str], reading: Reading, among: Sequence[str] = ()) -> Plan:
    """The one way to read records like this one. Raises DataError when there is none, or more than one."""
    forms = [form for form in FORMS if schema in (AUTO, form.schema)]
    known = sorted({ours for form in forms for ours in (*form.needs, *form.may)})
    for ours, theirs in columns.items():
        if ours not in known:
            of = f"the schema '{schema}'" if schema != AUTO else "any schema"
            raise DataError(f"data.columns names '{ours}', which is no column of {of}; known: {', '.join(known)}.{nearest(ours, known)}")
        if not is_there(record.fields, theirs):
            raise DataError(
                f"data.columns says that '{ours}' is the column '{theirs}', which {record.where} does not have."
                f"{nearest(theirs, list(record.fields))} It has: {_listed(record.fields)}."
            )
    fits = [_fit(form, record.fields, columns) for form in forms if set(columns) <= {*form.needs, *form.may}]
    found = {(fit.form.schema, *sorted(fit.places.items())): fit for fit in fits if not fit.missing and not fit.blocked}
    if reading.number:  # a label that is a number was asked for: only a labelled row has one
        found = {key: fit for key, fit in found.items() if fit.form.schema == "labelled"} or found
    found = {key: fit for key, fit in found.items() if fit.form.schema in among} or found
    if not found:
        raise DataError(_nothing(record, schema, columns, fits))
    whole = list(found.values())
    if len(whole) > 1:
        ways = " or as ".join(fit.words() for fit in whole)
        schemas = list(dict.fromkeys(fit.form.schema for fit in whole))
        decide = f"data.schema to {' or '.join(map(repr, schemas))}" if len(schemas) > 1 else "data.columns, for example text=COLUMN"
        said = f"{record.where} can be read as {ways}. Say which is meant: set {decide}."
        raise AmbiguousRows(said, schemas) if len(schemas) > 1 else DataError(said)
    for ours, clash in whole[0].clashes.items():
        options = " or ".join(f"'{ours}={place}'" for place in clash)
        raise DataError(
            f"{record.where} has {' and '.join(map(repr, clash))}, and each could be the {ours}. "
            f"Say which is: set data.columns to {options}."
        )
    form = whole[0].form
    places = {ours: names[0] for ours, names in form.may.items()} | whole[0].places  # one that may come later has its first name
    beside = frozenset(places[ours] for ours in form.may)
    return Plan(form, places, frozenset(record.fields), beside, columns.keys() >= form.needs.keys(), record.where, whole[0].places)


def _fit(form: Form, fields: Mapping[str, Any], columns: Mapping[str, str]) -> _Fit:
    taken = _parts(columns.values())
    places = dict(columns)
    missing, clashes = [], {}
    for ours, names in (*form.needs.items(), *form.may.items()):
        if ours in columns:
            continue
        there = [name for name in names if name in fields and name not in taken]
        if there:
            places[ours] = there[0]
            if len(there) > 1:
                clashes[ours] = there
        elif ours in form.needs:
            missing.append(ours)
    taken.update(places.values())
    blocked = next((name for name in form.never if name in fields and name not in taken), "") if not columns else ""
    return _Fit(form, places, missing, clashes, blocked)


def _parts(places: Iterable[str]) -> set[str]:
    """The columns that places may be made of."""
    return {part for place in places for part in (place, place.partition(".")[0], *place.split("+"))}


def _listed(fields: Iterable[str]) -> str:
    return ", ".join(shown(name, 60) for name in list(fields)[:20]) or "none"


def _separator(fields: Mapping[str, Any]) -> str:
    """What to do about a file of tables whose only column has a name like several: its values are parted by another sign."""
    only = next(iter(fields)) if len(fields) == 1 else ""
    for mark, what in ((";", "semicolons: save it with commas"), ("\t", "tabs: name the file .tsv")):
        if mark in only:
            return f"That is one column, and its name looks like several: the values seem to be parted by {what}."
    return ""


def _nothing(record: Record, schema: str, columns: Mapping[str, str], fits: list[_Fit]) -> str:
    has = f"{record.where} has the columns {_listed(record.fields)}"
    if apart := _separator(record.fields):
        return f"{has}. {apart}"
    translation = record.fields.get("translation")
    if isinstance(translation, Mapping) and len(translation) > 1:
        one, two = list(translation)[:2]
        example = f"'source=translation.{one}', 'target=translation.{two}'"
        return f"{has}. Say which language is the source: set data.columns to {example}, or the other way."
    near = sorted((fit for fit in fits if fit.missing or fit.blocked), key=lambda fit: len(fit.missing))
    if schema != AUTO or columns:
        ways = [_lacks(fit) for fit in near[:3]]
        if not ways:
            together = ", ".join(map(repr, columns))
            return f"{has}, and no schema has all of the columns that data.columns names ({together}). Take one out."
        return f"{has}, which does not fit: {'; '.join(ways)}. Set data.columns to NAME=COLUMN for each of these."
    blocked = [fit for fit in near if not fit.missing]
    if blocked:
        one = blocked[0]
        return (
            f"{has}. As {one.words()} its '{one.blocked}' would be left out. Say what is meant: set data.columns, or take that column out."
        )
    usual: dict[str, list[str]] = {}
    for form in FORMS:
        usual.setdefault(form.schema, []).append("+".join(names[0] for names in form.needs.values()))
    forms = "; ".join(f"{name}: {', '.join(ways[:3])}" for name, ways in usual.items())
    return (
        f"{has}, which is no form that is known ({forms}). Set data.columns to NAME=COLUMN, for example text=review, and data.schema; "
        "if these are the values of a row, the file has no header: set data.names to the names of its columns."
    )


def _lacks(fit: _Fit) -> str:
    if fit.blocked:
        return f"{fit.form.schema} ({fit.form.name}) would leave '{fit.blocked}' out"
    wants = ", ".join(f"'{ours}' (usually {'|'.join(fit.form.needs[ours])})" for ours in fit.missing)
    return f"{fit.form.schema} ({fit.form.name}) lacks {wants}"


def class_names(path: Path, first: int = 0) -> dict[str, str]:
    """{number: name} of a file with a name of a class a line, for `label_names`. first: the number of the first class (AG News: 1)."""
    problems = Problems()
    found = [line.strip() for _, line in lines(path, problems.add)]
    problems.finish()
    while found and not found[-1]:
        found.pop()
    if not found or not all(found) or len(set(found)) != len(found):
        raise DataError(f"{path} must hold the name of a class on each line, each once; it holds {shown(found)}.")
    return {str(number): name for number, name in enumerate(found, start=first)}
