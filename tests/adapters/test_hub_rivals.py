"""Two keepers of one registry on the Hub, where no lock is: one acts between any two calls of the
other's, and nothing comes to lead to a version that is retired or deleted."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from adapters.backends.hub import HubBackend
from adapters.backends.hub_calls import Calls
from adapters.errors import AdaptersError, Conflict, NotFound, Rejected
from adapters.experiments import Arm
from adapters.registry import Registry
from adapters.retention import Retention
from adapters.transfer import transfer
from tests.conftest import BASE, MakeAdapter
from tests.hub.faults import Fault
from tests.hub.server import ORG, Hub

EVERY = int(os.environ.get("EVERY", "3"))
ARMS = [Arm("v1", 1, 50), Arm("v3", 3, 50)]
VERBS: dict[str, Callable[[Retention, str], object]] = {
    "promote": lambda house, name: house.promote(f"{name}@v1"),
    "rollback": lambda house, name: house.rollback(name),
    "experiment": lambda house, name: house.start_experiment(name, ARMS),
    "retire": lambda house, name: house.retire(f"{name}@v1"),
    "delete": lambda house, name: house.delete(f"{name}@v1"),
    "gc": lambda house, _: house.collect(keep_last=1),
}
TAKERS, LEADERS = ("retire", "delete", "gc"), ("promote", "rollback", "experiment")
PAIRS = [pair for a in LEADERS for b in TAKERS for pair in ((a, b), (b, a))]


def new_house() -> tuple[Retention, Calls]:
    calls = Calls(ORG, patience_s=30, first_pause_s=0.005)
    return Retention(HubBackend(ORG, fresh_s=0, calls=calls)), calls


@pytest.fixture(scope="module")
def folder(make_adapter: MakeAdapter) -> Path:
    return make_adapter()


def prepare(folder: Path, name: str) -> None:
    """Make v1 to v3, production at v2 and one rollback away from v1."""
    house, _ = new_house()
    for _ in range(3):
        house.publish(name, folder, base=BASE)
    for number in (1, 2):
        house.promote(f"{name}@v{number}", reason="to begin with")
    house.versions(name)  # their manifests are here: nobody waits for who fetches them


def between(calls: Calls, step: int, act: Callable[[], object]) -> Callable[[], bool]:
    """Have `act` done before the `step`-th call; return what says whether it came to that."""
    persist, numbers, done = calls.persist, count(1), []

    def overtaken(doing: str, attempt: Callable[[bool], Any]) -> Any:
        if next(numbers) == step:
            done.append(step)
            act()
        return persist(doing, attempt)

    calls.persist = overtaken  # type: ignore[method-assign]
    return lambda: bool(done)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_nothing_leads_to_what_is_taken_away_at_the_same_moment(
    hub: Hub, folder: Path, first: str, second: str
) -> None:
    """EVERY=1 in the environment asks for every step."""
    name, done = "support", {first: 0, second: 0}

    def attempt(verb: str, house: Retention, name: str) -> None:
        try:
            VERBS[verb](house, name)
        except (Conflict, NotFound, Rejected):
            return
        done[verb] += 1

    prepare(folder, name)
    prepared = hub.repos[f"{ORG}/{name}"]
    for step in count(1, EVERY):
        hub.repos[f"{ORG}/{name}"] = prepared.copied()
        house, calls = new_house()
        rival, _ = new_house()
        came = between(calls, step, lambda rival=rival: attempt(second, rival, name))
        attempt(first, house, name)
        if not came():
            break
        seen, _ = new_house()
        living = [version.number for version in seen.versions(name)]
        stands = set(living) - set(seen.standings(name))
        assert set(seen.aliases(name).values()) <= stands, f"at step {step}"
        if phase := seen.experiment(name):
            assert {arm.version for arm in phase.arms} <= stands, f"at step {step}"
        assert seen.resolve(name).number in stands
    assert step > 5
    assert done[first]
    assert done[second] or "gc" in (first, second)


def test_of_several_who_push_one_version_at_once_one_does(
    hub: Hub, tmp_path: Path, folder: Path
) -> None:
    here = Registry.open(tmp_path / "here")
    here.publish("support", folder, base=BASE)
    for step in count(1):
        hub.repos.clear()
        house, calls = new_house()
        rival, _ = new_house()
        came = between(calls, step, lambda rival=rival: transfer(here, "support@v1", rival))
        transfer(here, "support@v1", house)
        seen, _ = new_house()
        assert [version.number for version in seen.versions("support")] == [1], f"at step {step}"
        if not came():
            break
    assert step > 5


def test_a_push_whose_reply_was_lost_is_there_once(hub: Hub, tmp_path: Path, folder: Path) -> None:
    here = Registry.open(tmp_path / "here")
    here.publish("support", folder, base=BASE)
    hub.faults.add(Fault("lost reply", path="/commit/main"))
    house, _ = new_house()
    assert transfer(here, "support@v1", house).state == "sent"
    assert transfer(here, "support@v1", house).state == "already there"
    assert [version.number for version in house.versions("support")] == [1]


def test_protection_holds_on_the_hub(hub: Hub, folder: Path) -> None:
    prepare(folder, "support")
    house, _ = new_house()
    house.protect("support", "production")
    other, _ = new_house()
    for act in (
        lambda: other.promote("support@v3"),
        lambda: other.rollback("support"),
        lambda: other.demote("support", "production"),
    ):
        with pytest.raises(AdaptersError, match="is protected"):
            act()
    assert other.aliases("support") == {"production": 2}
    assert other.promote("support@v3", confirmed=True).to_version == 3
    other.unprotect("support", "production")
    assert house.promote("support@v2").to_version == 2
    actions = [entry.action for entry in house.log("support")]
    assert actions[-4:] == ["protect", "promote", "unprotect", "promote"]
