"""`/v1/adapters`: what stands where on this server, and the three things to do about it."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from adapters.housekeeping import Housekeeping
from adapters.prompts import publish_prompt
from adapters.registry import Registry
from adapters.serving import Serving
from adapters.types import Version
from tests.adapters.test_json import misfits
from tests.conftest import BASE
from tests.serve.conftest import FOREIGN, MakeServer, Publish, Server
from tests.serve.loading.test_admission import spoil

Support = tuple[Version, Version]
PAGE = Path(__file__).parents[3] / "docs" / "serving.md"


def rows(server: Server) -> dict[str, dict[str, Any]]:
    reply = server.ask("GET", "/v1/adapters")
    assert reply.status_code == 200
    assert reply.json()["object"] == "list"
    return {row["id"]: row for row in reply.json()["data"]}


@pytest.fixture
def server(serve: MakeServer, support: Support) -> Server:
    return serve()


def test_every_version_has_a_row_of_the_documented_shape(
    server: Server, publish: Publish, support: Support
) -> None:
    publish("elsewhere", FOREIGN)
    assert server.chat("support").is_success
    found = rows(server)
    assert set(found) == {"support@v1", "support@v2", "elsewhere@v1"}
    shape = json.loads(re.findall(r"```json adapter\n(.*?)```", PAGE.read_text(), re.DOTALL)[0])
    assert [misfits(row, shape) for row in found.values()] == [[]] * 3
    one, two = found["support@v1"], found["support@v2"]
    assert (one["state"], one["aliases"]) == ("resident", ["production"])
    assert (two["state"], two["aliases"]) == ("known", ["latest"])
    assert (one["loads"], one["rank"], one["running"]) == (1, 4, 0)
    assert one["size_bytes"] == sum(f.stat().st_size for f in _files(support[0]))
    assert one["last_used"]
    assert not two["last_used"]
    assert found["elsewhere@v1"]["state"] == "refused"
    assert "was trained on another/base" in found["elsewhere@v1"]["reason"]
    assert str(support[0].path) not in json.dumps(found)


def test_one_version_is_asked_for_by_any_ref(server: Server, support: Support) -> None:
    for ref in ("support", "support@production", "support@v1", support[0].engine_name):
        reply = server.ask("GET", f"/v1/adapters/{ref}")
        assert (reply.status_code, reply.json()["id"]) == (200, "support@v1")
    for ref in ("nobody", "support@v9", "small", "..%2fx", "support/x", "/load"):
        assert server.ask("GET", f"/v1/adapters/{ref}").status_code == 404
    for method, path in (("POST", ""), ("POST", "/support"), ("GET", "/support/load")):
        assert server.ask(method, f"/v1/adapters{path}").status_code == 405


def test_a_load_returns_once_it_is_loaded_and_again_changes_nothing(
    server: Server, support: Support
) -> None:
    for _ in range(2):
        reply = server.ask("POST", "/v1/adapters/support@v2/load")
        assert reply.status_code == 200
        assert reply.json()["state"] == "resident"
    assert server.engine.loads == [support[1].engine_name]


def test_a_load_that_is_refused_says_why_and_so_does_the_row(
    server: Server, support: Support
) -> None:
    spoil(support[1].path / "adapter_config.json", b"{}")
    server.engine.idle.add(support[0].engine_name)
    for version, why in ((support[1], "damaged"), (support[0], "no effect")):
        reply = server.ask("POST", f"/v1/adapters/{version.ref}/load")
        assert reply.status_code == 503
        assert why in reply.json()["error"]["message"]
        row = rows(server)[version.ref]
        assert row["state"] == "refused"
        assert why in row["reason"]


def test_a_pin_loads_and_is_listed_until_it_is_lifted(server: Server) -> None:
    for method, pinned in (("POST", True), ("DELETE", False), ("DELETE", False)):
        reply = server.ask(method, "/v1/adapters/support/pin")
        assert reply.status_code == 200
        assert reply.json()["pinned"] is pinned
        assert rows(server)["support@v1"]["pinned"] is pinned
    server.engine._places = server.engine.slots
    assert server.ask("POST", "/v1/adapters/support/pin").status_code == 409


def test_a_retired_version_drains_and_is_gone_from_the_engine(
    server: Server, registry: Registry, support: Support
) -> None:
    house = Housekeeping.open(registry.location)
    assert server.chat("support@v2").is_success
    house.retire("support@v2", reason="curt")
    row = rows(server)["support@v2"]
    assert (row["state"], "curt" in row["reason"]) == ("draining", True)
    asyncio.run(server.admission.forget({support[0].engine_name}))
    assert rows(server)["support@v2"]["state"] == "refused"
    assert server.ask("POST", "/v1/adapters/support@v2/load").status_code == 410


def test_it_needs_a_key_where_there_are_keys(serve: MakeServer, support: Support) -> None:
    server = serve(keys=["secret"])
    for method, path in (("GET", ""), ("GET", "/support"), ("POST", "/support/load"),
                         ("POST", "/support/pin"), ("DELETE", "/support/pin")):  # fmt: skip
        assert server.ask(method, f"/v1/adapters{path}").status_code == 401


def _files(version: Version) -> list[Path]:
    return [version.path / name for name in version.manifest.files]


def test_a_prompt_only_version_stands_where_its_weights_do(
    registry: Registry, serve: MakeServer, support: Support, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = type("Found", (), {"model": BASE})
    monkeypatch.setattr("adapters.bases.resolve", lambda *_, **__: found)
    brief = Serving.from_json({"system": "Be brief."})
    over = publish_prompt(registry, "over", brief, on="support@v1")
    bare = publish_prompt(registry, "bare", brief, base="small")
    server = serve()
    listed = rows(server)
    assert (listed[over.ref]["state"], listed[bare.ref]["state"]) == ("known", "resident")
    reply = server.ask("POST", f"/v1/adapters/{over.ref}/load")
    assert (reply.status_code, reply.json()["state"]) == (200, "resident")
    assert server.engine.loads == [support[0].engine_name]
    for action in ("load", "pin"):
        assert server.ask("POST", f"/v1/adapters/{bare.ref}/{action}").is_success
    assert server.engine.loads == [support[0].engine_name]
