"""Under an experiment each answer of the real vLLM leaves an exposure, and its id leads to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.experiments import Arm
from adapters.registry import Registry
from loadtests import fleet
from serve.experiments.store.base import Exposure
from serve.experiments.store.sql import SqlStore
from tests.e2e.shut import Shut
from tests.waiting import wait

MODEL = "tried"
CHAT, BATCH = "/v1/chat/completions", "/v1/chat/completions/batch"
MESSAGES = [{"role": "user", "content": "Where is the station?"}]
ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": MESSAGES, "max_tokens": 3},
    "/v1/completions": {"prompt": "Where is", "max_tokens": 3},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 3},
    "/v1/responses": {"input": "Where is the station?", "max_output_tokens": 3},
}
STREAMED = [*((path, False) for path in (*ASKED, BATCH)), *((path, True) for path in ASKED)]


@pytest.fixture(scope="module")
def experiment(registry: Registry, url: str) -> Iterator[None]:
    fleet.publish(registry, [MODEL, MODEL])
    registry.start_experiment(MODEL, [Arm("v1", 1, 50), Arm("v2", 2, 50)])
    content = {"model": MODEL, "messages": MESSAGES, "max_tokens": 1}
    replies: list[httpx.Response] = []

    def follows() -> bool:
        replies[:] = [httpx.post(f"{url}{CHAT}", json=content, timeout=60)]
        return "x-assignment" in replies[0].headers

    wait(follows, otherwise=lambda: (replies[0].headers, replies[0].text))
    yield
    registry.stop_experiment(MODEL)


def kept(home: Path, request_id: str) -> Exposure:
    """Return what the server's store holds of a request, once it does."""
    store = SqlStore(f"sqlite:///{home}/experiments.db")
    wait(lambda: store.exposure(request_id))
    found = store.exposure(request_id)
    store.close()
    assert found
    return found


@pytest.mark.parametrize(("path", "stream"), STREAMED)
def test_by_every_endpoint(url: str, home: Path, experiment: None, path: str, stream: bool) -> None:
    batch = {"messages": [MESSAGES], "max_tokens": 3}
    content = {"model": MODEL, "user": "ann", "stream": stream, **ASKED.get(path, batch)}
    if path == BATCH:
        del content["stream"]
    own = f"{path}-{stream}"
    reply = httpx.post(f"{url}{path}", json=content, headers={"x-request-id": own}, timeout=60)
    assert reply.status_code == 200, reply.text
    answer = re.search(r'"id":\s*"((?:chatcmpl|cmpl|resp)[^"]+)"', reply.text)
    assert answer, reply.text
    outcome = {"metric": "solved", "value": True, "id": answer[1]}
    told = httpx.post(f"{url}/v1/feedback", json=outcome, timeout=60)
    assert told.json()["results"] == [{"status": "recorded"}]
    made = kept(home, answer[1] if path == "/v1/responses" else own)
    assert (made.experiment, made.arm) == (f"{MODEL}/ab-1", reply.headers["x-adapter-arm"])
    assert (made.finish_reason, made.output_tokens) == ("length", 3)
    assert made.prompt_tokens
    assert (made.error, made.refusal) == (False, False)
    assert made.latency_ms
    assert (made.ttft_ms is not None) == stream
    token = {"metric": "solved", "value": True, "token": reply.headers["x-assignment"]}
    again = httpx.post(f"{url}/v1/feedback", json=token, timeout=60)
    assert again.json()["results"] == [{"status": "repeated"}], "token and id name one request"


@pytest.mark.parametrize(
    ("path", "field"),
    [(CHAT, "stop"), ("/v1/completions", "stop"), ("/v1/messages", "stop_sequences")],
)
def test_what_stopped_by_itself(
    url: str, home: Path, experiment: None, path: str, field: str
) -> None:
    content = {**ASKED[path], "max_tokens": 40, field: [" ", "e", "a"]}
    headers = {"x-request-id": f"stopped-{path}"}
    asked = {"model": MODEL, **content}
    reply = httpx.post(f"{url}{path}", json=asked, headers=headers, timeout=60)
    assert reply.status_code == 200, reply.text
    assert kept(home, headers["x-request-id"]).finish_reason == "stop"


def test_what_vllm_refuses_is_exposed_and_no_error(url: str, home: Path, experiment: None) -> None:
    content = {"model": MODEL, "messages": MESSAGES, "temperature": -1}
    reply = httpx.post(f"{url}{CHAT}", json=content, headers={"x-request-id": "wrong"}, timeout=60)
    assert reply.status_code == 400
    made = kept(home, "wrong")
    assert (made.error, made.latency_ms, made.output_tokens) == (False, None, None)


def test_a_response_of_a_key_is_named_as_the_key_has_it(shut: Shut, experiment: None) -> None:
    _, secret = shut.journal.create("tries", allow=[MODEL])
    headers = {"authorization": f"Bearer {secret}"}

    def ask() -> httpx.Response:
        content = {"model": MODEL, **ASKED["/v1/responses"]}
        return httpx.post(f"{shut.url}/v1/responses", json=content, headers=headers, timeout=60)

    wait(lambda: ask().status_code == 200)
    outcome = {"metric": "solved", "value": False, "id": ask().json()["id"]}
    told = httpx.post(f"{shut.url}/v1/feedback", json=outcome, headers=headers, timeout=60)
    assert told.json()["results"] == [{"status": "recorded"}], told.text
    shut.journal.revoke("tries")
