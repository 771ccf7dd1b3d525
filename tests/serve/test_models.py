"""Several models in one server: opened when asked for, put away by budget, refused by name; and models that cannot be opened."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import httpx2
import pytest

from quire.serve.models import Spec, size
from tests.serve.conftest import Running, start

HELLO = [{"role": "user", "content": "hello"}]


def states(running: Running) -> dict[str, str]:
    return running.client.get("/health").json()["models"]


def test_models_are_listed_with_their_context_and_identity(server: Running) -> None:
    listed = {model["id"]: model for model in server.client.get("/v1/models").json()["data"]}
    assert set(listed) == {"chat", "base", "bert", "t5"}
    assert listed["chat"]["max_model_len"] == 512 and len(listed["chat"]["binding"]) == 64
    assert server.client.get("/v1/models/bert").json()["kind"] == "encoder"


def test_an_unknown_model_is_refused_with_those_that_are_there(server: Running) -> None:
    answer = server.post("/v1/chat/completions", {"model": "gpt", "messages": HELLO})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found" and "chat, base, bert, t5" in answer.json()["error"]["message"]


def test_a_budget_puts_away_the_model_asked_longest_ago(folders: dict[str, Path], tmp_path: Path) -> None:
    one = size(Spec(str(folders["chat"])))
    running = start(tmp_path, f"a={folders['chat']}", f"b={folders['chat']}", f"c={folders['chat']}", "--budget", str(2 * one + one // 2))
    try:

        def ask(model: str) -> None:
            answer = running.post("/v1/chat/completions", {"model": model, "messages": HELLO, "max_tokens": 2})
            assert answer.status_code == 200, answer.text

        ask("a")
        ask("b")
        assert states(running) == {"a": "ready", "b": "ready", "c": "away"}
        ask("a")
        ask("c")
        assert states(running) == {"a": "ready", "b": "away", "c": "ready"}
        ask("b")
        assert states(running)["b"] == "ready" and sorted(states(running).values()) == ["away", "ready", "ready"]
    finally:
        assert running.stop() == 0


def test_a_model_that_cannot_be_opened_is_told_and_the_others_answer(folders: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folders["chat"].iterdir():
        (broken / file.name).write_bytes(file.read_bytes() if file.suffix != ".safetensors" else b"")
    running = start(tmp_path, f"good={folders['chat']}", f"bad={broken}", ready=False)
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(httpx2.ConnectError):  # not listening yet
                if states(running) == {"good": "ready", "bad": "failed"}:
                    break
            time.sleep(0.1)
        health = running.client.get("/health")
        assert health.status_code == 503 and health.json() == {"status": "degraded", "models": {"good": "ready", "bad": "failed"}}
        assert running.post("/v1/chat/completions", {"model": "good", "messages": HELLO, "max_tokens": 2}).status_code == 200
        refused = running.post("/v1/chat/completions", {"model": "bad", "messages": HELLO})
        assert refused.status_code == 503 and "'bad' cannot be opened" in refused.json()["error"]["message"]
        assert "/" not in refused.json()["error"]["message"]  # no paths of this machine; the reason is in the log
    finally:
        assert running.stop() == 0


def test_two_models_of_one_name_are_refused_before_anything_is_opened(folders: dict[str, Path], tmp_path: Path) -> None:
    running = start(tmp_path, f"m={folders['chat']}", f"m={folders['base']}", ready=False)
    assert running.process.wait(30) == 2
    assert "two models are called 'm'" in running.log.read_text()
    running.stop()


@pytest.mark.parametrize("given", ["nowhere", "m=nowhere"])
def test_a_model_that_is_not_there_is_refused_at_the_start(given: str, tmp_path: Path) -> None:
    running = start(tmp_path, given, ready=False)
    assert running.process.wait(30) == 2
    assert "no model at nowhere" in running.log.read_text()
    running.stop()
