"""What was checked before a run, what was found, and what it cost: every check once, by name, whether it found something or not.

A finding is told, or refuses the run; the refusals are gathered, so that one message shows all of them with their rows and how to mend
them. A recipe that names a check in `data.allow` trains on such rows knowingly: the finding is told then, and kept in the run folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import DataError, RecipeError, nearest
from ..progress import many

Outcome = Literal["ok", "told", "allowed", "refused"]

# name -> what it looks for, in the order in which they are shown
CHECKS: dict[str, str] = {
    "readable": "rows that cannot be read",
    "empty-answers": "rows that answer nothing",
    "same-answer": "every row answers the same",
    "one-label": "labels that tell nothing apart",
    "label-spellings": "one label in two spellings",
    "label-numbers": "numbers among names of labels",
    "label-unknown": "labels that only the evaluation rows have",
    "contradictions": "the same text with another answer",
    "duplicates": "rows that are there twice",
    "test-rows-leak": "evaluation rows among the training rows",
    "near-copies-leak": "near copies of evaluation rows among the training rows",
    "learnable": "rows that the task cannot learn from",
    "template-differs": "the template of training against the model's own",
    "spelled-tokens": "texts that spell a special token",
    "bos-twice": "a begin token in a text that gets one anyway",
    "turns-dropped": "turns and tools that the template leaves out",
    "unknown-tokens": "text that the tokenizer cannot write",
    "nothing-trained": "rows without a trained token",
    "end-never-trained": "answers whose end is never a label",
    "padding-trained": "padding among the labels",
    "answers-cut": "rows that are longer than the model reads",
    "new-tokens-frozen": "tokens that were never trained, in a frozen embedding",
}
SHOWN = 5  # rows of a finding in a message; the run folder has no more


@dataclass(frozen=True)
class Finding:
    """What one check found. says: one sentence; rows: the first few, each with its place, cut; fix: what to do.

    count: of rows (or labels, or pairs); 0: nothing to count. key: what of the recipe decides about it, where that is not `data.allow`.
    """

    refused: bool
    says: str
    rows: tuple[str, ...] = ()
    fix: str = ""
    count: int = 0
    key: str = ""


@dataclass(frozen=True)
class Entry:
    """One line of the table: a check, how it ended, what it found and the seconds that it took."""

    check: str
    outcome: Outcome
    seconds: float
    finding: Finding | None = None

    def lines(self) -> list[str]:
        """For a person: what was found, the rows, how to mend them."""
        found = self.finding
        if found is None:
            return []
        more = [f"  and {found.count - len(found.rows):,} more"] if found.rows and found.count > len(found.rows) else []
        knowingly = found.key or f'To train on them as they are: data.allow = ["{self.check}"].'
        fix = " ".join(part for part in (found.fix, knowingly if self.outcome == "refused" else "") if part)
        return [f"{self.check}: {found.says}", *(f"  {row}" for row in found.rows), *more, *([f"  {fix}"] if fix else [])]

    def json(self) -> dict[str, Any]:
        found = self.finding
        said: dict[str, Any] = {} if found is None else {"says": found.says, "rows": list(found.rows), "fix": found.fix}
        said |= {"count": found.count} if found and found.count else {}
        return {"check": self.check, "outcome": self.outcome, "seconds": round(self.seconds, 4), **said}


@dataclass
class Ledger:
    """`look` runs a check, `refuse` ends the gathering. allow: names of checks whose findings are accepted."""

    allow: Sequence[str] = ()
    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in self.allow:
            if name not in CHECKS:
                raise RecipeError(f"data.allow names {name!r}, which is no check.{nearest(name, list(CHECKS))} Known: {', '.join(CHECKS)}.")

    def look(self, check: str, find: Callable[..., Finding | None], *given: Any) -> None:
        """Runs `find(*given)` and keeps what it returns under the check's name."""
        start = time.perf_counter()
        self.add(check, find(*given), time.perf_counter() - start)

    def add(self, check: str, finding: Finding | None, seconds: float) -> None:
        outcome: Outcome = "ok"
        if finding is not None:
            outcome = "told" if not finding.refused else "allowed" if check in self.allow else "refused"
        self.entries.append(Entry(check, outcome, seconds, finding))

    @property
    def refused(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.outcome == "refused"]

    @property
    def seconds(self) -> float:
        return sum(entry.seconds for entry in self.entries)

    def refuse(self) -> None:
        """Raises DataError when any check has refused, with all of them."""
        refused = self.refused
        if refused:
            what = "one check refuses" if len(refused) == 1 else f"{len(refused)} checks refuse"
            lines = [f"  {line}" for entry in refused for line in entry.lines()]
            raise DataError("\n".join([f"the rows would teach the wrong thing; {what} them.", *lines]))

    def said(self) -> list[str]:
        """What a run tells before it begins: the findings, and one line on the rest."""
        found = [line for entry in self.entries if entry.outcome in ("told", "allowed") for line in entry.lines()]
        sound = sum(entry.outcome == "ok" for entry in self.entries)
        return [*found, f"checked: {sound} of {many(len(self.entries), 'check')} of the rows found nothing, in {self.seconds:.1f} s"]

    def json(self) -> list[dict[str, Any]]:
        return [entry.json() for entry in self.entries]


def first(rows: Iterable[str]) -> tuple[str, ...]:
    """As many as a message shows."""
    found = []
    for row in rows:
        found.append(row)
        if len(found) == SHOWN:
            break
    return tuple(found)


def share(count: int, of: int) -> str:
    """'3 of 1,200 rows (0.25 %)'."""
    part = 100 * count / max(1, of)
    return f"{count:,} of {of:,} rows ({part:.0f} %)" if part >= 10 else f"{count:,} of {of:,} rows ({part:.2g} %)"
