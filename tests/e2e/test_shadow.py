"""A shadow on the real vLLM: it answers what its weights say, on every endpoint that answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.experiments import Arm, Design
from adapters.registry import Registry
from serve.experiments.store.base import Shadow
from serve.experiments.store.sql import SqlStore
from tests.e2e.conftest import MAX_TOKENS, Reference
from tests.waiting import wait

SAID = "Hello there"
CHAT = {"messages": [{"role": "user", "content": SAID}], "max_tokens": MAX_TOKENS}
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": CHAT,
    "/v1/responses": {"input": SAID, "max_output_tokens": MAX_TOKENS},
    "/v1/completions": {"prompt": SAID, "max_tokens": MAX_TOKENS},
}


@pytest.fixture
def store(home: Path) -> Iterator[SqlStore]:
    """The server's own."""
    with closing(SqlStore(f"sqlite:///{home}/experiments.db")) as store:
        yield store


@pytest.fixture
def key(registry: Registry, url: str) -> Iterator[str]:
    """Half an experiment: `support@v2` answers copies of what `support@v1` is asked."""
    design = Design(shadow=2, keep_answers=True)
    phase = registry.start_experiment("support", [Arm("v1", 1, 100)], design=design)
    wait(lambda: httpx.post(f"{url}/tokenize", json={"model": "support", "prompt": ""})
         .headers.get("x-adapter-arm"))  # fmt: skip
    yield f"support/{phase.experiment}"
    registry.stop_experiment("support")


def counted(url: str) -> dict[str, float]:
    """Return how many copies were answered, failed and skipped."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    found = (re.match(r'switchyard_shadow_requests_total{.*result="(\w+)"} (.*)', x) for x in lines)
    return {line[1]: float(line[2]) for line in found if line}


def shadowed(url: str, path: str, asked: dict[str, Any], store: SqlStore, key: str) -> Shadow:
    """Ask until a copy is answered: on a busy machine it may have to give way."""
    for number in range(20):
        before, name = sum(counted(url).values()), f"shadowed-{number}-{path}-{asked['stream']}"
        answer = httpx.post(f"{url}{path}", json=asked, headers={"x-request-id": name}, timeout=60)
        assert (answer.status_code, answer.headers["x-adapter-arm"]) == (200, "v1"), answer.text
        wait(lambda before=before: sum(counted(url).values()) > before)  # type: ignore[misc]
        for each in store.shadows(key):
            if each.request_id == name:
                return each
    raise AssertionError(counted(url))


def test_a_shadow_answers_what_its_own_weights_say(
    url: str, registry: Registry, store: SqlStore, key: str, reference: Reference
) -> None:
    texts: dict[str, tuple[str | None, str | None]] = {}
    for path, said in ASKED.items():
        for stream in (False, True):
            asked = {"model": "support", "temperature": 0, "stream": stream, **said}
            shadow = shadowed(url, path, asked, store, key)
            assert (shadow.error, shadow.version, shadow.arm) == (False, 2, "v1")
            assert shadow.output_tokens
            assert shadow.latency_ms
            assert shadow.prompt
            assert json.loads(shadow.prompt)["path"] == path
            told = (shadow.answer, shadow.shadow_answer)
            assert texts.setdefault(path, told) == told, "streamed or not"
    first, second = (reference(registry.resolve(f"support@v{n}"), SAID) for n in (1, 2))
    assert first != second
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/responses"):
        assert texts[path] == (first, second), path
    assert texts["/v1/completions"][0] != texts["/v1/completions"][1]
    assert "failed" not in counted(url)
