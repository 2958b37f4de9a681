"""A metric of one arm, or of an arm beside control, as an `Estimate`: what the asymptotics take.

A unit's rows of several phases are summed first: the unit is who was assigned, not its visits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy
from numpy.typing import NDArray

from adapters.metrics import Metric
from serve.experiments.analysis.measures import Rows
from serve.experiments.statistics import covariates, estimates, propensities
from serve.experiments.statistics.estimates import Estimate, Numbers

_Compared = tuple[Numbers, NDArray[numpy.int64], Callable[[Numbers], Estimate]]
"""Values, whose they are, and what they prove: (values,) each."""


def by_unit(
    rows: Rows, chosen: NDArray[numpy.bool_], *columns: Numbers
) -> tuple[NDArray[numpy.int64], list[Numbers]]:
    """Return the units of the chosen rows, as they came, and each column's sums: (units,)."""
    unit = rows.unit[chosen]
    there = numpy.bincount(unit) > 0
    return numpy.flatnonzero(there), [
        numpy.asarray(numpy.bincount(unit, column[chosen])[there], numpy.float64)
        for column in columns
    ]


def alone(rows: Rows, metric: Metric, arm: int) -> Estimate | None:
    """Return an arm's mean over responses, or its ratio; None before it has two units.

    Sums by unit, one by the other: the variance is that of the delta method, clustered by unit.
    Units of which nothing was measured are not among its n, and change nothing else.
    """
    found = _linearised(rows, metric, arm)
    return None if found is None else estimates.mean(found[1])


def difference(rows: Rows, metric: Metric, arm: int, *, steady: bool) -> Estimate | None:
    """Return arm − control; None while one of them has nothing.

    `steady`: the shares never changed, so plain means compare. Else each row is weighted by its
    phase's probabilities, and counts with its unit's mean there. A ratio is then taken as the mean
    of R + (x − R·d)/d̄, R and d̄ of both arms together: its difference is 0 where both ratios are R,
    and that of the ratios where both arms divide by the same.

    A covariate is taken out of what is compared, of both arms at once. On how many units the
    variance rests is then the lesser of before and after: of an arm that saw no event yet, what
    was taken out would look like a spread of its own.
    """
    found = _steady(rows, metric, arm) if steady else _weighted(rows, metric, arm)
    if found is None:
        return None
    values, unit, compared = found
    plain = compared(values)
    if metric.covariate is None:
        return plain
    less = compared(covariates.adjusted(values, rows.before(metric)[unit]))
    return replace(less, effective=numpy.minimum(plain.effective, less.effective))


def _steady(rows: Rows, metric: Metric, arm: int) -> _Compared | None:
    """Return a value of each unit of both arms, and how they compare."""
    control, own = (_linearised(rows, metric, side) for side in (0, arm))
    if control is None or own is None:
        return None
    first = len(control[0])

    def compared(values: Numbers) -> Estimate:
        return estimates.difference(estimates.mean(values[:first]), estimates.mean(values[first:]))

    unit, values = (numpy.concatenate(both) for both in zip(control, own, strict=True))
    return values, unit, compared


def _weighted(rows: Rows, metric: Metric, arm: int) -> _Compared | None:
    """Return a value of each row of any arm, and how they compare."""
    summed = rows.summed(metric)
    chosen = summed.measured & (rows.shares[:, 0] > 0) & (rows.shares[:, arm] > 0)
    given, unit = rows.arm[chosen], rows.unit[chosen]
    if not all(_several(unit[given == side]) for side in (0, arm)):
        return None
    x, d = summed.numerator[chosen], summed.denominator[chosen]
    if metric.denominator is None:
        y = x / d
    else:
        both = (given == 0) | (given == arm)
        if not d[both].sum() > 0:
            return None
        ratio = x[both].sum() / d[both].sum()
        y = ratio + (x - ratio * d) / d[both].mean()
    shares = rows.shares[chosen]

    def compared(values: Numbers) -> Estimate:
        return propensities.difference(values, given, shares, unit, control=0, arm=arm)

    return y, unit, compared


def _linearised(
    rows: Rows, metric: Metric, arm: int
) -> tuple[NDArray[numpy.int64], Numbers] | None:
    """Return an arm's units and a value of each, whose mean is the arm's; None before two."""
    summed = rows.summed(metric)
    unit, (x, d) = by_unit(
        rows, summed.measured & (rows.arm == arm), summed.numerator, summed.denominator
    )
    return None if len(x) < 2 or not d.sum() > 0 else (unit, estimates.linearised(x, d))


def _several(units: NDArray[numpy.int64]) -> bool:
    """Say whether these rows are of two units or more."""
    return bool(units.size and (units != units[0]).any())
