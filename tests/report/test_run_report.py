"""A run's page: whole, self-contained, safe from what the run wrote, honest about what is absent."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from quire import durable
from quire.errors import DataError
from quire.report import card
from quire.report import folder as folders
from quire.report.run import write
from tests.report import fake_run
from tests.report.html import assert_self_contained, read

PARTS = [
    "curves",
    "outcome",
    "samples",
    "surprise",
    "attention",
    "plan",
    "events",
    "text",
    "tokenizer",
    "certificate",
    "environment",
    "recipe",
]


def test_a_finished_run_has_every_part(folder: Path) -> None:
    path = write(folder)
    assert path == folder / "report.html"
    page = read(path)
    assert_self_contained(page)
    assert [part for part in page.ids if part in PARTS] == PARTS
    assert "absent" not in page.ids
    assert "A llama decoder of 1.05 million parameters, trained from scratch on the source of the Python standard library" in page.words
    assert re.search(
        r"predicts held-out text at 1\.6\d\d bits per byte\. File by file, that is 3\d % less than the 2\.352 of xz", page.words
    )
    for said in (
        "Each file alone",
        "All files as one stream",
        "gzip",
        "bzip2",
        "this model",
        "Learning rate",
        "Gradient norm",
        "Memory",
        "Throughput",
    ):
        assert said in page.words
    data = json.loads(page.scripts[0])
    assert {"curves", "samples", "surprise", "attention"} == set(data)
    assert len(data["surprise"]["bits"]) == len(data["surprise"]["steps"]) == 6


def test_only_the_script_whose_hash_is_named_may_run(folder: Path) -> None:
    page = read(write(folder))
    policy = next(value for tag, name, value in page.attributes if tag == "meta" and name == "content" and "script-src" in value)
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "http:" not in page.scripts[1].replace("http://www.w3.org/2000/svg", "")
    assert "innerHTML" not in page.scripts[1]


def test_what_a_run_wrote_stays_text(tmp_path: Path) -> None:
    folder = fake_run.make(tmp_path / "<b>run</b>", steps=60, evaluations=3, samples=2, hostile=True)
    page = read(write(folder))
    assert_self_contained(page)
    assert not any(name == "onerror" or ("alert" in value and tag == "img") for tag, name, value in page.attributes)
    assert "</script><script>alert(1)</script><img src=x onerror=alert(2)>" in page.words
    assert "\u202e" not in write(folder).read_text(encoding="utf-8")
    data = json.loads(page.scripts[0])
    assert "</script><script>alert(1)</script>" in data["attention"]["t"][2]
    assert "<" not in page.scripts[0]


def test_a_big_run_stays_below_a_megabyte_and_a_half(tmp_path: Path) -> None:
    folder = fake_run.make(tmp_path / "big", steps=12_000, evaluations=150, samples=2)
    rows = [{"step": 10 * i, "prompt": "def parse_", "text": "x" * 20_000, "parses": 0.5} for i in range(400)]
    fake_run._lines(folder / "samples.jsonl", rows)
    tokens = [f" token{i}" for i in range(5000)]
    surprise: list[dict[str, Any]] = [{"step": 80 * i, "bits": [3.14159] * 5000} for i in range(150)]
    surprise[0] |= {"file": "big.py", "tokens": tokens}
    fake_run._lines(folder / "surprise.jsonl", surprise)
    path = write(folder)
    assert path.stat().st_size < 1_500_000
    page = read(path)
    assert "60 of 400 moments are shown" in page.words
    assert "first 1,500 of 5,000 tokens" in page.words
    assert "16000 more characters" in page.words
    assert "mean of 50 steps" in page.words


REASONS = {
    "metrics.jsonl": "metrics.jsonl holds no step and no evaluation",
    "evaluation.json": "evaluation.json was not written",
    "samples.jsonl": "samples.jsonl holds no sample",
    "surprise.jsonl": "surprise.jsonl holds no scored file",
    "attention.json": "attention.json was not written",
    "plan.json": "plan.json was not written",
    "tokenizer_report.json": "tokenizer_report.json was not written",
    "environment.json": "environment.json was not written",
    "recipe.toml": "recipe.toml was not written",
    "data": "holds no data/train.json",
}


@pytest.mark.parametrize("name", REASONS)
def test_a_part_without_its_data_is_absent_and_says_why(folder: Path, name: str) -> None:
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = read(write(folder))
    assert_self_contained(page)
    assert REASONS[name] in page.words
    assert "What is wrong" not in page.words


def test_the_barest_run_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"state": "running", "step": 0, "steps": 10}')
    page = read(write(tmp_path))
    assert_self_contained(page)
    assert not set(PARTS) & set(page.ids)
    assert "was interrupted at step 0 of 10: its process is gone" in page.words
    assert page.words.count("was not written") >= 5


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "evaluation.json", "samples.jsonl", "surprise.jsonl", "attention.json", "plan.json", "recipe.toml"]
)
def test_a_damaged_file_is_named(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(b"\x00{]garbage\n" + path.read_bytes()[:-20])
    page = read(write(folder))
    assert_self_contained(page)
    assert "What is wrong with this run’s files" in page.words
    assert name in page.words


def test_an_unfinished_last_line_is_no_damage(folder: Path) -> None:
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"kind": "step", "step": 30')
    assert folders.read(folder).problems == []


def test_bytes_that_are_not_text_are_named(folder: Path) -> None:
    (folder / "plan.json").write_bytes(b"\xff\xfe\x00")
    (folder / "model" / "model.safetensors").write_bytes(b"\xff" * 64)
    (folder / "status.json").write_text("")
    problems = folders.read(folder).problems
    assert any("plan.json cannot be read (UnicodeDecodeError)" in problem for problem in problems)
    assert any("model/model.safetensors has no readable header" in problem for problem in problems)
    assert any("status.json is empty" in problem for problem in problems)


WRONG: list[Any] = [None, "words", -1, [], {}, True, 1e300, 10**400, [[1], "x"], {"a": {"b": [None]}}, float("nan")]


def _damage(value: Any, draw: random.Random) -> Any:
    """`value` with one of its leaves or branches replaced by something else that JSON can hold."""
    if not isinstance(value, dict | list) or not value or draw.random() < 0.2:
        return draw.choice(WRONG)
    if isinstance(value, list):
        place: Any = draw.randrange(len(value))
        return [_damage(item, draw) if i == place else item for i, item in enumerate(value)]
    place = draw.choice(list(value))
    return {key: _damage(item, draw) if key == place else item for key, item in value.items()}


@pytest.mark.parametrize(
    "name", ["plan.json", "evaluation.json", "status.json", "environment.json", "attention.json", "tokenizer_report.json", "lines"]
)
def test_values_of_the_wrong_kind_never_stop_a_report(finished: Path, tmp_path: Path, name: str) -> None:
    draw = random.Random(name)
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    for round_ in range(4):
        if name == "lines":
            for file in ("metrics.jsonl", "samples.jsonl", "surprise.jsonl"):
                rows = [json.loads(line) for line in (finished / file).read_text().splitlines()]
                (folder / file).write_text("".join(json.dumps(_damage(row, draw) if draw.random() < 0.3 else row) + "\n" for row in rows))
        else:
            for file in (name, *(("model/certificate.json", "model/binding.json", "data/train.json") if name == "plan.json" else ())):
                (folder / file).write_text(json.dumps(_damage(json.loads((finished / file).read_text()), draw)))
        try:
            assert_self_contained(read(write(folder)))
            assert "## Licence" in card.markdown(folders.read(folder))
        except Exception as error:
            raise AssertionError(f"round {round_} of {name}") from error


def test_rows_written_twice_by_a_resume_count_once(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"kind": "step", "step": step, "loss": 5.0} for step in range(1, 8)]
    rows += [{"kind": "eval", "step": 6, "bits_per_byte": 9.0}, {"kind": "event", "step": 4, "what": "resumed"}]
    rows += [{"kind": "step", "step": step, "loss": 1.0} for step in (5, 6)]
    fake_run._lines(tmp_path / "metrics.jsonl", rows)
    run = folders.read(tmp_path)
    assert [(row["step"], row["loss"]) for row in run.steps] == [(1, 5.0), (2, 5.0), (3, 5.0), (4, 5.0), (5, 1.0), (6, 1.0)]
    assert run.evals == []


def test_a_run_whose_lock_is_held_is_running(folder: Path) -> None:
    (folder / "status.json").write_text('{"state": "running", "step": 5, "steps": 9}')
    assert folders.read(folder).state == "interrupted"
    with durable.lock(folder):
        assert folders.read(folder).state == "running"
        assert "still going on at step 5 of 9" in read(write(folder)).words
    assert folders.read(folder).state == "interrupted"


def test_the_best_evaluation_follows_the_direction_that_the_task_names(tmp_path: Path) -> None:
    def best(rows: list[dict[str, Any]]) -> tuple[str, float, int] | None:
        fake_run._lines(tmp_path / "metrics.jsonl", [{"kind": "eval", **row} for row in rows])
        return folders.read(tmp_path).best()

    assert best([{"step": i, "bits_per_byte": v} for i, v in ((1, 3.0), (2, 2.0), (3, 2.5))]) == ("bits_per_byte", 2.0, 2)
    assert best([{"step": i, "metric": "accuracy", "direction": "higher", "accuracy": v} for i, v in ((1, 0.3), (2, 0.5))]) == (
        "accuracy",
        0.5,
        2,
    )
    assert best([{"step": 1, "metric": "loss", "direction": "lower", "loss": 2.0}, {"step": 2, "loss": None}]) == ("loss", 2.0, 1)
    assert best([]) is None


def test_a_run_that_is_judged_by_accuracy(folder: Path) -> None:
    rows = [
        {"kind": "eval", "step": i * 50, "metric": "accuracy", "direction": "higher", "accuracy": i / 10, "loss": 5 - i}
        for i in range(1, 6)
    ]
    fake_run._lines(folder / "metrics.jsonl", rows)
    (folder / "evaluation.json").write_text(json.dumps({"metric": "accuracy", "accuracy": 0.51, "loss": 1.0}))
    page = read(write(folder))
    assert "held-out accuracy 0.51" in page.words
    assert "higher is better" in page.words
    assert "Held-out loss" in page.words


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a run folder: it has none of recipe\.toml, .* give the folder that `quire train` wrote"):
        write(tmp_path)
    with pytest.raises(DataError, match="there is no folder .*nowhere; give a run folder"):
        write(tmp_path / "nowhere")


def test_a_certificate_that_failed_says_so(folder: Path) -> None:
    certificate = json.loads((folder / "model" / "certificate.json").read_text())
    certificate["ok"] = False
    certificate["checks"][1] |= {"ok": False, "difference": 0.02}
    (folder / "model" / "certificate.json").write_text(json.dumps(certificate))
    words = read(write(folder)).words
    assert "not certified Two ways of computing this model differ" in words
    assert "cached fp32 2.0e-2 1.0e-4 differs" in words


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("node"), reason="node checks the script's grammar")
def test_the_script_parses() -> None:
    script = Path(folders.__file__).with_name("page.js")
    subprocess.run(["node", "--check", str(script)], check=True)
