"""Retired and quarantined versions before the server, and what its lease keeps."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from adapters.errors import Conflict
from adapters.experiments import Arm
from adapters.housekeeping import Housekeeping
from adapters.leases import Holding, leases
from adapters.types import Version
from serve.engines.echo_engine import EchoEngine
from serve.loading.admission import Admission
from serve.loading.lease import EngineLease
from serve.loading.residency import Residency
from serve.routes.snapshot import take
from tests.conftest import RANK
from tests.serve.conftest import SERVED, MakeServer


@pytest.fixture
def house(registry: Housekeeping, support: tuple[Version, Version]) -> Housekeeping:
    return Housekeeping.open(registry.location)


def test_a_retired_version_answers_410_and_says_what_to_ask_for(
    serve: MakeServer, house: Housekeeping, support: tuple[Version, Version]
) -> None:
    server = serve()
    assert server.chat("support@v2").status_code == 200
    house.retire("support@v2", reason="too curt")
    for model in ("support@v2", support[1].engine_name):
        reply = server.chat(model)
        assert reply.status_code == 410
        error = reply.json()["error"]
        assert error["code"] == "model_not_found"
        for said in ("support@v2 was retired on", "too curt", "Ask for support"):
            assert said in error["message"]
    for model in ("support", "support@latest"):
        assert server.chat(model).json()["model"] == support[0].engine_name
    listed = {card["id"] for card in server.ask("GET", "/v1/models").json()["data"]}
    assert "support@v1" in listed
    assert "support@v2" not in listed
    house.restore("support@v2")
    assert server.chat("support@v2").status_code == 200


def test_on_anthropics_endpoint_it_is_not_found(serve: MakeServer, house: Housekeeping) -> None:
    house.retire("support@v2")
    content = {"model": "support@v2", "messages": [], "max_tokens": 1}
    reply = serve().ask("POST", "/v1/messages", json=content)
    assert reply.status_code == 410
    assert reply.json()["error"]["type"] == "not_found_error"


def test_a_quarantined_version_is_not_served_wherever_it_stands(
    serve: MakeServer, house: Housekeeping, support: tuple[Version, Version]
) -> None:
    house.start_experiment("support", [Arm("a", 1, 50), Arm("b", 2, 50)])
    config = support[0].path / "adapter_config.json"
    before = config.read_bytes()
    config.chmod(0o644)
    config.write_bytes(b"{}")
    house.examine(quarantine=True)
    server = serve()
    for model in ("support@v1", "support@production"):
        reply = server.chat(model)
        assert reply.status_code == 503
        assert "quarantined" in reply.json()["error"]["message"]
    statuses = {server.chat("support", content={"user": str(n)}).status_code for n in range(20)}
    assert statuses == {200, 503}, "the arm that is damaged, and the other"
    config.write_bytes(before)
    house.examine()
    assert server.chat("support@production").status_code == 200


def test_what_is_not_served_leaves_the_engine(
    house: Housekeeping, support: tuple[Version, Version]
) -> None:
    house.retire("support@v2")
    assert take(house).versions() == [support[0]]
    assert take(house).adapters["support"].latest == 1
    house.promote("support@v1", "canary")
    assert len(take(house).adapters["support"].versions) == 2


def test_a_removed_alias_answers_404_and_the_bare_name_means_the_latest(
    serve: MakeServer, house: Housekeeping, support: tuple[Version, Version]
) -> None:
    server = serve()
    assert server.chat("support").json()["model"] == support[0].engine_name
    house.demote("support", "production", confirmed=True)
    reply = server.chat("support@production")
    assert reply.status_code == 404
    assert "no alias 'production'" in reply.json()["error"]["message"]
    assert server.chat("support").json()["model"] == support[1].engine_name
    house.rollback("support")
    assert server.chat("support@production").json()["model"] == support[0].engine_name


def test_what_is_loaded_or_coming_is_held_until_it_is_forgotten(
    house: Housekeeping, support: tuple[Version, Version]
) -> None:
    house.promote("support@v2")
    version = support[0]

    async def live() -> None:
        engine = EchoEngine(SERVED.names[0], max_lora_rank=RANK)
        with Holding(house.location) as holding:
            lease = EngineLease(holding, engine)
            admission = Admission(Residency(engine, None, lease.coming))
            async with lease.coming(version.engine_name):
                with pytest.raises(Conflict, match="has it loaded"):
                    house.delete("support@v1")
                await lease.renew()
                assert leases(house.location)[0].holds == (version.engine_name,)
            async with admission.using(version):
                await lease.renew()
            with pytest.raises(Conflict, match="adapters retire support@v1"):
                house.delete("support@v1")
            house.retire("support@v1")
            await admission.forget({v.engine_name for v in take(house).versions()})
            await lease.renew()
            house.delete("support@v1")
        assert leases(house.location) == []

    asyncio.run(live())


def test_a_version_is_held_before_its_files_are_looked_at(
    house: Housekeeping, support: tuple[Version, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[tuple[str, ...]] = []

    def look(*_: object) -> tuple[()]:
        held.append(leases(house.location)[0].holds)
        return ()

    monkeypatch.setattr("serve.loading.residency.verify", look)

    async def live() -> None:
        engine = EchoEngine(SERVED.names[0], max_lora_rank=RANK)
        with Holding(house.location) as holding:
            lease = EngineLease(holding, engine)
            async with Admission(Residency(engine, None, lease.coming)).using(support[1]):
                pass

    asyncio.run(live())
    assert held == [(support[1].engine_name,)]


def test_a_registry_that_cannot_be_written_is_served_all_the_same(
    house: Housekeeping, support: tuple[Version, Version], caplog: pytest.LogCaptureFixture
) -> None:
    (Path(house.location) / "leases").write_text("a file where the folder would be")

    async def live() -> None:
        engine = EchoEngine(SERVED.names[0], max_lora_rank=RANK)
        lease = EngineLease(Holding(house.location), engine)
        for version in support:
            async with Admission(Residency(engine, None, lease.coming)).using(version):
                assert version.engine_name in engine.loaded()

    asyncio.run(live())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Cannot write a lease" in caplog.text
