"""The rows of a supervised run: how many, from where, what was left out or cut, and what the checks said before the first step."""

from __future__ import annotations

from ..progress import many
from .folder import Row, Run, number
from .page import Absent, Part, escape, grouped, table
from .supervised import sources

_OUTCOMES = {"told": "look", "allowed": "look", "refused": "stop"}


def checks(run: Run) -> list[Row]:
    found = run.data.get("checks")
    return [row for row in found if isinstance(row, dict) and isinstance(row.get("check"), str)] if isinstance(found, list) else []


def left_out(run: Run) -> list[str]:
    """What was taken out of the rows or cut from them, in words."""
    said = []
    repeated = run.data.get("repeated")
    for name, raw in repeated.items() if isinstance(repeated, dict) else ():
        if count := number(raw):
            said.append(f"{many(int(count), 'repeated ' + name + ' row')} {'was' if count == 1 else 'were'} left out")
    if count := number(run.data.get("overlapping")):
        said.append(f"{many(int(count), 'training row')} {'was' if count == 1 else 'were'} left out because the evaluation reads them too")
    if count := number(run.data.get("unknown")):
        said.append(
            f"{many(int(count), 'row')} of the evaluation {'was' if count == 1 else 'were'} left out: their labels are never trained"
        )
    cut = run.data.get("cut")
    rows, tokens = (number(cut.get(key)) for key in ("examples", "tokens")) if isinstance(cut, dict) else (None, None)
    if rows:
        of = number(run.data.get("examples"))
        share = f" ({100 * rows / of:.2g} % of them)" if of else ""
        said.append(f"{grouped(rows)} training examples{share} were longer than the model read and lost {grouped(tokens or 0)} tokens")
    notes = run.data.get("notes")
    return said + [str(note) for note in notes] if isinstance(notes, list) else said


def part(run: Run) -> Part | Absent:
    title = "The rows, and what was checked"
    sizes = [
        (name, value) for key, name in (("train", "train"), ("held_out", "held out"), ("test", "test"))
        if (value := number(run.data.get(key))) is not None
    ]  # fmt: skip
    if not sizes:
        return Absent(title, "data.json was not written.")
    named = sources(run)
    rows = [
        (name, grouped(value), "<br>".join(f"<code>{escape(file)}</code>" for file in named.get(name, [])) or _from(name))
        for name, value in sizes
        if value
    ]
    html = table(("", "rows", "from"), rows, numbers=(1,))
    said = left_out(run)
    html += f'<ul class="plain">{"".join(f"<li>{escape(line)}</li>" for line in said)}</ul>' if said else ""
    return Part("rows", title, html + _findings(checks(run)))


def _from(name: str) -> str:
    return '<span class="dim">the training files, by the hash of what a row reads</span>' if name == "held out" else ""


def _findings(found: list[Row]) -> str:
    if not found:
        return ""
    told = [row for row in found if row.get("outcome") != "ok"]
    quiet = [str(row["check"]) for row in found if row.get("outcome") == "ok"]
    seconds = sum(number(row.get("seconds")) or 0 for row in found)
    head = f"{many(len(found), 'check')} of the rows ran before the first step and took {seconds:.2g} s; "
    head += f"{len(told)} had something to say." if told else "none had anything to say."
    names = ", ".join(f"<code>{escape(name)}</code>" for name in quiet)
    return f'<p class="say checks">{head}</p>{"".join(map(_finding, told))}' + (
        f'<details><summary>{len(quiet)} that found nothing</summary><p class="note">{names}</p></details>' if quiet else ""
    )


def _finding(row: Row) -> str:
    kind = _OUTCOMES.get(str(row.get("outcome")), "look")
    rows = row.get("rows")
    listed = [str(one) for one in rows] if isinstance(rows, list) else []
    more = (number(row.get("count")) or 0) - len(listed)
    lines = "".join(f"<li><code>{escape(one)}</code></li>" for one in listed)
    lines += f"<li>and {grouped(more)} more</li>" if listed and more > 0 else ""
    return (
        f'<article class="finding {kind}"><h3>{escape(row["check"])} '
        f'<span class="badge {kind}">{escape(row.get("outcome", ""))}</span></h3>'
        f"<p>{escape(row.get('says', ''))}</p>" + (f"<ul>{lines}</ul>" if lines else "") + "</article>"
    )
