"""What is known of a metric: its value, and the variance of what one unit adds to it.

The unit is who was assigned, not the request: a unit's outcomes are alike, and counting each as if
it were somebody else's makes intervals too short (20 requests a user: 34 % false positives).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy
from numpy.typing import ArrayLike, NDArray

from adapters.errors import UsageError

Numbers = NDArray[numpy.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its uncertainty. Fields broadcast: a number each, or e.g. (runs, looks)."""

    units: Numbers
    """n, of all arms in it"""
    value: Numbers
    variance: Numbers
    """n · SE²: the variance of what one unit adds to the value"""
    fewest: Numbers
    """units of the smallest arm in it"""
    effective: Numbers
    """on how many units an arm's own variance rests, the least of the arms: see `effective`"""


def by_unit(units: ArrayLike, outcomes: ArrayLike) -> tuple[Numbers, Numbers]:
    """Return each unit's sum and number of outcomes, in the order of sorted units.

    `units`: (outcomes,), of anything that sorts; `outcomes`: (outcomes,).
    """
    _, places = numpy.unique(numpy.asarray(units), return_inverse=True)
    x = _finite(outcomes)
    return _added(places, x), _added(places, numpy.ones_like(x))


def linearised(numerators: ArrayLike, denominators: ArrayLike) -> Numbers:
    """Return a ratio metric R = Σx/Σd as one value a unit: R + (x − R·d)/d̄; all (units,).

    Their mean is R and their variance that of the delta method, n·Var(R̂) (Deng, Knoblich, Lu 2018,
    arXiv 1803.06336, eq. 4): what is written for means then holds for ratios, CUPED included. It is
    also the cluster-robust variance of the mean over requests, where `denominators` counts a unit's
    requests. Linearise each arm by itself.

    Raises:
        UsageError: an outcome is not finite, or the denominators sum to nothing above 0.
    """
    x, d = _finite(numerators), _finite(denominators)
    if not d.sum() > 0:
        raise UsageError("The denominators sum to 0.", fix="A ratio needs something to divide by.")
    ratio = x.sum() / d.sum()
    each: Numbers = ratio + (x - ratio * d) / d.mean()
    return each


def exceedances(units: ArrayLike, measured: ArrayLike, limit: float) -> Numbers:
    """Return the share of measurements above a fixed limit, as one linearised value a unit.

    "p95 below 800 ms" is "at most 5 % above 800 ms": a quantile's own sampling distribution is
    never needed. `units`, `measured`: (measurements,).
    """
    return linearised(*by_unit(units, _finite(measured) > limit))


def mean(values: ArrayLike) -> Estimate:
    """Return the mean of one value a unit: (..., units), at least two units.

    Raises:
        UsageError: fewer than two units, or a value that is not finite.
    """
    x = _finite(values)
    if x.shape[-1] < 2:
        raise UsageError("A mean of fewer than two units has no variance.", fix="Wait for more.")
    n = numpy.full(x.shape[:-1], float(x.shape[-1]))
    return Estimate(n, x.mean(axis=-1), x.var(axis=-1, ddof=1), n, effective(x))


def proportion(successes: ArrayLike, units: ArrayLike) -> Estimate:
    """Return `mean` of so many ones among so many units, elementwise; nothing is known of none."""
    s, n = _finite(successes), _finite(units)
    with numpy.errstate(divide="ignore", invalid="ignore"):
        p = numpy.where(n > 0, s / n, 0.0)
        variance = numpy.where(n > 1, n * p * (1 - p) / (n - 1), numpy.inf)
    spread = p * (1 - p)
    return Estimate(n, p, variance, n, n * spread / (1 - 3 * spread))


def effective(values: ArrayLike, weights: ArrayLike = 1.0) -> Numbers:
    """Return (Σd²)²/Σd⁴ of weighted deviations d from the mean: (..., units) → (...).

    n over the kurtosis. On so many units rests the sample variance, whose relative standard error
    is about its inverse root: n of them where a rate is ½, n/3 of normal values, as many as there
    were events where a rate is small, and few where a tail is long, however large n. 0 where all
    values are equal. `weights` are those with which deviations enter a sum, if not alike.
    """
    x = _finite(values)
    squared = (numpy.asarray(weights) * (x - x.mean(axis=-1, keepdims=True))) ** 2
    fourth = (squared**2).sum(axis=-1)
    with numpy.errstate(divide="ignore", invalid="ignore"):
        return numpy.where(fourth > 0, squared.sum(axis=-1) ** 2 / fourth, 0.0)


def difference(control: Estimate, arm: Estimate) -> Estimate:
    """Return arm − control of two estimates from different units, elementwise.

    n = n_A + n_B, SE² = s²_A/n_A + s²_B/n_B: for shares that stay as they are
    (`propensities.difference` where they change).
    """
    units = control.units + arm.units
    with numpy.errstate(divide="ignore", invalid="ignore"):
        variance = units * (control.variance / control.units + arm.variance / arm.units)
    return Estimate(
        units,
        arm.value - control.value,
        variance,
        numpy.minimum(control.fewest, arm.fewest),
        numpy.minimum(control.effective, arm.effective),
    )


def _finite(values: ArrayLike) -> Numbers:
    x = numpy.asarray(values, numpy.float64)
    if not numpy.isfinite(x).all():
        raise UsageError("An outcome is not a finite number.", fix="Leave NaN and infinity out.")
    return x


def _added(places: NDArray[numpy.intp], x: Numbers) -> Numbers:
    return numpy.asarray(numpy.bincount(places, weights=x), numpy.float64)
