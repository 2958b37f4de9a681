"""The difference between two arms whose shares changed: by a ramp, or by a bandit.

Whoever came while an arm was small came on other days than the rest. If those days differ, so do
the arms' plain means, with no effect at all (a ramp of 5, 20, 50 % over a drifting base rate: 100 %
false positives). Weighting by the inverse of the probability that was in force removes that:

    ψ = (y − μ̂)·(1[arm]/π_arm − 1[control]/π_control)

has the mean E[y | arm] − E[y | control] whatever μ̂ is, so long as μ̂ is of the past alone (Horvitz,
Thompson 1952; as confidence sequences Waudby-Smith et al., arXiv 2103.06476, and Ham, Bojinov,
Lindon, Tingley 2022, arXiv 2210.08639). Its variance goes by 1/h = 1/π_arm + 1/π_control, so scores
are weighted by h, and no ramp's first days outweigh all others:

    Δ̂ = Σhψ/Σh,   hψ = (y − μ̂)·(1[arm]·π_control − 1[control]·π_arm)/(π_arm + π_control)

(Hadad, Hirshberg, Zhan, Wager, Athey 2021, arXiv 1911.02768: weights of the past alone leave it a
martingale). Where the effect itself moves it is the mean effect with the weights h. Time is counted
in information, n = Σ4h: an outcome under two equal shares counts 1, so σ̂² = n·SE² stays what it is
while shares move, as `sequences` assumes, and n is n_A + n_B where they do not.
"""

from __future__ import annotations

from typing import Any

import numpy
from numpy.typing import ArrayLike, NDArray

from serve.experiments.statistics.estimates import (
    Estimate,
    Numbers,
    by_unit,
    effective,
    linearised,
    mean,
)


def scores(
    outcomes: ArrayLike, arms: ArrayLike, propensities: ArrayLike, *, control: int, arm: int
) -> tuple[Numbers, Numbers]:
    """Return hψ and h of each outcome, in the order in which they came: (outcomes,) each.

    `outcomes`: (outcomes,); `arms`: (outcomes,), the arm's place; `propensities`: (outcomes, arms),
    the probabilities in force when it was assigned, above 0 for both. μ̂ is the mean of the outcomes
    before it, of whatever arm; of the first it is the outcome itself, which so says nothing.
    """
    y, given = numpy.asarray(outcomes, numpy.float64), numpy.asarray(arms)
    of_control, of_arm = _shares(propensities, control, arm)
    before = numpy.arange(len(y))
    past = (numpy.cumsum(y) - y) / numpy.maximum(before, 1)
    centre = numpy.where(before > 0, past, y)
    signed = ((given == arm) * of_control - (given == control) * of_arm) / (of_control + of_arm)
    return (y - centre) * signed, of_control * of_arm / (of_control + of_arm)


def difference(
    outcomes: ArrayLike,
    arms: ArrayLike,
    propensities: ArrayLike,
    units: ArrayLike,
    *,
    control: int,
    arm: int,
) -> Estimate:
    """Return arm − control, each unit's scores averaged first: units count alike, not outcomes.

    Shapes as in `scores`; `units`: (outcomes,). A unit that a ramp moved has scores of both arms in
    its average: its assignments are one hash, and only units are independent of each other. Δ̂ is a
    ratio of means over units, of the delta method's variance.

    Raises:
        UsageError: fewer than two units, or an outcome that is not finite.
    """
    y, given = numpy.asarray(outcomes, numpy.float64), numpy.asarray(arms)
    _, who = numpy.unique(numpy.asarray(units), return_inverse=True)  # sorts names once
    weighted, weights = scores(y, given, propensities, control=control, arm=arm)
    sums, counts = by_unit(who, weighted)
    weight = by_unit(who, weights)[0] / counts
    found = mean(linearised(sums / counts, weight))
    information = numpy.asarray(4 * weight.sum())
    of_control, of_arm = _shares(propensities, control, arm)
    fewest, least = numpy.minimum(
        _side(y, of_arm / (of_control + of_arm), who, given == control),
        _side(y, of_control / (of_control + of_arm), who, given == arm),
    )
    variance = found.variance * information / found.units
    return Estimate(information, found.value, variance, fewest, least)


def _shares(propensities: ArrayLike, control: int, arm: int) -> tuple[Numbers, Numbers]:
    each = numpy.asarray(propensities, numpy.float64)
    return each[:, control], each[:, arm]


def _side(
    y: Numbers, weights: Numbers, who: NDArray[Any], there: NDArray[numpy.bool_]
) -> tuple[float, float]:
    """Return one arm's number of units, and on how many of them its variance rests.

    Of the outcomes' own deviations, not the scores': of an arm that saw no event the scores are
    −μ̂ times a weight, whose little movements are μ̂'s.
    """
    if not there.any():
        return 0.0, 0.0
    sums, counts = by_unit(who[there], y[there])
    weight, _ = by_unit(who[there], weights[there])
    return float(len(counts)), float(effective(sums / counts, weight / counts))
