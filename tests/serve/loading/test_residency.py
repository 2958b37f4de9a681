"""Every version stands where the engine says, gets further once, and in the order it is wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.errors import AdaptersError, Conflict, Unavailable
from adapters.registry import Registry
from adapters.types import Version
from serve.engines.echo_engine import EchoEngine
from serve.engines.engine import Memory
from serve.loading import residency
from serve.loading.admission import Admission
from serve.loading.probe import FailedProbe
from serve.loading.residency import Residency, State
from tests.conftest import BASE, MakeAdapter
from tests.serve.conftest import Publish
from tests.serve.loading.test_admission import spoil


def run(play: Coroutine[Any, Any, None]) -> None:
    asyncio.run(play)


def test_a_version_goes_from_known_to_resident_and_back_to_staged(
    support: tuple[Version, Version], publish: Publish
) -> None:
    async def play() -> None:
        engine = EchoEngine("small", memory_places=2, slots=1)
        here = Residency(engine)
        one, two = support
        assert here.state(one) == State.KNOWN
        engine.gate.clear()
        loading = asyncio.create_task(here.ready(one))
        while here.state(one) == State.KNOWN:
            await asyncio.sleep(0.001)
        assert here.state(one) == State.STAGED
        engine.gate.set()
        await loading
        assert here.state(one) == State.RESIDENT
        await here.ready(two)
        assert (here.state(one), here.state(two)) == (State.LOADED, State.RESIDENT)
        await here.ready(publish("other"))
        assert (here.state(one), here.state(two)) == (State.STAGED, State.LOADED)
        await here.ready(one)
        assert engine.loads.count(one.engine_name) == 2
        assert here.standings[one.engine_name].loads == 2

    run(play())


def test_requests_are_loaded_for_before_what_nobody_waits_for(publish: Publish) -> None:
    versions = [publish(f"a{number}") for number in range(6)]

    async def play() -> None:
        engine = EchoEngine("small")
        here = Residency(engine)
        engine.gate.clear()
        tasks = []
        for some, waited_for in (
            (versions[:1], False),
            (versions[1:4], False),
            (versions[4:], True),
        ):
            loads = (here.ready(version, waited_for=waited_for) for version in some)
            tasks += [asyncio.create_task(load) for load in loads]
            await _until_staged(here, some)
        engine.gate.set()
        await asyncio.gather(*tasks)
        names = [name.partition("@")[0] for name in engine.loads]
        assert names[0] == "a0", "it had begun"
        assert set(names[1:3]) == {"a4", "a5"}

    run(play())


async def _until_staged(here: Residency, versions: list[Version]) -> None:
    while any(here.state(version) == State.KNOWN for version in versions):
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)  # from staged to waiting for a turn


def test_a_load_that_nobody_waits_for_any_more_is_finished(
    support: tuple[Version, Version],
) -> None:
    async def play() -> None:
        engine = EchoEngine("small")
        here = Residency(engine)
        asked = asyncio.create_task(here.ready(support[0]))
        await asyncio.sleep(0)
        asked.cancel()
        while here.is_busy(support[0].engine_name):
            await asyncio.sleep(0.001)
        assert here.is_loaded(support[0])

    run(play())


def test_weights_without_effect_are_refused_for_good_and_leave_the_engine(
    support: tuple[Version, Version],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(residency, "_RETRY_S", 0.0)

    async def play() -> None:
        engine = EchoEngine("small")
        here = Residency(engine)
        engine.idle.add(support[0].engine_name)
        for _ in range(3):
            with pytest.raises(FailedProbe, match="answers as the base does"):
                await here.ready(support[0])
        assert here.state(support[0]) == State.REFUSED
        assert engine.loaded() == set()
        assert engine.loads == [support[0].engine_name]
        await here.ready(support[1])

    run(play())
    assert "support@v1 has no effect" in caplog.text


def test_weights_that_answer_with_nan_are_refused(
    support: tuple[Version, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        engine = EchoEngine("small")

        async def canary(name: str | None) -> tuple[dict[int, float]]:
            return ({1: float("nan") if name else -1.0},)

        monkeypatch.setattr(engine, "canary", canary)
        with pytest.raises(FailedProbe, match="NaN"):
            await Residency(engine).ready(support[0])

    run(play())


def test_an_engine_in_trouble_is_asked_again(
    support: tuple[Version, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residency, "_RETRY_S", 0.0)

    async def play() -> None:
        engine = EchoEngine("small")
        here = Residency(engine)
        engine.trouble = "out of memory"
        with pytest.raises(Unavailable):
            await here.ready(support[0])
        engine.trouble = None
        await here.ready(support[0])

    run(play())


def test_a_pinned_version_stays_and_a_step_keeps_its_places(publish: Publish) -> None:
    versions = [publish(f"a{number}") for number in range(6)]

    async def play() -> None:
        engine = EchoEngine("small", memory_places=4, slots=2)
        here = Residency(engine)
        await here.pin(versions[0])
        await here.pin(versions[0])
        await here.pin(versions[1])
        with pytest.raises(Conflict, match="--max-cpu-loras"):
            await here.pin(versions[2])
        for version in versions:
            await here.ready(version)
        assert here.is_loaded(versions[0])
        assert here.is_loaded(versions[1])
        await here.unpin(versions[0].engine_name)
        await here.pin(versions[2])
        for version in versions[3:]:
            await here.ready(version)
        assert not here.is_loaded(versions[0])

    run(play())


class Watched:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []

    def loaded(self, engine_name: str, took_s: float, *, failed: bool = False) -> None:
        assert took_s >= 0
        self.told.append(("failed" if failed else "loaded", engine_name.partition("@")[0]))

    def stalled(self, took_s: float) -> None:
        assert took_s >= 0
        self.told.append(("stalled",))

    def evicted(self, engine_name: str) -> None:
        self.told.append(("evicted", engine_name.partition("@")[0]))


def test_a_version_that_was_evicted_just_now_is_pinned_all_the_same(
    support: tuple[Version, Version], publish: Publish
) -> None:
    async def play() -> None:
        engine = EchoEngine("small", memory_places=2, slots=1)
        here = Residency(engine)
        await here.ready(support[0])
        for version in (support[1], publish("other")):  # as by a step, of which nobody tells
            await engine.load(version)
        await here.pin(support[0])
        assert support[0].engine_name in (await engine.memory()).loaded

    run(play())


def test_loads_stalls_and_evictions_are_told(publish: Publish) -> None:
    one, two, three = (publish(name) for name in ("one", "two", "three"))
    spoil(three.path / "adapter_config.json")

    async def play() -> list[tuple[str, ...]]:
        watched = Watched()
        here = Residency(EchoEngine("small", memory_places=1, slots=1), watcher=watched)
        for version in (one, one, two):
            await here.ready(version)
        with pytest.raises(Unavailable):
            await here.ready(three)
        counted = here.count({each.engine_name for each in (one, two, three)} | {"four@1"})
        assert counted == {"known": 1, "staged": 1, "loaded": 0, "resident": 1, "refused": 1,
                           "draining": 0}  # fmt: skip
        return watched.told

    assert asyncio.run(play()) == [
        *(("stalled",), ("loaded", "one"), ("stalled",), ("loaded", "two"), ("evicted", "one")),
        ("failed", "three"),
    ]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["use", "hold", "release", "load", "pin", "unpin", "spoil", "mend",
                         "forget", "return", "idle"]),
        st.integers(0, 4),
    ),
    max_size=25,
)  # fmt: skip


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory, make_adapter: MakeAdapter) -> list[Version]:
    registry = Registry.open(tmp_path_factory.mktemp("registry"))
    return [registry.publish(f"a{n}", make_adapter(seed=n), base=BASE) for n in range(5)]


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_whatever_happens_what_runs_is_in_the_engine_and_what_is_pinned_in_memory(
    versions: list[Version], steps: list[tuple[str, int]]
) -> None:
    names = [version.engine_name for version in versions]
    contents = {version.engine_name: _config(version).read_bytes() for version in versions}

    async def play() -> None:
        engine = EchoEngine("small", memory_places=3, slots=1)
        admission = Admission(Residency(engine))
        here = admission.residency
        known, held = set(names), dict[str, Any]()
        for action, number in steps:
            version, name = versions[number], names[number]
            try:
                if action == "use" and name in known:
                    async with admission.using(version):
                        assert name in engine.loaded()
                elif action == "hold" and name in known and name not in held:
                    using = admission.using(version)
                    await using.__aenter__()
                    held[name] = using
                elif action == "release" and name in held:
                    await held.pop(name).__aexit__(None, None, None)
                elif action == "load" and name in known:
                    await here.ready(version, waited_for=False)
                elif action == "pin" and name in known:
                    await here.pin(version)
                elif action == "unpin":
                    await here.unpin(name)
            except Conflict:
                pass  # no place is left to pin it
            except AdaptersError:
                assert here.state(version) == State.REFUSED
            if action == "spoil":
                spoil(_config(version), b"{}")
            elif action == "mend":
                spoil(_config(version), contents[name])
            elif action == "idle":
                engine.idle.add(name)
            elif action in ("forget", "return"):
                (known.discard if action == "forget" else known.add)(name)
                await admission.forget(known)
            await here.refresh()
            assert held.keys() <= engine.loaded(), "in use, so never taken away"
            assert here.pinned <= set(here.memory.loaded) | _refused(here), "pinned, so in memory"
            assert len(here.pinned) <= 2
            assert set(here.memory.loaded) <= engine.loaded()
            assert not _refused(here) & {n for n in names if _serves(here, n, versions)}
        for using in held.values():
            await using.__aexit__(None, None, None)
        await admission.forget(set())
        assert engine.loaded() == set()
        assert not here.standings
        assert not here.pinned

    watch, retry = residency._WATCH_S, residency._RETRY_S
    residency._WATCH_S = residency._RETRY_S = 0.0
    try:
        run(play())
    finally:
        residency._WATCH_S, residency._RETRY_S = watch, retry
        for version in versions:
            spoil(_config(version), contents[version.engine_name])


def _config(version: Version) -> Any:
    return version.path / "adapter_config.json"


def _refused(here: Residency) -> set[str]:
    return {name for name, standing in here.standings.items() if standing.refusal}


def _serves(here: Residency, name: str, versions: list[Version]) -> bool:
    return any(v.engine_name == name and here.is_loaded(v) for v in versions)


def test_a_refused_version_that_is_asked_for_again_leaves_an_idle_engine_asleep(
    publish: Publish,
) -> None:
    version = publish("idle")

    class Asked(EchoEngine):
        times = 0

        async def memory(self) -> Memory:
            self.times += 1
            return await super().memory()

    async def play() -> int:
        engine = Asked("small")
        engine.idle.add(version.engine_name)
        here = Residency(engine)
        for _ in range(3):
            with pytest.raises(Unavailable, match="no effect"):
                await here.ready(version)
            await here.keep_up()
        return engine.times

    assert asyncio.run(play()) == 0
