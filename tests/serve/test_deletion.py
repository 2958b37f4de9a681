"""A deletion beside a server's first load: every order in which their steps can fall."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import combinations
from typing import Any

import pytest

from adapters.errors import Conflict, NotFound, Unavailable
from adapters.files import sha256_file
from adapters.housekeeping import Housekeeping
from adapters.leases import Holding
from adapters.registry import Registry
from adapters.types import Version
from serve.engines.echo_engine import EchoEngine
from serve.loading.admission import Admission
from serve.loading.lease import EngineLease
from serve.loading.residency import Residency
from serve.routes.snapshot import take
from tests.conftest import RANK
from tests.serve.conftest import SERVED, Server
from tests.waiting import HANGS_S

DELETION = ("asks who holds it", "puts the tombstone", "asks again", "frees the bytes")
LOADING = ("says it holds it", "looks at the files", "loads them")


def orders() -> Iterator[tuple[str, ...]]:
    """Yield every order of all steps in which each side keeps its own."""
    length = len(DELETION) + len(LOADING)
    for places in combinations(range(length), len(LOADING)):
        loading, deletion = iter(LOADING), iter(DELETION)
        yield tuple(next(loading) if n in places else next(deletion) for n in range(length))


class Turns:
    """Lets steps happen in one order only. A side that has ended early needs no turn more."""

    def __init__(self, order: tuple[str, ...]) -> None:
        self._left = list(order)
        self._changed = threading.Condition()

    def at(self, step: str, do: Callable[..., Any]) -> Callable[..., Any]:
        """Have `do` wait for its turn; done once, it waits no more."""

        def wait_and_do(*arguments: Any, **options: Any) -> Any:
            with self._changed:
                if step not in self._left:
                    return do(*arguments, **options)
                assert self._changed.wait_for(lambda: self._left[0] == step, timeout=HANGS_S)
            try:
                return do(*arguments, **options)
            finally:
                self._end((step,))

        return wait_and_do

    @contextmanager
    def side(self, steps: tuple[str, ...]) -> Iterator[None]:
        try:
            yield
        finally:
            self._end(steps)

    def _end(self, steps: tuple[str, ...]) -> None:
        with self._changed:
            self._left = [step for step in self._left if step not in steps]
            self._changed.notify_all()


def in_turn(turns: Turns, steps: tuple[str, str], do: Callable[..., Any]) -> Callable[..., Any]:
    """Have the first call wait for one step's turn, and the second for another's."""
    first, second = (turns.at(step, do) for step in steps)
    calls = iter((first, second))
    return lambda *arguments, **options: next(calls, do)(*arguments, **options)


@pytest.mark.parametrize("order", list(orders()), ids=lambda order: ", ".join(order))
def test_what_the_engine_loads_keeps_its_files(
    order: tuple[str, ...],
    registry: Housekeeping,
    support: tuple[Version, Version],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import adapters.housekeeping as housekeeping
    import serve.loading.residency as residency

    house, version, turns = Housekeeping.open(registry.location), support[1], Turns(order)
    asks, tombstone, again, frees = DELETION
    monkeypatch.setattr(housekeeping, "leases", in_turn(turns, (asks, again), housekeeping.leases))
    backend = house._backend
    monkeypatch.setattr(backend, "delete", turns.at(tombstone, backend.delete))
    monkeypatch.setattr(backend, "sweep", turns.at(frees, backend.sweep))
    monkeypatch.setattr(Holding, "renew", turns.at(LOADING[0], Holding.renew))
    monkeypatch.setattr(residency, "verify", turns.at(LOADING[1], residency.verify))
    engine = EchoEngine(SERVED.names[0], max_lora_rank=RANK)
    load = engine.load

    async def load_in_turn(coming: Version) -> None:
        # Blocks this loop, on which nothing else is to happen.
        turns.at(LOADING[2], lambda: None)()
        await load(coming)

    monkeypatch.setattr(engine, "load", load_in_turn)

    def delete() -> bool:
        with turns.side(DELETION):
            try:
                house.delete(version.ref)
            except Conflict:
                return False
            return True

    async def serve_it(holding: Holding) -> bool:
        lease = EngineLease(holding, engine)
        with turns.side(LOADING):
            try:
                async with Admission(Residency(engine, None, lease.coming)).using(version):
                    return True
            except (NotFound, Unavailable):
                return False

    with Holding(house.location) as holding, ThreadPoolExecutor(1) as beside:
        deletion = beside.submit(delete)
        loaded = asyncio.run(serve_it(holding))
        deleted = deletion.result()
        assert loaded == (version.engine_name in engine.loaded())
        assert loaded or deleted
        if loaded:
            for name, file in version.manifest.files.items():
                assert sha256_file(version.path / name) == file.sha256
        if deleted:
            with pytest.raises(NotFound, match="was deleted"):
                house.resolve(version.ref)
            assert version.engine_name not in {v.engine_name for v in take(house).versions()}
        holding.renew([])
    house.publish("support", support[0].path, base=support[0].manifest.base)
    Housekeeping._free(house, "support")
    assert version.path.joinpath("adapter_config.json").exists() == (not deleted)


def test_who_comes_in_the_moment_of_a_deletion_is_told_of_it(
    registry: Registry, support: tuple[Version, Version]
) -> None:
    before = take(registry)
    Housekeeping.open(registry.location).delete(support[1].ref)
    reply = Server(lambda: before).chat(support[1].ref)
    assert reply.status_code == 404
    assert "support@v2 was deleted" in reply.json()["error"]["message"]
