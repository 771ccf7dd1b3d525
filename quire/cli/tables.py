"""Tables for a terminal: rich where somebody looks at them, plain columns in a pipe, a log or under NO_COLOR."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence

from ..progress import coloured
from .paint import safe


def show(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Collection[int] = (), strong: Collection[tuple[int, int]] = ()
) -> None:
    """Prints a table; columns in `numbers` are set flush right, the (row, column) pairs in `strong` stand out. Cells are made safe."""
    cells = [[safe(cell).replace("\n", " ").replace("\t", " ") for cell in row] for row in rows]
    if not coloured(sys.stdout):
        print("\n".join(_plain([list(head), *cells], numbers)))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    for index, name in enumerate(head):
        table.add_column(name, justify="right" if index in numbers else "left", overflow="fold")
    for number, row in enumerate(cells):
        table.add_row(*(Text(cell, style="bold green" if (number, index) in strong else "") for index, cell in enumerate(row)))
    Console(highlight=False).print(table)


def _plain(rows: list[list[str]], numbers: Collection[int]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index in numbers else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
