"""Retiring, quarantining, deleting, protecting: what follows, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.errors import Conflict, NotFound, Quarantined, Rejected, Retired, UsageError
from adapters.experiments import Arm
from adapters.housekeeping import Housekeeping, Verdict
from adapters.leases import Holding
from adapters.types import Version
from tests.conftest import BASE, MakeAdapter


@pytest.fixture
def house(tmp_path: Path, make_adapter: MakeAdapter) -> Housekeeping:
    """A registry with `support@v1` to `v3`, each of its own content."""
    house = Housekeeping.open(tmp_path / "registry")
    for seed in (1, 2, 3):
        house.publish("support", make_adapter(seed=seed), base=BASE)
    return house


def damage(version: Version) -> bytes:
    """Change one byte of the weights; return what they were."""
    weights = version.path / "adapter_model.safetensors"
    before = weights.read_bytes()
    weights.chmod(0o644)
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    return before


def actions(house: Housekeeping) -> list[tuple[str, int | None, str | None]]:
    """Return what the log says was done since the three publications."""
    return [(e.action, e.version, e.alias) for e in house.log("support")][3:]


# -- retired ----------------------------------------------------------------------------------


def test_a_retired_version_is_there_and_not_chosen(house: Housekeeping) -> None:
    version = house.retire("support@v3", reason="too curt")
    for reader in (house, Housekeeping.open(house.location)):
        assert reader.resolve("support").number == 2
        assert reader.resolve("support@latest").number == 2
        assert reader.resolve("support@v3") == version
        assert reader.resolve(version.engine_name) == version
        assert [v.number for v in reader.versions("support")] == [1, 2, 3]
        (standing,) = reader.standings("support").values()
        assert (standing.state, standing.reason) == ("retired", "too curt")
    house.restore("support@v3", reason="no, it is fine")
    assert house.resolve("support").number == 3
    assert house.standings("support") == {}
    assert actions(house) == [("retire", 3, None), ("restore", 3, None)]


def test_where_all_are_retired_a_name_says_so(house: Housekeeping) -> None:
    for number in (1, 2, 3):
        house.retire(f"support@v{number}", reason="the end")
    with pytest.raises(Retired, match=r"v3 was retired on 2.*: the end\. Ask for"):
        house.resolve("support")


def test_what_is_not_in_good_standing_is_not_promoted(house: Housekeeping) -> None:
    house.promote("support@v1")
    house.promote("support@v2")
    house.retire("support@v1")
    for attempt in (
        lambda: house.promote("support@v1"),
        lambda: house.rollback("support"),
        lambda: house.start_experiment("support", [Arm("a", 1, 50), Arm("b", 2, 50)]),
    ):
        with pytest.raises(Rejected, match=r"retired.*adapters retire --undo support@v1"):
            attempt()
    assert house.aliases("support") == {"production": 2}
    house.restore("support@v1")
    assert house.rollback("support").to_version == 1


def test_what_is_used_is_not_retired(house: Housekeeping) -> None:
    house.promote("support@v1", "canary")
    house.start_experiment("support", [Arm("a", 1, 50), Arm("b", 2, 50)])
    with pytest.raises(Conflict) as refused:
        house.retire("support@v1")
    for said in ("support@canary points at it", "ab-1", "adapters promote", "adapters ab stop"):
        assert said in str(refused.value)
    house.promote("support@v3", "canary")
    house.pause_experiment("support")
    with pytest.raises(Conflict, match="an arm of the experiment ab-1"):
        house.retire("support@v1")
    house.stop_experiment("support")
    house.retire("support@v1")
    assert house.standings("support").keys() == {1}


def test_a_version_is_named_exactly(house: Housekeeping) -> None:
    house.promote("support@v1")
    for ref in ("support", "support@latest", "support@production"):
        for verb in (house.retire, house.restore, house.delete):
            with pytest.raises(UsageError, match="another version tomorrow"):
                verb(ref)
    with pytest.raises(NotFound):
        house.retire("support@v9")
    digest = house.resolve("support@v2").manifest.digest
    assert house.retire(f"support@sha256:{digest}").number == 2


# -- verified and quarantined -----------------------------------------------------------------


def test_examining_says_how_each_stands(house: Housekeeping) -> None:
    damage(house.resolve("support@v2"))
    one, two, three = house.examine()
    assert (one, three) == (Verdict("support@v1", "", False), Verdict("support@v3", "", False))
    assert "adapter_model.safetensors was changed" in two.damage
    assert house.standings("support") == {}, "nothing is ruled unasked"


def test_what_is_damaged_is_kept_out_until_it_verifies(house: Housekeeping) -> None:
    house.promote("support@v3")
    before = damage(version := house.resolve("support@v3"))
    assert house.examine("support@v3", quarantine=True)[0].quarantined
    assert house.examine(quarantine=True)[2].quarantined
    for ref in ("support", "support@production"):
        with pytest.raises(Quarantined, match="adapters verify support@v3"):
            house.resolve(ref)
    assert house.resolve("support@latest").number == 2
    assert house.resolve("support@v3") == version
    with pytest.raises(Rejected, match="First: adapters verify support@v3"):
        house.promote("support@v3", "canary")
    (version.path / "adapter_model.safetensors").write_bytes(before)
    assert house.examine("support@production") == [Verdict("support@v3", "", False)]
    assert house.resolve("support") == version
    assert [a for a, _, _ in actions(house)] == ["promote", "quarantine", "release"]


def test_a_manifest_that_is_none_is_damage(house: Housekeeping) -> None:
    manifest = house.resolve("support@v2").path / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{")
    reader = Housekeeping.open(house.location)
    verdicts = reader.examine(quarantine=True)
    assert [bool(verdict.damage) for verdict in verdicts] == [False, True, False]
    assert reader.standings("support").keys() == {2}


def test_quarantine_and_retirement_are_ruled_upon_apart(house: Housekeeping) -> None:
    before = damage(version := house.resolve("support@v3"))
    house.retire("support@v3")
    house.examine("support@v3", quarantine=True)
    house.restore("support@v3")
    assert house.standings("support")[3].state == "quarantined"
    house.retire("support@v3")
    (version.path / "adapter_model.safetensors").write_bytes(before)
    house.examine("support@v3")
    assert house.standings("support")[3].state == "retired"


# -- deleted ----------------------------------------------------------------------------------


def test_a_deleted_version_leaves_its_tombstone_and_its_number(
    house: Housekeeping, adapter_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTERS_ACTOR", "ada")
    version = house.resolve("support@v3")
    entry = house.delete("support@v3", reason="wrong rows")
    assert (entry.action, entry.version) == ("delete", 3)
    assert [path.name for path in version.path.iterdir()] == ["tombstone.json"]
    tombstone = json.loads((version.path / "tombstone.json").read_bytes())
    assert (tombstone["actor"], tombstone["version"]) == ("ada", 3)
    assert tombstone["detail"] == {"digest": version.manifest.digest, "reason": "wrong rows"}
    assert tombstone["time"].endswith("+00:00")
    for ref in ("support@v3", version.engine_name):
        with pytest.raises(NotFound):
            house.resolve(ref)
    assert house.resolve("support").number == 2
    assert house.publish("support", adapter_folder, base=BASE).number == 4
    assert actions(house) == [("delete", 3, None), ("publish", 4, None)]


def test_what_is_held_is_not_deleted_and_each_holder_is_named(house: Housekeeping) -> None:
    house.promote("support@v1")
    version = house.resolve("support@v1")
    house.start_experiment("support", [Arm("a", 1, 50), Arm("b", 2, 50)])
    holding = Holding(house.location)
    holding.renew([version.engine_name])
    with pytest.raises(Conflict) as refused:
        house.delete("support@v1")
    for said in ("@production points at it", "ab-1", "a server (process", "adapters retire"):
        assert said in str(refused.value)
    house.stop_experiment("support")
    with pytest.raises(Conflict, match="production"):
        house.delete("support@v1")
    house.promote("support@v2")
    with pytest.raises(Conflict, match="a server"):
        house.delete("support@v1")
    holding.renew([])
    house.delete("support@v1")
    with pytest.raises(NotFound, match="was deleted"):
        house.rollback("support")
    assert house.aliases("support") == {"production": 2}


def test_the_log_outlives_the_versions(house: Housekeeping) -> None:
    for number in (1, 2, 3):
        house.delete(f"support@v{number}")
    assert house.names() == []
    assert [action for action, _, _ in actions(house)] == ["delete"] * 3
    with pytest.raises(NotFound):
        house.log("nobody")


# -- aliases ----------------------------------------------------------------------------------


def test_a_protected_alias_moves_only_where_it_is_confirmed(house: Housekeeping) -> None:
    house.promote("support@v1")
    house.promote("support@v1", "canary")
    house.protect("support", "production")
    house.protect("support", "production")
    assert Housekeeping.open(house.location).protected("support") == ["production"]
    with pytest.raises(Rejected, match=r"protected.*--yes"):
        house.promote("support@v2")
    house.promote("support@v2", confirmed=True)
    with pytest.raises(Rejected, match=r"protected.*--yes"):
        house.rollback("support")
    house.promote("support@v2", "canary")
    assert house.rollback("support", confirmed=True).to_version == 1
    house.unprotect("support", "production")
    house.promote("support@v3")
    assert [a for a in actions(house) if "protect" in a[0]] == [
        ("protect", None, "production"),
        ("unprotect", None, "production"),
    ]


def test_only_an_alias_can_be_protected(house: Housekeeping) -> None:
    house.promote("support@v1")
    with pytest.raises(NotFound, match=r"no alias 'prodution'.*production"):
        house.protect("support", "prodution")


def test_a_version_whose_stored_lint_failed_is_not_promoted(house: Housekeeping) -> None:
    version = house.resolve("support@v1")
    stored = replace(version.manifest, lint={"passed": False, "findings": ["rank"]})
    (version.path / "manifest.json").chmod(0o644)
    (version.path / "manifest.json").write_text(json.dumps(stored.as_json()))
    with pytest.raises(Rejected, match="did not pass lint"):
        Housekeeping.open(house.location).promote("support@v1")
