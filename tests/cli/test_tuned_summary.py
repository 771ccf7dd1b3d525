"""What `quire train` says of a tuned model: live, and at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quire.cli.train import Live, summary
from quire.report import folder as folders
from quire.train.run import Result
from quire.train.trainer import Outcome
from tests.report import fake_tuned


def finished(folder: Path, model: Path | None) -> Result:
    plan: Any = None  # nothing of it is said at the end
    return Result(folder, Outcome("finished", 60, 60), plan, folders.read(folder).evaluation, model)


def test_the_end_has_the_figures_the_folders_and_the_verb(tmp_path: Path) -> None:
    folder = fake_tuned.make(tmp_path / "run", "classify")
    said = "\n".join(summary(finished(folder, folder / "model")))
    assert (
        "finished at step 60\ntest, 120 rows: accuracy " in said and "% (95 % interval " in said and "held-out, 24 rows: accuracy" in said
    )
    assert f"adapter {folder / 'adapter'}\nmodel   {folder / 'model'}\nreport  {folder / 'report.html'}" in said
    assert said.endswith(f'use it:\n  quire classify {folder / "model"} "A text to be labelled."')


def test_a_soft_prompt_is_used_on_its_base(tmp_path: Path) -> None:
    folder = fake_tuned.make(tmp_path / "a run", "tag", adapt__method="prompt")
    said = "\n".join(summary(finished(folder, None)))
    assert "model   " not in said and "quire tag minilm" in said and said.endswith(f"--adapter '{folder / 'adapter'}'")


def test_nothing_measured_is_said(tmp_path: Path) -> None:
    folder = fake_tuned.make(tmp_path / "run", "classify")
    (folder / "evaluation.json").write_text('{"metric": "accuracy"}')
    said = "\n".join(summary(finished(folder, folder / "model")))
    assert "nothing was held out" in said and "quire classify" in said


@pytest.mark.parametrize(
    ("row", "name", "value"),
    [
        ({"metric": "accuracy", "accuracy": 0.8215}, "held-out accuracy", "82.2 %"),
        ({"metric": "mrr@10", "mrr@10": 0.5}, "held-out MRR@10", "0.500"),
        ({"metric": "bits_per_byte", "bits_per_byte": 1.5}, "held-out", "1.500 bits/byte"),
    ],
)
def test_the_live_line_names_the_metric(row: dict[str, Any], name: str, value: str) -> None:
    live = Live()
    live.on_eval(row)
    assert (live.metric, live.held_out) == (name, value)
