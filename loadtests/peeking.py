"""Simulated experiments, looked at after every outcome: what each method would have claimed, when.

Each function takes a generator and a shape, (runs, looks), and returns an array of that shape: the
evidence of each run at each look, less what a claim needs. So 0 or more is a claim.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy
from scipy.stats import chi2, norm

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
from serve.experiments.statistics.estimates import Estimate, Numbers

ALPHA = 0.05
Chance = numpy.random.Generator
Shape = tuple[int, int]
Method = Callable[[Chance, Shape], Numbers]
_CLAIM = multiplicity.threshold(ALPHA)
_CELLS = 10_000_000
_LIMIT = 0.05


def first_claims(method: Method, runs: int, looks: int, seed: int) -> Numbers:
    """Return the number of the look of each run's first claim, infinite where there was none."""
    chance, at_once, first = numpy.random.default_rng([seed, looks]), max(1, _CELLS // looks), []
    for begun in range(0, runs, at_once):
        claimed = method(chance, (min(at_once, runs - begun), looks)) >= 0
        first.append(numpy.where(claimed.any(axis=1), claimed.argmax(axis=1) + 1.0, numpy.inf))
    return numpy.concatenate(first)


def z_test(chance: Chance, shape: Shape) -> Numbers:
    """Two rates of 30 %, |z| against 1.96, from 100 units an arm on."""
    return numpy.abs(_z(_difference(chance, shape))) - norm.isf(ALPHA / 2)


def bayesian(chance: Chance, shape: Shape) -> Numbers:
    """The same, P(either is best) against 95 %."""
    return norm.cdf(numpy.abs(_z(_difference(chance, shape)))) - 0.95


def one_sided(chance: Chance, shape: Shape) -> Numbers:
    """The same, the evidence that the second rate is above."""
    return sequences.log_e_above(_difference(chance, shape), ALPHA) - _CLAIM


def at_margin(chance: Chance, shape: Shape) -> Numbers:
    """30 and 35 %, a margin of 5 points."""
    found = _difference(chance, shape, effect=0.05)
    return guardrails.log_e_beyond(found, 0.05, ALPHA) - _CLAIM


def pairs(control: float, arm: float) -> Method:
    """Return `blocks` of two rates."""

    def method(chance: Chance, shape: Shape) -> Numbers:
        a, b = (_ones(chance, shape, rate) for rate in (control, arm))
        return blocks.log_e(a, b) - _CLAIM

    return method


def betting(chance: Chance, shape: Shape) -> Numbers:
    """Beta(0.3, 0.7) outcomes against their mean."""
    return bounded.log_e(chance.beta(0.3, 0.7, shape), 0.3, ALPHA) - _CLAIM


def betting_on_pairs(chance: Chance, shape: Shape) -> Numbers:
    """Two arms of such outcomes."""
    a, b = (chance.beta(0.3, 0.7, shape) for _ in range(2))
    return bounded.log_e(bounded.paired(a, b), 0.5, ALPHA) - _CLAIM


def preferences(rate: float) -> Method:
    """Return `counts.preferences` where one of two is preferred at that rate."""
    return _counted(rate, counts.preferences)


def guardrail(rate: float) -> Method:
    """Return a limit of 5 % where that rate is true."""
    return _counted(rate, lambda bad, good: guardrails.log_e_above(bad, good, _LIMIT))


def split(share: float) -> Method:
    """Return the evidence against 1:1 where control's share is that."""

    def method(chance: Chance, shape: Shape) -> Numbers:
        seen = numpy.arange(1, shape[1] + 1)
        control = _ones(chance, shape, share).cumsum(axis=1)
        evidence = sample_ratio.log_e(numpy.stack([control, seen - control], axis=-1), (1, 1))
        return evidence - sample_ratio.FROZEN_AT

    return method


def chi_square(chance: Chance, shape: Shape) -> Numbers:
    """A split of 1:1, Pearson's χ² against its 0.1 % point, from 200 units on."""
    seen = numpy.arange(1, shape[1] + 1)
    control = _ones(chance, shape, 0.5).cumsum(axis=1)
    statistic = (2 * control - seen) ** 2 / seen
    return numpy.where(seen >= 200, statistic, 0.0) - chi2.isf(0.001, 1)


def returning(chance: Chance, *, by_unit: bool) -> bool:
    """Return whether equal arms of 300 users are told apart, who ask 20 times each.

    Each user has a rate of its own, Beta(1, 2); requests come in random order, looks every 25 from
    the 1 000th on. By unit it is the sequence, else the z-test of requests.
    """
    units, requests = 300, 6_000
    rate, arm = chance.beta(1, 2, units), chance.random(units) < 0.5
    who = chance.integers(0, units, requests)
    y = (chance.random(requests) < rate[who]).astype(float)
    for look in range(1_000, requests + 1, 25):
        sides = [numpy.flatnonzero(arm[who[:look]] == side) for side in (0, 1)]
        if not by_unit:
            found = estimates.difference(*(estimates.mean(y[i]) for i in sides))
            if abs(_z(found)) >= norm.isf(ALPHA / 2):
                return True
            continue
        ratios = [estimates.linearised(*estimates.by_unit(who[i], y[i])) for i in sides]
        found = estimates.difference(*map(estimates.mean, ratios))
        if sequences.log_e(found, ALPHA, planned=units) >= _CLAIM:
            return True
    return False


def bandit_of_three(chance: Chance) -> bool:
    """Return whether a bandit tells one of three equal arms from control, over a drifting rate.

    10 000 units, shares set anew and looked at every 200; the rate goes from 20 to 40 %.
    """
    batch, batches, arms = 200, 50, 3
    y, given, shares = numpy.empty(0), numpy.empty(0, int), numpy.empty((0, arms))
    now = numpy.full(arms, 1 / arms)
    for number in range(batches):
        rate = 0.2 + 0.2 * number / (batches - 1)
        given = numpy.append(given, chance.choice(arms, batch, p=now))
        y = numpy.append(y, chance.random(batch) < rate)
        shares = numpy.concatenate([shares, numpy.tile(now, (batch, 1))])
        who = numpy.arange(len(y))
        for arm in range(1, arms):
            found = propensities.difference(y, given, shares, who, control=0, arm=arm)
            if sequences.log_e(found, ALPHA / 2) >= multiplicity.threshold(ALPHA, 2):
                return True
        ones, all_of = (numpy.bincount(given, weights=w, minlength=arms) for w in (y, y * 0 + 1))
        rates = [posterior.rate(s, n - s) for s, n in zip(ones, all_of, strict=True)]
        now = bandit.shares(posterior.compare(rates).best)
    return False


def _ones(chance: Chance, shape: Shape, rate: float | Numbers) -> Numbers:
    return (chance.random(shape) < rate).astype(float)


def _difference(chance: Chance, shape: Shape, effect: float = 0.0) -> Estimate:
    """Return arm − control after each unit, each assigned by a coin."""
    arms = _ones(chance, shape, 0.5)
    y = _ones(chance, shape, 0.3 + effect * arms)
    control, arm = (
        estimates.proportion((y * side).cumsum(axis=1), side.cumsum(axis=1))
        for side in (1 - arms, arms)
    )
    return estimates.difference(control, arm)


def _z(found: Estimate) -> Numbers:
    with numpy.errstate(divide="ignore", invalid="ignore"):
        z = found.value / numpy.sqrt(found.variance / found.units)
    return numpy.where(found.fewest >= sequences.FEWEST_UNITS, z, 0.0)


def _counted(rate: float, log_e: Callable[[Numbers, Numbers], Numbers]) -> Method:
    """Return a method of counts alone, which is asked once for each pair of them that occurs."""

    def method(chance: Chance, shape: Shape) -> Numbers:
        hits = _ones(chance, shape, rate).cumsum(axis=1).astype(int)
        looks = numpy.arange(shape[1])
        evidence = numpy.full((shape[1], hits.max() + 1), -numpy.inf)
        first = hits.min(axis=0)
        for look in looks:
            every = numpy.arange(first[look], hits[:, look].max() + 1)
            evidence[look, every] = log_e(every, look + 1 - every)
        return evidence[looks, hits] - _CLAIM

    return method
