"""Experiments look after themselves: once, however many servers there are, and on evidence."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from adapters.errors import Unavailable
from adapters.experiments import Arm, Design, Phase
from adapters.housekeeping import Housekeeping
from adapters.metrics import Metric
from adapters.registry import Registry
from serve.experiments import keeper
from serve.experiments.keeper import Keeper
from serve.experiments.store.base import Outcome
from serve.experiments.store.sql import SqlStore
from serve.routes.snapshot import take
from serve.watching.experiment_metrics import ExperimentMetrics
from tests.serve.conftest import Publish
from tests.serve.experiments.reports import GUARD, PRIMARY
from tests.serve.experiments.store.rows import EXPERIMENT, exposure

CANARY = {"policy": "canary", "steps": (0.05, 0.5, 1.0), "step_units": 100, "metrics": (GUARD,)}
LATER_S = 3600.0
Serve = Callable[..., None]


class House:
    """A registry in which `support` has `v1` in production, `v2` and `v3`; a store; servers."""

    def __init__(self, registry: Registry, store: SqlStore) -> None:
        self.registry, self.store = registry, store
        self.counted = CollectorRegistry()
        self.metrics = ExperimentMetrics(self.counted)
        self._units = count(1)

    def start(self, *shares: float, **design: Any) -> Phase:
        named = [(f"v{n}", n, share) for n, share in enumerate(shares, start=1)]
        arms = [Arm(*each) for each in named]
        return self.registry.start_experiment("support", arms, design=Design(**design))

    def keeper(self, after_s: float = LATER_S, **given: Any) -> Keeper:
        """Return the keeper of one more server, on whose clock it is so much later."""
        plain = {"snapshot": lambda: take(self.registry), "clock": lambda: time.time() + after_s}
        opened = Registry.open(self.registry.location)
        return Keeper(opened, self.store, watcher=self.metrics, **{**plain, **given})

    def serve(self, arm: str, units: int, *, errors: int = 0, solved: int | None = None) -> None:
        """Have new units served by an arm now, so many of them badly, so many of them well."""
        phase = self.registry.experiment("support")
        assert phase
        share = phase.probabilities()[arm]
        names = [f"unit-{next(self._units)}" for _ in range(units)]
        placed = {"phase": phase.number, "at_s": time.time()}
        self.store.expose(
            [
                exposure(name, arm, error=n < errors, probability=share, **placed)
                for n, name in enumerate(names)
            ]
        )
        if solved is not None:
            for start in range(0, units, 1000):
                self.store.record(
                    [
                        Outcome(
                            EXPERIMENT, phase.number, arm, name, f"r-{name}", "solved",
                            n < solved, time.time(),
                        )
                        for n, name in enumerate(names[start : start + 1000], start)
                    ]
                )  # fmt: skip

    def serve_all(self, units: int) -> None:
        """Have new units served by every arm according to its share, all of them well."""
        phase = self.registry.experiment("support")
        assert phase
        for arm, share in phase.probabilities().items():
            self.serve(arm, round(units * share))

    @property
    def phases(self) -> list[Phase]:
        return self.registry.experiments("support")[-1]

    @property
    def production(self) -> int:
        return self.registry.aliases("support")["production"]

    def decisions(self) -> dict[str, float]:
        name = "switchyard_experiment_decisions_total"
        samples = [s for metric in self.counted.collect() for s in metric.samples]
        return {s.labels["kind"]: s.value for s in samples if s.name == name}


@pytest.fixture
def house(registry: Registry, publish: Publish, tmp_path: Path) -> Iterator[House]:
    for _ in range(3):
        publish("support")
    registry.promote("support@v1")
    store = SqlStore(f"sqlite:///{tmp_path}/experiments.db")
    yield House(registry, store)
    store.close()


# -- canaries ---------------------------------------------------------------------------------


def test_a_bad_canary_is_rolled_back(house: House) -> None:
    house.start(0.95, 0.05, **CANARY)
    house.serve("v1", 950, errors=10)
    house.serve("v2", 50, errors=10)
    house.keeper(after_s=0).look()
    assert (house.phases[-1].status, house.production) == ("stopped", 1)
    assert house.phases[-1].actor == "server"
    assert house.phases[-1].reason.startswith("by itself: rolled back: error of v2 is 0.2, beyond")
    assert house.registry.experiment("support") is None, "clients have production again"
    assert any("rolled back" in str(entry.detail) for entry in house.registry.log("support"))
    assert house.decisions() == {"stop": 1}


def test_a_good_canary_takes_every_step_and_is_promoted_with_its_evidence(house: House) -> None:
    house.start(0.95, 0.05, **CANARY)
    keeper = house.keeper()
    keeper.look()
    assert len(house.phases) == 1, "nobody was served yet"
    house.serve_all(2000)
    keeper.look()
    assert [arm.weight for arm in house.phases[-1].arms] == [0.5, 0.5]
    house.serve_all(198)
    keeper.look()
    assert len(house.phases) == 2, "of its 199 units 100 came at an earlier step"
    house.serve_all(2)
    keeper.look()
    assert [phase.status for phase in house.phases] == ["running", "running", "stopped"]
    move = house.registry.history("support", "production")[-1]
    assert (move.from_version, move.to_version, move.actor) == (1, 2, "server")
    evidence = dict(move.evidence)
    assert evidence["experiment"] == "ab-1"
    assert evidence["units"] == {"v1": 2000, "v2": 200}
    assert (evidence["policy"], evidence["units_at_share"]) == ("canary", 100)
    assert evidence["guardrails"]
    assert house.decisions() == {"step": 1, "promote": 1}


def test_a_step_lasts_as_long_as_it_must(house: House) -> None:
    house.start(0.95, 0.05, **CANARY)
    house.serve_all(4000)
    for after_s in (0, 30, -1e6):
        house.keeper(after_s=after_s).look()
    assert len(house.phases) == 1
    house.keeper(after_s=70).look()
    assert len(house.phases) == 2


def test_a_unit_that_crossed_counts_for_no_step(house: House) -> None:
    phase = house.start(0.95, 0.05, **CANARY)
    house.serve("v2", 100)
    placed = {"phase": phase.number, "at_s": time.time(), "probability": 0.95}
    house.store.expose([exposure("unit-1", "v1", **placed)])
    house.serve("v1", 1900)
    house.keeper().look()
    assert len(house.phases) == 1
    house.serve("v2", 1)
    house.keeper().look()
    assert len(house.phases) == 2


def test_what_is_paused_is_left_alone(house: House) -> None:
    house.start(0.95, 0.05, **CANARY)
    house.serve("v2", 100, errors=100)
    stale = take(house.registry)
    house.registry.pause_experiment("support")
    house.keeper().look()
    house.keeper(snapshot=lambda: stale).look()
    assert [phase.status for phase in house.phases] == ["running", "paused"]
    house.registry.resume_experiment("support")
    house.keeper().look()
    assert house.phases[-1].status == "stopped"


# -- many servers -----------------------------------------------------------------------------


def test_many_servers_take_each_step_once(house: House) -> None:
    house.start(0.95, 0.05, **CANARY)
    keepers = [house.keeper() for _ in range(4)]
    barrier = threading.Barrier(len(keepers))

    def look(one: Keeper) -> None:
        barrier.wait()
        one.look()

    for _ in range(2):
        house.serve_all(2000)
        threads = [threading.Thread(target=look, args=(each,)) for each in keepers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for each in keepers:
        each.look()
    assert [phase.arms[1].weight for phase in house.phases] == [0.05, 0.5, 0.5]
    assert house.phases[-1].status == "stopped"
    moves = house.registry.history("support", "production")
    assert [move.to_version for move in moves] == [1, 2]
    assert house.decisions() == {"step": 1, "promote": 1}


def test_a_server_that_dies_between_promotion_and_stop_is_followed_by_one_that_stops(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.start(0.95, 0.05, **{**CANARY, "steps": (0.05, 1.0)})
    house.serve_all(4000)

    def die(*_: Any, **__: Any) -> None:
        raise Unavailable("The disk is gone.", fix="Wait.")

    with monkeypatch.context() as patched:
        patched.setattr(Registry, "stop_experiment", die)
        house.keeper().look()
    assert (house.production, house.phases[-1].status) == (2, "running")
    house.keeper().look()
    assert (house.production, house.phases[-1].status) == (2, "stopped")
    assert len(house.registry.history("support", "production")) == 2


def meanwhile(monkeypatch: pytest.MonkeyPatch, verb: str, does: Callable[[], object]) -> None:
    """Have somebody do something just before the next time that the keeper's registry is asked."""
    asked = getattr(Registry, verb)

    def asking(self: Registry, *given: Any, **more: Any) -> Any:
        monkeypatch.setattr(Registry, verb, asked)
        does()
        return asked(self, *given, **more)

    monkeypatch.setattr(Registry, verb, asking)


