"""Versions with serving defaults, and versions that are nothing else, through the gate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import BaseMismatch
from adapters.experiments import Arm
from adapters.housekeeping import Housekeeping
from adapters.keys import KeyJournal
from adapters.prompts import publish_prompt
from adapters.registry import Registry
from adapters.serving import Serving
from adapters.types import Version
from serve.engines.asking import Terms
from serve.routes.catalogue import card
from serve.routes.routing import ground_of
from serve.routes.snapshot import take
from tests.conftest import BASE, MakeAdapter
from tests.serve.conftest import FOREIGN, SERVED, MakeServer, Server

ASK = {"role": "user", "content": "Where is it?"}
SYSTEM = {"role": "system", "content": "Be brief."}
BRIEF = Serving.from_json({"system": "Be brief.", "temperature": 0})


def cool(registry: Registry, make: MakeAdapter, **chosen: Any) -> Version:
    """Publish `cool` with defaults."""
    folder = make(seed=9)
    (folder / "serving.json").write_text(json.dumps({"temperature": 0.5, **chosen}))
    return registry.publish("cool", folder, base=BASE)


def asked(server: Server, model: str, **content: Any) -> dict[str, Any]:
    """Ask, and return what reached the engine."""
    reply = server.chat(model, content={"messages": [ASK], **content})
    assert reply.status_code == 200, reply.text
    return dict(reply.json()["echo"])


@pytest.fixture
def over_base(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Version:
    """A prompt over the base that is served, which has no folder here."""
    found = type("Found", (), {"model": BASE})
    monkeypatch.setattr("adapters.bases.resolve", lambda *_, **__: found)
    return publish_prompt(registry, "terse", BRIEF, base="small")


def test_a_versions_defaults_reach_the_engine(
    serve: MakeServer, registry: Registry, make_adapter: MakeAdapter
) -> None:
    version = cool(registry, make_adapter, system="Be brief.")
    server = serve()
    assert asked(server, "cool") == {
        "model": version.engine_name, "messages": [SYSTEM, ASK], "temperature": 0.5
    }  # fmt: skip
    assert asked(server, "cool", temperature=1)["temperature"] == 1
    assert "temperature" not in asked(server, "small")


def test_the_file_is_served_not_what_the_manifest_repeats(
    serve: MakeServer, registry: Registry, make_adapter: MakeAdapter
) -> None:
    version = cool(registry, make_adapter)
    manifest = version.path / "manifest.json"
    content = json.loads(manifest.read_text())
    content["serving"] = {"temperature": 2}
    manifest.chmod(0o644)
    manifest.write_text(json.dumps(content))
    assert asked(serve(), "cool")["temperature"] == 0.5


def test_a_prompt_over_the_base_answers_under_its_own_name(
    serve: MakeServer, over_base: Version
) -> None:
    server = serve()
    reply = server.chat("terse", content={"messages": [ASK]})
    assert reply.json()["model"] == reply.headers["x-adapter"] == over_base.engine_name
    assert reply.json()["echo"] == {
        "model": "small", "messages": [SYSTEM, ASK], "temperature": 0
    }  # fmt: skip
    assert server.engine.loads == []


def test_a_prompt_over_a_version_asks_for_that_one(
    serve: MakeServer, registry: Registry, make_adapter: MakeAdapter
) -> None:
    ground = cool(registry, make_adapter, stop="END", temperature=1.5)
    version = publish_prompt(registry, "cool", BRIEF, on="cool@v1")
    server = serve()
    reply = server.chat("cool", content={"messages": [ASK]})
    assert reply.json()["model"] == reply.headers["x-adapter"] == version.engine_name
    assert reply.json()["echo"] == {
        "model": ground.engine_name,
        "messages": [SYSTEM, ASK],
        "temperature": 0,
        "stop": ["END"],
    }
    assert server.engine.loads == [ground.engine_name]
    assert asked(server, "cool@v1")["temperature"] == 1.5


def test_it_is_an_arm_as_any_other(
    serve: MakeServer, registry: Registry, make_adapter: MakeAdapter
) -> None:
    cool(registry, make_adapter)
    publish_prompt(registry, "cool", BRIEF, on="cool@v1")
    registry.start_experiment("cool", [Arm("plain", 1, 50), Arm("brief", 2, 50)])
    server = serve()
    for user in range(8):
        reply = server.chat("cool", content={"messages": [ASK], "user": str(user)})
        brief = reply.headers["x-adapter-arm"] == "brief"
        assert (reply.json()["echo"]["messages"] == [SYSTEM, ASK]) is brief
        assert reply.json()["model"].startswith("cool@v2" if brief else "cool@v1")


def test_a_ground_that_is_damaged_or_gone_is_said(
    serve: MakeServer, registry: Registry, make_adapter: MakeAdapter
) -> None:
    ground = cool(registry, make_adapter)
    publish_prompt(registry, "terse", BRIEF, on="cool@v1")
    server = serve()
    (ground.path / "adapter_model.safetensors").chmod(0o644)
    (ground.path / "adapter_model.safetensors").write_bytes(b"x")
    assert server.chat("terse").status_code == 503
    house = Housekeeping.open(registry.location)
    house.examine("cool@v1", quarantine=True)
    reply = serve().chat("terse")
    assert reply.status_code == 503
    assert "terse@v1 stands on is quarantined" in reply.json()["error"]["message"]


def test_defaults_that_were_changed_are_not_applied(
    serve: MakeServer, registry: Registry, make_adapter: MakeAdapter, over_base: Version
) -> None:
    server = serve()
    file = over_base.path / "serving.json"
    before = file.read_bytes()
    file.chmod(0o644)
    file.write_text('{"system": "Be rude."}')
    reply = server.chat("terse")
    assert reply.status_code == 503
    assert "serving.json was changed" in reply.json()["error"]["message"]
    file.write_bytes(before)
    assert server.chat("terse").status_code == 200


def test_a_listing_shows_what_it_stands_on(
    registry: Registry, make_adapter: MakeAdapter, over_base: Version
) -> None:
    ground = cool(registry, make_adapter)
    publish_prompt(registry, "cool", BRIEF, on="cool@v1")
    snapshot = take(registry)
    assert card(snapshot, SERVED, "terse")["parent"] == "small"
    assert card(snapshot, SERVED, "cool")["parent"] == ground.engine_name
    assert card(snapshot, SERVED, "cool@v1")["parent"] == "small"


def test_a_key_reaches_a_prompt_whose_ground_it_does_not_see(
    serve: MakeServer, registry: Registry, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    ground = cool(registry, make_adapter)
    publish_prompt(registry, "terse", BRIEF, on="cool@v1")
    journal = KeyJournal(tmp_path / "keys.jsonl")
    _, secret = journal.create("web", allow=["terse"])
    server = serve(journal=journal)
    headers = {"x-api-key": secret}
    with server.app._keys:
        reply = server.chat("terse", content={"messages": [ASK]}, headers=headers)
        assert reply.json()["echo"]["model"] == ground.engine_name
        assert "cool" not in reply.json()["model"] + str(dict(reply.headers))
        assert server.chat("cool", headers=headers).status_code == 404
        listed = server.ask("GET", "/v1/models", headers=headers)
    assert "cool" not in listed.text
    (ground.path / "adapter_model.safetensors").chmod(0o644)
    (ground.path / "adapter_model.safetensors").write_bytes(b"x")
    for hurt in (
        lambda: None,
        lambda: Housekeeping.open(registry.location).examine("cool@v1", quarantine=True),
        lambda: ground.path.rename(tmp_path / "gone"),
        lambda: ground.path.parent.rename(tmp_path / "all gone"),
    ):
        hurt()
        reply = serve(journal=journal).chat("terse", headers=headers)
        assert reply.status_code in (404, 503)
        assert "What terse@v1 stands on" in reply.json()["error"]["message"]
        assert "cool" not in reply.text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_context_of_its_own(
    path: str, serve: MakeServer, registry: Registry, make_adapter: MakeAdapter
) -> None:
    cool(registry, make_adapter, max_model_len=30)
    server = serve()

    def post(path: str, words: int) -> Any:
        turns = [{"role": "user", "content": "a " * words}]
        content = {"model": "cool", "messages": turns, "max_tokens": 99}
        return server.ask("POST", path, json=content)

    assert 0 < post(path, 10).json()["usage"]["completion_tokens"] < 20
    reply = post(path, 40)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert "maximum context length is 30 tokens" in error["message"]
    assert error["type"] == "invalid_request_error"
    if path != "/v1/messages":
        assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    assert post("/tokenize", 40).status_code == 200, "what is only counted is not refused"
    assert server.chat("small", content={"messages": ["a " * 99]}).status_code == 200


def test_room_for_an_answer() -> None:
    assert Terms("x").room(10, None) is None
    assert Terms("x").room(10, 5) == 5
    assert Terms("x", max_model_len=30).room(10, None) == 20
    assert Terms("x", max_model_len=30).room(10, 50) == 20
    assert Terms("x", max_model_len=30).room(10, 5) == 5


def test_a_ground_of_another_base_never_answers(
    registry: Registry, make_adapter: MakeAdapter
) -> None:
    ground = cool(registry, make_adapter)
    version = publish_prompt(registry, "terse", BRIEF, on="cool@v1")
    snapshot = take(registry)
    assert ground_of(snapshot, version) == ground
    forged = replace(version, manifest=replace(version.manifest, base=FOREIGN))
    with pytest.raises(BaseMismatch, match="two bases"):
        ground_of(snapshot, forged)
