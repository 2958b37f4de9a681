"""What garbage is, and that nothing else goes."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from adapters.errors import RegistryUnavailable, UsageError
from adapters.experiments import Arm
from adapters.leases import Holding
from adapters.retention import Retention
from tests.conftest import BASE, MakeAdapter


@pytest.fixture
def house(tmp_path: Path, make_adapter: MakeAdapter) -> Retention:
    """A registry with `support@v1` to `v9`; v9 was made from v2, and v2 from `tone@v1`."""
    house = Retention.open(tmp_path / "registry")
    folder = make_adapter()
    tones = [house.publish("tone", folder, base=BASE) for _ in range(2)]
    for number in range(1, 10):
        parents = {2: [tones[0].engine_name], 9: ["support@v2+000000000000"]}.get(number, [])
        house.publish("support", folder, base=BASE, parents=parents)
    return house


def garbage(house: Retention, keep_last: int) -> list[str]:
    return [version.ref for version in house.garbage(keep_last=keep_last)]


def test_the_last_versions_and_their_parents_are_kept(house: Retention) -> None:
    assert garbage(house, 9) == []
    assert garbage(house, 8) == ["support@v1"]
    assert garbage(house, 1) == [f"support@v{n}" for n in (1, 3, 4, 5, 6, 7, 8)]
    assert garbage(house, 0) == [*(f"support@v{n}" for n in range(1, 10)), "tone@v1", "tone@v2"]
    with pytest.raises(UsageError):
        house.garbage(keep_last=-1)


def test_what_somebody_holds_is_kept(house: Retention) -> None:
    for number in (1, 3, 4):
        house.promote(f"support@v{number}")
    house.promote("support@v5", "canary")
    house.start_experiment("support", [Arm("base", None, 50), Arm("a", 6, 50)])
    holding = Holding(house.location)
    holding.renew([house.resolve("support@v7").engine_name])
    assert garbage(house, 1) == ["support@v1", "support@v8"], "v3 is one rollback away"
    house.rollback("support")
    assert garbage(house, 1) == ["support@v4", "support@v8"]
    holding.end()
    house.stop_experiment("support")
    assert garbage(house, 1) == [f"support@v{n}" for n in (4, 6, 7, 8)]


def test_collecting_deletes_the_garbage_and_nothing_else(house: Retention) -> None:
    planned = house.plan(keep_last=1)
    assert house.collect(keep_last=1) == planned
    assert [version.number for version in house.versions("support")] == [2, 9]
    assert [version.number for version in house.versions("tone")] == [1, 2]
    assert all(not verdict.damage for verdict in house.examine())
    assert house.collect(keep_last=1) == []
    last = house.log("support")[-1]
    assert (last.action, last.version) == ("delete", 8)
    assert "keeping the last 1" in last.detail["reason"]
    weights = house.resolve("support@v9").path / "adapter_model.safetensors"
    assert planned[0].size_bytes > weights.stat().st_size


def test_what_is_held_since_it_was_planned_is_kept(
    house: Retention, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = house.garbage(keep_last=1)
    monkeypatch.setattr(house, "garbage", lambda keep_last: planned)
    house.promote("support@v4")
    house.delete("support@v5")
    gone = house.collect(keep_last=1)
    assert [usage.version for usage in gone] == [f"support@v{n}" for n in (1, 3, 6, 7, 8)]
    assert house.resolve("support").number == 4


def test_what_killed_writers_left_goes_too(house: Retention) -> None:
    home = Path(house.location) / "adapters" / "support"
    left = home / f".staging-{platform.node()}-1-1"
    left.mkdir()
    (left / "adapter_model.safetensors").write_bytes(b"half")
    house.collect(keep_last=9)
    assert not left.exists()


def test_a_lease_that_cannot_be_understood_stops_it(house: Retention) -> None:
    folder = Path(house.location) / "leases"
    folder.mkdir()
    (folder / "host-1-1.json").write_text("{}")
    with pytest.raises(RegistryUnavailable, match="Remove the file if"):
        house.collect(keep_last=1)
    assert len(house.versions("support")) == 9


def test_usage_is_what_the_files_take(house: Retention) -> None:
    found = {usage.version: usage.size_bytes for usage in house.usage()}
    assert len(found) == 11
    version = house.resolve("support@v1")
    files = [path for path in version.path.iterdir() if path.name != "manifest.json"]
    assert found["support@v1"] == sum(path.stat().st_size for path in files)
