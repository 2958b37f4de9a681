"""Inverse propensities: the difference that is there, however shares and base rates moved."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.experiments.statistics import estimates, propensities


def ramp(units: int, chance: numpy.random.Generator) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return arms and propensities: the second arm's share goes 5, 20, 50 %, by one hash a unit."""
    share = numpy.repeat([0.05, 0.2, 0.5], units // 3)
    given_arm = (chance.random(len(share)) < share).astype(int)
    return given_arm, numpy.stack([1 - share, share], axis=1)


def test_a_base_rate_that_drifts_under_a_ramp_is_no_effect() -> None:
    chance = numpy.random.default_rng(5)
    arms, shares = ramp(60_000, chance)
    drifting = numpy.linspace(0.1, 0.6, 60_000)
    y = (chance.random(60_000) < drifting).astype(float)
    naive = estimates.difference(*(estimates.mean(y[arms == arm]) for arm in (0, 1)))
    found = propensities.difference(y, arms, shares, numpy.arange(60_000), control=0, arm=1)
    error = float(found.variance / found.units) ** 0.5
    assert abs(float(found.value)) < 4.9 * error  # 1e-6
    assert float(naive.value) > 10 * float(naive.variance / naive.units) ** 0.5


def test_it_finds_the_effect_and_knows_its_own_error() -> None:
    """Over 300 experiments: mean error within 4.9 standard errors of 0, spread as estimated."""
    chance = numpy.random.default_rng(6)
    errors, variances = [], []
    for _ in range(300):
        arms, shares = ramp(3_000, chance)
        rates = numpy.linspace(0.2, 0.5, 3_000) + 0.1 * arms
        y = (chance.random(3_000) < rates).astype(float)
        found = propensities.difference(y, arms, shares, numpy.arange(3_000), control=0, arm=1)
        errors.append(float(found.value) - 0.1)
        variances.append(float(found.variance / found.units))
    assert abs(numpy.mean(errors)) < 4.9 * numpy.std(errors) / 300**0.5
    assert numpy.var(errors) == pytest.approx(numpy.mean(variances), rel=0.3)


@given(st.integers(0, 2**32 - 1))
def test_scores_by_hand(seed: int) -> None:
    chance = numpy.random.default_rng(seed)
    shares = chance.dirichlet([5, 5, 5], size=12)
    arms, y = chance.integers(0, 3, 12), chance.normal(size=12)
    weighted, weights = propensities.scores(y, arms, shares, control=0, arm=2)
    for i in range(12):
        centre = y[:i].mean() if i else y[0]
        psi = (y[i] - centre) * ((arms[i] == 2) / shares[i, 2] - (arms[i] == 0) / shares[i, 0])
        h = 1 / (1 / shares[i, 2] + 1 / shares[i, 0])
        assert weights[i] == pytest.approx(h)
        assert weighted[i] == pytest.approx(h * psi, abs=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_swapping_the_arms_turns_the_sign(seed: int) -> None:
    chance = numpy.random.default_rng(seed)
    arms, shares = ramp(300, chance)
    y, units = chance.normal(size=300), chance.integers(0, 100, 300)
    there = propensities.difference(y, arms, shares, units, control=0, arm=1)
    back = propensities.difference(y, 1 - arms, shares[:, ::-1], units, control=0, arm=1)
    assert float(there.value) == pytest.approx(-float(back.value))
    assert float(there.variance) == pytest.approx(float(back.variance))
    assert float(there.units) == pytest.approx(float(back.units))
    assert float(there.effective) == pytest.approx(float(back.effective))


def test_equal_and_steady_shares_give_nearly_the_plain_difference() -> None:
    chance = numpy.random.default_rng(7)
    arms, y = chance.integers(0, 2, 20_000), chance.normal(5, 1, 20_000)
    plain = estimates.difference(*(estimates.mean(y[arms == arm]) for arm in (0, 1)))
    shares = numpy.full((20_000, 2), 0.5)
    found = propensities.difference(y, arms, shares, numpy.arange(20_000), control=0, arm=1)
    assert float(found.units) == 20_000
    assert float(found.value) == pytest.approx(float(plain.value), abs=1e-3)
    assert float(found.variance) == pytest.approx(float(plain.variance), rel=1e-2)
    assert float(found.effective) == pytest.approx(float(plain.effective), rel=1e-9)


def test_an_arm_without_an_event_rests_on_nothing() -> None:
    arms, y = numpy.repeat([0, 1], [1900, 100]), numpy.zeros(2000)
    y[:1900:90] = 1
    shares = numpy.tile([0.95, 0.05], (2000, 1))
    found = propensities.difference(y, arms, shares, numpy.arange(2000), control=0, arm=1)
    assert float(found.fewest) == 100
    assert float(found.effective) == 0


def test_an_arm_that_nobody_got_is_no_error() -> None:
    shares = numpy.tile([0.95, 0.05], (3, 1))
    found = propensities.difference([1, 0, 1], [0, 0, 0], shares, [1, 2, 3], control=0, arm=1)
    assert float(found.fewest) == 0


def test_many_outcomes_of_one_unit_count_once() -> None:
    chance = numpy.random.default_rng(8)
    arms, shares = ramp(3_000, chance)
    y = chance.normal(size=3_000)
    many = numpy.repeat(numpy.arange(3_000), 4)
    found = propensities.difference(y[many], arms[many], shares[many], many, control=0, arm=1)
    once = propensities.difference(y, arms, shares, numpy.arange(3_000), control=0, arm=1)
    assert float(found.units) == pytest.approx(float(once.units))
    assert float(found.variance) == pytest.approx(float(once.variance), rel=0.05)
