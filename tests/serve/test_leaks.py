"""Adapters and clients come and go for ever; what a server holds stays as it was."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from adapters.housekeeping import Housekeeping
from adapters.keys import KeyJournal
from adapters.registry import Registry
from serve.engines.echo_engine import EchoEngine
from serve.gate import Gate
from serve.loading.admission import Admission
from serve.loading.handover import Handover
from serve.loading.residency import Residency
from serve.routes import chosen
from serve.routes.snapshot import EMPTY, Snapshot, take
from serve.tenants.keys import Keys
from serve.watching.metrics import Metrics
from serve.watching.observing import Observer
from tests.conftest import RANK
from tests.serve.conftest import SERVED, Publish

_ROUNDS = 4


class House:
    """A whole server but for its engine, over a registry in which things happen."""

    def __init__(self, publish: Publish, location: str, keys: KeyJournal) -> None:
        self._publish, self._registry = publish, Housekeeping.open(location)
        self._reader = Registry.open(location)  # the server's; people have their own
        self._journal = keys
        _, self._secret = keys.create("customers", allow=["*"])
        self._keys = Keys([], keys)
        self._metrics = Metrics(CollectorRegistry())
        self._engine = EchoEngine(SERVED.names[0], max_lora_rank=RANK, memory_places=3)
        self._read: Snapshot = EMPTY
        self._admission = Admission(Residency(self._engine, watcher=self._metrics))
        self._handover = Handover(lambda: self._read, self._admission.residency, SERVED)
        gate = Gate(
            self._engine.app,
            engine=self._engine,
            admission=self._admission,
            snapshot=lambda: self._handover.current,
            base=SERVED,
            keys=self._keys,
        )
        self.app = Observer(gate, self._metrics)

    async def follow(self) -> None:
        """Do what the server does once a second."""
        self._read = take(self._reader, self._read)
        self._handover.look()
        versions = self._handover.current.versions()
        await self._admission.forget({version.engine_name for version in versions})
        await self._admission.residency.keep_up()
        self._metrics.keep({(version.name, f"v{version.number}") for version in versions})
        self._keys._look()

    async def year(self, number: int) -> None:
        """Have an adapter come, be asked for in every way, and go; so a key."""
        name = f"guest-{number}"
        versions = [self._publish(name) for _ in range(2)]
        self._registry.promote(f"{name}@v1")
        self._journal.create(f"key-{number}", allow=[name])
        await self.follow()
        transport = httpx.ASGITransport(self.app)
        headers = {"authorization": f"Bearer {self._secret}"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://test", headers=headers
        ) as client:
            for model in (name, f"{name}@v2", f"{name}@production", f"ghost-{number}", "small"):
                for stream in (False, True):
                    asked = {"model": model, "messages": [], "max_tokens": 3, "stream": stream}
                    await client.post("/v1/chat/completions", json=asked)
            self._engine.gate.clear()  # a load that does not end, and a client that goes
            third = self._publish(name)
            await self.follow()
            asking = asyncio.create_task(
                client.post("/v1/chat/completions", json={"model": third.ref, "messages": []})
            )
            await asyncio.sleep(0.05)
            asking.cancel()
            self._engine.gate.set()
            await asyncio.sleep(0.05)
            await client.post(f"/v1/adapters/{name}@v1/pin")
        self._registry.demote(name, "production", confirmed=True)
        self._journal.revoke(f"key-{number}")
        for version in (*versions, third):
            self._registry.retire(version.ref)
        await self.follow()
        for version in (*versions, third):
            self._registry.delete(version.ref)
        await self.follow()


def held() -> Counter[str]:
    """Return how many objects there are of each type of ours, and of what loops wait by."""
    gc.collect()
    kinds = (type(each) for each in gc.get_objects())
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
    watched = ("adapters.", "serve.", "asyncio.", "_asyncio.", "prometheus_client.", "filelock.")
    return Counter(name for name in names if name.startswith(watched))


def test_whoever_comes_and_goes_leaves_nothing_behind(
    publish: Publish, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chosen, "_MOST_KEPT", 4)

    async def live() -> tuple[Counter[str], Counter[str]]:
        house = House(publish, registry.location, KeyJournal(tmp_path / "keys.jsonl"))
        for number in range(_ROUNDS):
            await house.year(number)
        before = held()
        for number in range(_ROUNDS, 2 * _ROUNDS):
            await house.year(number)
        return before, held()

    before, after = asyncio.run(live())
    grown = {name: number for name, number in (after - before).items() if number >= _ROUNDS}
    grown.pop("adapters.keys.Key")  # what the file of keys holds: each there ever was
    assert grown == {}
