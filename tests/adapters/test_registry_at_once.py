"""The registry's verbs by several processes at once, and by processes that are killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from adapters.errors import NotFound
from adapters.retention import Retention
from tests.adapters.keepers import NAME
from tests.conftest import BASE

ROOT = Path(__file__).parents[2]
KEEPERS = [sys.executable, "-m", "tests.adapters.keepers"]
EXAMPLES = int(os.environ.get("EXAMPLES", "12"))
MOVES = ("promote", "demote", "rollback")
KILLS = int(os.environ.get("KILLS", "12"))

OPERATIONS = st.tuples(
    st.sampled_from(
        [
            "publish",
            "publish",
            "promote",
            "promote",
            "demote",
            "rollback",
            "retire",
            "restore",
            "delete",
            "gc",
        ]
    ),
    st.integers(1, 8),
    st.sampled_from(["production", "canary"]),
)


class Worker:
    """One process that does as it is told."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [*KEEPERS, "serve"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **asked: Any) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()

    def told(self) -> dict[str, Any]:
        assert self._process.stdout
        return dict(json.loads(self._process.stdout.readline()))

    def end(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@pytest.fixture(scope="module")
def workers() -> Iterator[list[Worker]]:
    workers = [Worker() for _ in range(4)]
    yield workers
    for worker in workers:
        worker.end()


def check(place: str, told: list[dict[str, Any]], *, killed: bool = False) -> None:
    """Hold a registry against what its writers were told is done."""
    house = Retention.open(place)
    home = Path(place) / "adapters" / NAME
    done = [entry for entry in told if "done" in entry]
    published = [entry["done"] for entry in done if entry["verb"] == "publish"]
    assert len(set(published)) == len(published), "each number is given once"
    living = house._backend.numbers(NAME)
    taken = sorted(int(path.name[1:]) for path in home.glob("v*"))
    assert taken == list(range(1, len(taken) + 1)), "no number is free again"
    assert set(published) <= set(taken)
    buried = [n for n in taken if (home / f"v{n}" / "tombstone.json").exists()]
    assert sorted(living + buried) == taken, "each is there as a whole, or deleted"
    deleted = {entry["done"] for entry in done if entry["verb"] == "delete"}
    for entry in done:
        if entry["verb"] == "gc":
            deleted |= {int(ref.partition("@v")[2]) for ref in entry["done"]}
    assert deleted <= set(buried)
    assert [verdict.version for verdict in house.examine() if verdict.damage] == []
    for number in buried:
        assert json.loads((home / f"v{number}" / "tombstone.json").read_bytes())["time"]
        with pytest.raises(NotFound):
            house.resolve(f"{NAME}@v{number}")
    log = [entry.action for entry in house.log(NAME)] if taken else []
    moves = []
    for alias in ("production", "canary"):
        moves += (history := house.history(NAME, alias))
        before = None
        for move in history:
            assert move.from_version == before, "each move says truly what stood there before"
            before = move.to_version
    for alias, number in house.aliases(NAME).items():
        assert house.resolve(f"{NAME}@{alias}").number == number, "it points at what is there"
        assert number in living
    acknowledged = [entry for entry in done if entry["verb"] in MOVES]
    if killed:  # the last line of one that was killed may be there unacknowledged, or missing
        assert len(moves) >= len(acknowledged)
        assert log.count("publish") >= len(published)
    else:
        assert sorted(taken) == sorted(published)
        assert sorted(buried) == sorted(deleted)
        assert len(moves) == len(acknowledged)
        for action in ("publish", "retire", *MOVES):
            acts = [entry for entry in done if entry["verb"] == action]
            assert log.count(action) == len(acts), "the log is complete"
        assert log.count("delete") == len(buried)
    assert list(home.glob(".staging-*")) == [] or killed


def assert_clear(place: Path) -> None:
    """Nothing is left of killed writers, once another has written and somebody kept house."""
    Retention.open(place).collect(keep_last=1000)
    home = place / "adapters" / NAME
    assert list(home.glob(".staging-*")) == []
    for version in home.glob("v*"):
        assert version.stat().st_mode & 0o222 == 0
        if (version / "tombstone.json").exists():
            assert [path.name for path in version.iterdir()] == ["tombstone.json"]


def machine(workers: list[Worker], folder: Path) -> type[RuleBasedStateMachine]:
    """Return the machine: each step, several processes do one verb each, at once."""

    class AtOnce(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.place = tempfile.mkdtemp(prefix="registry-")
            self.told: list[dict[str, Any]] = []
            self.at_once([("publish", 1, "production")] * 4)

        def teardown(self) -> None:
            shutil.rmtree(self.place)

        @rule(operations=st.lists(OPERATIONS, min_size=2, max_size=4))
        def at_once(self, operations: list[tuple[str, int, str]]) -> None:
            asked = list(zip(workers, operations, strict=False))
            for worker, (verb, number, alias) in asked:
                worker.ask(
                    place=self.place, folder=str(folder), verb=verb, number=number, alias=alias
                )
            answers = [worker.told() for worker, _ in asked]
            assert [answer["broken"] for answer in answers if "broken" in answer] == []
            self.told += answers
            check(self.place, self.told)

    return AtOnce


def test_any_verbs_of_several_processes_at_once(
    workers: list[Worker], adapter_folder: Path
) -> None:
    """EXAMPLES=200 in the environment asks for more."""
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: machine(workers, adapter_folder)(),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


@pytest.mark.parametrize("verb", ["publish", "promote", "demote", "retire", "delete"])
def test_a_verb_may_be_killed_at_every_step(
    tmp_path: Path, adapter_folder: Path, verb: str
) -> None:
    place = tmp_path / "registry"
    process = subprocess.run(
        [*KEEPERS, "step", str(place), str(adapter_folder), verb],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    steps = int(process.stdout)
    assert steps > 10
    check(str(place), [], killed=True)
    house = Retention.open(place)
    house.publish(NAME, adapter_folder, base=BASE)
    assert_clear(place)
    assert len(house.log(NAME)) > steps


@pytest.mark.parametrize("verb", ["publish", "promote", "demote", "delete"])
def test_a_killed_keeper_leaves_nothing_torn(
    tmp_path: Path, adapter_folder: Path, verb: str
) -> None:
    """KILLS=200 in the environment asks for more instants."""
    place = tmp_path / "registry"
    process = subprocess.run(
        [*KEEPERS, "kill", str(place), str(adapter_folder), str(KILLS), verb],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    told = json.loads(process.stdout)
    assert {entry["verb"] for entry in told} >= {"publish", verb}
    check(str(place), told, killed=True)
    house = Retention.open(place)
    house.publish(NAME, adapter_folder, base=BASE)
    assert_clear(place)
