"""How a server ends: its engine killed under it, and asked to by a supervisor. Two of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

from adapters.demo.server import ADAPTERS, free_port
from adapters.registry import Registry
from tests.serve.test_dashboard import EXPRESSIONS
from tests.waiting import HANGS_S, wait

ASKED = {"messages": [{"role": "user", "content": "Tell me a long story."}], "temperature": 0}
TOKENS = 400
LONG = ASKED | {"stream": True, "max_tokens": TOKENS, "ignore_eos": True}
MANY = {"n": 32, "temperature": 1}
"""Answers at once, so that a stream of them does not end while nothing of this runs for a while."""


class Started:
    """A server of this test's own, its process, its log and a client."""

    def __init__(
        self, home: Path | str, log: Path, *flags: str, port: int = 0, **environment: str
    ) -> None:
        port = port or free_port()
        self.log = log
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        command = [*ADAPTERS, "serve", "--base", "tiny", "--registry", str(home), *flags]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "--port", str(port)],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=os.environ | environment,
            )
        self.wait(lambda: self.ready() == 200, timeout_s=300)

    def ready(self) -> int | None:
        """Return the status of /ready; None where nobody answers."""
        try:
            return self.http.get("/ready").status_code
        except httpx.TransportError:
            return None

    def wait(self, until: Callable[[], bool], *, timeout_s: float = HANGS_S) -> None:
        wait(until, timeout_s=timeout_s, otherwise=lambda: self.log.read_text()[-3000:])

    def chat(self, model: str, **extra: object) -> httpx.Response:
        content = ASKED | {"model": model, "max_tokens": 8} | extra
        return self.http.post("/v1/chat/completions", json=content)

    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in self.http.get("/v1/adapters").json()["data"]}

    def engine(self) -> int:
        """Return the process id of vLLM's engine."""
        children = subprocess.run(
            ["ps", "-o", "pid=,comm=", "--ppid", str(self.process.pid)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        (found,) = [int(line.split()[0]) for line in children.splitlines() if "VLLM" in line]
        return found

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Have the engine compute nothing while the block runs, so that no stream can end."""
        engine = self.engine()
        os.kill(engine, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(engine, signal.SIGCONT)

    @contextmanager
    def streaming(self, model: str, **extra: object) -> Iterator[list[str]]:
        """Have a long stream run from its first token on; yields its lines as they come."""
        lines: list[str] = []
        begun = threading.Event()

        def read() -> None:
            asked = LONG | {"model": model} | extra
            with (
                suppress(httpx.TransportError),  # broken off, as lines without an end say
                self.http.stream("POST", "/v1/chat/completions", json=asked) as reply,
            ):
                for line in reply.iter_lines():
                    lines.append(line)
                    if len(lines) > 4:
                        begun.set()

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        assert begun.wait(HANGS_S)
        yield lines
        thread.join(HANGS_S)
        assert not thread.is_alive()

    def end(self) -> None:
        self.http.close()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Collector(ThreadingHTTPServer):
    """Takes OpenTelemetry's spans over HTTP."""

    def __init__(self) -> None:
        spans: list[Span] = []
        self.spans = spans

        class Taking(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                taken = ExportTraceServiceRequest.FromString(body)
                for resource in taken.resource_spans:
                    for scope in resource.scope_spans:
                        spans.extend(scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Taking)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.server_port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        }


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "server.log"


def test_killed_engine_then_the_same_adapters_again_then_a_drained_end(
    home: Path, registry: Registry, log: Path
) -> None:
    """Together, as starting takes the time: a server whose engine is killed, and its successor."""
    port = free_port()
    server = Started(home, log, port=port)
    try:
        before = server.chat("support@v1").json()["choices"][0]["message"]["content"]
        server.http.post("/v1/adapters/fleet-0/pin").raise_for_status()
        held = {ref for ref, row in server.rows().items() if row["loads"]}
        _an_engine_is_killed(server)
    finally:
        server.end()

    flags = ("--drain-timeout", "300", "--log-format", "json")
    collector = Collector()
    server = Started(home, log, *flags, port=port, **collector.environment)
    try:
        rows = server.rows()
        assert {ref for ref, row in rows.items() if row["loads"]} == held, (
            "loaded before it is asked"
        )
        assert [ref for ref, row in rows.items() if row["pinned"]] == ["fleet-0@v1"]
        answer = server.chat("support@v1")
        assert answer.json()["choices"][0]["message"]["content"] == before
        _metrics_stand_beside_vllms_own(server)
        _it_drains(server)
        _its_log_is_json(server)
        _its_spans_are_above_vllms(collector)
    finally:
        server.end()
        collector.shutdown()


def _an_engine_is_killed(server: Started) -> None:
    engine = server.engine()
    with server.streaming("support@v1", **MANY) as lines:
        os.kill(engine, signal.SIGKILL)
        server.wait(lambda: server.ready() != 200)
        with suppress(httpx.TransportError):  # gone, if nothing of this ran for two seconds
            reply = server.chat("support@v1")
            assert server.ready() in (503, None)
            assert reply.status_code == 503
            assert reply.json()["error"]["type"] == "service_unavailable_error"
    assert any("service_unavailable_error" in line for line in lines), lines[-4:]
    assert server.process.wait(HANGS_S) == 1
    assert "Error: The engine died" in server.log.read_text()


def _metrics_stand_beside_vllms_own(server: Started) -> None:
    with server.streaming("support@v1"):
        pass
    scraped = server.http.get("/metrics").text
    samples = [s for family in text_string_to_metric_families(scraped) for s in family.samples]
    ours = {
        sample.name: sample.value
        for sample in samples
        if sample.labels.get("adapter") == "support" and sample.labels.get("version") == "v1"
    }
    assert ours["switchyard_generation_tokens_total"] == 8 + TOKENS
    assert ours["switchyard_time_to_first_token_seconds_count"] == 1
    assert ours["switchyard_inter_token_latency_seconds_count"] <= TOKENS
    names = {sample.name for sample in samples}
    shown = set(re.findall(r"vllm:\w+", " ".join(EXPRESSIONS)))
    assert shown
    assert shown <= names, "what the dashboard shows of vLLM's own"
    assert "switchyard_registry_age_seconds" in names


def _it_drains(server: Started) -> None:
    with server.streaming("support@v1", **MANY) as lines, server.standing_still():
        server.process.terminate()
        server.wait(lambda: server.ready() == 503)
        late = server.chat("support@v1")
        assert late.status_code == 503
        assert "shutting down" in late.json()["error"]["message"]
    assert lines[-2] == "data: [DONE]"
    assert server.process.wait(HANGS_S) == 0


def _its_log_is_json(server: Started) -> None:
    said = server.log.read_text()
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    printed = [line for line in said.splitlines() if line and not line.startswith("{")]
    assert not re.findall(r"INFO|WARNING|ERROR", "".join(printed)), "only prints of libraries"
    assert {"switchyard.access", "serve.launch"} < {line["logger"] for line in lines}
    assert {"vllm", "uvicorn"} < {line["logger"].split(".")[0] for line in lines}
    assert len({line["process"] for line in lines}) > 1, "the engine's own process writes alike"
    assert str(ASKED["messages"]) not in said
    assert "long story" not in said


def _its_spans_are_above_vllms(collector: Collector) -> None:
    """Once the server has ended; it sends what is left then."""
    ours = {span.span_id: span for span in collector.spans if span.name == "chat support"}
    all_theirs = [span for span in collector.spans if span.name == "llm_request"]
    theirs = [span for span in all_theirs if span.parent_span_id]  # the others: canary prompts
    assert len(ours) == 3
    assert len(theirs) == 2 + MANY["n"], "one for each answer of a request"
    assert {span.parent_span_id for span in theirs} == set(ours)
    assert {span.trace_id for span in theirs} == {span.trace_id for span in ours.values()}
    assert not [span for span in collector.spans if "long story" in str(span)]
