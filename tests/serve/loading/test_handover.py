"""A name moves once what it moved to is loaded; refused, it stays; nobody ever waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from adapters.housekeeping import Housekeeping
from adapters.registry import Registry
from adapters.types import Version
from serve.engines.echo_engine import EchoEngine
from serve.loading import handover
from serve.loading.handover import Handover
from serve.loading.residency import Residency
from serve.routes.routing import route
from serve.routes.snapshot import take
from tests.serve.conftest import FOREIGN, SERVED, Publish
from tests.serve.loading.test_admission import spoil

Support = tuple[Version, Version]


class Server:
    """A handover over a registry and the in-process engine, looked at by hand."""

    def __init__(self, registry: Registry, **options: int) -> None:
        self.engine = EchoEngine("small", max_lora_rank=8, **options)
        self.residency = Residency(self.engine)
        self._handover = Handover(lambda: take(registry), self.residency, SERVED)
        self._handover.look()

    def leads(self, model: str) -> int | None:
        self._handover.look()
        version = route(self._handover.current, SERVED, model, None).version
        return version.number if version else None

    async def leads_once_settled(self, model: str) -> int | None:
        for _ in range(500):
            self._handover.look()
            await asyncio.sleep(0.002)
            if not any(self.residency.is_busy(n) for n in self.residency.standings):
                break
        return self.leads(model)


def test_an_alias_moves_once_its_new_version_is_loaded(
    registry: Registry, support: Support
) -> None:
    async def play() -> None:
        server = Server(registry)
        await server.residency.ready(support[0])
        server.engine.gate.clear()
        registry.promote("support@v2")
        for _ in range(20):
            for model in ("support", "support@production"):
                assert server.leads(model) == 1
            assert server.leads("support@v2") == 2, "asked for by number, it is itself"
            await asyncio.sleep(0.002)
        server.engine.gate.set()
        assert await server.leads_once_settled("support") == 2
        assert server.residency.is_loaded(support[1])
        registry.rollback("support")
        assert server.leads("support") == 1, "loaded still, so at once"

    asyncio.run(play())


def test_an_alias_stays_where_its_new_version_is_refused_and_moves_once_it_is_not(
    registry: Registry, support: Support, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr("serve.loading.residency._RETRY_S", 0.0)
    config = support[1].path / "adapter_config.json"
    content = config.read_bytes()

    async def play() -> None:
        server = Server(registry)
        await server.residency.ready(support[0])
        spoil(config, b"{}")
        registry.promote("support@v2")
        for _ in range(5):
            assert await server.leads_once_settled("support") == 1
        assert caplog.text.count("stays at v1") == 1
        assert "support@v2 is damaged" in caplog.text
        spoil(config, content)
        for _ in range(5):
            if await server.leads_once_settled("support") == 2:
                return
        pytest.fail("it did not move")

    asyncio.run(play())


def test_a_version_that_fails_its_probe_keeps_the_alias_where_it_was(
    registry: Registry, support: Support
) -> None:
    async def play() -> None:
        server = Server(registry)
        server.engine.idle.add(support[1].engine_name)
        await server.residency.ready(support[0])
        registry.promote("support@v2")
        assert await server.leads_once_settled("support") == 1
        registry.promote("support@v1")
        assert server.leads("support") == 1

    asyncio.run(play())


def test_a_version_of_another_base_or_too_large_keeps_it_too(
    registry: Registry, publish: Publish, support: Support
) -> None:
    foreign = publish("support", FOREIGN)

    async def play() -> None:
        server = Server(registry)
        await server.residency.ready(support[0])
        registry.promote(foreign.ref)
        assert await server.leads_once_settled("support") == 1
        assert foreign.engine_name not in server.residency.standings
        server = Server(registry)
        server.engine._rank = 1
        assert await server.leads_once_settled("support@v1") == 1

    asyncio.run(play())


def test_a_name_nobody_asks_for_moves_at_once(registry: Registry, support: Support) -> None:
    async def play() -> None:
        server = Server(registry, memory_places=1, slots=1)
        await server.residency.ready(support[1])
        registry.promote("support@v1")
        registry.promote("support@v2", "canary")
        assert server.leads("support@canary") == 2
        registry.promote("support@v1", "canary")
        server = Server(registry)
        registry.promote("support@v2")
        assert server.leads("support") == 2

    asyncio.run(play())


def test_production_is_loaded_where_there_is_room(registry: Registry, support: Support) -> None:
    async def play() -> None:
        server = Server(registry)
        registry.promote("support@v2")
        await server.leads_once_settled("support")
        assert server.engine.loads == [support[1].engine_name]

    asyncio.run(play())


@pytest.mark.parametrize("promoted", [False, True])
def test_latest_waits_only_where_the_plain_name_means_it(
    registry: Registry, publish: Publish, promoted: bool
) -> None:
    first = publish("tone")
    if promoted:
        registry.promote("tone@v1")

    async def play() -> None:
        server = Server(registry)
        await server.residency.ready(first)
        server.engine.gate.clear()
        second = publish("tone")
        assert server.leads("tone") == 1
        assert server.leads("tone@latest") == (2 if promoted else 1)
        await asyncio.sleep(0.01)
        server.engine.gate.set()
        assert await server.leads_once_settled("tone") == (1 if promoted else 2)
        assert server.residency.is_loaded(second) != promoted

    asyncio.run(play())


def test_the_plain_name_waits_when_a_first_alias_takes_it_elsewhere(
    registry: Registry, publish: Publish
) -> None:
    publish("tone")
    second = publish("tone")

    async def play() -> None:
        server = Server(registry)
        await server.residency.ready(second)
        server.engine.gate.clear()
        registry.promote("tone@v1")
        assert server.leads("tone") == 2
        server.engine.gate.set()
        assert await server.leads_once_settled("tone") == 1

    asyncio.run(play())


def test_it_moves_anyway_when_the_version_before_is_gone_or_patience_ends(
    registry: Registry, support: Support, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = Housekeeping.open(registry.location)

    def waiting(then: Callable[[], object]) -> int | None:
        async def play() -> int | None:
            server = Server(registry)
            await server.residency.ready(support[0])
            server.engine.gate.clear()
            registry.promote("support@v2")
            assert server.leads("support") == 1
            then()
            return server.leads("support")

        return asyncio.run(play())

    assert waiting(lambda: monkeypatch.setattr(handover, "_PATIENCE_S", 0.0)) == 2
    monkeypatch.undo()
    registry.promote("support@v1")
    assert waiting(lambda: house.retire("support@v1")) == 2


def test_an_unchanged_registry_is_not_gone_through_again(
    registry: Registry, support: Support
) -> None:
    snapshot = take(registry)
    following = Handover(lambda: snapshot, Residency(EchoEngine("small")), SERVED)
    following.look()
    current = following.current
    following.look()
    assert following.current is current
    assert current == replace(snapshot, adapters=current.adapters)
