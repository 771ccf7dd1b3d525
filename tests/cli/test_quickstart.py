"""The quickstart end to end on a little text of the user's own: killed, resumed with equal bits, measured, tampered with, reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from quire.cli import proofs, quickstart
from quire.errors import BindingError, CheckpointError


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run folder and what a person read."""
    folder = tmp_path_factory.mktemp("quick start")
    source = Path(json.__file__).parent.parent
    texts = [
        str(source / name) for name in ("argparse.py", "typing.py", "pathlib.py", "tarfile.py", "zipfile.py", "json", "email", "asyncio")
    ]
    words = [sys.executable, "-m", "quire.cli.main", "quickstart", "--minutes", "0.5", "--out", str(folder / "run"), "--text", *texts]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env={**os.environ, "NO_COLOR": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run", done.stdout + done.stderr


def test_it_is_killed_and_comes_to_the_same_bits(told: tuple[Path, str]) -> None:
    run, text = told
    assert "Killed in the middle" in text and text.count("  equal") >= 2 and "DIFFERENT" not in text
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if '"event"' in line]
    assert "resumed" in [event["what"] for event in events]
    assert not (run / "shadow").exists()


def test_it_leaves_figures_a_certificate_and_pages(told: tuple[Path, str]) -> None:
    run, text = told
    figures = json.loads((run / "evaluation.json").read_text())
    assert 0 < figures["bits_per_byte"]["per_file"] < 8 and set(figures["compressors"]) == {"gzip", "bzip2", "xz"}
    assert json.loads((run / "model" / "certificate.json").read_text())["ok"]
    assert (run / "report.html").stat().st_size > 10_000 and (run / "MODEL_CARD.md").is_file()
    assert "'model.layers." in text and "chat_template.jinja" in text  # the flipped bit and the changed character, by name


def test_it_ends_with_a_search_or_says_how_to_get_it(told: tuple[Path, str]) -> None:
    from quire import minilm

    text = told[1].partition("Search by meaning")[2]
    assert "quire search 'parse an ISO date'" in text
    assert ("datetime.date.fromisoformat" in text) if minilm.there() else ("pip install 'quire[minilm]'" in text)


def test_a_second_one_destroys_nothing(told: tuple[Path, str]) -> None:
    run, _ = told
    assert quickstart.free_folder(run) == run.with_name("run-2")


def test_tampering_that_went_unnoticed_would_be_an_error(told: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quire.binding.check", lambda folder: None)
    with pytest.raises(BindingError, match="did not notice"):
        proofs.tamper(told[0] / "model")


def test_the_proof_needs_two_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-00000010").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="holds 1 checkpoints where the proof needs two"):
        proofs.set_shadow_aside(tmp_path)


def test_other_bits_are_seen(tmp_path: Path) -> None:
    for folder, sha in (("checkpoints", "a"), ("shadow", "b")):
        place = tmp_path / folder / "step-00000010"
        place.mkdir(parents=True)
        files = {name: {"sha256": sha * 64} for name in ("weights.safetensors", "optimizer.safetensors")}
        (place / "manifest.json").write_text(json.dumps({"files": files}))
    equal, lines = proofs.compare(tmp_path, 10)
    assert not equal and all("DIFFERENT" in line for line in lines)


def test_minutes_must_be_above_zero() -> None:
    from quire.errors import RecipeError

    with pytest.raises(RecipeError, match="--minutes 0 must be above 0"):
        quickstart.run(["--minutes", "0"])
