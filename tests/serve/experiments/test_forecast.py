"""What a design will do: its own shares, metric and error rate, many times over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy
import pytest

from adapters.designs import read_design
from adapters.errors import UsageError
from serve.experiments.forecast import Forecast, forecast
from serve.experiments.statistics.plan import Plan, Step
from serve.experiments.statistics.simulate import simulate
from serve.experiments.statistics.simulate_exact import simulate_exact
from tests.serve.experiments.statistics.test_exact import ALPHA

SOLVED = {"arms": ["v1", "v2"], "primary": "solved:effect=0.3"}


def foreseen(said: dict[str, Any], **how: Any) -> Forecast:
    return forecast(*read_design("support", said), **{"mean": 0.3, "runs": 400, **how})


def test_it_simulates_the_designs_own_plan() -> None:
    said = {**SOLVED, "arms": {"v1": 80, "v2": 20}, "alpha": 0.01, "planned_units": 800}
    found = foreseen(said, units=1000, seed=3, drift=0.05)
    plan = Plan((Step(1000, (80, 20)),), 0.3, 0.3, None, 0.01, 800)
    assert found.plan == plan
    expected = simulate(plan, runs=400, seed=3, drift=0.05)
    assert found.simulated.found == expected.found
    assert found.as_json(units_per_day=100)["median_days"] == pytest.approx(
        numpy.median(expected.ended_effect) / 100
    )


def test_less_is_better_where_the_metric_says_so() -> None:
    found = foreseen(
        {"arms": ["v1", "v2"], "primary": "latency_ms:mean"}, mean=800, sd=90, effect=5
    )
    assert (found.plan.effect, found.plan.variance) == (-5, 8100)


def test_a_canary_is_its_steps() -> None:
    said = {**SOLVED, "policy": "canary", "steps": ["5%", "50%", "100%"], "step_units": 100}
    steps = foreseen(said).plan.steps
    assert [(step.units, step.weights) for step in steps] == [
        (2000, (0.95, 0.05)),
        (200, (0.5, 0.5)),
    ]


@pytest.mark.parametrize(
    ("said", "how", "why"),
    [
        ({"arms": ["v1", "v2"]}, {}, "Nothing decides"),
        ({**SOLVED, "primary": "solved"}, {}, "least effect"),
        ({**SOLVED, "primary": "rating:mean:effect=1"}, {}, "standard deviation"),
        ({**SOLVED, "primary": "liked:preference"}, {"effect": 0.1}, "not simulated"),
        ({**SOLVED, "policy": "bandit"}, {}, "not simulated"),
        (SOLVED, {"mean": 0.9}, "cannot go from"),
        (SOLVED, {"drift": 2}, "cannot drift"),
    ],
)
def test_what_cannot_be_simulated(said: dict[str, Any], how: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        foreseen(said, **how)


PAIRS = Plan((Step(600, (1, 1)),), 0.2, 0.3)


@pytest.mark.parametrize("variance", [None, 0.02])
@pytest.mark.parametrize("arms", [2, 3])
def test_the_exact_method_errs_at_most_as_said_and_finds(variance: float | None, arms: int) -> None:
    plan = replace(PAIRS, steps=(Step(300 * arms, (1,) * arms),), variance=variance)
    found = simulate_exact(plan, runs=1000, seed=5)
    assert found.false_positive_rate[1] <= ALPHA
    assert found.power[0] > 0.9
    assert found.misled <= 1000 * ALPHA
    assert numpy.median(found.ended_effect) < 150 * arms
    again = simulate_exact(plan, runs=1000, seed=5)
    assert (again.found, again.false_positives) == (found.found, found.false_positives)


def test_the_exact_method_needs_equal_shares_and_possible_outcomes() -> None:
    for plan in (
        replace(PAIRS, steps=(Step(100, (1, 2)),)),
        replace(PAIRS, steps=PAIRS.steps * 2),
        replace(PAIRS, variance=0.3),
    ):
        with pytest.raises(UsageError):
            simulate_exact(plan)
