"""Numbers as progress and messages say them."""

from __future__ import annotations

from typing import Any

import pytest

from quire.data.ledger import Ledger
from quire.data.rows import RowSets
from quire.progress import count, many


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "0"), (7, "7"), (36.6924, "36.7"), (322.374, "322"), (999.7, "1k"), (1234, "1.23k"), (999_999, "1M"), (1_234_567, "1.23M")],
)
def test_figures_have_three_digits(number: float, said: str) -> None:
    assert count(number) == said


def test_one_thing_is_not_several() -> None:
    assert [many(number, "row") for number in (0, 1, 2, 1200)] == ["0 rows", "1 row", "2 rows", "1,200 rows"]
    ledger = Ledger()
    ledger.look("readable", lambda: None)
    assert ledger.said()[0].startswith("checked: 1 of 1 check of the rows found nothing")
    one: list[Any] = [None]
    assert RowSets(one, [], [], {"train": 1, "test": 0}, 1).lines() == [
        "1 row to train on, 0 held out, 0 to test on",
        "left out: 1 repeated train row",
        "left out: 1 training row that the evaluation reads too",
    ]
