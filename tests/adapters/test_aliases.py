"""Removing an alias: what follows, what it asks for, and the way back. On every backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.errors import Conflict, InvalidName, NotFound, Rejected
from adapters.housekeeping import Housekeeping
from tests.conftest import BASE, MakeAdapter
from tests.contract.registry_backends import KINDS


@pytest.fixture(params=sorted(KINDS))
def house(
    request: pytest.FixtureRequest, tmp_path: Path, make_adapter: MakeAdapter
) -> Housekeeping:
    """`support@v1` to `v3`; canary was at v1 and is at v2."""
    if request.param == "hub":
        request.getfixturevalue("hub")
    house = Housekeeping(KINDS[request.param].open(tmp_path / "registry"))
    for seed in (1, 2, 3):
        house.publish("support", make_adapter(seed=seed), base=BASE)
    house.promote("support@v1", "canary")
    house.promote("support@v2", "canary")
    return house


def test_a_removed_alias_is_gone_and_its_history_is_not(house: Housekeeping) -> None:
    move = house.demote("support", "canary", reason="the trial is over")
    assert (move.action, move.from_version, move.to_version) == ("demote", 2, None)
    assert house.aliases("support") == {}
    with pytest.raises(NotFound, match=r"no alias 'canary'.*latest"):
        house.resolve("support@canary")
    assert [m.to_version for m in house.history("support", "canary")] == [1, 2, None]
    entry = house.log("support")[-1]
    assert (entry.action, entry.version, entry.alias) == ("demote", None, "canary")
    assert entry.detail["reason"] == "the trial is over"
    house.delete("support@v2")  # nothing holds it any more


def test_it_can_be_rolled_back_and_set_again(house: Housekeeping) -> None:
    house.demote("support", "canary")
    assert house.rollback("support", "canary").to_version == 2
    assert house.aliases("support") == {"canary": 2}
    house.demote("support", "canary")
    assert house.promote("support@v3", "canary").from_version is None
    assert house.rollback("support", "canary").to_version is None
    assert house.aliases("support") == {}
    assert house.rollback("support", "canary", steps=2).to_version == 1


def test_only_what_points_somewhere_can_be_removed(house: Housekeeping) -> None:
    with pytest.raises(NotFound, match=r"no alias 'canari'. Did you mean canary\?"):
        house.demote("support", "canari")
    house.demote("support", "canary")
    with pytest.raises(NotFound, match="no alias 'canary'"):
        house.demote("support", "canary")
    for word in ("latest", "v1"):
        with pytest.raises(InvalidName):
            house.demote("support", word)
    assert len(house.history("support", "canary")) == 3


def test_only_from_what_was_seen(house: Housekeeping) -> None:
    with pytest.raises(Conflict, match="points at v2, not at v1"):
        house.demote("support", "canary", if_current=1)
    assert house.demote("support", "canary", if_current=2).from_version == 2


def test_production_and_what_is_protected_ask_for_a_word_more(house: Housekeeping) -> None:
    house.promote("support@v1")
    with pytest.raises(Rejected, match=r"support means support@latest, now v3.*--yes"):
        house.demote("support", "production")
    house.protect("support", "canary")
    with pytest.raises(Rejected, match=r"protected.*--yes"):
        house.demote("support", "canary")
    assert house.aliases("support") == {"canary": 2, "production": 1}
    for alias in ("canary", "production"):
        house.demote("support", alias, confirmed=True)
    assert house.resolve("support").number == 3
    house.promote("support@v1")
    with pytest.raises(Rejected, match="--yes"):
        house.rollback("support")
    with pytest.raises(Rejected, match=r"protected.*--yes"):
        house.promote("support@v1", "canary")
