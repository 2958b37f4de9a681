"""Where versions stand on the real vLLM: promotions nobody waits for, few places."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import httpx
import numpy
import pytest
from safetensors.numpy import load_file, save_file

from adapters import bases
from adapters.registry import Registry
from loadtests import fleet
from tests.e2e.conftest import MAX_TOKENS, Reference
from tests.e2e.shut import ADMIN, Shut
from tests.waiting import wait

MESSAGE = "The kettle does not turn on."


class Client:
    """Asks one server."""

    def __init__(self, url: str, key: str = "none") -> None:
        headers = {"authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=url, timeout=60, headers=headers)

    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in self._http.get("/v1/adapters").json()["data"]}

    def do(self, method: str, path: str) -> httpx.Response:
        return self._http.request(method, f"/v1/adapters/{path}")

    def ask(self, model: str) -> tuple[str, str]:
        """Return the engine name that answered, and what it said."""
        content = {
            "model": model,
            "messages": [{"role": "user", "content": MESSAGE}],
            "max_tokens": MAX_TOKENS,
            "temperature": 0,
        }
        reply = self._http.post("/v1/chat/completions", json=content).raise_for_status()
        return reply.headers["x-adapter"], reply.json()["choices"][0]["message"]["content"]


@pytest.fixture
def shared(url: str) -> Client:
    return Client(url)


def test_a_promotion_waits_for_its_version_and_no_request_for_the_promotion(
    shared: Client, registry: Registry, reference: Reference
) -> None:
    first, second = fleet.publish(registry, ["handed-over", "handed-over"])
    registry.promote("handed-over@v1")
    wait(lambda: {"handed-over@v1", "handed-over@v2"} <= shared.rows().keys())
    assert shared.ask("handed-over")[0] == first.engine_name
    registry.promote("handed-over@v2")
    served = first.engine_name
    while served == first.engine_name:
        row = shared.rows()["handed-over@v2"]
        served, _ = shared.ask("handed-over")
        if served == first.engine_name and row["awaited_by"]:
            assert row["aliases"] == ["latest"], "an alias leads to one version"
    row = shared.rows()["handed-over@v2"]
    assert (row["state"], row["loads"], row["aliases"]) == ("resident", 1, ["production", "latest"])
    assert shared.ask("handed-over") == (second.engine_name, reference(second, MESSAGE))


def test_weights_that_do_nothing_are_refused_and_the_alias_stays(
    shared: Client, registry: Registry
) -> None:
    first, good = fleet.publish(registry, ["idle", "idle"])
    registry.promote("idle@v1")
    wait(lambda: "idle@v1" in shared.rows())
    assert shared.ask("idle")[0] == first.engine_name
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "adapter_config.json").write_bytes(
            (good.path / "adapter_config.json").read_bytes()
        )
        tensors = load_file(good.path / "adapter_model.safetensors")
        weak = {k: (v * numpy.float32(1e-6 if "lora_B" in k else 1)) for k, v in tensors.items()}
        save_file(weak, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        idle = registry.publish("idle", folder, base=bases.resolve("tiny").model)
    registry.promote(idle.ref)
    wait(lambda: shared.rows().get(idle.ref, {}).get("state") == "refused")
    assert "no effect" in shared.rows()[idle.ref]["reason"]
    assert shared.rows()[idle.ref]["awaited_by"] == ["production"]
    assert shared.ask("idle")[0] == first.engine_name
    reply = shared.do("POST", f"{idle.ref}/load")
    assert (reply.status_code, "no effect" in reply.text) == (503, True)
    assert shared.do("POST", f"{good.ref}/load").json()["state"] == "resident"


def test_with_few_places_every_answer_is_right_and_pins_stay(
    shut: Shut, registry: Registry, reference: Reference
) -> None:
    """One slot, memory for two, and three versions."""
    versions = fleet.publish(registry, ["few-a", "few-b", "few-c"])
    client = Client(shut.url, ADMIN)
    wait(lambda: versions[-1].ref in client.rows())
    for _ in range(2):
        for version in versions:
            assert client.ask(version.name) == (version.engine_name, reference(version, MESSAGE))
    rows = client.rows()
    by_state = {rows[version.ref]["state"]: version for version in versions}
    assert by_state.keys() == {"staged", "loaded", "resident"}
    assert [rows[v.ref]["loads"] for v in versions] == [2, 2, 2]
    evicted = by_state["staged"]
    assert client.do("POST", f"{evicted.name}/pin").json()["pinned"] is True
    others = [version for version in versions if version != evicted]
    assert client.do("POST", f"{others[0].name}/pin").status_code == 409
    for version in (*others, *others):
        assert client.ask(version.name)[1] == reference(version, MESSAGE)
    assert client.rows()[evicted.ref]["state"] == "loaded", "pinned, in no slot"
    assert client.ask(evicted.name)[1] == reference(evicted, MESSAGE)
    assert client.do("DELETE", f"{evicted.name}/pin").json()["pinned"] is False
