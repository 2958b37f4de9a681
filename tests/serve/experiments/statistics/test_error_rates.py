"""Error rates under every look there is, for every method: the bound holds for any seed.

Small enough for each run of the suite; `python -m loadtests.error_rates` is the long form.
"""

from __future__ import annotations

import math

import numpy
import pytest
from scipy.stats import norm

from serve.experiments.statistics import (
    bandit,
    blocks,
    bounded,
    counts,
    estimates,
    guardrails,
    multiplicity,
    posterior,
    propensities,
    sample_ratio,
    sequences,
)
from tests.serve.experiments.statistics.chances import at_least, at_most

RUNS, LENGTH, ALPHA = 1_000, 2_000, 0.05
CLAIM = multiplicity.threshold(ALPHA)


def bernoulli(seed: int, rate: float, *shape: int) -> numpy.ndarray:
    return (numpy.random.default_rng(seed).random(shape) < rate).astype(float)


def ever(log_e: numpy.ndarray) -> int:
    return int((log_e >= CLAIM).any(axis=-1).sum())


def dealt(y: numpy.ndarray, arms: numpy.ndarray) -> estimates.Estimate:
    """Return the difference after each unit; both (runs, units)."""
    sides = [
        estimates.proportion(numpy.cumsum(y * side, axis=-1), numpy.cumsum(side, axis=-1))
        for side in (1 - arms, arms)
    ]
    return estimates.difference(*sides)


def test_a_z_test_with_the_same_looks_errs_far_more_often() -> None:
    """So the others could."""
    found = dealt(bernoulli(1, 0.3, RUNS, LENGTH), bernoulli(2, 0.5, RUNS, LENGTH))
    with numpy.errstate(divide="ignore", invalid="ignore"):
        z = numpy.abs(found.value) / numpy.sqrt(found.variance / found.units)
    seen = (z > norm.ppf(1 - ALPHA / 2)) & (found.fewest >= sequences.FEWEST_UNITS)
    assert seen.any(axis=-1).sum() > 3 * at_most(RUNS, ALPHA)


def test_confidence_sequences() -> None:
    found = dealt(bernoulli(1, 0.3, RUNS, LENGTH), bernoulli(2, 0.5, RUNS, LENGTH))
    assert ever(sequences.log_e(found, ALPHA, planned=LENGTH)) <= at_most(RUNS, ALPHA)
    assert ever(sequences.log_e_above(found, ALPHA, planned=LENGTH)) <= at_most(RUNS, ALPHA)
    low, high = sequences.interval(found, ALPHA, planned=LENGTH)
    missed = ((low > 0) | (high < 0)).any(axis=-1).sum()
    assert missed <= at_most(RUNS, ALPHA)


def test_confidence_sequences_find_what_is_there() -> None:
    arms = bernoulli(2, 0.5, RUNS, LENGTH)
    y = (numpy.random.default_rng(3).random((RUNS, LENGTH)) < 0.3 + 0.12 * arms).astype(float)
    assert ever(sequences.log_e(dealt(y, arms), ALPHA, planned=LENGTH)) >= at_least(RUNS, 0.95)


def test_units_that_return() -> None:
    """300 units, 20 requests each, in random order, each with a rate of its own."""
    chance, runs, units, requests = numpy.random.default_rng(4), 200, 300, 6_000
    wrong = {"by unit": 0, "by request": 0}
    for _ in range(runs):
        rate, arm = chance.beta(1, 2, units), chance.random(units) < 0.5
        who = chance.integers(0, units, requests)
        y = (chance.random(requests) < rate[who]).astype(float)
        claimed = set()
        for look in range(1_000, requests + 1, 250):
            sides = [numpy.flatnonzero(arm[who[:look]] == side) for side in (0, 1)]
            ratios = [estimates.linearised(*estimates.by_unit(who[i], y[i])) for i in sides]
            for name, values in (("by unit", ratios), ("by request", [y[i] for i in sides])):
                found = estimates.difference(*map(estimates.mean, values))
                if sequences.log_e(found, ALPHA, planned=units) >= CLAIM:
                    claimed.add(name)
        for name in claimed:
            wrong[name] += 1
    assert wrong["by unit"] <= at_most(runs, ALPHA) < wrong["by request"]


@pytest.mark.parametrize("rate", [0.02, 0.5])
def test_blocks(rate: float) -> None:
    a, b = bernoulli(5, rate, RUNS, LENGTH), bernoulli(6, rate, RUNS, LENGTH)
    assert ever(blocks.log_e(a, b)) <= at_most(RUNS, ALPHA)


