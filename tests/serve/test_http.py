"""What is wrong with a request, an address or a line of HTTP is told in words, and logs what it should."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from tests.serve.conftest import ROOT
from tests.serve.test_gate import CHAT, Keyed, raw, request, status


def test_a_whole_url_names_the_host_that_is_meant(keyed: Keyed) -> None:
    port = keyed[0].port
    for target in ("http://evil.example/health", "http://evil.example:8000/health", "https://evil.example/page/page.js"):
        assert status(raw(port, request(target))) == 421
    assert status(raw(port, request("http://localhost/health"))) == 200
    assert status(raw(port, request(f"http://127.0.0.1:{port}/health", host="evil.example"))) == 200  # as RFC 9112 asks


def test_only_the_head_can_be_asked_for(keyed: Keyed) -> None:
    for path in ("/health", "/"):
        answer = raw(keyed[0].port, request(path, method="HEAD"))
        assert status(answer) == 200 and answer.endswith(b"\r\n\r\n") and b"content-length: 0" not in answer.lower()


def test_what_clients_do_wrong_fills_no_log(keyed: Keyed) -> None:
    before = keyed[0].log.read_text()
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
    raw(keyed[0].port, request("/", *upgrade))
    assert status(raw(keyed[0].port, b"this is no HTTP\r\n\r\n")) == 400
    more = keyed[0].log.read_text()[len(before) :]
    assert "pip install" not in more and "nvalid HTTP" not in more and "upgrade" not in more


def test_what_is_wrong_with_a_body_is_named(keyed: Keyed) -> None:
    client = keyed[0].client
    other = client.post("/tokenize", content=b"{}", headers={"Content-Type": "application/json; charset=utf-16"})
    assert other.status_code == 415 and "charset=utf-16" in other.json()["error"]["message"]
    for content, said in ((b"null", "empty or null"), (b"[1, 2]", "a list of 2"), (b"7", "7"), (b"", "empty or null")):
        error = client.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"}).json()["error"]
        assert error["message"] == f"the body is {said}; it must be a JSON object." and error["code"] == "invalid_json"
    for path, field, body in (
        ("/v1/completions", "prompt", {"prompt": [999_999]}),
        ("/v1/completions", "logit_bias", {"prompt": "a", "logit_bias": {"999999": 1}}),
        ("/v1/chat/completions", "logit_bias", {**CHAT, "logit_bias": {"999999": 1}}),
        ("/detokenize", "tokens", {"tokens": [999_999]}),
        ("/v1/chat/completions", "prompt_logprobs", {**CHAT, "prompt_logprobs": 1}),
        ("/v1/completions", "prompt_logprobs", {"prompt": "a", "prompt_logprobs": 1}),
    ):
        answer = client.post(path, json={"model": "chat", **body})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == field, answer.text
        assert field != "prompt_logprobs" or "'echo' with 'logprobs'" in answer.json()["error"]["message"]


def test_a_port_that_is_taken_is_said_in_words(keyed: Keyed, folders: dict[str, Path], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "quire", "serve", str(folders["chat"]), "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    said = f"quire serve: the port {port} of 127.0.0.1 is taken by another program. Choose another with --port N.\n"
    assert done.returncode == 2 and done.stderr == said
