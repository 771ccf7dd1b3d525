"""Traces for OpenTelemetry: one span for each ask, sent to a collector that the operator names (`--traces URL`). Off otherwise.

Names are those of the semantic conventions for generative AI, version 0.66b2, and stand here alone: they still change. A span says which
model was asked, with how many tokens, how it ended and how long it took; never what was asked or answered, nor by which key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import ExtraError
from .asks import Ask, Begun, End, Event, Found, Piece, Read, Write
from .errors import Refused

PROVIDER, OPERATION, MODEL = "gen_ai.provider.name", "gen_ai.operation.name", "gen_ai.request.model"
TOKENS_IN, TOKENS_OUT, REASONS = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "gen_ai.response.finish_reasons"
ERROR, REQUEST = "error.type", "quire.request.id"
FIRST = "quire.first_token"  # the event when the first piece of an answer is there

Watch = Callable[[Event | Refused | None], None]


class Traces:
    """exporter: where spans go, for tests; else they go to `url` by OTLP over HTTP."""

    def __init__(self, url: str = "", exporter: Any = None) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise ExtraError(error.name or "opentelemetry-sdk", "otel", "--traces") from error
        self._provider = TracerProvider(resource=Resource({"service.name": "quire"}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url, timeout=5) if exporter is None else exporter))
        self._tracer = self._provider.get_tracer("quire.serve")

    def watch(self, model: str, ask: Ask, id: str, then: Watch) -> Watch:
        """Follows one ask with a span, and hands every event on to `then`."""
        operation = _operation(ask)
        given = {PROVIDER: "quire", OPERATION: operation, MODEL: model, REQUEST: id}
        span = self._tracer.start_span(f"{operation} {model}", attributes=given)
        reasons: list[str] = []
        written, first = 0, True

        def told(event: Event | Refused | None) -> None:
            nonlocal written, first
            if isinstance(event, Piece):
                if first:
                    first = False
                    span.add_event(FIRST)
            elif isinstance(event, Begun):
                span.set_attribute(TOKENS_IN, event.prompt_tokens)
            elif isinstance(event, Found):
                span.set_attribute(TOKENS_IN, event.tokens)
            elif isinstance(event, End):
                reasons.append(event.reason)
                written += event.tokens
            elif isinstance(event, Refused):
                span.set_attribute(ERROR, event.code or event.kind)
            else:
                span.set_attribute(TOKENS_OUT, written)
                span.set_attribute(REASONS, reasons)
                span.end()
            then(event)

        return told

    def stop(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()


def _operation(ask: Ask) -> str:
    if isinstance(ask, Write):
        return "text_completion" if ask.messages is None else "chat"
    if isinstance(ask, Read):
        return "embeddings" if ask.use == "embed" else ask.use
    return "tokens"
