"""`quire bench` says what it measured where that is not what was asked, and what a share above the limit means."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quire.cli.main import main
from quire.engine import measure
from quire.engine.measure import Limits, Measured
from tests.small import write_model


def test_a_prompt_that_is_cut_and_a_share_above_the_limit_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []

    def found(loaded: Any, streams: Any, prompt: int, tokens: int) -> Iterator[Limits | Measured]:
        asked.append(prompt)
        yield Limits(1e9, 1e9)
        yield Measured("read", 1, 10.0, 9.0, 11.0, 2.0)

    monkeypatch.setattr(measure, "measure", found)
    assert main(["bench", str(write_model(tmp_path / "m")), "--prompt", "5000", "--tokens", "8"]) == 0
    shown = capsys.readouterr()
    assert asked == [56] and "prompts have 56 tokens, not 5,000: the model has 64 positions in all" in shown.err
    assert "reads a prompt of 56" in shown.out and "above 100%: the limits are of main memory" in shown.out
