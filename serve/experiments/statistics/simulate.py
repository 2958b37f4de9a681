"""A plan run many times over, looked at after every batch: how often it errs, finds, and when.

Units come in batches; within a batch only sums matter, so thousands of runs are a few arrays
of (runs, looks, arms). Arms' units are drawn at random as in traffic, not dealt out evenly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from adapters.errors import UsageError
from adapters.intervals import wilson
from serve.experiments.statistics import sequences
from serve.experiments.statistics.estimates import Estimate, Numbers, difference
from serve.experiments.statistics.multiplicity import threshold
from serve.experiments.statistics.plan import Plan

_SUMS_AT_ONCE = 500_000
"""(runs, looks, arms): some 100 MB in all."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """What came of a plan's runs, without an effect and with it."""

    runs: int
    """of each"""
    false_positives: int
    """without an effect: some arm was said to differ from control, at some look"""
    found: int
    """with it: the last arm was, with the right sign, and no other"""
    misled: int
    """with it: something else was said, and acted upon"""
    ended_null: Numbers
    """(runs,): units at the look that said so, without an effect; all where none did"""
    ended_effect: Numbers
    """(runs,): with it"""

    @property
    def false_positive_rate(self) -> tuple[float, float, float]:
        """Its value, and the ends of Wilson's 95 % interval."""
        return self.false_positives / self.runs, *wilson(self.false_positives, self.runs)

    @property
    def power(self) -> tuple[float, float, float]:
        """Its value, and the ends of Wilson's 95 % interval."""
        return self.found / self.runs, *wilson(self.found, self.runs)


