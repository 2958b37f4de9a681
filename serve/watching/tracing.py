"""A span a request, in OpenTelemetry's GenAI conventions; vLLM's own span becomes its child.

vLLM sets up the SDK and its exporter once `--otlp-traces-endpoint` is given, and says of each
request how long it queued, prefilled and decoded. It knows no name a client asked for, no adapter
and no arm, nor what never reached it: those are here. No prompt and no answer is.
Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serve.http.asgi import Scope, header, path_of
from serve.watching.exchange import Exchange

_PROPAGATOR = TraceContextTextMapPropagator()
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/chat/completions/batch": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
"""Paths that are traced, and what the conventions call them."""


class Tracing:
    """Begins and ends spans; see `serve.watching.observing` for when."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def begin(self, scope: Scope) -> tuple[Scope, Span | None]:
        """Return a span, below the client's own where it sent one, and a scope that carries it."""
        path = path_of(scope)
        if path not in _OPERATIONS:
            return scope, None
        names = ("traceparent", "tracestate")
        theirs = {n: value for n in names if (value := header(scope, n.encode())) is not None}
        span = self._tracer.start_span(
            f"{scope['method']} {path}",
            context=_PROPAGATOR.extract(theirs),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": scope["method"], "url.path": path},
        )
        ours: dict[str, str] = {}
        _PROPAGATOR.inject(ours, set_span_in_context(span))
        kept = [pair for pair in scope["headers"] if pair[0].decode("latin-1") not in names]
        added = [(name.encode(), value.encode()) for name, value in ours.items()]
        return {**scope, "headers": [*kept, *added]}, span

    def end(self, span: Span, scope: Scope, noted: Exchange, status: int) -> None:
        """End a span with what became of the request."""
        span.set_attribute("http.response.status_code", status)
        span.set_attribute("switchyard.request_id", noted.request_id)
        if noted.route:
            operation = _OPERATIONS[path_of(scope)]
            version, arm = noted.route.version, noted.route.arm
            span.update_name(f"{operation} {version.name if version else noted.engine_name}")
            span.set_attributes(
                {
                    "gen_ai.operation.name": operation,
                    "gen_ai.provider.name": "vllm",
                    "gen_ai.request.model": noted.asked,
                    "gen_ai.response.model": noted.engine_name,
                    "gen_ai.usage.input_tokens": noted.tally.prompt_tokens,
                    "gen_ai.usage.output_tokens": noted.tally.completion_tokens,
                }
            )
            if version:
                span.set_attribute("switchyard.adapter", version.name)
                span.set_attribute("switchyard.version", version.number)
            if arm:
                span.set_attribute("switchyard.arm", arm.name)
        if noted.error:
            span.set_attribute("error.type", noted.error)
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end()


def flags() -> Sequence[str]:
    """Return the flag that has vLLM trace, where OpenTelemetry's variables name an endpoint.

    vLLM reads a variable for the protocol alone, and only the one that is for traces.
    """
    environment = os.environ
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"
    )
    endpoint = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if not endpoint and (common := environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")):
        path = "/v1/traces" if protocol.startswith("http") else ""
        endpoint = common.rstrip("/") + path
    if not endpoint:
        return ()
    environment["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = protocol
    environment.setdefault("OTEL_SERVICE_NAME", "switchyard")
    return (f"--otlp-traces-endpoint={endpoint}",)