def test_an_alias_that_moves_at_that_moment_is_left_where_it_is(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.start(0.95, 0.05, **{**CANARY, "steps": (0.05, 1.0)})
    house.serve_all(4000)
    meanwhile(monkeypatch, "promote", lambda: house.registry.promote("support@v3"))
    house.keeper().look()
    assert (house.production, house.phases[-1].status) == (3, "running")


@pytest.mark.parametrize("verb", ["experiment", "stop_experiment"])
def test_an_experiment_that_changes_at_that_moment_is_left_as_it_is(
    house: House, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    house.start(0.95, 0.05, **{**CANARY, "steps": (0.05, 1.0)})
    house.serve_all(4000)
    snapshot = take(house.registry)
    meanwhile(monkeypatch, verb, lambda: house.registry.pause_experiment("support"))
    house.keeper(snapshot=lambda: snapshot).look()
    assert house.phases[-1].status == "paused"
    assert house.production == (1 if verb == "experiment" else 2)


def test_an_experiment_that_ends_at_that_moment_is_no_trouble(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    house.start(0.95, 0.05, **CANARY)
    house.serve("v2", 100, errors=100)
    meanwhile(monkeypatch, "stop_experiment", lambda: house.registry.stop_experiment("support"))
    house.keeper().look()
    assert house.phases[-1].reason == ""
    assert caplog.records == []


# -- splits -----------------------------------------------------------------------------------


def test_a_winner_is_promoted_where_that_was_chosen(house: House) -> None:
    house.start(50, 50, metrics=(PRIMARY,), auto_promote=True)
    house.serve("v1", 1000, solved=300)
    house.keeper().look()
    assert house.production == 1
    house.serve("v2", 1000, solved=600)
    house.keeper().look()
    assert (house.production, house.phases[-1].status) == (2, "stopped")
    evidence = house.registry.history("support", "production")[-1].evidence
    assert evidence["e_value"] > 20
    assert evidence["metric"] == "solved"


def test_a_control_that_wins_stays(house: House) -> None:
    house.start(50, 50, metrics=(PRIMARY,), auto_promote=True)
    house.serve("v1", 1000, solved=600)
    house.serve("v2", 1000, solved=300)
    house.keeper().look()
    assert (house.production, house.phases[-1].status) == (1, "stopped")
    assert len(house.registry.history("support", "production")) == 1
    assert "v2 is worse in solved by 0.3" in house.phases[-1].reason


def test_an_alias_that_somebody_moved_elsewhere_is_left_there(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.start(50, 50, metrics=(PRIMARY,), auto_promote=True)
    house.serve("v1", 1000, solved=300)
    house.serve("v2", 1000, solved=600)
    house.registry.promote("support@v3")
    keeper = house.keeper()
    for _ in range(3):
        keeper.look()
    assert (house.production, house.phases[-1].status) == (3, "running")
    assert caplog.text.count("but production moved to v3 meanwhile") == 1


def test_a_protected_alias_is_left_to_people(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.start(50, 50, metrics=(PRIMARY,), auto_promote=True)
    house.serve("v1", 1000, solved=300)
    house.serve("v2", 1000, solved=600)
    Housekeeping.open(house.registry.location).protect("support", "production")
    keeper = house.keeper()
    for _ in range(3):
        keeper.look()
    assert (house.production, house.phases[-1].status) == (1, "running")
    assert caplog.text.count("is protected") == 1


def test_of_three_arms_the_one_that_breaks_a_guardrail_is_taken_out(house: House) -> None:
    house.start(50, 25, 25, metrics=(PRIMARY, GUARD))
    for arm, errors in (("v1", 0), ("v2", 50), ("v3", 0)):
        house.serve(arm, 250 if arm != "v1" else 500, errors=errors)
    house.keeper().look()
    assert [arm.out for arm in house.phases[-1].arms] == [False, True, False]
    assert house.phases[-1].status == "running"
    house.keeper().look()
    assert len(house.phases) == 2


def test_where_arms_do_not_get_their_shares_nothing_is_decided_and_it_is_said_once(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.start(50, 50, metrics=(PRIMARY,), auto_promote=True)
    house.serve("v1", 1000, solved=300)
    house.serve("v2", 500, solved=400)
    keeper = house.keeper()
    for _ in range(3):
        keeper.look()
    assert (house.production, len(house.phases)) == (1, 1)
    assert caplog.text.count("Arms do not get the shares") == 1
    labels = {"adapter": "support", "experiment": "ab-1"}
    assert house.counted.get_sample_value("switchyard_experiment_frozen", labels) == 1


def test_a_bandits_shares_follow_the_better_arm(house: House) -> None:
    house.start(0.34, 0.33, 0.33, metrics=(PRIMARY,), policy="bandit")
    house.serve("v1", 340, solved=100)
    house.serve("v2", 330, solved=100)
    house.serve("v3", 330, solved=160)
    house.keeper(after_s=300).look()
    assert len(house.phases) == 1, "shares stay for a while"
    house.keeper(after_s=900).look()
    shares = house.phases[-1].probabilities()
    assert shares["v3"] > 0.4
    assert min(shares.values()) >= 0.05
    house.keeper(after_s=900).look()
    assert len(house.phases) == 2


# -- troubles ---------------------------------------------------------------------------------


def test_a_store_that_is_gone_for_a_while_is_said_once_and_loses_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    house.start(0.95, 0.05, **CANARY)
    house.serve("v2", 100, errors=100)
    keeper = house.keeper()

    def gone(*_: Any) -> None:
        raise Unavailable("The database is gone.", fix="Is it there, and running?")

    with monkeypatch.context() as patched:
        patched.setattr(SqlStore, "units", gone)
        for _ in range(3):
            keeper.look()
    assert caplog.text.count("nothing can be decided: The database is gone") == 1
    keeper.look()
    assert house.phases[-1].status == "stopped"


def test_one_experiment_that_cannot_be_looked_at_keeps_no_other_waiting(
    house: House, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("angry"), publish("angry")
    arms = [Arm("v1", 1, 50), Arm("v2", 2, 50)]
    house.registry.start_experiment("angry", arms, design=Design(metrics=(GUARD,)))
    house.start(0.95, 0.05, **CANARY)
    house.serve("v2", 100, errors=100)
    analyse = keeper.analyse

    def stumbles(name: str, *given: Any, **more: Any) -> Any:
        if name == "angry":
            raise ZeroDivisionError
        return analyse(name, *given, **more)

    monkeypatch.setattr(keeper, "analyse", stumbles)
    house.keeper().look()
    assert house.phases[-1].status == "stopped"


def test_what_asks_for_nothing_is_not_reported_on(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.start(50, 50, metrics=(Metric("solved", "secondary"),))
    monkeypatch.setattr(keeper, "analyse", None)
    house.keeper().look()


def test_it_looks_on_threads_and_rests_longer_than_it_looks(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "_LOOK_S", 0.01)
    looked: list[tuple[float, bool]] = []

    def look() -> None:
        looked.append((time.monotonic(), threading.current_thread() is threading.main_thread()))
        time.sleep(0.01)

    async def run() -> None:
        one = house.keeper()
        monkeypatch.setattr(one, "look", look)
        running = asyncio.create_task(one.run())
        await asyncio.sleep(0.7)
        running.cancel()

    asyncio.run(run())
    assert not any(on_loop for _, on_loop in looked)
    assert 2 <= len(looked) <= 5, "0.01 s of looking, 0.2 s of rest"


def test_evidence_is_told_for_as_long_as_it_is_looked_for(house: House) -> None:
    house.start(50, 50, metrics=(PRIMARY, GUARD), auto_promote=True)
    house.serve("v1", 200, solved=100)
    house.serve("v2", 200, solved=100)
    keeper = house.keeper()
    keeper.look()
    labels = {"adapter": "support", "experiment": "ab-1", "arm": "v2", "metric": "solved"}
    name = "switchyard_experiment_log_e"
    assert house.counted.get_sample_value(name, labels) is not None
    house.registry.stop_experiment("support")
    keeper.look()
    assert house.counted.get_sample_value(name, labels) is None
