"""What a tuned model got wrong: stretches and answers by the kind of mistake, and the rows on which it was furthest off or surest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..metrics.rouge import rouge
from ..metrics.spans import answer_f1, exact_match
from .folder import Row, Run, number
from .page import Absent, Part, escape, grouped, table
from .supervised import Split, answered, judged, say, task

_WORST = 12  # rows listed
_LONGEST = 300  # characters of a text on the page
_PARAGRAPH = 700  # of a text that was written
_MEASURED = 400  # texts compared for the worst of them
_NAMES = {"span_errors": "Stretches that are not right", "errors": "Answers that are not right"}
_MEANS = {
    "missed": "wanted, and nothing was found there",
    "invented": "found where nothing is wanted",
    "wrong type": "the right words, called otherwise",
    "wrong boundary": "the right label, on other words",
    "wrong type and boundary": "neither, though they touch",
    "found where there is none": "the text does not answer the question, and one was given",
    "none found": "there is an answer, and the model said there was none",
    "too long": "holds a wanted answer and more",
    "too short": "a part of a wanted answer",
    "partly": "shares words with a wanted answer",
    "elsewhere": "shares no word with a wanted answer",
}


def short(text: object, most: int = _LONGEST) -> str:
    """Text of a row as HTML, its end cut."""
    said = str(text)
    return escape(said if len(said) <= most else said[:most] + "…")


def row_card(row: Row, *, spoken: bool = True, note: str = "", found: Any = None) -> str:
    """One row with its place: what is read, and (`spoken`) what was wanted and what was found."""
    reads = row.get("reads")
    texts = [short(text) for text in reads if text] if isinstance(reads, list) else []
    score = number(row.get("score"))
    sure = f"{100 * score:.0f} % sure" if score is not None and 0 <= score <= 1 and "label" in row else ""
    tail = " · ".join(part for part in (f"<code>{escape(row.get('where', ''))}</code>", sure, note) if part)
    said = answered(row) if found is None else found
    both = _both(row.get("wanted"), said) if spoken else ""
    body = "".join(f"<p>{text}</p>" for text in texts)
    return f'<div class="case">{body}{both}<small>{tail}</small></div>'


def _both(wanted: Any, found: Any) -> str:
    return f'<dl><dt>wanted</dt><dd class="good">{_words(wanted)}</dd><dt>found</dt><dd class="bad">{_words(found)}</dd></dl>'


def _words(value: Any) -> str:
    if isinstance(value, list):
        return "<br>".join(short(one, _PARAGRAPH) for one in value) or '<span class="dim">nothing</span>'
    return short(value, _PARAGRAPH) if value not in (None, "") else '<span class="dim">nothing</span>'


def part(run: Run) -> Part | Absent | None:
    """Mistakes by kind, where the task tells kinds apart; None for a task that does not."""
    split = judged(run)
    if split is None:
        return None
    blocks = [_kinds(title, split.tables[name]) for name, title in _NAMES.items() if isinstance(split.tables.get(name), dict)]
    labels = _labels(split.tables.get("labels"))
    html = labels + "".join(blocks) + _served(split.tables.get("served"))
    return Part("mistakes", "Mistakes by kind", html) if html else None


def _kinds(title: str, found: Row) -> str:
    counts, examples = found.get("counts"), found.get("examples")
    known = {str(kind): value for kind, raw in counts.items() if (value := number(raw)) is not None} if isinstance(counts, dict) else {}
    if not any(known.values()):
        return ""
    top = max(known.values())
    bars = "".join(
        f'<tr><th scope="row">{escape(kind)}<small>{_MEANS.get(kind, "")}</small></th>'
        f'<td><i style="width:{100 * value / top:.2f}%"></i></td><td class="n">{grouped(value)}</td></tr>'
        for kind, value in sorted(known.items(), key=lambda pair: -pair[1])
    )
    listed = []
    for kind in sorted(known, key=lambda name: -known[name]):
        rows = examples.get(kind) if isinstance(examples, dict) else None
        cards = "".join(_example(row) for row in rows if isinstance(row, dict)) if isinstance(rows, list) else ""
        if cards:
            shown = sum(isinstance(row, dict) for row in rows or ())
            listed.append(
                f"<details{' open' if not listed else ''}><summary>{escape(kind)}: {shown} of {grouped(known[kind])}</summary>{cards}</details>"
            )
    return (
        f'<div class="grid2 kinds"><figure class="bars named"><figcaption><span class="title">{title}</span></figcaption>'
        f"<table><tbody>{bars}</tbody></table></figure><div>{''.join(listed)}</div></div>"
    )


def _example(row: Row) -> str:
    reads = [row[key] for key in ("text", "question") if row.get(key)]
    return row_card({"reads": reads, "where": row.get("where", ""), "wanted": row.get("wanted")}, found=row.get("found"))


def _labels(rows: Any) -> str:
    """Precision, recall and F1 of every label of a tagger, the one with the most stretches first."""
    known = [row for row in rows if isinstance(row, dict) and isinstance(row.get("label"), str)] if isinstance(rows, list) else []
    if not known:
        return ""
    lines = [
        (
            escape(row["label"]),
            grouped(number(row.get("wanted")) or 0),
            grouped(number(row.get("found")) or 0),
            *(say("f1", number(row.get(key)) or 0.0) for key in ("precision", "recall", "f1")),
        )
        for row in sorted(known, key=lambda row: -(number(row.get("wanted")) or 0))
    ]
    return table(("label", "stretches wanted", "found", "precision", "recall", "F1"), lines, numbers=range(1, 6))


def _served(found: Any) -> str:
    rows, same = (number(found.get(key)) for key in ("rows", "same")) if isinstance(found, dict) else (None, None)
    if not rows or same is None:
        return ""
    return f'<p class="note"><code>quire tag</code> finds the same stretches in the joined text of {grouped(same)} of {grouped(rows)} rows.</p>'


# -- the rows that it was furthest off on ---------------------------------------------------------------------------------------------


def worst(run: Run) -> Part | Absent | None:
    """The surest wrong answers, or what was furthest off, with the place of every row; None where answers are not of that kind."""
    split = judged(run)
    if split is None or not split.answers:
        return None
    title, say_, cards = _ranked(task(run), split)
    if not cards:
        return None
    return Part("worst", title, f'<p class="say">{say_}</p><div class="cases">{"".join(cards)}</div>')


def _ranked(name: str, split: Split) -> tuple[str, str, list[str]]:
    """(title, what is said above, the rows as HTML)."""
    rows = split.answers
    look = "Look at these first: a wrong row of the data often stands among them."
    if any("label" in row for row in rows):
        found = _most(rows, lambda row: number(row.get("score")) if "label" in row and [str(row["label"])] != _wanted(row)[:1] else None)
        return "The surest wrong answers", f"Wrong, and the model was sure. {look}", [row_card(row) for row, _ in found]
    if any("labels" in row for row in rows):
        found = _most(
            rows,
            lambda row: (
                float(len(set(map(str, row["labels"])) ^ set(_wanted(row)))) or None if isinstance(row.get("labels"), list) else None
            ),
        )
        return "The rows furthest off", f"Most labels too many or too few. {look}", [row_card(row) for row, _ in found]
    if name == "answer":
        found = _most(rows, lambda row: number(row.get("score")) if not _held(row) else None)
        said = f"No word in common with what was wanted, and the model gave them a high score. {look}"
        return "The surest wrong answers", said, [row_card(row) for row, _ in found]
    if any("number" in row for row in rows):
        found = _most(
            rows, lambda row: abs(a - b) if (a := number(row.get("number"))) is not None and (b := _number(row)) is not None else None
        )
        return (
            "The rows furthest off",
            f"Number found beside number given. {look}",
            [row_card(row, note=f"{gap:.3g} off") for row, gap in found],
        )
    if any("places" in row for row in rows):
        found = _most(rows, lambda row: place if (place := _place(row)) > 1 else None)
        return "The rows furthest off", "What belongs to the text stands far down the list.", [_far(row) for row, _ in found]
    if any("text" in row or "answer" in row for row in rows):
        pairs = [row for row in rows if isinstance(answered(row), str)][:_MEASURED]
        scores = rouge([answered(row) for row in pairs], [" ".join(_wanted(row)) for row in pairs]) if pairs else []
        each = {id(row): score.longest for row, score in zip(pairs, scores)}
        found = _most(pairs, lambda row: 1 - each[id(row)] if each[id(row)] < 1 else None)
        said = f"The least words in common with what was wanted (ROUGE-L), of the first {grouped(len(pairs))} rows. {look}"
        return "The texts furthest off", said, [row_card(row, note=f"ROUGE-L {say('rougeL', 1 - gap)}") for row, gap in found]
    return "", "", []


def _most(rows: Sequence[Row], off: Callable[[Row], float | None]) -> list[tuple[Row, float]]:
    """The rows of the largest `off`, which is None for rows that are right."""
    found = [(row, value) for row in rows if (value := off(row)) is not None]
    return sorted(found, key=lambda pair: -pair[1])[:_WORST]


def _wanted(row: Row) -> list[str]:
    wanted = row.get("wanted")
    return [str(one) for one in wanted] if isinstance(wanted, list) else []


def _number(row: Row) -> float | None:
    try:
        return float(_wanted(row)[0])
    except (IndexError, ValueError):
        return None


def _held(row: Row) -> bool:
    """Is the answer one of those wanted, or does it share a word with one?"""
    text, wanted = str(row.get("answer", "")), _wanted(row)
    return bool(exact_match([text], [wanted]) or answer_f1([text], [wanted]))


def _place(row: Row) -> float:
    """Where the first right candidate stands; 0 where the file does not say."""
    places = row.get("places")
    return (number(places[0]) if isinstance(places, list) and places else None) or 0.0


def _far(row: Row) -> str:
    first = f"first instead: {short(row['first'])}" if row.get("first") else ""
    where = f"<code>{escape(row.get('where', ''))}</code> · stands at place {grouped(_place(row))}"
    reads = row.get("reads")
    body = "".join(f"<p>{short(text)}</p>" for text in reads[:2]) if isinstance(reads, list) else ""
    return f'<div class="case">{body}{f"<p>{first}</p>" if first else ""}<small>{where}</small></div>'
