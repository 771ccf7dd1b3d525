"""What the server counts: true figures, few labels, no names and no contents."""

from __future__ import annotations

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from quire.serve.asks import Begun, End, Found, Piece, Write
from quire.serve.errors import Refused
from quire.serve.metrics import Facts, Metrics
from quire.serve.models import Spec, Worker
from tests.serve.conftest import Running


def samples(page: str) -> dict[tuple[str, ...], float]:
    """(name, label values in the order of their names) -> value."""
    found = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found[(sample.name, *(value for _, value in sorted(sample.labels.items())))] = sample.value
    return found


def test_one_ask_from_its_start_to_its_end() -> None:
    metrics, facts, left = Metrics(), Facts(), list[int]()
    watch = metrics.watch("m", left.append, facts)
    for event in (Begun(7), Piece(0, "a", (1,)), Piece(0, "b", (2, 3)), Piece(1, "c", (4,)), End(0, "stop", 3, "ab", cached=4), None):
        watch(event)
    assert left == [10] and facts == Facts("m", 7, 3)
    found = samples(metrics.page().decode())
    assert found[("quire_requests_total", "m", "stop")] == 1
    assert (found[("quire_prompt_tokens_total", "m")], found[("quire_generated_tokens_total", "m")]) == (7, 3)
    assert found[("quire_cached_tokens_total", "m")] == 4
    assert found[("quire_time_to_first_token_seconds_count", "m")] == 1
    assert found[("quire_inter_token_seconds_count", "m")] == 1  # the first piece of the other answer follows nothing


@pytest.mark.parametrize("events, reason", [([Found([], 5)], "done"), ([Refused(500, "x")], "error"), ([], "left")])
def test_how_it_ended(events: list[Found | Refused], reason: str) -> None:
    metrics = Metrics()
    watch = metrics.watch("m", lambda tokens: None)
    for event in (*events, None):
        watch(event)
    assert samples(metrics.page().decode())[("quire_requests_total", "m", reason)] == 1


def test_tokens_that_were_only_counted_cost_nothing() -> None:
    metrics, left = Metrics(), list[int]()
    watch = metrics.watch("m", left.append, computed=False)
    for event in (Found([1, 2], 2), None):
        watch(event)
    assert left == [0] and samples(metrics.page().decode())[("quire_prompt_tokens_total", "m")] == 0


def test_what_workers_report_is_read_when_it_is_asked_for() -> None:
    worker = Worker("m", Spec("nowhere"))
    metrics = Metrics({"m": worker})
    assert samples(metrics.page().decode())[("quire_model_state", "m", "away")] == 1
    worker.counts = {
        "running": 2,
        "waiting": 3,
        "blocks": 10,
        "blocks_free": 4,
        "blocks_findable": 5,
        "hits": 6,
        "evictions": 7,
        "preemptions": 8,
    }
    worker.restarts = 9
    found = samples(metrics.page().decode())
    blocks = [found[("quire_cache_blocks", "m", state)] for state in ("all", "used", "free", "findable")]
    assert blocks == [10, 6, 4, 5]
    names = (
        "requests_running",
        "requests_waiting",
        "cache_hits_total",
        "cache_evictions_total",
        "preemptions_total",
        "worker_restarts_total",
    )
    assert [found[(f"quire_{name}", "m")] for name in names] == [2, 3, 6, 7, 8, 9]


def test_two_servers_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.refused(Refused(429, "too much", "rate_limit_error", code="rate_limit_exceeded"))
    assert b"rate_limit_exceeded" in one.page() and b"rate_limit_exceeded" not in other.page()


def test_the_page_of_a_server(keyed: tuple[Running, dict[str, str]]) -> None:
    running, keys = keyed
    secret = "a text that is nobody's business"
    body = {"model": "chat", "messages": [{"role": "user", "content": secret}], "max_tokens": 3}
    before = samples(running.client.get("/metrics").text)
    running.post("/v1/chat/completions", body, headers={"Authorization": f"Bearer {keys['bob']}"})
    running.client.get("/nothing-" + "x" * 20)
    answer = running.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    after = samples(answer.text)

    def more(*name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    assert more("quire_requests_total", "chat", "length") == 1 and more("quire_generated_tokens_total", "chat") == 3
    assert more("quire_responses_total", "/v1/chat/completions", "200") == 1 and more("quire_responses_total", "none", "404") == 1
    assert after[("quire_model_state", "chat", "ready")] == 1 and after[("quire_cache_blocks", "chat", "all")] > 0
    for word in (secret, "bob", "alice", keys["bob"], "nothing-"):
        assert word not in answer.text
    labels = {label for labels in re.findall(r"\{(.*?)\}", answer.text) for label in re.findall(r'(\w+)="', labels)}
    assert labels <= {"model", "state", "reason", "status", "code", "route", "le"}


def test_an_ask_of_the_right_kind_is_told() -> None:
    """Traces: a span for each ask, with the conventions' names and without contents."""
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from quire.serve.telemetry import Traces

    exporter = InMemorySpanExporter()
    traces, told = Traces(exporter=exporter), list[object]()
    ask = Write(messages=[{"role": "user", "content": "secret"}], tenant="alice")
    watch = traces.watch("m", ask, "id1", told.append)
    events = [Begun(7), Piece(0, "secret", (1,)), End(0, "stop", 1, "secret"), None]
    for event in events:
        watch(event)
    watch = traces.watch("m", Write(prompt="secret"), "id2", told.append)
    watch(Refused(503, "secret", code="worker_died"))
    watch(None)
    traces.stop()
    first, second = exporter.get_finished_spans()
    assert first.name == "chat m" and second.name == "text_completion m"
    assert first.attributes is not None and second.attributes is not None
    assert first.attributes["gen_ai.usage.input_tokens"] == 7 and first.attributes["gen_ai.usage.output_tokens"] == 1
    assert first.attributes["gen_ai.response.finish_reasons"] == ("stop",) and second.attributes["error.type"] == "worker_died"
    assert [event.name for event in first.events] == ["quire.first_token"]
    assert "secret" not in first.to_json() + second.to_json() and "alice" not in first.to_json()
    assert told[:4] == events
