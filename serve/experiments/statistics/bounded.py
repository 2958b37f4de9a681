"""Means of outcomes in [0, 1], exactly, from the first one on: by betting against each mean.

Waudby-Smith, Ramdas, "Estimating means of bounded random variables by betting" (JRSS B 2024, arXiv
2010.09686), Theorem 3, hedged capital with predictable plug-in bets. Whoever bets λ_t on outcomes
above m, and λ_t is of the past alone, has a capital that is not expected to grow if the mean is m:

    K⁺_t(m) = Π (1 + min(λ_i, c/m)(x_i − m)),   K⁻_t(m) = Π (1 − min(λ_i, c/(1−m))(x_i − m))
    λ_t = √(2 ln(2/α) / (σ̂²_{t−1} · t · ln(1+t))),   c = ½,   K = max(½K⁺, ½K⁻)

Outcomes are in the order in which they came, one a unit, on the last axis; others are runs.
"""

from __future__ import annotations

import math

import numpy
from numpy.typing import ArrayLike

from adapters.errors import UsageError
from serve.experiments.statistics.estimates import Numbers

_MOST = 0.5
"""c: what may be lost of the capital in one bet"""
_HALVINGS = 50
"""of [0, 1]: to 1e-15"""


def log_e(outcomes: ArrayLike, mean: float, alpha: float) -> Numbers:
    """Return the evidence against "the mean is `mean`" after each outcome: (..., outcomes)."""
    x = _bounded(outcomes)
    bets, m = _bets(x, alpha), numpy.asarray(mean)
    return numpy.maximum(_above(x, m, bets), _above(1 - x, 1 - m, bets)) - math.log(2)


def log_e_above(outcomes: ArrayLike, mean: float, alpha: float) -> Numbers:
    """Return the evidence against "the mean is at most `mean`" after each outcome.

    K⁺ alone. It holds as long as no outcome's mean, given the past, is above: a unit's error rate
    over all its requests can be such an outcome, where single requests would not be independent.
    """
    x = _bounded(outcomes)
    return _above(x, numpy.asarray(mean), _bets(x, 2 * alpha))


def interval(outcomes: ArrayLike, alpha: float) -> tuple[Numbers, Numbers]:
    """Return the ends after all the outcomes, intersected over time: (...,) each.

    K⁺(m) falls in m at every t, and so does its maximum over time: the lower end is where that
    maximum reaches 2/α, found by halving, without a grid. The upper end is its mirror image.
    """
    x = _bounded(outcomes)
    bets = _bets(x, alpha)
    return _lower(x, bets, alpha), 1 - _lower(1 - x, bets, alpha)


def difference(control: ArrayLike, arm: ArrayLike, alpha: float) -> tuple[Numbers, Numbers]:
    """Return the ends for arm − control, from pairs as in `blocks`: (..., pairs) in [0, 1] each.

    It is `interval` of `paired`, whose `log_e` at ½ is the evidence that they differ.
    """
    low, high = interval(paired(control, arm), alpha)
    return 2 * low - 1, 2 * high - 1


def paired(control: ArrayLike, arm: ArrayLike) -> Numbers:
    """Return (1 + y_B − y_A)/2 of each pair, of mean ½ where the arms' means are equal."""
    return (1 + _bounded(arm) - _bounded(control)) / 2


def _bounded(outcomes: ArrayLike) -> Numbers:
    x = numpy.asarray(outcomes, numpy.float64)
    if not ((x >= 0) & (x <= 1)).all():
        raise UsageError("An outcome is not between 0 and 1.", fix="Scale by bounds known before.")
    return x


def _bets(x: Numbers, alpha: float) -> Numbers:
    """Return λ_t, from x_1 … x_{t−1} and one made up before: ½, with a variance of ¼."""
    seen = numpy.arange(1, x.shape[-1] + 1)
    means = (0.5 + numpy.cumsum(x, axis=-1)) / (seen + 1)
    variances = (0.25 + numpy.cumsum((x - means) ** 2, axis=-1)) / (seen + 1)
    past = numpy.concatenate([numpy.full_like(x[..., :1], 0.25), variances[..., :-1]], axis=-1)
    bets: Numbers = numpy.sqrt(2 * math.log(2 / alpha) / (past * seen * numpy.log1p(seen)))
    return bets


def _above(x: Numbers, m: Numbers, bets: Numbers) -> Numbers:
    """Return ln K⁺ after each outcome."""
    with numpy.errstate(divide="ignore"):
        capped = numpy.minimum(bets, _MOST / m)
    return numpy.cumsum(numpy.log1p(capped * (x - m)), axis=-1)


def _lower(x: Numbers, bets: Numbers, alpha: float) -> Numbers:
    low, high = numpy.zeros(x.shape[:-1]), numpy.ones(x.shape[:-1])
    for _ in range(_HALVINGS if x.shape[-1] else 0):
        middle = (low + high) / 2
        most = _above(x, middle[..., None], bets).max(axis=-1)
        excluded = most >= math.log(2 / alpha)
        low, high = numpy.where(excluded, middle, low), numpy.where(excluded, high, middle)
    return low