def simulate(
    plan: Plan, *, runs: int = 2_000, looks: int = 200, seed: int = 0, drift: float = 0.0
) -> Simulated:
    """Return what the plan does without its effect, and with it in the last arm.

    Outcomes are Bernoulli for a proportion, normal for a mean. `looks` are spread evenly, and one
    more is at the end of each step. `drift` is added to all arms' means little by little, from
    −drift/2 to +drift/2. Where the shares change the analysis is that of `propensities`, else the
    plain difference, each at α/m for m arms beside control. Same seed, same result.

    Raises:
        UsageError: a proportion would drift out of 0 to 1.
    """
    reached = (plan.mean + side * drift / 2 + add for side in (-1, 1) for add in (0, plan.effect))
    if plan.variance is None and not all(0 <= mean <= 1 for mean in reached):
        raise UsageError(
            f"A proportion of {plan.mean} cannot drift by {drift}.", fix="Use a smaller drift."
        )
    ends = _ends(plan, looks)
    at_once = max(1, _SUMS_AT_ONCE // (len(ends) * plan.arms))
    return gathered(
        lambda effect, size, begun: _run(plan, effect, ends, size, drift, [seed, begun]),
        plan.effect,
        runs,
        at_once,
    )


Runs = tuple[Numbers, NDArray[numpy.bool_], NDArray[numpy.bool_]]
"""Of each run: when it ended, whether by a claim, and whether that was all right."""


def gathered(
    run: Callable[[float, int, int], Runs], effect: float, runs: int, at_once: int
) -> Simulated:
    """Return what comes of runs without an effect and with it, so many at a time.

    `run`: takes the effect, how many, and how many were before.
    """
    null, found = (
        [run(size, min(at_once, runs - begun), begun) for begun in range(0, runs, at_once)]
        for size in (0.0, effect)
    )
    ended_null, said, _ = map(numpy.concatenate, zip(*null, strict=True))
    ended_effect, decided, right = map(numpy.concatenate, zip(*found, strict=True))
    return Simulated(
        runs,
        int(said.sum()),
        int(right.sum()),
        int((decided & ~right).sum()),
        ended_null,
        ended_effect,
    )


def first_claim(plan: Plan, log_e: Numbers, value: Numbers, effect: float, units: Numbers) -> Runs:
    """Return how runs end that stop at the first look at which any arm's evidence is enough.

    `log_e`, `value`: (runs, looks, arms − 1); `units`: (looks,), of all arms; `effect`: in the last
    arm.
    """
    reached = log_e >= threshold(plan.alpha, plan.comparisons)
    said = numpy.any(reached, axis=-1)
    decided = numpy.asarray(numpy.any(said, axis=1))
    first = numpy.where(decided, numpy.argmax(said, axis=1), len(units) - 1)
    at = numpy.arange(len(log_e)), first
    claimed = reached[at] * numpy.sign(value[at])
    truth = numpy.append(numpy.zeros(plan.comparisons - 1), numpy.sign(effect))
    right = numpy.asarray(decided & numpy.all(claimed == truth, axis=-1))
    return units[first], decided, right


def _ends(plan: Plan, looks: int) -> Numbers:
    """Return the units seen at each look."""
    even = numpy.linspace(0, plan.units, looks + 1)[1:].round()
    return numpy.unique(numpy.concatenate([even, numpy.cumsum([s.units for s in plan.steps])]))


def _run(
    plan: Plan, effect: float, ends: Numbers, runs: int, drift: float, seed: list[int]
) -> Runs:
    chance = numpy.random.default_rng(seed)
    batch = numpy.diff(ends, prepend=0).astype(int)
    step = numpy.searchsorted(numpy.cumsum([s.units for s in plan.steps]), ends)
    shares = numpy.array([s.shares for s in plan.steps])[step]
    means = plan.mean + drift * (ends / plan.units - 0.5)[:, None] + numpy.zeros(plan.arms)
    means[:, -1] += effect
    units = chance.multinomial(batch, shares, size=(runs, len(ends))).astype(float)
    batches = _outcomes(chance, plan, units, means)
    steady = bool((shares == shares[0]).all())
    found = _differences(batches) if steady else _weighted(batches, shares)
    evidence = sequences.log_e(found, plan.alpha / plan.comparisons, planned=plan.planned)
    return first_claim(plan, evidence, found.value, effect, ends)


@dataclass(frozen=True, slots=True)
class _Batches:
    """Sums over each batch's units, of deviations from the plan's mean: (runs, looks, arms)."""

    units: Numbers
    sums: Numbers
    squares: Numbers
    ones: Numbers | None
    """of a proportion"""


def _outcomes(
    chance: numpy.random.Generator, plan: Plan, units: Numbers, means: Numbers
) -> _Batches:
    if plan.variance is None:
        ones = chance.binomial(units.astype(int), means).astype(float)
        p = plan.mean
        squares = ones * (1 - p) ** 2 + (units - ones) * p**2
        return _Batches(units, ones - units * p, squares, ones)
    sums = chance.normal(units * (means - plan.mean), numpy.sqrt(units * plan.variance))
    inner = plan.variance * 2 * chance.standard_gamma(numpy.maximum(units - 1, 0) / 2)
    squares = inner + sums**2 / numpy.maximum(units, 1)
    return _Batches(units, sums, squares, None)


def _differences(batches: _Batches) -> Estimate:
    """Return each arm's difference to control at each look: (runs, looks, arms − 1)."""
    units, sums, squares = (
        numpy.cumsum(each, axis=1) for each in (batches.units, batches.sums, batches.squares)
    )
    value, variance = _moments(units, sums, squares)
    control, others = (
        Estimate(
            units[..., part],
            value[..., part],
            variance[..., part],
            units[..., part],
            _effective(batches, numpy.ones(1), part),
        )
        for part in (slice(0, 1), slice(1, None))
    )
    return difference(control, others)


def _weighted(batches: _Batches, shares: Numbers) -> Estimate:
    """Return the same as `propensities.difference`, μ̂ being the mean of the batches before."""
    seen, total = (
        numpy.cumsum(each.sum(axis=-1, keepdims=True), axis=1)
        for each in (batches.units, batches.sums)
    )
    past = total / numpy.maximum(seen, 1)
    centre = numpy.concatenate([numpy.zeros_like(past[:, :1]), past[:, :-1]], axis=1)
    sums = batches.sums - centre * batches.units
    squares = batches.squares - 2 * centre * batches.sums + centre**2 * batches.units
    control, others = shares[:, :1], shares[:, 1:]
    both = control + others
    weight = control * others / both
    score = (sums[..., 1:] * control - sums[..., :1] * others) / both
    squared = (squares[..., 1:] * control**2 + squares[..., :1] * others**2) / both**2
    arrived = batches.units.sum(axis=-1, keepdims=True)
    scores, products, weights, weights_squared, square = (
        numpy.cumsum(each, axis=1)
        for each in (score, score * weight, arrived * weight, arrived * weight**2, squared)
    )
    value = scores / numpy.maximum(weights, 1e-300)
    residual = square - 2 * value * products + value**2 * weights_squared
    information = 4 * weights
    variance = information * residual / numpy.maximum(weights, 1e-300) ** 2
    fewest = numpy.cumsum(batches.units, axis=1)
    least = numpy.minimum(
        _effective(batches, others / both, slice(0, 1)),
        _effective(batches, control / both, slice(1, None)),
    )
    return Estimate(
        information, value, variance, numpy.minimum(fewest[..., :1], fewest[..., 1:]), least
    )


def _moments(n: Numbers, sums: Numbers, squares: Numbers) -> tuple[Numbers, Numbers]:
    """Return means and sample variances, infinite where there are fewer than two."""
    means = sums / numpy.maximum(n, 1)
    inner = numpy.maximum(squares - sums * means, 0.0) / numpy.maximum(n - 1, 1)
    return means, numpy.where(n > 1, inner, numpy.inf)


def _effective(batches: _Batches, weights: Numbers, arms: slice) -> Numbers:
    """Return `estimates.effective` of these arms so far, of normal outcomes what is expected."""
    units = batches.units[..., arms]
    if batches.ones is None:
        second, fourth = (numpy.cumsum(units * weights**power, axis=1) for power in (2, 4))
        return numpy.asarray(second**2 / numpy.maximum(3 * fourth, 1e-300))
    ones = batches.ones[..., arms]
    mean = numpy.cumsum(ones, axis=1) / numpy.maximum(numpy.cumsum(units, axis=1), 1)
    second, fourth = (
        numpy.cumsum(ones * weights**power, axis=1) * (1 - mean) ** power
        + numpy.cumsum((units - ones) * weights**power, axis=1) * mean**power
        for power in (2, 4)
    )
    return numpy.where(fourth > 0, second**2 / numpy.where(fourth > 0, fourth, 1), 0.0)
