"""A span a request: who was asked, who answered, what it took, below the client's own trace."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from adapters.experiments import Arm
from adapters.registry import Registry
from adapters.types import Version
from serve.watching.tracing import Tracing, flags
from tests.serve.conftest import MakeServer, Server

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def server(
    serve: MakeServer, support: tuple[Version, Version], spans: InMemorySpanExporter
) -> Server:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return serve(tracing=Tracing(provider.get_tracer("switchyard")))


def test_a_span_says_who_was_asked_and_who_answered(
    server: Server, spans: InMemorySpanExporter, registry: Registry, support: Any
) -> None:
    registry.start_experiment("support", [Arm("v1", 1, 99.9999999), Arm("v2", 2, 1e-7)])
    server.chat("support", content={"max_tokens": 3, "stream": True})
    (span,) = spans.get_finished_spans()
    assert (span.name, span.kind) == ("chat support", SpanKind.SERVER)
    attributes = dict(span.attributes or {})
    assert attributes.pop("switchyard.request_id")
    assert attributes == {
        "http.request.method": "POST",
        "url.path": "/v1/chat/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "support",
        "gen_ai.response.model": support[0].engine_name,
        "gen_ai.usage.input_tokens": 2,
        "gen_ai.usage.output_tokens": 3,
        "switchyard.adapter": "support",
        "switchyard.version": 1,
        "switchyard.arm": "v1",
    }


def test_it_stands_between_the_clients_span_and_vllms(
    server: Server, spans: InMemorySpanExporter
) -> None:
    seen: dict[bytes, bytes] = {}
    answered = server.app._app

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope["headers"])
        await answered(scope, receive, send)

    server.app._app = app
    server.chat("small", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    (span,) = spans.get_finished_spans()
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == PARENT
    assert seen[b"traceparent"] == f"00-{TRACE}-{span.context.span_id:016x}-01".encode()


def test_failures_are_marked_and_unknown_names_left_out(
    server: Server, spans: InMemorySpanExporter
) -> None:
    server.chat("a secret")
    server.engine.trouble = "dead"
    server.chat("support")
    unknown, failed = spans.get_finished_spans()
    assert unknown.name == "POST /v1/chat/completions"
    assert dict(unknown.attributes or {})["error.type"] == "not_found"
    assert "a secret" not in unknown.to_json()
    assert unknown.status.status_code is StatusCode.UNSET, "the client's own mistake"
    assert failed.status.status_code is StatusCode.ERROR
    assert dict(failed.attributes or {})["error.type"] == "unavailable"


def test_what_is_no_inference_is_not_traced(server: Server, spans: InMemorySpanExporter) -> None:
    for path in ("/ready", "/health", "/v1/models", "/nothing"):
        server.ask("GET", path)
    assert spans.get_finished_spans() == ()


@pytest.mark.parametrize(
    ("variables", "flag"),
    [
        ({}, None),
        ({"ENDPOINT": "http://otel:4317"}, "http://otel:4317"),
        (
            {"ENDPOINT": "http://otel:4318/", "PROTOCOL": "http/protobuf"},
            "http://otel:4318/v1/traces",
        ),
        (
            {"ENDPOINT": "http://no", "TRACES_ENDPOINT": "http://otel:4318/x"},
            "http://otel:4318/x",
        ),
    ],
)
def test_opentelemetrys_own_variables_turn_it_on(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], flag: str | None
) -> None:
    environment = {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in variables.items()}
    monkeypatch.setattr("serve.watching.tracing.os.environ", environment)
    assert list(flags()) == ([f"--otlp-traces-endpoint={flag}"] if flag else [])
