"""What is wrong with these rows, before any model reads them: labels, answers, copies, and what lies on both sides of the split.

Each check is a function of the rows that returns a `Finding` or None. What a data set may rightly hold is let through: 'C' beside 'C++',
'read' beside 'reads', one rare label, a few repeated rows. What is refused can be accepted by name (`data.allow`).
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from ..errors import nearest
from ..progress import many
from ..tasks.tuning.schemas import Chat, Labelled, Prompt, Question, Rewrite, Row, Tagged, labels_of
from . import overlap
from .ledger import SHOWN, Finding, Ledger, first, share
from .problems import shown
from .rows import RowSets
from .values import as_number

_EMPTY = 0.01  # of the rows may answer nothing
_CONTRADICTING = 0.1  # of the rows may read like another and answer otherwise
_ALIKE_ROWS = 8  # rows that answer the same are no accident from here on
_LONG_NAME = 6  # letters of a label in which one slip of the finger can be told from another word
_SWAPPED = 4  # letters that may have changed their places
_RARE = 20  # a label so many times as frequent as the one that looks like it is what was meant
_FEW = 5  # rows of a label that may be a slip
_WORDS = 5  # a text of fewer words stands on both sides by chance
_NEAR = 0.01  # of the evaluation's rows may have a near copy among the training rows; a random split of one source ten times as many
_NEAR_SPLIT = 0.1
_LEAVE_OUT = 'No answer to them could be right; to evaluate without these rows: data.allow = ["label-unknown"].'


def look(ledger: Ledger, sets: RowSets, *, given: bool) -> None:
    """Runs every check of the rows alone. given: the evaluation's rows are files of their own, not a share of the sources.

    Where labels that are never trained are allowed, their rows are taken out of `sets`. Raises DataError when none is left to evaluate on.
    """
    train, held = sets.train, [*sets.held_out, *sets.test]
    every = [*train, *held]
    ledger.look("empty-answers", empty_answers, every)
    ledger.look("same-answer", same_answer, train)
    ledger.look("one-label", one_label, train)
    ledger.look("label-spellings", label_spellings, every)
    ledger.look("label-numbers", label_numbers, train, held)
    ledger.look("label-unknown", label_unknown, train, held)
    if "label-unknown" in ledger.allow:
        sets.leave_out_unknown()
        held = [*sets.held_out, *sets.test]
    ledger.look("contradictions", contradictions, train)
    ledger.look("duplicates", duplicates, train, sum(sets.repeated.values()))
    ledger.look("test-rows-leak", leaks, train, held)
    ledger.look("near-copies-leak", near_copies, train, held, given)


# -- answers -----------------------------------------------------------------------------------------------------------------------


def _answer(row: Row) -> str | None:
    """The text that a row teaches to write; None where it teaches something else."""
    if isinstance(row, Prompt):
        return row.completion
    if isinstance(row, Rewrite):
        return row.target
    if isinstance(row, Chat):
        written = [turn for turn in row.messages if turn.role == "assistant"]
        return "".join(turn.content + str(turn.tool_calls or "") for turn in written)
    return None


def empty_answers(rows: Sequence[Row]) -> Finding | None:
    empty = [row for row in rows if (answer := _answer(row)) is not None and not answer.strip()]
    if not empty:
        return None
    fix = "Give them their answers, or take them out: a model learns from them to say nothing."
    where = first(f"{row.where}: {_read(row)}" for row in empty)
    return Finding(len(empty) > _EMPTY * len(rows), f"{share(len(empty), len(rows))} have an empty answer.", where, fix, len(empty))


def same_answer(rows: Sequence[Row]) -> Finding | None:
    answers = [_answer(row) for row in rows]
    if len(rows) < _ALIKE_ROWS or answers[0] is None or any(answer != answers[0] for answer in answers):
        return None
    says = f"all {len(rows):,} training rows have the answer {shown(answers[0])}: it will be given whatever is asked."
    return Finding(True, says, fix="Look whether the right column is read as the answer (data.columns).", count=len(rows))


def one_label(rows: Sequence[Row]) -> Finding | None:
    counts = Counter(label for row in rows for label in labels_of(row))
    if len(counts) != 1 or any(not labels_of(row) for row in rows):
        return None
    what = "tag" if isinstance(rows[0], Tagged) else "label"
    says = f"every training row has the {what} {next(iter(counts))!r} alone: there is nothing to tell apart."
    return Finding(
        True, says, fix=f"Give rows of two {what}s or more, or look whether the right column is read (data.columns).", count=len(rows)
    )


# -- names of labels ---------------------------------------------------------------------------------------------------------------


def label_spellings(rows: Sequence[Row]) -> Finding | None:
    """Names that differ by case, spaces or accents only, and rare ones that are one slip away from a frequent name."""
    places: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        for label in dict.fromkeys(labels_of(row)):
            places[label].append(row)
    counts = {label: len(there) for label, there in places.items()}
    pairs = [*_same_name(counts), *_slips(counts)]
    if not pairs:
        return None
    lines = [
        f"{rare!r} ({_rows(counts[rare])}, the first {places[rare][0].where}) against {usual!r} ({_rows(counts[usual])})"
        for rare, usual in pairs
    ]
    one = "label looks like another one in a second spelling" if len(pairs) == 1 else "labels look like others in a second spelling"
    says = f"{len(pairs)} {one}; each spelling would be a class of its own."
    return Finding(True, says, first(lines), "Write each label in one way.", len(pairs))


def _rows(count: int) -> str:
    return f"{count:,} row" + ("" if count == 1 else "s")


def _bare(name: str) -> str:
    """A name without what a slip changes: case, accents, and which sign stands between its words."""
    letters = unicodedata.normalize("NFKD", name.casefold())
    letters = "".join(" " if letter in "_-\t" else letter for letter in letters if not unicodedata.combining(letter))
    return " ".join(letters.split())


def _same_name(counts: dict[str, int]) -> Iterator[tuple[str, str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name in counts:
        groups[_bare(name)].append(name)
    for names in groups.values():
        usual, *others = sorted(names, key=lambda name: (-counts[name], name))
        yield from ((other, usual) for other in others)


def _slips(counts: dict[str, int]) -> Iterator[tuple[str, str]]:
    """(rare, frequent) names of which a letter inside was lost, added, changed or moved. Digits count as different names."""
    rare = [name for name, count in counts.items() if count <= _FEW and len(name) >= _LONG_NAME]
    frequent = [(name, count) for name, count in counts.items() if count >= _RARE]  # few, whatever stands in the column
    for name in rare:
        for usual, count in frequent:
            if count >= _RARE * counts[name] and abs(len(name) - len(usual)) <= 1 and _bare(name) != _bare(usual) and _slip(name, usual):
                yield name, usual
                break


def _slip(one: str, other: str) -> bool:
    """One edit apart, but at neither end ('read', 'reads'; 'moral', 'amoral') and in no digit."""
    short, long = sorted((one, other), key=len)
    start = next((at for at, (a, b) in enumerate(zip(short, long)) if a != b), len(short))
    if start in (0, len(short)):
        return False
    if len(short) < len(long):
        return short[start:] == long[start + 1 :] and not long[start].isdigit()
    end = next(at for at in range(len(short), start, -1) if short[at - 1] != long[at - 1])
    mine, theirs = short[start:end], long[start:end]
    if len(mine) == 1:
        return end < len(short) and not (mine + theirs).isdigit()
    return len(mine) <= _SWAPPED and sorted(mine) == sorted(theirs)


def label_numbers(train: Sequence[Row], held: Sequence[Row] = ()) -> Finding | None:
    """Numbers among names, whether the file writes them as numbers or, as tables do, as texts. Where most labels are numbers, a name
    among them ('other') may well be meant: that is told. One side may also write numbers for the names of the other."""
    labels = dict.fromkeys(label for row in (*train, *held) if isinstance(row, Labelled) for label in row.labels)
    numbers = [label for label in labels if as_number(label) is not None]
    names = [label for label in labels if as_number(label) is None]
    if not numbers or not names:
        return None
    slipped = len(numbers) <= len(names)
    trained = {label for row in train for label in labels_of(row)}
    apart = bool(trained) and (trained.isdisjoint(numbers) or trained.isdisjoint(names))
    as_numbers = trained.isdisjoint(numbers) if apart else slipped  # is a number what is odd?
    what, odd, beside, usual = ("number", numbers, "names", names) if as_numbers else ("name", names, "numbers", numbers)
    rows = held if apart else (*train, *held)
    found = [row for row in rows if not set(odd).isdisjoint(labels_of(row))]
    says = f"{share(len(found), len(rows))} have a {what} as label ({_quoted(odd)}) among {beside} ({_quoted(usual)}): a class of its own."
    if apart:
        says = (
            f"{share(len(found), len(rows))} of the evaluation have a {what} as label ({_quoted(odd)}), and the training rows have "
            f"{beside} ({_quoted(usual)})."
        )
    fix = f"Write all labels alike{_names_of(numbers, names, apart)}."
    return Finding(slipped, says, first(f"{row.where}: {', '.join(map(repr, labels_of(row)))}" for row in found), fix, len(found))


def _names_of(numbers: Sequence[str], names: Sequence[str], apart: bool) -> str:
    """How `data.label_names` would say what the numbers stand for. It must have every label, so names get numbers that are free.

    apart: the numbers and the names are of the same classes, and are paired in order.
    """
    if not all(map(str.isdecimal, numbers)):  # no key of `data.label_names`
        return ""
    ordered = sorted(numbers, key=int)
    meant = names if apart else []
    pairs = list(zip_longest(ordered, sorted(meant)[: len(ordered)]))
    left = sorted(set(names) - {name for _, name in pairs})
    free = (number for number in map(str, range(len(numbers) + len(names))) if number not in numbers)
    entries = [f"{number}={name or f'class {number}'}" for number, name in pairs] + [f"{next(free)}={name}" for name in left]
    shows = ", ".join(json.dumps(entry, ensure_ascii=False) for entry in entries[:SHOWN]) + ", …" * (len(entries) > SHOWN)
    return (
        f", or say what every number stands for, with an entry for each label, as in data.label_names = [{shows}]"
        + ", where they count so" * apart
    )


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:SHOWN])) + (", …" if len(names) > SHOWN else "")


def label_unknown(train: Sequence[Row], held: Sequence[Row]) -> Finding | None:
    """Rows, each once with all its unknown labels: a row of tags may have the same one many times."""
    known = {label for row in train for label in labels_of(row)}
    lacking = ((row, [label for label in dict.fromkeys(labels_of(row)) if label not in known]) for row in held)
    unknown = [(row, labels) for row, labels in lacking if labels] if known else []
    if not unknown:
        return None
    names = ", ".join(map(repr, sorted({label for _, labels in unknown for label in labels})[:SHOWN]))
    order = sorted(known)
    rows = first(f"{row.where}: " + ", ".join(f"{label!r}{nearest(label, order)}" for label in labels[:SHOWN]) for row, labels in unknown)
    says = f"{_rows(len(unknown))} of the evaluation have labels that no training row has: {names}."
    fix = f"Mend them, or add training rows with those labels. The training rows have: {', '.join(order[:20])}."
    return Finding(True, says, rows, fix, len(unknown), key=_LEAVE_OUT)


# -- copies ------------------------------------------------------------------------------------------------------------------------


def contradictions(rows: Sequence[Row]) -> Finding | None:
    """Of labels, tags and spans: a text may be continued, translated or answered freely in more than one way."""
    if not rows or not isinstance(rows[0], Labelled | Tagged | Question):
        return None
    groups: dict[bytes, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.digest()].append(row)
    against = [group for group in groups.values() if len({tuple(sorted(row.answers())) for row in group}) > 1]
    if not against:
        return None
    count = sum(map(len, against))
    lines = first(f"{_read(group[0])}: " + ", ".join(f"{_said(row)} in {row.where}" for row in _differing(group)) for group in against)
    says = f"{share(count, len(rows))} read like another row and answer otherwise."
    return Finding(count > _CONTRADICTING * len(rows), says, lines, "Decide for one answer, or take both out.", len(against))


def _differing(group: Iterable[Row]) -> list[Row]:
    return list({row.answers(): row for row in reversed(list(group))}.values())[::-1][:3]


def duplicates(rows: Sequence[Row], left_out: int) -> Finding | None:
    """Told, never refused: `data.duplicates` decides what becomes of them."""
    seen: dict[bytes, Row] = {}
    twice = [(seen[digest], row) for row in rows if seen.setdefault(digest := row.digest(whole=True), row) is not row]
    if not twice and not left_out:
        return None
    lines = first(f"{row.where} repeats {before.where}: {_read(row)}" for before, row in twice)
    said = [f"{many(left_out, 'repeated row')} {'was' if left_out == 1 else 'were'} left out."] * bool(left_out)
    said += [f"{share(len(twice), len(rows))} repeat another one, and are kept."] * bool(twice)
    return Finding(False, " ".join(said), lines, count=left_out + len(twice))


def leaks(train: Sequence[Row], held: Sequence[Row]) -> Finding | None:
    pairs = overlap.exact(train, held)
    if not pairs:
        return None
    long = [pair for pair in pairs if sum(len(text.split()) for text in overlap.content(pair.held)) >= _WORDS]
    lines = first(f"{pair.held.where} is {pair.train.where}: {_read(pair.held)}" for pair in long or pairs)
    says = (
        f"{share(len(pairs), len(held))} of the evaluation are among the training rows: the score would rise by what is learned by heart."
    )
    fix = 'Take them out of one side, or leave those training rows out with data.overlap = "drop".'
    return Finding(bool(long) or len(pairs) > _NEAR * len(held), says, lines, fix, len(pairs))


def near_copies(train: Sequence[Row], held: Sequence[Row], given: bool) -> Finding | None:
    pairs = overlap.near(train, held)
    if not pairs:
        return None
    lines = first(
        f"{pair.held.where} against {pair.train.where}, {pair.alike:.0%} alike: {_read(pair.held)} / {_read(pair.train)}" for pair in pairs
    )
    most = _NEAR if given else _NEAR_SPLIT
    says = f"{share(len(pairs), len(held))} of the evaluation are near copies of training rows (other case, spaces or a few words)."
    fix = 'Take them out of one side, or leave those training rows out with data.overlap = "drop".'
    return Finding(len(pairs) > most * len(held), says, lines, fix, len(pairs))


def _read(row: Row) -> str:
    return shown(" | ".join(overlap.content(row)), 60)


def _said(row: Row) -> str:
    return shown(", ".join(row.answers()) or "no answer", 30)
