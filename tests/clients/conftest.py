"""Where the server is, and what plain HTTP gets from it: clients must get the same.

These tests run in an environment of their own (`constraints/clients.txt`), against a server that
`tests.clients.serve` has started; nothing of ours is imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

MESSAGE = "What is the capital of Spain?"
MESSAGES = [{"role": "user", "content": MESSAGE}]
MAX_TOKENS = 16
NAMES = {
    "tiny": "tiny",
    "fleet-1": "fleet-1@v1",
    "fleet-1@latest": "fleet-1@v1",
    "support": "support@v1",
    "support@production": "support@v1",
    "support@v2": "support@v2",
}
"""What a client may write as `model`, and the version behind it (or the base)."""

Said = Callable[..., str]
"""`said(model, path="/v1/chat/completions", **fields)`: a greedy answer's text, by plain HTTP."""


@pytest.fixture(scope="session")
def url() -> str:
    return os.environ["SWITCHYARD_URL"]


@pytest.fixture(scope="session")
def key() -> str:
    """Reaches every adapter, and the base."""
    return os.environ["SWITCHYARD_KEY"]


@pytest.fixture
def poor_key() -> str:
    """Has had its one request of this minute; spent anew for each test, as minutes pass."""
    url, key = os.environ["SWITCHYARD_URL"], os.environ["SWITCHYARD_POOR_KEY"]
    httpx.get(f"{url}/v1/models", headers={"authorization": f"Bearer {key}"})
    return key


@pytest.fixture(scope="session")
def http(url: str, key: str) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as http:
        yield http


@pytest.fixture(scope="session")
def said(http: httpx.Client) -> Said:
    def ask(model: str, messages: list[dict[str, Any]] = MESSAGES, **fields: Any) -> str:
        content = {"messages": messages, "max_tokens": MAX_TOKENS, "temperature": 0, **fields}
        reply = http.post("/v1/chat/completions", json={**content, "model": model})
        reply.raise_for_status()
        return str(reply.json()["choices"][0]["message"]["content"])

    return ask
