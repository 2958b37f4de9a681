"""Two rates, exactly, from the first pair on: an e-process on pairs of one outcome of each arm.

Turner, Ly, Grünwald, "Generic E-variables for exact sequential k-sample tests that allow for
optional stopping" (2024, arXiv 2106.02693), blocks of 1:1. What the past says of each arm's rate
bets against the one rate that explains both worst:

    E = Π p(y_A; θ_A) p(y_B; θ_B) / (p(y_A; θ_0) p(y_B; θ_0)),   θ_0 = (θ_A + θ_B)/2

Under any common rate, even one that moves from pair to pair, each factor's mean is at most 1.
"""

from __future__ import annotations

import numpy
from numpy.typing import ArrayLike
from scipy.special import xlog1py, xlogy

from serve.experiments.statistics.estimates import Numbers

_PRIOR = 0.18
"""Beta(0.18, 0.18), the authors' choice (ibid.; R package safestats): little regret at small n."""


def log_e(control: ArrayLike, arm: ArrayLike) -> Numbers:
    """Return the evidence against "both rates are one" after each pair: (..., pairs).

    `control`, `arm`: (..., pairs) of 0 and 1, one a unit, the i-th of one arm with the i-th of the
    other, both assigned while their shares were equal; who waits for a partner is not in yet.
    """
    a, b = numpy.asarray(control, numpy.float64), numpy.asarray(arm, numpy.float64)
    rate_a, rate_b = _past(a), _past(b)
    common = (rate_a + rate_b) / 2
    factors = _log_likelihood(a, rate_a) + _log_likelihood(b, rate_b)
    factors -= _log_likelihood(a, common) + _log_likelihood(b, common)
    return numpy.cumsum(factors, axis=-1)


def _past(outcomes: Numbers) -> Numbers:
    """Return the posterior mean of the rate before each outcome."""
    before = numpy.arange(outcomes.shape[-1])
    successes = numpy.cumsum(outcomes, axis=-1) - outcomes
    return (_PRIOR + successes) / (2 * _PRIOR + before)


def _log_likelihood(outcomes: Numbers, rate: Numbers) -> Numbers:
    logs: Numbers = xlogy(outcomes, rate) + xlog1py(1 - outcomes, -rate)
    return logs
