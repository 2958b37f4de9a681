"""What one would bet on each arm: shown, never used to stop.

"Stop as soon as P(best) > 0.95" declares a winner between equal arms in 63 of 100 experiments.
Bandits (`bandit`) use it to share out traffic, which needs no error rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from scipy import stats

from serve.experiments.statistics.estimates import Numbers

_NODES, _WEIGHTS = numpy.polynomial.legendre.leggauss(400)
_LEVELS = (_NODES + 1) / 2
_SHARES = _WEIGHTS / 2


@dataclass(frozen=True, slots=True)
class Standing:
    """Each arm beside the others: (arms,)."""

    best: Numbers
    """the probability that it is the best; they sum to 1"""
    loss: Numbers
    """what is expected to be lost by choosing it: E[the best one's value − its own], ≥ 0"""


def rate(successes: int, failures: int) -> Any:
    """Return the posterior of a rate under a uniform prior, Beta(1+s, 1+f), as SciPy has it."""
    return stats.beta(1 + successes, 1 + failures)


def normal(value: float, standard_error: float) -> Any:
    """Return the posterior of a mean under a flat prior, N(value, SE²), as SciPy has it."""
    return stats.norm(value, standard_error)


def compare(arms: Sequence[Any], *, lower_is_better: bool = False) -> Standing:
    """Return how independent posteriors stand; `arms` from `rate` or `normal`.

    P(i best) = ∫ f_i Π_{j≠i} F_j, over the quantiles u of arm i: ∫₀¹ Π_{j≠i} F_j(F_i⁻¹(u)) du, by
    Gauss-Legendre at 400 points; the same integral weighted by F_i⁻¹(u), summed over arms, is the
    mean of the best.
    """
    values = numpy.stack([arm.ppf(_LEVELS) for arm in arms])
    beaten = numpy.ones_like(values)
    for i in range(len(arms)):
        for j, other in enumerate(arms):
            if i != j:
                beaten[i] *= other.sf(values[i]) if lower_is_better else other.cdf(values[i])
    best = beaten @ _SHARES
    total = best.sum()
    means = numpy.array([arm.mean() for arm in arms])
    of_best = ((beaten * values) @ _SHARES).sum() / total
    lost = means - of_best if lower_is_better else of_best - means
    return Standing(best / total, numpy.maximum(lost, 0.0))