def test_blocks_find_what_is_there() -> None:
    a, b = bernoulli(5, 0.2, RUNS, 200), bernoulli(6, 0.5, RUNS, 200)
    assert ever(blocks.log_e(a, b)) >= at_least(RUNS, 0.95)


def test_bounded_means() -> None:
    y = numpy.random.default_rng(7).beta(0.3, 0.7, (RUNS, 500))
    assert ever(bounded.log_e(y, 0.3, ALPHA)) <= at_most(RUNS, ALPHA)
    assert ever(bounded.log_e_above(y, 0.3, ALPHA)) <= at_most(RUNS, ALPHA)
    low, high = bounded.interval(y[:300], ALPHA)
    assert ((low > 0.3) | (high < 0.3)).sum() <= at_most(300, ALPHA)
    assert (high - low).max() < 0.25


def test_preferences() -> None:
    wins = numpy.cumsum(bernoulli(8, 0.5, RUNS, LENGTH), axis=-1)
    seen = numpy.arange(1, LENGTH + 1)
    assert ever(counts.preferences(wins, seen - wins)) <= at_most(RUNS, ALPHA)


def broken(bad: numpy.ndarray) -> numpy.ndarray:
    """Return the evidence against "at most 5 %" after each outcome, looked up: counts repeat."""
    seen = numpy.arange(1, bad.shape[-1] + 1)
    table = guardrails.log_e_above(
        numpy.arange(bad.max() + 1)[:, None],
        numpy.maximum(seen - numpy.arange(bad.max() + 1)[:, None], 0),
        0.05,
    )
    return table[bad, seen - 1]


@pytest.mark.parametrize("rate", [0.02, 0.05])
def test_guardrails_leave_who_is_within_them(rate: float) -> None:
    bad = numpy.cumsum(bernoulli(9, rate, RUNS, LENGTH), axis=-1).astype(int)
    assert ever(broken(bad)) <= at_most(RUNS, ALPHA)


def test_bandits_over_a_drifting_rate() -> None:
    """Three equal arms; 1 600 units in 8 batches, shares set anew after each."""
    chance, runs, batch, arms, wrong = numpy.random.default_rng(15), 150, 200, 3, 0
    for _ in range(runs):
        y, given, shares = numpy.empty(0), numpy.empty(0, int), numpy.empty((0, arms))
        now, claimed = numpy.full(arms, 1 / arms), False
        for rate in numpy.linspace(0.2, 0.6, 8):
            given = numpy.append(given, chance.choice(arms, batch, p=now))
            y = numpy.append(y, chance.random(batch) < rate)
            shares = numpy.concatenate([shares, numpy.tile(now, (batch, 1))])
            for arm in range(1, arms):
                found = propensities.difference(
                    y, given, shares, numpy.arange(len(y)), control=0, arm=arm
                )
                evidence = sequences.log_e(found, ALPHA / 2, planned=1_600)
                claimed |= bool(evidence >= multiplicity.threshold(ALPHA, 2))
            own = [y[given == arm] for arm in range(arms)]
            beliefs = [posterior.normal(o.mean(), o.std() / len(o) ** 0.5) for o in own]
            now = bandit.shares(posterior.compare(beliefs).best)
        wrong += claimed
    assert wrong <= at_most(runs, ALPHA)


def test_margins_leave_who_is_at_them() -> None:
    """Worse by exactly the margin, which is allowed; and by three times of it, which is not."""
    arms = bernoulli(11, 0.5, RUNS, LENGTH)
    draws = numpy.random.default_rng(12).random((RUNS, LENGTH))
    for effect, holds in ((0.05, True), (0.20, False)):
        found = dealt((draws < 0.2 + effect * arms).astype(float), arms)
        claims = ever(guardrails.log_e_beyond(found, 0.05, ALPHA, planned=LENGTH))
        assert (claims <= at_most(RUNS, ALPHA)) is holds


def test_a_sound_split_is_left_and_a_lossy_one_frozen() -> None:
    batches = numpy.random.default_rng(13).multinomial(500, [0.5, 0.5], size=(RUNS, 200))
    evidence = sample_ratio.log_e(numpy.cumsum(batches, axis=1), [1, 1])
    frozen = (evidence >= sample_ratio.FROZEN_AT).any(axis=-1).sum()
    assert frozen <= at_most(RUNS, math.exp(-sample_ratio.FROZEN_AT))
    lossy = numpy.random.default_rng(14).multinomial(500, [0.51, 0.49], size=(RUNS, 200))
    evidence = sample_ratio.log_e(numpy.cumsum(lossy, axis=1), [1, 1])
    assert (evidence >= sample_ratio.FROZEN_AT).any(axis=-1).sum() >= at_least(RUNS, 0.95)
