"""The housekeeping commands as people and programs meet them: output, exit codes, messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from adapters.housekeeping import Housekeeping
from tests.adapters.conftest import Run
from tests.conftest import BASE, MakeAdapter


@pytest.fixture
def ask(run: Run) -> Callable[[str], Any]:
    """Run a command line with --json; return what it printed."""
    return lambda line: json.loads(run(f"{line} --json")[1])


@pytest.fixture
def house(make_adapter: MakeAdapter) -> Housekeeping:
    """The registry that commands use when none is named: `support@v1` to `v5`."""
    house = Housekeeping.open()
    for seed in range(5):
        house.publish("support", make_adapter(seed=seed), base=BASE)
    return house


def damage(house: Housekeeping, ref: str) -> None:
    config = house.resolve(ref).path / "adapter_config.json"
    config.chmod(0o644)
    config.write_text("{}")


def test_verify(run: Run, ask: Callable[[str], Any], house: Housekeeping) -> None:
    assert run("verify support@v1") == (0, "support@v1: as published\n", "")
    damage(house, "support@v2")
    code, out, err = run("verify --all")
    assert code == 4
    assert "adapter_config.json was changed" in out
    assert err.startswith("Error: Damaged: support@v2.\n  Restore")
    assert [v["quarantined"] for v in ask("verify --all --quarantine")] == [0, 1, 0, 0, 0]
    assert ask("list support")[1]["standing"] == "quarantined"
    for line in ("verify", "verify support --all"):
        assert run(line)[0] == 2
    assert run("verify support@v9")[0] == 3


def test_verify_of_nothing(run: Run) -> None:
    assert run("verify --all") == (0, "Nothing to verify.\n", "")


def test_retire_and_back(run: Run, ask: Callable[[str], Any], house: Housekeeping) -> None:
    assert run("retire support@v5 --reason curt") == (0, "support@v5 is retired.\n", "")
    assert ask("show support")["version"] == 4
    assert ask("show support@v5")["standing"]["reason"] == "curt"
    assert "retired: curt" in run("show support@v5")[1]
    assert [row["standing"] for row in ask("list support")] == [None] * 4 + ["retired"]
    refused = run("promote support@v5")
    assert refused[0] == 4
    assert "adapters retire --undo support@v5" in refused[2]
    assert ask("retire support@v5 --undo") == {
        "version": "support@v5",
        "retired": False,
        "reason": "",
    }
    assert run("promote support@v5")[0] == 0
    code, _, err = run("retire support@v5")
    assert code == 5
    assert "adapters promote support@vN production" in err


def test_delete(run: Run, ask: Callable[[str], Any], house: Housekeeping) -> None:
    code, _, err = run("delete support@v1")
    assert (code, house.resolve("support@v1").number) == (2, 1)
    assert "--yes" in err
    digest = house.resolve("support@v1").manifest.digest
    said = ask("delete support@v1 --yes --reason rows")
    assert said == {"version": "support@v1", "digest": digest, "reason": "rows"}
    code, _, err = run("show support@v1")
    assert (code, "was deleted" in err) == (3, True)
    assert run("delete support@v2 --yes")[1] == "support@v2 is deleted.\n"


def test_gc_deletes_only_where_it_is_told_to(
    run: Run, ask: Callable[[str], Any], house: Housekeeping
) -> None:
    for line in ("gc", "gc --dry-run", "gc --dry-run --yes"):
        code, out, _ = run(line)
        assert code == 0
        assert "support@v1" in out
        assert "Would delete 2 version(s)" in out
        assert "--yes" in out
    assert len(house.versions("support")) == 5
    said = ask("gc --keep-last 4 --yes")
    assert (said["deleted"], len(said["versions"])) == (True, 1)
    assert said["versions"][0]["size_bytes"] > 1000
    assert "Deleted 1 version(s)" in run("gc --yes")[1]
    assert [version.number for version in house.versions("support")] == [3, 4, 5]
    assert run("gc --keep-last -1")[0] == 2


def test_du(run: Run, ask: Callable[[str], Any], house: Housekeeping) -> None:
    said = ask("du")
    assert len(said["versions"]) == 5
    assert said["adapters"] == {"support": sum(v["size_bytes"] for v in said["versions"])}
    assert run("du")[1].splitlines()[-1].split()[0] == "support"


def test_protect(run: Run, ask: Callable[[str], Any], house: Housekeeping) -> None:
    run("promote support@v1")
    assert run("protect support")[1] == "support@production asks for --yes from now on.\n"
    for line in ("promote support@v2", "promote support@v2 --yes", "rollback support"):
        code, _, err = run(line)
        assert (code, "--yes" in err) == ((0, False) if "--yes" in line else (4, True))
    assert run("rollback support --yes")[0] == 0
    assert ask("protect support --undo") == {"alias": "support@production", "protected": False}
    assert run("promote support@v2")[0] == 0
    assert run("protect support nothing")[0] == 3


def test_the_log_shows_what_was_ruled_and_why(
    run: Run, ask: Callable[[str], Any], house: Housekeeping
) -> None:
    damage(house, "support@v1")
    run("verify --all --quarantine")
    run("retire support@v2 --reason curt")
    run("delete support@v2 --yes --reason rows")
    actions = [entry["action"] for entry in ask("log support")][5:]
    assert actions == ["quarantine", "retire", "delete"]
    lines = run("log support")[1].splitlines()
    assert lines[-2].endswith("curt")
    assert lines[-1].endswith("rows")
