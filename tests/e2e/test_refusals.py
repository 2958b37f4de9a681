"""What a client must not reach or gets wrong: a clear answer, and the server goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from adapters.registry import Registry
from tests.waiting import wait

CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    """A bare client; whatever a test does, the base still answers afterwards."""
    with httpx.Client(base_url=url, timeout=60) as http:
        yield http
        assert http.post("/v1/chat/completions", json=CHAT | {"model": "tiny"}).is_success


@pytest.mark.parametrize(
    ("model", "status", "said"),
    [
        ("suport", 404, "support"),
        ("support@v9", 404, "v9"),
        ("support@nowhere", 404, "nowhere"),
        ("support@v1+000000000000", 404, "support"),
        ("../x", 400, "../x"),
        ("/etc/passwd", 400, "passwd"),
        ("", 400, "model"),
        (7, 400, "model"),
        (None, 400, "model"),
        (["support"], 400, "model"),
    ],
)
def test_a_model_that_cannot_be_served(
    http: httpx.Client, model: object, status: int, said: str
) -> None:
    reply = http.post("/v1/chat/completions", json=CHAT | {"model": model})
    assert reply.status_code in ({status, 404} if status == 400 else {status})
    assert said in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/v1/unload_lora_adapter"),
        ("POST", "/adapters"),
        ("DELETE", "/adapters/x"),
        ("GET", "/adapters"),
        ("POST", "/invocations"),
        ("POST", "/scale_elastic_ep"),
        ("POST", "/v1//load_lora_adapter"),
        ("POST", "/v1/%6coad_lora_adapter"),
        ("GET", "/nothing"),
    ],
)
def test_paths_that_are_not_meant_do_not_exist(
    http: httpx.Client, method: str, path: str, home: Path
) -> None:
    body = {"lora_name": "evil", "lora_path": str(home), "name": "evil", "src": str(home)}
    assert http.request(method, path, json=body).status_code == 404


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"null"])
def test_a_body_that_is_no_request(http: httpx.Client, content: bytes) -> None:
    reply = http.post(
        "/v1/chat/completions", content=content, headers={"content-type": "application/json"}
    )
    assert 400 <= reply.status_code < 500
    assert reply.json()["error"]["message"]


def test_an_adapter_of_another_base_is_refused_and_not_listed(
    http: httpx.Client, registry: Registry
) -> None:
    own = registry.resolve("fleet-0")
    base = replace(own.manifest.base, id="another/base", revision="0" * 40)
    stranger = registry.publish("stranger", own.path, base=base)

    def known() -> httpx.Response | None:
        reply = http.post("/v1/chat/completions", json=CHAT | {"model": stranger.ref})
        return None if reply.status_code == 404 else reply

    reply = wait(known)
    assert reply.status_code == 400
    assert "another/base" in reply.json()["error"]["message"]
    assert "tiny" in reply.json()["error"]["message"]
    assert "stranger" not in http.get("/v1/models").text


def test_it_is_ready_and_healthy(http: httpx.Client) -> None:
    assert http.get("/ready").is_success
    assert http.get("/health").is_success


def test_metrics_are_vllms_own(http: httpx.Client) -> None:
    assert "vllm:num_requests_running" in http.get("/metrics").text
