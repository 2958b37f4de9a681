"""Any sequence of the registry's verbs, beside a model that keeps everything in plain lists."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from adapters.errors import Conflict, NotFound
from adapters.experiments import Arm
from adapters.registry import Registry
from tests.conftest import BASE, MakeAdapter

ALIASES = st.sampled_from(["production", "canary"])
SEEDS = range(3)


def machine(folders: list[Path]) -> type[RuleBasedStateMachine]:
    """Return the machine; it publishes these folders."""

    class Verbs(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.place = tempfile.mkdtemp(prefix="registry-")
            self.registry = Registry.open(self.place)
            self.contents: list[int] = []  # which folder each version is, v1 first
            self.digests: dict[int, str] = {}  # by folder
            self.undo: dict[str, list[int | None]] = {}  # moves that stand, by alias
            self.moves: dict[str, list[tuple[int | None, int | None]]] = {}
            self.log: list[tuple[str, int | None, str | None]] = []
            self.experiments: list[str] = []
            self.running: tuple[Arm, ...] | None = None
            self.paused = False

        def teardown(self) -> None:
            shutil.rmtree(self.place)

        def points_at(self, alias: str) -> int | None:
            return self.undo[alias][-1] if self.undo.get(alias) else None

        def moved(self, action: str, alias: str, before: int | None, after: int | None) -> None:
            self.moves.setdefault(alias, []).append((before, after))
            self.log.append((action, after, alias))

        def number(self, draw: st.DataObject) -> int:
            return draw.draw(st.integers(1, len(self.contents)))

        @initialize(seed=st.sampled_from(SEEDS))
        def first(self, seed: int) -> None:
            self.publish(seed)

        @rule(seed=st.sampled_from(SEEDS))
        def publish(self, seed: int) -> None:
            version = self.registry.publish("support", folders[seed], base=BASE)
            self.contents.append(seed)
            assert version.number == len(self.contents)
            assert self.digests.setdefault(seed, version.manifest.digest) == version.manifest.digest
            self.log.append(("publish", version.number, None))

        @rule(data=st.data(), alias=ALIASES)
        def promote(self, data: st.DataObject, alias: str) -> None:
            number, before = self.number(data), self.points_at(alias)
            move = self.registry.promote(f"support@v{number}", alias)
            assert (move.from_version, move.to_version) == (before, number)
            if number != before:
                self.undo.setdefault(alias, []).append(number)
            self.moved("promote", alias, before, number)

        @rule(data=st.data(), alias=ALIASES, seen=st.integers(1, 6))
        def promote_if_current(self, data: st.DataObject, alias: str, seen: int) -> None:
            number, before = self.number(data), self.points_at(alias)
            try:
                self.registry.promote(f"support@v{number}", alias, if_current=seen)
            except Conflict:
                assert seen != before
                return
            assert seen == before
            if number != before:
                self.undo[alias].append(number)
            self.moved("promote", alias, before, number)

        @rule(alias=ALIASES, seen=st.none() | st.integers(1, 6))
        def demote(self, alias: str, seen: int | None) -> None:
            before = self.points_at(alias)
            try:
                move = self.registry.demote("support", alias, if_current=seen, confirmed=True)
            except NotFound:
                assert before is None
                return
            except Conflict:
                assert seen != before
                return
            assert seen in (None, before)
            assert (move.from_version, move.to_version) == (before, None)
            self.undo[alias].append(None)
            self.moved("demote", alias, before, None)

        @rule(alias=ALIASES, steps=st.integers(1, 3))
        def rollback(self, alias: str, steps: int) -> None:
            stands, before = self.undo.get(alias, []), self.points_at(alias)
            try:
                move = self.registry.rollback("support", alias, steps=steps, confirmed=True)
            except NotFound:
                assert len(stands) <= steps
                return
            assert len(stands) > steps
            del stands[-steps:]
            assert (move.from_version, move.to_version) == (before, stands[-1])
            self.moved("rollback", alias, before, stands[-1])

        @precondition(lambda self: len(self.contents) > 1)
        @rule(data=st.data(), named=st.none() | st.sampled_from(["tone", "ab-2"]))
        def start(self, data: st.DataObject, named: str | None) -> None:
            number = self.number(data)
            arms = (Arm("base", None, 25), Arm(f"v{number}", number, 75))
            try:
                phase = self.registry.start_experiment("support", arms, experiment=named)
            except Conflict:
                assert self.running or named in self.experiments
                return
            assert not self.running
            assert phase.experiment not in self.experiments
            assert named in (None, phase.experiment)
            self.running = arms
            self.experiments.append(phase.experiment)
            self.log.append(("experiment running", None, None))

        @rule()
        def stop(self) -> None:
            try:
                phase = self.registry.stop_experiment("support")
            except NotFound:
                assert not self.running
                return
            assert phase.experiment == self.experiments[-1]
            assert phase.arms == self.running
            self.running, self.paused = None, False
            self.log.append(("experiment stopped", None, None))

        @rule(share=st.integers(1, 9))
        def ramp(self, share: int) -> None:
            places = zip(self.running or (), (share * 10.0, 100 - share * 10.0), strict=False)
            shares = {arm.name: weight for arm, weight in places}
            try:
                phase = self.registry.ramp_experiment("support", shares)
            except NotFound:
                assert not self.running
                return
            arms = self.running or ()
            assert phase.arms == tuple(replace(arm, weight=shares[arm.name]) for arm in arms)
            self.running = phase.arms
            self.log.append((f"experiment {phase.status}", None, None))

        @rule()
        def pause_or_go_on(self) -> None:
            change = (
                self.registry.resume_experiment if self.paused else self.registry.pause_experiment
            )
            try:
                phase = change("support")
            except NotFound:
                assert not self.running
                return
            self.paused = not self.paused
            assert phase.status == ("paused" if self.paused else "running")
            self.log.append((f"experiment {phase.status}", None, None))

        @invariant()
        def every_reader_sees_the_model(self) -> None:
            for reader in (self.registry, Registry.open(self.place)):
                self.check_versions(reader)
                self.check_aliases(reader)
                phase = reader.experiment("support") if self.contents else None
                assert (phase.arms if phase else None) == self.running

        def check_versions(self, reader: Registry) -> None:
            assert reader.names() == (["support"] if self.contents else [])
            if not self.contents:
                return
            latest = len(self.contents)
            versions = reader.versions("support")
            assert [version.number for version in versions] == list(range(1, latest + 1))
            meant = {
                "support@latest": latest,
                "support": self.points_at("production") or latest,
            }
            for version, seed in zip(versions, self.contents, strict=True):
                assert version.manifest.digest == self.digests[seed]
                meant |= {version.ref: version.number, version.engine_name: version.number}
                # One content published twice: its digest means the later version.
                meant[f"support@sha256:{version.manifest.digest[:16]}"] = version.number
            assert {ref: reader.resolve(ref).number for ref in meant} == meant

        def check_aliases(self, reader: Registry) -> None:
            last = {alias: self.points_at(alias) for alias in self.undo}
            pointing = {alias: number for alias, number in last.items() if number}
            assert reader.aliases("support") == pointing
            for alias, number in last.items():
                if number:
                    assert reader.resolve(f"support@{alias}").number == number
                else:
                    with pytest.raises(NotFound):
                        reader.resolve(f"support@{alias}")
                moves = reader.history("support", alias)
                assert [(m.from_version, m.to_version) for m in moves] == self.moves[alias]
            if self.contents:
                entries = reader.log("support")
                assert [(e.action, e.version, e.alias) for e in entries] == self.log

    return Verbs


@pytest.fixture(scope="module")
def folders(make_adapter: MakeAdapter) -> list[Path]:
    return [make_adapter(seed=seed) for seed in SEEDS]


def test_any_sequence_of_verbs(folders: list[Path]) -> None:
    verbs: Callable[[], RuleBasedStateMachine] = machine(folders)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        verbs,
        settings=settings(
            max_examples=30,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
