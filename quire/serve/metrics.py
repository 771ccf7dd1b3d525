"""What the server counts, in Prometheus' form, for GET /metrics.

Labels are names of models, states, reasons, routes and codes: few and known. No key's name and nothing that was written is among them. What
a worker counts itself (cache blocks, preemptions) is read from its last report when the page is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .asks import Begun, End, Event, Found, Piece
from .errors import Refused
from .models import Worker

disable_created_metrics()  # type: ignore[no-untyped-call]  # when each counter was made: a line for every one, which nobody asks for
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_WHOLE = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_STATES = ("away", "starting", "ready", "failed")


@dataclass
class Facts:
    """What is known of one request in the end, for its line in the log."""

    model: str | None = None
    prompt: int = 0
    written: int = 0


class Metrics:
    """Counters and histograms of one server, in a registry of its own."""

    def __init__(self, workers: Mapping[str, Worker] | None = None) -> None:
        self.registry = CollectorRegistry(auto_describe=False)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"quire_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"quire_{name}_seconds", text, ["model"], buckets=buckets, registry=self.registry)

        self._ended = counter("requests", "Asks that ended, by how: an end of the answer, done, left or error", "model", "reason")
        self._prompt = counter("prompt_tokens", "Tokens that were read", "model")
        self._cached = counter("cached_tokens", "Tokens of prompts that were found in the cache", "model")
        self._written = counter("generated_tokens", "Tokens that were written", "model")
        self._first = histogram("time_to_first_token", "From the ask to the first piece of an answer", _FIRST)
        self._between = histogram("inter_token", "Between two pieces of an answer, by the tokens of the second", _BETWEEN)
        self._whole = histogram("request", "From the ask to its end", _WHOLE)
        self._refused = counter("refusals", "Requests that were refused or failed, by status and code", "status", "code")
        self._responses = counter("responses", "Responses, by route and status", "route", "status")
        self.registry.register(_Workers(workers or {}))

    def page(self) -> bytes:
        return generate_latest(self.registry)

    def refused(self, error: Refused) -> None:
        self._refused.labels(str(error.status), error.code or error.kind).inc()

    def responded(self, route: str, status: int) -> None:
        self._responses.labels(route, str(status)).inc()

    def watch(
        self, model: str, leave: Callable[[int], None], facts: Facts | None = None, computed: bool = True
    ) -> Callable[[Event | Refused | None], None]:
        """Follows one ask: every event, and None at its end. leave: is told the tokens then. computed: False if they were only counted."""
        facts = facts if facts is not None else Facts()
        facts.model = model
        begun, reason = time.perf_counter(), "left"
        last: dict[int, float] = {}
        first, between = self._first.labels(model), self._between.labels(model)

        def told(event: Event | Refused | None) -> None:
            nonlocal reason
            if isinstance(event, Piece):
                now, before = time.perf_counter(), last.get(event.choice)
                if before is not None:
                    between.observe((now - before) / max(1, len(event.ids)))
                elif not last:
                    first.observe(now - begun)
                last[event.choice] = now
            elif isinstance(event, Begun):
                facts.prompt += event.prompt_tokens
            elif isinstance(event, Found):
                facts.prompt += event.tokens if computed else 0
                reason = "done"
            elif isinstance(event, End):
                facts.written += event.tokens
                if event.choice == 0:
                    self._cached.labels(model).inc(event.cached)
                reason = event.reason
            elif isinstance(event, Refused):
                reason = "error"
            else:
                self._ended.labels(model, reason).inc()
                self._prompt.labels(model).inc(facts.prompt)
                self._written.labels(model).inc(facts.written)
                self._whole.labels(model).observe(time.perf_counter() - begun)
                leave(facts.prompt + facts.written)

        return told


class _Workers(Collector):
    """What the workers report, as they are when the page is asked for."""

    def __init__(self, workers: Mapping[str, Worker]) -> None:
        self._workers = workers

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        gauges = {
            "open": "Asks on their way, as the front counts them",
            "running": "Requests that the engine computes",
            "waiting": "Requests in the engine's queue",
        }
        for name, text in gauges.items():
            gauge = GaugeMetricFamily(f"quire_requests_{name}", text, labels=["model"])
            for model, worker in self._workers.items():
                gauge.add_metric([model], worker.open if name == "open" else worker.counts.get(name, 0))
            yield gauge
        yield self._blocks()
        counters = {
            "cache_hits": ("hits", "Blocks of prompts that were found in the cache"),
            "cache_evictions": ("evictions", "Findable blocks that were given to others"),
            "preemptions": ("preemptions", "Requests that gave their memory to others for a while"),
        }
        for title, (name, text) in counters.items():
            counter = CounterMetricFamily(f"quire_{title}", text, labels=["model"])
            for model, worker in self._workers.items():
                counter.add_metric([model], worker.counts.get(name, 0))
            yield counter
        restarts = CounterMetricFamily("quire_worker_restarts", "Times that a model's process was started again", labels=["model"])
        states = GaugeMetricFamily("quire_model_state", "1 for the state that a model is in", labels=["model", "state"])
        for model, worker in self._workers.items():
            restarts.add_metric([model], worker.restarts)
            for state in _STATES:
                states.add_metric([model, state], float(worker.state == state))
        yield restarts
        yield states

    def _blocks(self) -> Metric:
        """The cache: blocks in use, free for anyone, and (of either) findable by their content."""
        gauge = GaugeMetricFamily("quire_cache_blocks", "Blocks of keys and values: all, used, free, findable", labels=["model", "state"])
        for model, worker in self._workers.items():
            if "blocks" in worker.counts:
                counts = worker.counts
                found = {"all": counts["blocks"], "free": counts["blocks_free"], "findable": counts["blocks_findable"]}
                for state, value in {**found, "used": found["all"] - found["free"]}.items():
                    gauge.add_metric([model, state], value)
        return gauge
