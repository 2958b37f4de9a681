"""Every route of vLLM's app is accounted for in docs/serving.md, as served or as shut."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from serve.http.access import Kind
from serve.http.openapi import kind_of

GUIDE = Path(__file__).parents[2] / "docs" / "serving.md"
DOCS_OF_VLLM = {("GET", path) for path in ("/docs", "/docs/oauth2-redirect", "/redoc")}
Routes = set[tuple[str, str]]


def tables() -> tuple[Routes, Routes]:
    """Return what the guide says is served, and what is shut."""
    _, section, *_ = re.split(r"^## ", GUIDE.read_text("utf-8"), flags=re.MULTILINE)
    served, shut = section.split("does not exist here")
    first, second = (set(re.findall(r"`([A-Z]+) (/\S*)`", part)) for part in (served, shut))
    return first, second


@pytest.fixture(scope="module")
def vllm() -> dict[str, list[list[str]]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.serve.vllm_routes"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, list[list[str]]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def routes(vllm: dict[str, list[list[str]]]) -> Routes:
    return {(method, path) for method, path in vllm["routes"]} - DOCS_OF_VLLM


def test_every_route_of_vllm_is_accounted_for(routes: Routes) -> None:
    served, shut = tables()
    for method, path in routes:
        denied = kind_of(path) is Kind.DENIED
        assert ((method, path) in shut) == denied, (method, path)
        assert ((method, path) in served) != denied, (method, path)


def test_the_guide_names_nothing_that_there_is_not(routes: Routes) -> None:
    served, shut = tables()
    assert shut <= routes
    ours = (
        *("/ready", "/openapi.json", "/v1/models/", "/v1/adapters"),
        *("/v1/experiments", "/v1/feedback"),
    )
    assert all(path.startswith(ours) for _, path in served - routes), served - routes


def test_the_document_names_all_that_is_served(vllm: dict[str, list[list[str]]]) -> None:
    served, _ = tables()
    assert set(vllm["documented"]) == {path for _, path in served} - {"/openapi.json"}
