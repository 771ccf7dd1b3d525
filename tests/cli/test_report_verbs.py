"""`quire report`, `runs`, `compare` and `doctor` as a user meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quire.cli import doctor
from quire.cli.main import main
from tests.report import fake_run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    fake_run.make(root / "a", steps=60, evaluations=3, samples=2)
    fake_run.make(root / "deep" / "b", steps=60, evaluations=3, samples=2, seed=1, optim__lr=0.01)
    (root / "broken").mkdir()
    (root / "broken" / "status.json").write_text('{"state": "runn')
    (root / "empty").mkdir()
    return root


def test_report_prints_what_it_wrote(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(root / "a")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [str(root / "a" / name) for name in ("report.html", "MODEL_CARD.md", "model/README.md")]
    assert all(Path(line).stat().st_size > 500 for line in lines)
    (root / "a" / "MODEL_CARD.md").write_text("mine")
    assert main(["report", str(root / "a"), "--json"]) == 0
    caught = capsys.readouterr()
    assert json.loads(caught.out) == [lines[0], lines[2]]
    assert "was edited and stays as it is" in caught.err
    assert main(["report", str(root / "a"), "--no-card"]) == 0
    assert capsys.readouterr().out.splitlines() == lines[:1]


def test_report_of_nothing_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(root / "empty")]) == 2
    assert "empty is not a run folder: it has none of recipe.toml" in capsys.readouterr().err


def test_runs_lists_them_and_names_the_damaged(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(root)]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].split() == ["run", "state", "step", "parameters", "best", "minutes", "started"]
    assert any(line.startswith("a ") and "finished" in line and "1.05M" in line and "bits per byte" in line for line in lines)
    assert any(line.startswith("deep/b ") for line in lines)
    assert "broken: status.json cannot be read (JSONDecodeError)" in lines
    assert "\x1b" not in out
    assert not any(line.startswith("empty") for line in lines)


def test_runs_as_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(root), "--json"]) == 0
    found = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert set(found) == {"a", "deep/b", "broken"}
    assert found["a"]["metric"] == "bits_per_byte" and found["a"]["steps"] == 60 and found["a"]["damaged"] is None
    assert found["broken"]["state"] == "damaged"


def test_runs_where_there_are_none(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(root / "empty")]) == 0
    assert "There is no run in" in capsys.readouterr().out
    assert main(["runs", str(root / "nowhere")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_compare_prints_and_writes(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", str(root / "a"), str(root / "deep" / "b"), "--out", str(tmp_path / "c.html")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "best held-out bits per byte" in out and "optim.lr" in out and out.splitlines()[-1] == str(tmp_path / "c.html")
    assert (tmp_path / "c.html").read_text().startswith("<!doctype html>")
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recipe"]["optim.lr"] == {"a": 0.001, "b": 0.01} and found["warnings"] == []
    assert main(["compare", str(root / "a")]) == 2
    assert "1 run folders were given" in capsys.readouterr().err


def test_tables_have_colour_on_a_terminal_only(root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quire.cli.tables.coloured", lambda out: True)
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["runs", str(root)]) == 0
    out = capsys.readouterr().out
    assert "─" in out and "deep/b" in out


def test_doctor_says_what_it_will_use_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["torch"] == torch.__version__ and found["dtype"] in ("fp32", "bf16", "fp16") and found["threads_granted"] >= 1
    assert set(found["extras"]) == {"fast", "data", "minilm", "structured", "serve", "redis", "otel", "tensorboard", "mlflow", "wandb"}
    assert found["disk_free_mb"] > 0 and found["memory_available_mb"] > 0
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for said in ("processor", "instructions", "threads", "memory", "trains on", found["dtype_reason"], "extras"):
        assert said in out


def test_doctor_gives_the_reason_for_each_number_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quire.machine.instruction_sets", lambda: ("avx2",))
    assert doctor.reason(torch.device("cpu"), "fp32").startswith("this processor has no bf16 instructions")
    monkeypatch.setattr("quire.machine.instruction_sets", lambda: ("avx512_bf16", "amx_bf16"))
    assert doctor.reason(torch.device("cpu"), "bf16").endswith("(amx_bf16)")
    assert "older than Ampere" in doctor.reason(torch.device("cuda"), "fp16")
    assert "bf16 in hardware" in doctor.reason(torch.device("cuda"), "bf16")
    assert "MPS" in doctor.reason(torch.device("mps"), "fp32")


def test_doctor_notes_what_is_worth_mending() -> None:
    poor = {"disk_free_mb": 500, "threads": 8, "threads_granted": 2, "memory_available_mb": 300}
    said = " ".join(doctor.notes(poor))
    assert "only 500 MB of disk" in said and "8 threads where 2 are granted" in said and "train.micro_batch" in said
    assert doctor.notes({"disk_free_mb": 90_000, "threads": 2, "threads_granted": 2, "memory_available_mb": 9000}) == []


def test_reports_need_no_torch(root: Path) -> None:
    code = (
        "import sys; from quire.cli.main import main\n"
        f"assert main(['report', {str(root / 'deep' / 'b')!r}]) == 0 and main(['runs', {str(root)!r}]) == 0\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
