"""Which labels are taken for which: a matrix that can be read with two labels and with a hundred, and rows behind its largest cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .folder import Row, Run, number
from .mistakes import row_card
from .page import Absent, Part, escape, grouped, table
from .supervised import Split, judged

_GRID = 15  # labels in the matrix; of more, those with the most errors
_PAIRS = 8  # confusions listed with rows
_ROWS = 3  # rows of each
_LISTED = 12  # labels in the table before the rest is folded


@dataclass(frozen=True)
class Matrix:
    """counts[wanted][found]."""

    labels: Sequence[str]
    counts: Sequence[Sequence[int]]

    def wanted(self, label: int) -> int:
        return sum(self.counts[label])

    def found(self, label: int) -> int:
        return sum(row[label] for row in self.counts)

    def errors(self, label: int) -> int:
        """Rows of the label that were called otherwise, and rows of others that were called so."""
        return self.wanted(label) + self.found(label) - 2 * self.counts[label][label]

    def worst(self) -> list[int]:
        return sorted(range(len(self.labels)), key=lambda label: -self.errors(label))


def matrix(split: Split) -> Matrix | None:
    """The table "confusion" of a set of rows; None where there is none, or none that can be read."""
    table = split.tables.get("confusion")
    if not isinstance(table, dict):
        return None
    labels, counts = table.get("labels"), table.get("counts")
    if not isinstance(labels, list) or not isinstance(counts, list) or len(labels) < 2 or len(counts) != len(labels):
        return None
    whole = [[number(value) for value in row] if isinstance(row, list) else [] for row in counts]
    if any(len(row) != len(labels) or any(value is None or value < 0 for value in row) for row in whole):
        return None
    return Matrix([str(label) for label in labels], [[int(value or 0) for value in row] for row in whole])


def part(run: Run) -> Part | Absent | None:
    """None for a run whose task has no confusion matrix."""
    split = judged(run)
    found = matrix(split) if split else None
    if split is None or found is None:
        return None
    count = len(found.labels)
    many = count > _GRID
    shown = found.worst()[:_GRID] if many else list(range(count))
    which = f"The {_GRID} of {count} labels with the most errors, the worst first. " if many else ""
    say = (
        f'<p class="say">{which}A row is a label that was wanted, a column one that was found: what stands off the diagonal is wrong. '
        f"Of the {grouped(split.rows)} {split.called} rows, {grouped(sum(map(sum, found.counts)) - _right(found))} are.</p>"
    )
    pairs = _pairs(split, found)
    labels = _labels(found) if count > 2 else ""
    html = (
        f'{say}<div class="confusion">{_grid(found, shown)}</div>' + (f"<h3>The largest confusions</h3>{pairs}" if pairs else "") + labels
    )
    return Part("confusion", "Taken for one another", html)


def _right(found: Matrix) -> int:
    return sum(found.counts[label][label] for label in range(len(found.labels)))


def _grid(found: Matrix, shown: Sequence[int]) -> str:
    """Shaded by the share of the wanted label's rows; rows that went to a label that is not shown stand in a last column."""
    rest = len(shown) < len(found.labels)
    turned = len(shown) > 5
    head = "".join(f'<th scope="col"><span>{escape(found.labels[label])}</span></th>' for label in shown)
    head += '<th scope="col"><span class="dim">others</span></th>' if rest else ""
    rows = []
    for wanted in shown:
        total = found.wanted(wanted)
        cells = [_shade(found.counts[wanted][label], total, label == wanted, f"{found.labels[wanted]}, found as {found.labels[label]}")
                 for label in shown]  # fmt: skip
        if rest:
            others = total - sum(found.counts[wanted][label] for label in shown)
            cells.append(_shade(others, total, False, f"{found.labels[wanted]}, found as a label not shown"))
        share = f"{100 * found.counts[wanted][wanted] / total:.0f} %" if total else "–"
        name = escape(found.labels[wanted])
        rows.append(f'<tr><th scope="row">{name}</th>{"".join(cells)}<td class="n">{grouped(total)}</td><td class="n">{share}</td></tr>')
    head = f'<tr><td class="corner">wanted ↓ found →</td>{head}<th scope="col" class="n">rows</th><th scope="col" class="n">right</th></tr>'
    return f'<div class="scroll"><table class="matrix{" turned" if turned else ""}"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'


def _shade(count: int, total: int, right: bool, said: str) -> str:
    weight = count / total if total else 0.0
    kind, shown = "right" if right else "wrong", grouped(count) if count else '<span class="dim">·</span>'
    return f'<td class="{kind}" style="--w:{weight:.3f}" title="{escape(f"{said}: {count:,} of {total:,}")}">{shown}</td>'


def _pairs(split: Split, found: Matrix) -> str:
    every = [
        (found.counts[wanted][other], wanted, other)
        for wanted in range(len(found.labels))
        for other in range(len(found.labels))
        if wanted != other and found.counts[wanted][other]
    ]
    every.sort(key=lambda cell: -cell[0])
    blocks = []
    for count, wanted, other in every[:_PAIRS]:
        names = found.labels[wanted], found.labels[other]
        rows = sorted((row for row in split.answers if _is(row, *names)), key=lambda row: -(number(row.get("score")) or 0))
        cards = "".join(row_card(row, spoken=False) for row in rows[:_ROWS])
        share = f"{100 * count / found.wanted(wanted):.0f} % of its rows"
        blocks.append(
            f"<li><p><b>{escape(names[0])}</b> taken for <b>{escape(names[1])}</b> "
            f'<span class="dim">{grouped(count)} times, {share}</span></p>{cards}</li>'
        )
    more = f'<p class="note">{len(every) - _PAIRS:,} smaller confusions are not listed.</p>' if len(every) > _PAIRS else ""
    surest = ' <p class="note">Of each, the rows of which the model was surest.</p>' if any(split.answers) and blocks else ""
    return f'<ol class="pairs">{"".join(blocks)}</ol>{surest}{more}' if blocks else ""


def _is(row: Row, wanted: str, found: str) -> bool:
    said: Any = row.get("wanted")
    return isinstance(said, list) and [str(one) for one in said[:1]] == [wanted] and str(row.get("label")) == found


def _labels(found: Matrix) -> str:
    """Every label with what was right of it, the worst first."""
    rows = []
    for label in found.worst():
        right, wanted, said = found.counts[label][label], found.wanted(label), found.found(label)
        recall = 100 * right / wanted if wanted else None
        rows.append(
            (
                escape(found.labels[label]),
                grouped(wanted),
                "–" if recall is None else f"{recall:.0f} %",
                f"{100 * right / said:.0f} %" if said else "–",
                grouped(wanted - right),
                grouped(said - right),
            )
        )
    head = ("label", "rows", "recall", "precision", "missed", "wrongly called so")
    first = table(head, rows[:_LISTED], numbers=range(1, 6))
    rest = rows[_LISTED:]
    more = (
        f"<details><summary>{len(rest)} more labels, with fewer errors</summary>{table(head, rest, numbers=range(1, 6))}</details>"
        if rest
        else ""
    )
    return f"<h3>Label by label, the most errors first</h3>{first}{more}"
