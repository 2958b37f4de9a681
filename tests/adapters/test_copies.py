"""Copies of the Hub's versions on this machine: what they take, what may go, what is held."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from adapters.cli import main
from adapters.errors import Conflict, NotFound
from adapters.home import hub_cache
from adapters.leases import Holding
from adapters.retention import Retention
from tests.conftest import BASE, MakeAdapter
from tests.hub.server import ORG, Hub

HF = f"hf://{ORG}"
NAME = "support"
Run = Callable[..., str]


@pytest.fixture
def house(hub: Hub, make_adapter: MakeAdapter) -> Retention:
    """Four versions on the Hub, all of them here as well."""
    house = Retention.open(HF)
    for seed in range(4):
        house.publish(NAME, make_adapter(seed=seed), base=BASE)
    return house


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main([*arguments])
        told = capsys.readouterr()
        assert ended.value.code == code, told.err
        return told.out + told.err

    return run


def here() -> list[int]:
    """Return the numbers of the versions that are on this machine."""
    manifests = hub_cache(ORG).glob(f"{NAME}/[0-9a-f]*/manifest.json")
    return sorted(json.loads(path.read_bytes())["version"] for path in manifests)


def test_copies_go_but_the_last_and_what_a_server_here_has_loaded(
    house: Retention, run: Run
) -> None:
    size = json.loads(run("du", "--cache", "--json"))["adapters"][f"{HF}/{NAME}"]
    assert size == sum(path.stat().st_size for path in hub_cache(ORG).glob("*/*/*"))
    loaded = house.resolve(f"{NAME}@v1").engine_name
    with Holding(HF) as holding:
        holding.renew([loaded])
        assert "Would delete 2 version(s)" in run("gc", "--cache", "--keep-last", "1")
        assert here() == [1, 2, 3, 4]
        told = json.loads(run("gc", "--cache", "--keep-last", "1", "--yes", "--json"))
    gone = [usage["version"] for usage in told["versions"]]
    assert gone == [f"{HF}/{NAME}@v2", f"{HF}/{NAME}@v3"]
    assert here() == [1, 4]
    assert [version.number for version in Retention.open(HF).versions(NAME)] == [1, 2, 3, 4]
    assert Retention.open(HF).verify(f"{NAME}@v2").path.is_dir()
    assert here() == [1, 2, 4]
    run("gc", "--cache", "--keep-last", "0", "--yes")
    assert here() == []
    assert run("du", "--cache").split() == ["version", "bytes"]


def test_a_copy_that_nobody_can_read_goes(house: Retention, run: Run) -> None:
    path = house.resolve(f"{NAME}@v4").path / "manifest.json"
    path.chmod(0o644)
    path.write_bytes(b"{")
    assert f"{HF}/{NAME}@v0" in run("gc", "--cache", "--keep-last", "3", "--yes")
    assert here() == [1, 2, 3]


def test_copies_are_of_no_registry(run: Run) -> None:
    assert "Leave out --registry" in run("gc", "--cache", "--registry", HF, code=2)
    assert "Leave out --registry" in run("du", "--cache", "--registry", HF, code=2)


def test_a_version_that_a_server_here_has_loaded_is_not_deleted_on_the_hub(
    house: Retention,
) -> None:
    with Holding(HF) as holding:
        holding.renew([house.resolve(f"{NAME}@v1").engine_name])
        with pytest.raises(Conflict, match=r"a server .* has it loaded"):
            house.delete(f"{NAME}@v1")
        assert f"{NAME}@v1" not in [usage.version for usage in house.plan(keep_last=0)]
    house.delete(f"{NAME}@v1")
    with pytest.raises(NotFound, match="was deleted"):
        house.resolve(f"{NAME}@v1")
    assert here() == [2, 3, 4]
