"""Several models in one server: opened when asked for, put away by budget, refused by name; and models that cannot be opened."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

import quire
from quire import minilm
from quire.binding import Contract
from quire.binding.truncation import Truncation
from quire.errors import ContextError
from quire.serve.asks import Read
from quire.serve.desk import Desk
from quire.serve.known import known
from quire.serve.models import Spec, size
from tests.serve.conftest import Running, start
from tests.tasks.readers import write

HELLO = [{"role": "user", "content": "hello"}]


def states(running: Running) -> dict[str, str]:
    return running.client.get("/health").json()["models"]


def test_models_are_listed_with_their_context_and_identity(server: Running) -> None:
    listed = {model["id"]: model for model in server.client.get("/v1/models").json()["data"]}
    assert set(listed) == {"chat", "base", "bert", "t5"}
    assert listed["chat"]["max_model_len"] == 512 and len(listed["chat"]["binding"]) == 64
    assert server.client.get("/v1/models/bert").json()["kind"] == "encoder"


def test_the_length_that_is_told_is_the_one_that_is_read(tmp_path: Path) -> None:
    """Of a sentence encoder what its folder allows, of one that labels what it was tuned on: asked without its weights, and with them."""
    vectors, labels = minilm.folder(), write(tmp_path, "SequenceClassification", labels=["no", "yes"])
    replace(Contract.open(labels), truncation=Truncation(16)).save(labels)
    for folder, longest in ((vectors, 256), (labels, 16)):
        desk = Desk(quire.load(folder), {})
        assert known(str(folder))["context"] == desk.facts()["context"] == longest
        use = "embed" if folder == vectors else "classify"
        desk.prepare(1, Read(use, [[5] * longest], long="error"))
        with pytest.raises(ContextError, match=rf"\b{longest}\b"):
            desk.prepare(1, Read(use, [[5] * (longest + 1)], long="error"))


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


def test_what_a_model_cannot_do_puts_no_other_away(folders: dict[str, Path], tmp_path: Path) -> None:
    words = [f"{name}={folders[name]}" for name in ("chat", "base", "bert", "t5")]
    running = start(tmp_path, *words, "--budget", str(size(Spec(str(folders["chat"])))))
    try:
        listed = {model["id"]: model for model in running.client.get("/v1/models").json()["data"]}
        away = {"chat": "ready", "base": "away", "bert": "away", "t5": "away"}
        assert {name: model["state"] for name, model in listed.items()} == away
        told = {name: (model["kind"], model["max_model_len"], model["writes"], model["chats"]) for name, model in listed.items()}
        assert told["base"] == ("decoder", 512, True, False) and told["chat"] == ("decoder", 512, True, True)
        assert told["bert"][::2] == ("encoder", False) and told["t5"][::2] == ("seq2seq", True)
        for name in ("base", "bert", "t5"):
            for path, more in (("/v1/chat/completions", {}), ("/v1/messages", {"max_tokens": 2})):
                answer = running.post(path, {"model": name, "messages": HELLO, **more})
                assert answer.status_code == 400 and "this " in answer.json()["error"]["message"]
        assert running.post("/v1/completions", {"model": "bert", "prompt": "a"}).status_code == 400
        assert running.post("/v1/completions", {"model": "t5", "prompt": "a", "echo": True}).status_code == 400
        assert running.post("/v1/messages/count_tokens", {"model": "base", "messages": HELLO}).status_code == 400
        assert states(running) == away
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
