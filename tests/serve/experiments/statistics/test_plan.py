"""Plans: how many units are needed, and what a simulation of one says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy
import pytest
from scipy.stats import norm

from adapters.errors import UsageError
from serve.experiments.statistics import propensities, sequences
from serve.experiments.statistics import simulate as simulation
from serve.experiments.statistics.estimates import Estimate, difference, mean
from serve.experiments.statistics.plan import Plan, Step, units_fixed, units_needed
from serve.experiments.statistics.simulate import simulate
from tests.serve.experiments.statistics.chances import at_least, at_most

PLAN = Plan((Step(20_000, (1, 1)),), mean=0.3, effect=0.03)
RAMP = (Step(4_000, (95, 5)), Step(6_000, (80, 20)), Step(10_000, (1, 1)))


def test_one_look_needs_what_the_textbook_says() -> None:
    assert units_fixed(PLAN) == 7_520
    z = norm.ppf(0.975) + norm.ppf(0.9)
    unequal = replace(PLAN, steps=(Step(100, (3, 1)),), variance=4.0, mean=10.0, effect=0.5)
    assert units_fixed(unequal, 0.9) == math.ceil((z / 0.5) ** 2 * (4 / 0.75 + 4 / 0.25))


def test_by_the_units_that_are_needed_the_effect_is_found() -> None:
    needed = units_needed(PLAN, 0.8)
    assert units_fixed(PLAN) < needed
    assert units_needed(PLAN, 0.5) < needed < units_needed(PLAN, 0.9)
    runs = 1_000
    found = simulate(replace(PLAN, steps=(Step(needed, (1, 1)),)), runs=runs, looks=50)
    assert found.found >= at_least(runs, 0.8)
    assert numpy.median(found.ended_effect) < 0.6 * needed


@pytest.mark.parametrize("effect", [-0.03, 0.03])
def test_a_sign_makes_no_difference_to_a_mean(effect: float) -> None:
    plan = replace(PLAN, mean=5.0, variance=0.21, effect=effect)
    assert units_needed(plan) == units_needed(replace(plan, effect=-effect))
    assert simulate(plan, runs=100, looks=20).found > 80


def test_more_arms_need_more() -> None:
    three = replace(PLAN, steps=(Step(20_000, (1, 1, 1)),))
    assert units_needed(three) > 1.5 * units_needed(PLAN)


def test_what_cannot_be_found_is_said() -> None:
    with pytest.raises(UsageError, match="more than 10000 units"):
        units_needed(replace(PLAN, effect=0.001), most=10_000)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": ()},
        {"steps": (Step(10, (1,)),)},
        {"steps": (Step(10, (1, 1)), Step(10, (1, 1, 1)))},
        {"steps": (Step(0, (1, 1)),)},
        {"steps": (Step(10, (1, 0)),)},
        {"steps": (Step(10, (1, math.nan)),)},
        {"mean": 0.98},
        {"mean": -0.1},
        {"effect": 0.0},
        {"effect": math.nan},
        {"variance": 0.0},
        {"variance": math.inf},
        {"alpha": 0.0},
        {"alpha": 0.7},
        {"planned": 0},
    ],
    ids=str,
)
def test_a_plan_that_cannot_be_meant_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        replace(PLAN, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("plan", "drift"),
    [
        pytest.param(PLAN, 0.0, id="rate"),
        pytest.param(PLAN, 0.3, id="drifting"),
        pytest.param(replace(PLAN, steps=RAMP), 0.3, id="ramp"),
        pytest.param(replace(PLAN, steps=(Step(30_000, (2, 1, 1)),)), 0.0, id="three arms"),
        pytest.param(replace(PLAN, mean=100.0, variance=900.0, effect=3.0), 0.0, id="mean"),
        pytest.param(
            replace(PLAN, steps=(Step(20_000, (95, 5)),), mean=0.01, effect=0.01), 0.0, id="rare"
        ),
    ],
)
def test_a_null_is_claimed_to_be_none_at_most_so_often(plan: Plan, drift: float) -> None:
    runs = 1_000
    found = simulate(plan, runs=runs, drift=drift)
    assert found.false_positives <= at_most(runs, plan.alpha)
    rate, low, high = found.false_positive_rate
    assert low <= rate == found.false_positives / runs <= high
    assert found.power[0] > rate
    assert found.misled <= at_most(runs, plan.alpha)


def test_a_small_arm_that_saw_few_events_must_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 100 units an arm alone, the bound that holds above breaks."""
    monkeypatch.setattr(sequences, "FEWEST_EFFECTIVE", 0)
    rare = replace(PLAN, steps=(Step(20_000, (95, 5)),), mean=0.01, effect=0.01)
    assert simulate(rare, runs=500).false_positives > 3 * at_most(500, rare.alpha)


@pytest.mark.parametrize("drift", [0.7, math.nan])
def test_a_proportion_does_not_drift_out_of_its_range(drift: float) -> None:
    with pytest.raises(UsageError, match="cannot drift"):
        simulate(PLAN, runs=10, drift=drift)


def test_same_seed_same_result() -> None:
    one, other, third = (simulate(PLAN, runs=600, looks=30, seed=s) for s in (1, 1, 2))
    assert one.ended_effect.tolist() == other.ended_effect.tolist()
    assert one.ended_effect.tolist() != third.ended_effect.tolist()


def test_runs_end_when_they_claim_or_at_the_end() -> None:
    found = simulate(PLAN, runs=300, looks=40)
    assert found.ended_effect.max() <= PLAN.units
    assert (found.ended_effect < PLAN.units).sum() <= found.found + found.misled
    assert found.ended_effect.min() >= 2 * sequences.FEWEST_UNITS


@pytest.mark.parametrize("steps", [(Step(3_000, (1, 1)),), RAMP[:2]], ids=["steady", "ramp"])
def test_sums_of_batches_say_what_units_say(steps: tuple[Step, ...]) -> None:
    """One run, unit by unit, through the functions that a report uses."""
    plan = replace(PLAN, steps=steps)
    chance = numpy.random.default_rng(12)
    units = plan.units
    share = numpy.repeat([s.shares for s in steps], [s.units for s in steps], axis=0)
    arms = (chance.random(units) < share[:, 1]).astype(int)
    y = (chance.random(units) < 0.3 + 0.2 * arms).astype(float)
    in_arm = numpy.stack([arms == 0, arms == 1], axis=1).astype(float)[None]
    deviations = (y - plan.mean)[:, None]
    batches = simulation._Batches(
        in_arm, in_arm * deviations, in_arm * deviations**2, in_arm * y[:, None]
    )
    if len(steps) == 1:
        found = simulation._differences(batches)
        slowly = difference(*(mean(y[arms == arm]) for arm in (0, 1)))
    else:
        found = simulation._weighted(batches, share)
        slowly = propensities.difference(y, arms, share, numpy.arange(units), control=0, arm=1)
    for field in Estimate.__slots__:
        fast = getattr(found, field)[0, -1, 0]
        assert fast == pytest.approx(float(getattr(slowly, field)), rel=2e-3, abs=1e-3), field
