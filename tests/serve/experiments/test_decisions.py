"""What is done by itself, and what never is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adapters.experiments import LEAST_FLOOR, Arm, Phase, check_arms, ramped
from serve.experiments.analysis.report import Report, Verdict
from serve.experiments.decisions import BANDIT_S, Action, act, keeps, under_this_share
from tests.serve.experiments.reports import (
    BEGAN_S,
    GUARD,
    PRIMARY,
    comparison,
    guard,
    phases,
    report,
    then,
    won,
)

STEPS = (0.01, 0.05, 0.25, 0.5, 1.0)
LATER_S = BEGAN_S + 10_000


def canary(share: float = 0.01, **design: Any) -> list[Phase]:
    chosen = {"policy": "canary", "steps": STEPS, "step_units": 50, "step_s": 60.0, **design}
    return phases(1 - share, share, **chosen)


def bandit(*shares: float, **design: Any) -> list[Phase]:
    return phases(*shares, policy="bandit", **design)


# -- guardrails -------------------------------------------------------------------------------


def test_of_two_arms_the_broken_one_ends_it() -> None:
    action = act(report(of := phases(90, 10), guards=(guard(),)), of, LATER_S)
    assert action
    assert (action.kind, action.arm) == ("stop", "v2")
    assert action.reason == "rolled back: error of v2 is 0.152, beyond 0.05 (e-value 90)"


def test_of_three_arms_the_broken_one_is_taken_out_and_then_the_next() -> None:
    of = phases(50, 25, 25)
    both = (guard("v2"), guard("v3", log_e=9.0))
    first = act(report(of, guards=both), of, LATER_S)
    assert first
    assert (first.kind, first.arm) == ("take_out", "v3"), "the worst first"
    arms = tuple(replace(arm, out=arm.name == "v3") for arm in of[0].arms)
    of = then(of, 60, arms=arms)
    second = act(report(of, guards=both), of, LATER_S)
    assert second
    assert (second.kind, second.arm) == ("stop", "v2")


def test_a_control_that_breaks_a_limit_is_what_there_was_before() -> None:
    of = phases(50, 50)
    assert act(report(of, guards=(guard("v1"),)), of, LATER_S) is None


def test_without_automatic_rollback_a_breach_is_for_people_and_holds_everything_else() -> None:
    for of in (canary(auto_rollback=False), phases(50, 50, auto_rollback=False, auto_promote=True)):
        told = report(of, guards=(guard(),), verdict=won())
        assert act(told, of, LATER_S, seen=1000) is None


def test_where_shares_are_wrong_a_limit_still_holds_and_a_margin_means_nothing() -> None:
    of = phases(50, 50)
    limit, margin = guard(), guard(limit=None, margin=0.1)
    assert act(report(of, guards=(limit,), frozen=True), of, LATER_S)
    assert act(report(of, guards=(margin,), frozen=True), of, LATER_S) is None
    assert act(report(of, guards=(margin,)), of, LATER_S)


def test_where_shares_are_wrong_nothing_rests_on_a_comparison() -> None:
    best = {"v1": 0.1, "v2": 0.8, "v3": 0.1}
    for of, seen in (
        (phases(50, 50, auto_promote=True), 0),
        (canary(), 1000),
        (bandit(0.4, 0.3, 0.3), 0),
    ):
        told = report(of, verdict=won(), best=best)
        assert act(told, of, LATER_S, seen=seen)
        assert act(replace(told, frozen=True), of, LATER_S, seen=seen) is None


# -- winners ----------------------------------------------------------------------------------


def test_a_winner_is_promoted_where_that_was_chosen() -> None:
    of = phases(50, 50, auto_promote=True)
    action = act(
        report(of, verdict=won(), comparisons=(comparison(decided="better"),)), of, LATER_S
    )
    said = "v2 is better in solved by 0.1 (e-value 2.98e+03)"
    assert action == Action("promote", said, "v2", evidence=won().evidence)
    lost = [comparison(arm, "worse", value=-0.1) for arm in ("v2", "v3")]
    of = phases(50, 25, 25, auto_promote=True)
    action = act(report(of, verdict=won("v1"), comparisons=tuple(lost)), of, LATER_S)
    assert action
    assert action.arm == "v1"
    assert action.reason.count("is worse in solved by 0.1") == 2
    of = phases(50, 50)
    assert act(report(of, verdict=won()), of, LATER_S) is None


# -- canaries ---------------------------------------------------------------------------------


def test_a_canary_takes_its_steps_one_by_one() -> None:
    of, taken = canary(), []
    for minute in range(2, 12, 2):
        action = act(report(of), of, BEGAN_S + minute * 60, seen=50)
        assert action
        taken.append((action.kind, round(action.shares.get("v2", 1.0), 6)))
        if action.kind == "promote":
            break
        of = then(of, minute * 60, arms=ramped(of[-1].arms, action.shares))
    assert taken == [("step", 0.05), ("step", 0.25), ("step", 0.5), ("promote", 1.0)]


@pytest.mark.parametrize(("seen", "after_s"), [(49, 1e6), (50, 59), (0, 0)])
def test_a_step_lasts_as_long_as_it_must(seen: int, after_s: float) -> None:
    of = canary()
    assert act(report(of), of, BEGAN_S + after_s, seen=seen) is None


def test_a_canary_that_is_worse_is_rolled_back() -> None:
    of = canary()
    action = act(report(of, comparisons=(comparison(decided="worse"),)), of, BEGAN_S)
    assert action
    assert (action.kind, action.reason[:11]) == ("stop", "rolled back")


def test_a_canary_needs_no_primary_metric() -> None:
    of = canary(0.5, metrics=(GUARD,))
    action = act(report(of), of, LATER_S, seen=50)
    assert action
    assert (action.kind, action.arm) == ("promote", "v2")
    assert action.evidence["units_at_share"] == 50


def test_a_pause_is_no_time_that_a_step_ran() -> None:
    of = then(canary(), 30, status="paused")
    of = then(of, 1000, status="running")
    assert under_this_share(of) == of
    assert act(report(of), of, BEGAN_S + 1029, seen=50) is None
    assert act(report(of), of, BEGAN_S + 1031, seen=50)


def test_a_clock_that_goes_back_takes_no_step_early_and_none_back() -> None:
    of = canary()
    assert act(report(of), of, BEGAN_S - 1e6, seen=50) is None
    of = then(of, -5000, arms=ramped(of[-1].arms, {"v1": 0.75, "v2": 0.25}))
    assert act(report(of), of, BEGAN_S - 4941, seen=50) is None
    action = act(report(of), of, BEGAN_S - 4939, seen=50)
    assert action
    assert math.isclose(action.shares["v2"], 0.5)


# -- bandits ----------------------------------------------------------------------------------


def test_a_bandit_follows_the_better_arm() -> None:
    of = bandit(0.4, 0.3, 0.3)
    told = report(of, best={"v1": 0.1, "v2": 0.8, "v3": 0.1})
    assert act(told, of, BEGAN_S + BANDIT_S - 1) is None
    action = act(told, of, BEGAN_S + BANDIT_S + 1)
    assert action
    assert action.kind == "share"
    assert action.shares["v2"] > 0.4 > action.shares["v1"]


def test_of_two_arms_each_is_leader_or_rival_and_gets_half() -> None:
    of = bandit(0.5, 0.5)
    assert act(report(of, best={"v1": 0.01, "v2": 0.99}), of, LATER_S) is None


def test_a_bandit_leaves_shares_that_hardly_move() -> None:
    of = bandit(0.34, 0.33, 0.33)
    assert act(report(of, best={"v1": 0.33, "v2": 0.33, "v3": 0.34}), of, LATER_S) is None


def test_a_bandit_waits_for_every_arm() -> None:
    of = bandit(0.5, 0.5)
    for best in (None, {}, {"v2": 1.0}):
        assert act(report(of, best=best), of, LATER_S) is None


chances = st.lists(st.floats(0, 1), min_size=3, max_size=5)


@given(chances, st.floats(LEAST_FLOOR, 0.2), st.integers(0, 4))
def test_a_bandits_floor_holds_and_whoever_is_out_gets_nobody(
    some: list[float], floor: float, out: int
) -> None:
    assume(sum(some) > 0)
    of = bandit(*[1 / len(some)] * len(some), floor=floor)
    arms = tuple(replace(arm, out=n == out > 0) for n, arm in enumerate(of[0].arms))
    of = [replace(of[0], arms=arms)]
    best = {arm.name: p / sum(some) for arm, p in zip(arms, some, strict=True)}
    action = act(report(of, best=best), of, LATER_S)
    if action is None:
        return
    changed = ramped(arms, action.shares)
    check_arms(changed)
    shares = replace(of[0], arms=changed).probabilities()
    assert math.isclose(sum(shares.values()), 1)
    for arm in changed:
        assert shares[arm.name] == 0 if arm.out else shares[arm.name] >= floor - 1e-9


# -- whatever the report ----------------------------------------------------------------------


policies = st.sampled_from(["split", "canary", "bandit"])
kinds = st.sampled_from(["collecting", "frozen", "breached", "winner", "no_difference", "stopped"])


@st.composite
def situations(draw: st.DrawFn) -> tuple[Report, list[Phase], float, int]:
    """Draw anything a keeper may come upon."""
    policy = draw(policies)
    design: dict[str, Any] = {
        "policy": policy,
        "metrics": draw(st.sampled_from([(PRIMARY, GUARD), (PRIMARY,), (GUARD,), ()])),
        "auto_promote": draw(st.booleans()),
        "auto_rollback": draw(st.booleans()),
        "steps": STEPS,
    }
    number = 2 if policy == "canary" else draw(st.integers(1, 4))
    share = draw(st.sampled_from([*STEPS[:-1], 0.003, 0.03, 0.9]))
    rest = [share / (number - 1)] * (number - 1) if number > 1 else []
    of = phases(1 - share if rest else 1.0, *rest, **design)
    outs = [False, *draw(st.lists(st.booleans(), min_size=number - 1, max_size=number - 1))]
    arms = tuple(replace(arm, out=out) for arm, out in zip(of[0].arms, outs, strict=True))
    status = draw(st.sampled_from(["draft", "running", "paused", "stopped"]))
    of = [replace(of[0], arms=arms, status=status)]
    if draw(st.booleans()):
        of = then(of, draw(st.floats(-1e4, 1e4)), status=draw(st.sampled_from(["running", status])))
    names = [arm.name for arm in arms]
    some = st.sampled_from(names)
    told = report(
        of,
        frozen=draw(st.booleans()),
        guards=tuple(guard(draw(some), breached=draw(st.booleans()), limit=0.05) for _ in range(2)),
        comparisons=(comparison(draw(some), draw(st.sampled_from(["better", "worse", None]))),),
        verdict=Verdict(draw(kinds), draw(some), "So.", draw(st.sampled_from([{}, {"a": 1}]))),
        best=draw(st.none() | st.just({name: 1 / len(names) for name in names})),
        phase=of[-1].number + draw(st.sampled_from([0, 0, 0, 1])),
    )
    return told, of, BEGAN_S + draw(st.floats(-1e5, 1e5)), draw(st.integers(0, 200))


@settings(max_examples=500)
@given(situations())
def test_what_is_never_done(situation: tuple[Report, list[Phase], float, int]) -> None:
    told, of, now_s, seen = situation
    phase, design = of[-1], of[-1].design
    action = act(told, of, now_s, seen=seen)
    if phase.status != "running" or not keeps(phase) or told.phase != phase.number:
        assert action is None
    if action is None:
        return
    rivals = {arm.name for arm in phase.arms[1:] if not arm.out}
    breached = {each.arm for each in told.guards if each.breached} & rivals
    if told.frozen or breached:
        assert action.kind in ("take_out", "stop")
        assert action.arm in breached
    if action.kind == "promote":
        assert action.evidence
        assert design.policy == "canary" or told.verdict.kind == "winner"
        assert design.policy == "canary" or design.auto_promote
    if action.kind == "take_out":
        assert action.arm in rivals
        assert len(rivals) > 1, "else it ends"
    if action.kind in ("step", "share"):
        check_arms(ramped(phase.arms, action.shares))
    if action.kind in ("step", "promote") and design.policy == "canary":
        share = phase.probabilities()["v2"]
        further = [step for step in STEPS if step > share]
        expected = further[0] if further else 1.0
        assert math.isclose(action.shares.get("v2", 1.0), expected), "the next one"
        assert seen >= design.step_units


def test_one_arm_alone_asks_for_nothing() -> None:
    assert not keeps(phases(1.0, shadow=2)[0])
    assert not keeps(phases(0.5, 0.5, metrics=(PRIMARY,))[0])
    assert Arm("v1", 1, 1.0) == phases(1.0)[0].control
