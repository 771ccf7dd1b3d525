"""Many prompts from a file: answered together, in order, and kept when the run is stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import quire
from quire.cli.main import main
from quire.cli.offline import Kept, answers
from tests.small import write_model

PROMPTS = ["def a", "def b", "the quick", "def a", "x"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("offline") / "model")


def test_answers_come_in_order_and_equal_those_alone(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"prompt": prompt, "id": i}) + "\n" for i, prompt in enumerate(PROMPTS)))
    out = tmp_path / "out.jsonl"
    words = ["--file", str(tmp_path / "in.jsonl"), "--out", str(out), "--temperature", "0", "--max-tokens", "9", "--logprobs", "2"]
    assert main(["generate", str(model), *words]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == list(range(5)) and [row["prompt"] for row in rows] == PROMPTS
    loaded = quire.load(model)
    for row in rows:
        assert tuple(row["ids"]) == loaded.generate(row["prompt"], max_tokens=9, temperature=0).ids  # type: ignore[union-attr]
        assert len(row["logprobs"]) == len(row["ids"])
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_a_stopped_run_goes_on_where_it_ended(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, out = quire.load(model), tmp_path / "out.jsonl"
    assert isinstance(loaded, quire.Decoder)
    sampling = quire.Sampling(max_tokens=6, seed=3, logprobs=1)
    kept = Kept(out, "settings")

    class Stop(Exception):
        pass

    def stop(done: int) -> None:
        if done >= 2:
            raise Stop

    with pytest.raises(Stop):
        answers(loaded, PROMPTS, 0, sampling, kept, stop)
    assert not loaded.engine.busy
    lines = kept.path.read_text().splitlines() if kept.path else []
    assert len(lines) >= 2
    again, asked = Kept(out, "settings"), []
    request = loaded.engine.request
    monkeypatch.setattr(loaded.engine, "request", lambda text, *more, **named: asked.append(text) or request(text, *more, **named))
    found = answers(loaded, PROMPTS, 0, sampling, again, lambda done: None)
    assert len(asked) == len(PROMPTS) - len(lines)
    monkeypatch.undo()
    fresh = answers(loaded, PROMPTS, 0, sampling, Kept(None, ""), lambda done: None)
    assert [a.ids for a, _ in found] == [a.ids for a, _ in fresh]
    assert [a.logprobs[0].id for a, _ in found] == [a.logprobs[0].id for a, _ in fresh]
    assert Kept(out, "other settings").get(0, PROMPTS[0]) is None  # answers of other settings are not taken
    again.close()
    assert not list(tmp_path.iterdir())
