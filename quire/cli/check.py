"""What is wrong with these rows? quire check DATA... --model minilm

All that a training run checks before its first step, without training: repeated and contradictory rows, labels in two spellings, test rows
among the training rows, answers whose end is never learned, turns that the template drops, rows that are cut. Ends with 2 when a run
would be refused. Without a model the rows alone are looked at.

quire check RECIPE.toml takes rows, model and task from a recipe. Rows are split and read as quire tune and quire train would; any key of a
recipe is an option too, as in --data.columns text=review label=stars or --data.held-out 0.2.

--show prints rows as the model sees them, every token coloured by whether it is learned; --html writes the same as a page.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from .. import recipe as recipes
from ..errors import RecipeError
from ..progress import coloured, many
from ..train import defaults
from ..train.recipe import TrainRecipe
from .lines import Flag, parse
from .paint import paint, safe
from .tables import show

if TYPE_CHECKING:
    from ..data.ledger import Entry
    from ..train.examine import Examined

USAGE = """usage: quire check DATA... [--model M] [--task T] [--eval FILE...] [--test FILE...]
                   [--show [N]] [--html PAGE] [--json] [--key value ...]
       quire check RECIPE.toml

  DATA   files, folders or globs of rows: JSONL, CSV, CoNLL ...; quire check --help says more"""
_SHOW = 3  # rows, where no number is given
_PAGE = 12


@dataclass(frozen=True)
class Check:
    data: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Files, folders or globs of rows; or one recipe (.toml)."""
    model: str = ""
    """The model that will be trained: a folder, a run or a pulled model's name."""
    task: str = ""
    """chat, classify, tag, answer, rewrite, embed or rerank; told by the rows where none is named."""
    eval: tuple[str, ...] = ()
    """Rows to measure on: are they among the training rows?"""
    test: tuple[str, ...] = ()
    """Rows to measure on at the end."""
    longest: int = 0
    """Tokens of a row; 0: what the model reads."""
    show: int = 0
    """Print so many rows as the model sees them."""
    html: Path | None = None
    """Write what was found, and rows as the model sees them, as one page."""
    json: Flag = False
    """What was found as JSON on standard output."""


def run(argv: list[str]) -> int:
    if not argv:
        print(USAGE, file=sys.stderr)
        return 2
    own, keys = _divided(argv)
    options = parse(Check, "check", list(_with_number(own)), __doc__)
    recipe = recipe_of(options, keys)
    if (options.show or options.html) and not recipe.model.start:
        raise RecipeError("rows are shown as a model reads them: name it with --model.")
    if recipe.task.name in ("causal", "masked", "denoise") and not _of_rows(options):
        return _corpus(recipe, options.json)
    from ..train.examine import examine

    found = examine(recipe)
    rows = shown(found, max(options.show, _PAGE if options.html else 0))
    if options.html:
        from ..report import rows as page

        page.write(options.html, facts(found, recipe), rows)
    if options.json:
        print(json.dumps(facts(found, recipe) | ({"rows": rows} if options.show else {}), ensure_ascii=False))
    else:
        print("\n".join(told(found)), end="\n\n") if told(found) else None
        _table(found)
        for row in rows[: options.show]:
            print("\n" + "\n".join(painted(row)))
        if options.html:
            print(f"\npage    {options.html}")
    return 2 if found.ledger.refused else 0


