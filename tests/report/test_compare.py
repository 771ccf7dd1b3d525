"""Runs side by side: what differs, what came out, and when the figures cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quire.errors import DataError
from quire.report import compare
from tests.report import fake_run
from tests.report.html import assert_self_contained, read


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("two")
    first = fake_run.make(root / "a", steps=200, evaluations=5, samples=2)
    second = fake_run.make(root / "b", steps=100, evaluations=5, samples=2, seed=1, floor=1.4, optim__name="muon", model__width=96)
    return [first, second]


def test_differences_are_those_of_the_recipes(runs: list[Path]) -> None:
    found = dict(compare.differences(compare.read(runs)))
    assert found == {"seed": [0, 1], "model.width": [128, 96], "optim.name": ["adamw", "muon"], "train.steps": [200, 100]}


def test_figures_name_the_best_of_a_row(runs: list[Path]) -> None:
    found = {figure.name: figure for figure in compare.figures(compare.read(runs))}
    assert found["best held-out bits_per_byte"].best() == {1}
    assert found["training loss, last steps"].best() == {1}
    assert found["steps"].values == (200, 100) and found["steps"].best() == set()
    assert compare.Figure("x", (100.0, 100.3), "higher").best() == set()  # within half a per cent of each other
    assert found["bits per byte, as one stream"].values[0] == pytest.approx(1.6, abs=0.1)
    assert compare.Figure("x", (None, 2.0), "lower").best() == set()


def test_the_page_overlays_the_curves(runs: list[Path], tmp_path: Path) -> None:
    path = compare.write(runs, tmp_path / "deep" / "compare.html")
    page = read(path)
    assert_self_contained(page)
    assert [part for part in page.ids if not part.startswith(("c-", "h-"))] == ["figures", "recipes", "steps", "clock", "tip", "data"]
    assert "The best is b with held-out bits per byte 1." in page.words
    data = json.loads(page.scripts[0])
    assert all(len(chart["s"]) == 2 for part in data.values() for chart in part.values())
    assert data["clock"]["clock-0"]["xu"] == "minute"
    assert path.stat().st_size < 500_000


def test_figures_of_different_text_come_with_a_warning(runs: list[Path], tmp_path: Path) -> None:
    other = fake_run.make(tmp_path / "a", steps=60, evaluations=2, samples=2)
    evaluation = json.loads((other / "evaluation.json").read_text())
    (other / "evaluation.json").write_text(json.dumps(evaluation | {"corpus_hash": "00" * 32}))
    (other / "status.json").write_text('{"state": "stopped"}')
    both = compare.read([runs[0], other])
    said = compare.warnings(both)
    assert any("measured on different text" in warning for warning in said)
    assert any("(stopped)" in warning for warning in said)
    page = compare.html(both)
    assert "The best is" not in page and "measured on different text" in page
    assert compare.names(both) == [f"{runs[0].parent.name}/a", f"{tmp_path.name}/a"]


def test_equal_recipes_and_runs_without_anything(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.toml").write_text(f'out = "{name}"\nseed = 3\n')
    page = read(compare.write([tmp_path / "a", tmp_path / "b"], tmp_path / "x.html"))
    assert_self_contained(page)
    assert "Nothing: the recipes are the same" in page.words
    assert "none of the runs has written a step" in page.words


def test_another_number_of_runs_is_refused(runs: list[Path]) -> None:
    with pytest.raises(DataError, match="1 run folders were given; a comparison takes 2 to 8"):
        compare.read(runs[:1])
    with pytest.raises(DataError, match="was given twice"):
        compare.read([runs[0], runs[0]])
    with pytest.raises(DataError, match="is not a run folder"):
        compare.read([runs[0], runs[0].parent])
