"""`/ready` sends requests away from a server that cannot answer them, and from no other."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.errors import RegistryUnavailable
from adapters.registry import Registry
from adapters.types import Version
from serve.http.draining import Drain
from serve.routes.follower import Follower
from serve.watching.readiness import Readiness
from tests.serve.conftest import MakeServer, Server
from tests.waiting import HANGS_S, wait


def test_it_says_each_part(serve: MakeServer, support: tuple[Version, Version]) -> None:
    server = serve()
    server.chat("support")
    reply = server.ask("GET", "/ready")
    assert reply.status_code == 200
    assert reply.json() == {
        "status": "ready",
        "engine": "up",
        "registry": "reachable",
        "adapters": {"loaded": 1, "waiting": 0},
    }


def test_without_an_engine_it_is_not_ready(serve: MakeServer) -> None:
    server = serve()
    server.engine.trouble = "The plugin is missing."
    reply = server.ask("GET", "/ready")
    assert reply.status_code == 503
    assert reply.json()["status"] == "not ready"
    assert "plugin" in reply.json()["engine"]


def ready(server: Server, **parts: Any) -> Readiness:
    """Give a server these parts to report."""
    readiness = Readiness(server.engine, Drain(), **parts)
    server.app._readiness, server.app._drain = readiness, readiness.drain
    return readiness


def test_until_what_is_wanted_is_loaded_it_is_not_ready(serve: MakeServer) -> None:
    server, waiting = serve(), 2
    ready(server, waiting=lambda: waiting)
    assert server.ask("GET", "/ready").status_code == 503
    waiting = 0
    assert server.ask("GET", "/ready").status_code == 200


@pytest.mark.parametrize(("reachable", "age_s"), [(False, 3.0), (True, 100.0)])
def test_a_registry_that_went_away_is_said_and_keeps_no_request_away(
    serve: MakeServer, reachable: bool, age_s: float
) -> None:
    server = serve()
    ready(server, registry_reachable=lambda: reachable, registry_age_s=lambda: age_s)
    reply = server.ask("GET", "/ready")
    assert reply.status_code == 200
    assert reply.json()["registry"].startswith("unreachable since 20")


def test_the_folder_of_a_registry_gone_is_no_empty_registry(
    registry: Registry, support: tuple[Version, Version], tmp_path: Path
) -> None:
    with Follower(registry, interval_s=0.01) as follower:
        shutil.move(tmp_path / "registry" / "adapters", tmp_path / "elsewhere")
        wait(lambda: not follower.current.reachable)
        assert follower.current.adapters.keys() == {"support"}, "served as it was read"
        wait(lambda: follower.age_s > 0.1)
        with pytest.raises(RegistryUnavailable, match="gone"):
            registry.names()
        shutil.move(tmp_path / "elsewhere", tmp_path / "registry" / "adapters")
        wait(lambda: follower.current.reachable)
        wait(lambda: follower.age_s < 0.1)


def test_an_empty_registry_is_reachable(registry: Registry) -> None:
    with Follower(registry, interval_s=0.01) as follower:
        assert follower.current.reachable


def test_while_it_drains_running_requests_end_and_new_ones_are_turned_away(
    serve: MakeServer,
) -> None:
    server = serve()
    drain = ready(server).drain
    answered = server.app._app
    going = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await going.wait()
        await answered(scope, receive, send)

    server.app._app = slow

    async def play() -> tuple[httpx.Response, ...]:
        transport = httpx.ASGITransport(server.observed)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            running = asyncio.create_task(client.post("/v1/completions", json={"model": "small"}))
            await asyncio.sleep(0.05)
            drain.begin()
            over = asyncio.create_task(drain.over(60))
            late = await client.post("/v1/completions", json={"model": "small"})
            report = await client.get("/ready")
            assert not over.done()
            going.set()
            await asyncio.wait_for(over, HANGS_S)
            return await running, late, report

    running, late, report = asyncio.run(play())
    assert running.status_code == 200
    assert late.status_code == 503
    assert late.json()["error"]["type"] == "service_unavailable_error"
    assert (report.status_code, report.json()["status"]) == (503, "draining")


@pytest.mark.parametrize("again", [False, True], ids=["a timeout", "a second signal"])
def test_draining_ends_though_a_request_does_not(again: bool) -> None:
    async def play() -> None:
        drain = Drain()
        with drain.running():
            drain.begin()
            if again:
                drain.begin()
            await asyncio.wait_for(drain.over(600 if again else 0.05), HANGS_S)

    asyncio.run(play())


def dying(server: Server, *messages: dict[str, Any]) -> None:
    """Have the engine die under the next request, which vLLM then answers with `messages`."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.engine.trouble = "The engine is dead."
        for message in messages:
            await send(message)

    server.app._app = app


START = {"type": "http.response.start", "status": 500, "headers": []}
BODY = {"type": "http.response.body", "body": b'{"error":{"code":500}}'}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_an_engine_that_dies_is_a_503_in_the_clients_own_shape(
    serve: MakeServer, path: str
) -> None:
    server = serve()
    dying(server, START, BODY)
    reply = server.ask("POST", path, json={"model": "small"})
    assert reply.status_code == 503
    assert reply.json()["error"]["type"] == "service_unavailable_error"
    assert "dead" in reply.json()["error"]["message"]
    assert server.ask("GET", "/ready").status_code == 503


def test_a_stream_under_way_says_it_too(serve: MakeServer) -> None:
    server = serve()
    begun = {"type": "http.response.start", "status": 200, "headers": []}
    token = {"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True}
    error = {"type": "http.response.body", "body": b'data: {"error":{"code":500}}\n\n'}
    dying(server, begun, token, error)
    reply = server.ask("POST", "/v1/completions", json={"model": "small", "stream": True})
    assert reply.text.startswith("data: 1\n\n")
    assert '"service_unavailable_error"' in reply.text


def test_a_500_of_a_living_engine_is_its_own(serve: MakeServer) -> None:
    server = serve()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(BODY)

    server.app._app = app
    reply = server.ask("POST", "/v1/completions", json={"model": "small"})
    assert (reply.status_code, reply.json()) == (500, {"error": {"code": 500}})