def _divided(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(this command's words, those for the recipe): an option with a dot in its name goes there, with the values behind it."""
    own: list[str] = []
    keys: list[str] = []
    place = own
    for word in argv:
        if word.startswith("--"):
            place = keys if "." in word.partition("=")[0] else own
        place.append(word)
    return own, keys


def _with_number(argv: Sequence[str]) -> Iterator[str]:
    """A bare --show means a few rows."""
    for number, word in enumerate(argv):
        yield word
        if word == "--show" and not "".join(argv[number + 1 : number + 2]).isdecimal():
            yield str(_SHOW)


def _of_rows(options: Check) -> bool:
    return not (len(options.data) == 1 and options.data[0].endswith(".toml"))


def recipe_of(options: Check, keys: Sequence[str] = ()) -> TrainRecipe:
    """The recipe that the options mean: the named one, or one of the rows; what else is given stands over it, `keys` over all.

    What is open is what is usual for a run on such rows, so that the split, and what leaks through it, is the run's.
    """
    where = "recipe"
    if not options.data:
        raise RecipeError("there are no rows. Name files of rows before the options: quire check reviews.csv --data.columns text=review")
    if _of_rows(options):
        if any(source.endswith(".toml") for source in options.data):
            raise RecipeError("a recipe stands alone: it names its rows itself.")
        values: dict[str, Any] = {"data": {"sources": list(options.data)}}
    else:
        where = options.data[0]
        values = recipes.read(where)
    named = recipes.from_dict(TrainRecipe, values, where)  # strict, before anything stands over it
    recipes.from_dict(TrainRecipe, {"task": {"name": options.task or named.task.name}})  # a task that is there
    over = {"data.eval": options.eval, "data.test": options.test, "data.longest": options.longest}
    for key, value in (over | {"model.start": options.model, "task.name": options.task}).items():
        table, _, name = key.partition(".")
        values |= {table: {**values.get(table, {}), name: value}} if value else {}

    def usual(recipe: TrainRecipe) -> Mapping[str, Any]:
        if recipe.task.name not in defaults.SUPERVISED and not _of_rows(options):
            return {}
        return {choice.key: choice.value for choice in defaults.left_open(recipe, defaults.of_data(recipe.task.name))}

    return recipes.over(TrainRecipe, values, keys, "quire check", usual, where)


def _corpus(recipe: TrainRecipe, as_json: bool) -> int:
    """Running text has one pass of its own."""
    from ..data.check import check

    report = check(recipe.data.sources, recipe.data.field, recipe.data.held_out)
    print(json.dumps(report.json(), ensure_ascii=False) if as_json else "\n".join(report.lines()))
    return 0


def facts(found: Examined, recipe: TrainRecipe) -> dict[str, Any]:
    """What was found, as JSON."""
    tokens = [len(example) for example in found.examples]
    return {
        "sources": list(recipe.data.sources),
        "model": recipe.model.start,
        "task": found.task.name if found.task else "",
        "schema": found.sets.train[0].schema if found.sets else "",
        **(
            {}
            if found.sets is None
            else {key: value for key, value in found.sets.json().items() if key in ("train", "held_out", "test", "labels", "columns")}
        ),
        **({"tokens": sum(tokens), "longest": max(tokens)} if tokens else {}),
        "seconds": round(found.seconds, 3),
        "checks": found.ledger.json(),
    }


# -- in words ----------------------------------------------------------------------------------------------------------------------

_MARKS = {"ok": ("ok", "green"), "told": ("told", "yellow"), "allowed": ("allowed", "yellow"), "refused": ("refused", "bold red")}


def told(found: Examined) -> list[str]:
    """Every finding with its rows; those that refuse a run last, nearest to the eye."""
    entries = sorted((entry for entry in found.ledger.entries if entry.finding), key=lambda entry: entry.outcome == "refused")
    return [line for entry in entries for line in _finding(entry)]


def _finding(entry: Entry) -> list[str]:
    head, *rest = entry.lines()
    return [paint(_MARKS[entry.outcome][0], _MARKS[entry.outcome][1]) + " " + safe(head), *map(safe, rest)]


def _table(found: Examined) -> None:
    """What was found by whom; of the checks that found nothing their number alone."""
    from ..data.ledger import CHECKS

    entries = found.ledger.entries
    rows = [
        (entry.check, CHECKS[entry.check], entry.outcome, f"{entry.finding.count:,}" if entry.finding.count else "", f"{entry.seconds:.2f}")
        for entry in entries
        if entry.finding
    ]
    if rows:
        show(("check", "looks for", "outcome", "found", "s"), rows, numbers={3, 4})
    print(f"{len(entries) - len(rows)} of {many(len(entries), 'check')} found nothing (--json names them)")
    for line in found.sets.lines() if found.sets else ():
        print(line)
    refused = len(found.ledger.refused)
    end = f"{refused} of them would refuse a run" if refused else "a run would begin"
    print(f"{many(len(found.ledger.entries), 'check')} in {found.seconds:.1f} s, reading included: {end}")
    if found.sets and not found.examples and not refused:
        print("The rows alone were looked at. With --model they are looked at as that model reads them.")


# -- rows as the model sees them ---------------------------------------------------------------------------------------------------


def shown(found: Examined, count: int) -> list[dict[str, Any]]:
    """The first rows as JSON: where, what is answered, how much was cut, and the tokens."""
    if found.reader is None or found.sets is None:
        return []
    from ..data.readings import pieces

    by_place = {row.where: row for row in found.sets.train}
    names = getattr(found.task, "labels", ()) or ()
    rows = []
    for example in found.examples[:count]:
        parts = pieces(found.reader, example, names)
        row = by_place.get(example.where)
        rows.append(
            {
                "where": example.where,
                "answers": list(row.answers()) if row is not None else [],
                "cut": example.cut,
                "parts": [[piece.json() for piece in part] for part in parts],
            }
        )
    return rows


def painted(row: dict[str, Any]) -> list[str]:
    """One row for a terminal: learned tokens green, special ones blue; without colour learned stretches stand in «»."""
    tokens = [token for part in row["parts"] for token in part]
    learned = sum(token["learned"] for token in tokens)
    head = f"{row['where']}: {len(tokens):,} tokens, " + (f"{learned:,} of them learned" if learned else "learned as a whole")
    head += f", {row['cut']:,} more were cut" if row["cut"] else ""
    if not learned:
        head += f"; answer: {', '.join(row['answers'])}"
    lines = [paint(safe(head), "bold")]
    for number, part in enumerate(row["parts"]):
        text = _coloured(part) if coloured(sys.stdout) else _marked(part)
        lines += [*(["written:"] if number else []), text]
    return lines


def _coloured(part: Sequence[dict[str, Any]]) -> str:
    found = []
    for place, token in enumerate(part):
        style = "green" if token["learned"] else "dim"
        style = ("bold " if token["special"] else "underline " if place % 2 else "") + style
        text = "".join(paint(line, style) + end for line, end in _lines(token["text"]))
        found.append(text + (paint(f"[{safe(token['label'])}]", "magenta") if token["label"] else ""))
    return "".join(found)


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """Each line and its end: a colour must not run over it."""
    for line in safe(text).splitlines(keepends=True):
        bare = line.rstrip("\n")
        yield bare + ("↵" if line != bare else ""), line[len(bare) :]


def _marked(part: Sequence[dict[str, Any]]) -> str:
    """Tokens divided by '|', learned stretches within « »."""
    found: list[str] = []
    inside = False
    for token in part:
        if token["learned"] != inside:
            found.append("«" if token["learned"] else "»")
            inside = token["learned"]
        elif found:
            found.append("|")
        found.append(safe(token["text"]) + (f"[{safe(token['label'])}]" if token["label"] else ""))
    return "".join(found) + "»" * inside
