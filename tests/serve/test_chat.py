"""POST /v1/chat/completions against a real server: whole, streamed, and everything that is refused."""

from __future__ import annotations

from tests.serve.conftest import Running

HELLO = [{"role": "user", "content": "hello"}]


def test_a_whole_answer_and_its_stream_are_the_same(server: Running) -> None:
    body = {"model": "chat", "messages": HELLO, "max_tokens": 12, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    whole = server.post("/v1/chat/completions", body).json()
    events = server.events("/v1/chat/completions", {**body, "stream": True, "stream_options": {"include_usage": True}})
    assert events[-1] == "[DONE]" and events[-2]["choices"] == []
    deltas = [event["choices"][0] for event in events[:-2]]
    [choice] = whole["choices"]
    assert "".join(delta["delta"].get("content") or "" for delta in deltas) == choice["message"]["content"]
    assert deltas[-1]["finish_reason"] == choice["finish_reason"] == "length"
    assert events[-2]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"] == 12
    streamed = [fact for delta in deltas if delta["logprobs"] for fact in delta["logprobs"]["content"]]
    assert [fact["token"] for fact in streamed] == [fact["token"] for fact in choice["logprobs"]["content"]]
