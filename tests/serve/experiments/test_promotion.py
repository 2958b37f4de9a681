"""A winner takes over on evidence, and nobody without it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.designs import read_design
from adapters.errors import Conflict, Rejected, UsageError
from adapters.experiments import Phase
from adapters.registry import Registry
from adapters.types import AliasMove, Version
from serve.experiments.analysis import analyse
from serve.experiments.promotion import promote_winner
from serve.experiments.store.sql import SqlStore
from tests.serve.conftest import Publish
from tests.serve.experiments.population import lived

WINS: dict[str, float] = {"v1": 0.2, "v2": 0.6, "base": 0.2}
SAID = {"arms": ["v1", "v2"], "primary": "solved:effect=10%", "guardrails": ["error<=5%"]}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    opened = SqlStore(f"sqlite:///{tmp_path}/experiments.db")
    yield opened
    opened.close()


@pytest.fixture
def running(registry: Registry, support: tuple[Version, Version]) -> Phase:
    arms, design = read_design("support", SAID)
    return registry.start_experiment("support", arms, design=design)


def promoted(registry: Registry, store: SqlStore, **how: Any) -> AliasMove | None:
    phases = registry.experiments("support")[-1]
    report = analyse("support", phases, store, now_s=2000.0)
    return promote_winner(registry, "support", phases, report, **how)


def test_the_winner_takes_over_and_its_evidence_stays(
    registry: Registry, store: SqlStore, running: Phase
) -> None:
    lived(store, "support", running, WINS)
    move = promoted(registry, store)
    assert move
    assert (move.from_version, move.to_version) == (1, 2)
    assert registry.aliases("support") == {"production": 2}
    assert registry.experiment("support") is None
    (kept,) = registry.history("support", "production")[-1:]
    evidence = kept.evidence
    assert evidence["experiment"] == "ab-1"
    assert evidence["verdict"] == "winner"
    assert evidence["e_value"] > 20
    assert 0.2 < evidence["difference"] < 0.6
    assert sum(evidence["units"].values()) == 1200


def test_nobody_without_evidence(registry: Registry, store: SqlStore, running: Phase) -> None:
    lived(store, "support", running, {"v1": 0.4, "v2": 0.4})
    for arm in (None, "v1", "v2"):
        with pytest.raises(Rejected, match="no evidence"):
            promoted(registry, store, arm=arm)
    assert registry.aliases("support") == {"production": 1}
    assert registry.experiment("support") == running


def test_nobody_but_the_winner(registry: Registry, store: SqlStore, running: Phase) -> None:
    lived(store, "support", running, WINS)
    with pytest.raises(Rejected, match="no evidence for v1"):
        promoted(registry, store, arm="v1")
    with pytest.raises(UsageError, match="no arm 'v9'"):
        promoted(registry, store, arm="v9")


def test_nobody_who_breaks_a_guardrail(registry: Registry, store: SqlStore, running: Phase) -> None:
    lived(store, "support", running, WINS, fails={"v2": 0.3})
    with pytest.raises(Rejected, match="error"):
        promoted(registry, store)


def test_nobody_while_arms_do_not_get_their_shares(
    registry: Registry, store: SqlStore, running: Phase
) -> None:
    one, other = running.arms
    skewed = replace(running, arms=(replace(one, weight=70), replace(other, weight=30)))
    lived(store, "support", skewed, WINS)
    with pytest.raises(Rejected, match="no evidence"):
        promoted(registry, store)


def test_by_force_one_says_who_and_why_and_that_stays_too(
    registry: Registry, store: SqlStore, running: Phase
) -> None:
    lived(store, "support", running, {"v1": 0.4, "v2": 0.4})
    for how in ({"arm": "v2"}, {"reason": "the board wants it"}, {}):
        with pytest.raises(UsageError, match="who and why"):
            promoted(registry, store, force=True, **how)
    move = promoted(registry, store, force=True, arm="v2", reason="the board wants it")
    assert move
    assert move.evidence["forced"] is True
    assert move.evidence["verdict"] != "winner"
    assert move.reason == "the board wants it"


def test_a_control_that_wins_stays_and_the_experiment_is_over(
    registry: Registry, store: SqlStore, running: Phase
) -> None:
    lived(store, "support", running, {"v1": 0.6, "v2": 0.2})
    assert promoted(registry, store) is None
    assert registry.aliases("support") == {"production": 1}
    assert registry.experiment("support") is None


def test_the_base_cannot_take_an_alias_over(
    registry: Registry, store: SqlStore, support: tuple[Version, Version]
) -> None:
    arms, design = read_design("support", {**SAID, "arms": ["v1", "base"]})
    phase = registry.start_experiment("support", arms, design=design)
    lived(store, "support", phase, {"v1": 0.2, "base": 0.6})
    with pytest.raises(Rejected, match="no alias can lead to it"):
        promoted(registry, store)


def test_what_changed_since_the_report_is_not_decided_on(
    registry: Registry, store: SqlStore, running: Phase
) -> None:
    lived(store, "support", running, WINS)
    phases = registry.experiments("support")[-1]
    report = analyse("support", phases, store, now_s=2000.0)
    registry.ramp_experiment("support", {"v1": 10, "v2": 90})
    with pytest.raises(Conflict, match="phase 2 by now"):
        promote_winner(registry, "support", phases, report)
    assert registry.aliases("support") == {"production": 1}


def test_an_alias_that_leads_to_what_was_not_compared_stays_unless_forced(
    registry: Registry, store: SqlStore, running: Phase, publish: Publish
) -> None:
    lived(store, "support", running, WINS)
    registry.stop_experiment("support")
    publish("support")
    registry.promote("support@v3")
    with pytest.raises(Rejected, match="moved to v3 meanwhile"):
        promoted(registry, store)
    assert registry.aliases("support") == {"production": 3}
    move = promoted(registry, store, force=True, arm="v2", reason="v3 was a mistake")
    assert move
    assert (move.from_version, move.to_version) == (3, 2)


def test_it_can_be_promoted_after_it_was_stopped(
    registry: Registry, store: SqlStore, running: Phase
) -> None:
    lived(store, "support", running, WINS)
    registry.stop_experiment("support")
    move = promoted(registry, store)
    assert move
    assert move.to_version == 2
