"""Schemathesis on the server's own OpenAPI document: no 5xx, whatever is asked for.

A body as the schema has it seldom gets as far as the engine, so most are a request that works with
some of its fields in place of its own. `SWITCHYARD_EXAMPLES=1000` asks for more of each kind.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case

from tests.clients.conftest import MESSAGES

URL = os.environ["SWITCHYARD_URL"]
EXAMPLES = int(os.environ.get("SWITCHYARD_EXAMPLES", "30"))
ADMIN = {"authorization": f"Bearer {os.environ['SWITCHYARD_ADMIN_KEY']}"}
MODELS = ("tiny", "support", "fleet-1@v1")
LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
LONGEST = 8
SLOW_S = 30
WORKS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 3},
    "/v1/chat/completions/batch": {"messages": [MESSAGES], "max_tokens": 3},
    "/v1/completions": {"prompt": "hello", "max_tokens": 3},
    "/v1/responses": {"input": "hello", "max_output_tokens": 3},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 3},
    "/v1/messages/count_tokens": {"messages": MESSAGES},
    "/tokenize": {"prompt": "hello"},
    "/detokenize": {"tokens": [5, 6]},
}

schema = schemathesis.openapi.from_url(f"{URL}/openapi.json", headers=ADMIN)


def engaged(path: str, body: Any) -> Any:
    """Return a body that gets further: with a model there is, and mostly one that works else."""
    if path not in WORKS or not isinstance(body, dict):
        return body
    chance = zlib.crc32(repr(body).encode("utf-8", "replace"))
    taken = [field for field in body if field not in WORKS[path] and field != "model"]
    if chance % 8:
        body = {**WORKS[path], **{field: body[field] for field in taken[: chance % 8]}}
    for length in LENGTHS:  # long answers of so small a base find nothing
        if isinstance(body.get(length), int):
            body[length] = min(body[length], LONGEST)
    return {**body, "model": MODELS[chance % 3]} if chance % 16 else body


@pytest.fixture(autouse=True)
def unharmed() -> Iterator[None]:
    """The base and adapters answer afterwards as before."""
    with httpx.Client(base_url=URL, headers=ADMIN, timeout=SLOW_S) as http:

        def answers() -> list[str]:
            content = {"prompt": "hello", "max_tokens": 8, "temperature": 0}
            replies = [http.post("/v1/completions", json={**content, "model": m}) for m in MODELS]
            return [reply.json()["choices"][0]["text"] for reply in replies]

        before = answers()
        yield
        assert answers() == before
        assert http.get("/ready").is_success


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_nothing_is_the_servers_fault(case: Case) -> None:
    case.body = engaged(case.path, case.body)
    reply = case.call(headers=ADMIN, timeout=SLOW_S)
    assert reply.status_code < 500, f"{reply.status_code}: {reply.text[:500]}"


def test_every_path_of_the_document_exists() -> None:
    with httpx.Client(base_url=URL, headers=ADMIN, timeout=SLOW_S) as http:
        document = http.get("/openapi.json").json()
        for path, item in document["paths"].items():
            found = path.replace("{response_id}", "resp_0").replace("{model}", "support")
            found = found.replace("{ref}", "support@v1")
            for method in item:
                reply = http.request(method, found, json={} if method == "post" else None)
                missing = reply.status_code == 404 and "resp_0" not in found
                assert not missing, (method, path, reply.text)
                assert reply.status_code != 405, (method, path)
