"""Sample ratio mismatch: whether arms get the shares of units that they were meant to get.

Where they do not, units were lost on the way and not at random, and no comparison of those left
means anything: decisions are frozen. Lindon, Malek, "Anytime-valid inference for multinomial count
data" (NeurIPS 2022, arXiv 2011.03567), with the prior Dirichlet(Kπ), K = 100, around the shares:

    E = Γ(K)/Γ(K+n) · Π Γ(Kπ_i + n_i)/Γ(Kπ_i) / Π π_i^{n_i}
"""

from __future__ import annotations

import math

import numpy
from numpy.typing import ArrayLike
from scipy.special import gammaln, xlogy

from serve.experiments.statistics.estimates import Numbers

_STRENGTH = 100.0
"""K. Large: a mismatch that matters is small, and many units see it."""
FROZEN_AT = math.log(1_000)
"""Decisions are frozen from this evidence on: a sound split is stopped at most once in 1 000."""


def log_e(counts: ArrayLike, weights: ArrayLike) -> Numbers:
    """Return the evidence against "arms get these shares": (...,).

    `counts`: (..., arms), each unit once, where it was first seen; `weights`: (arms,), above 0, in
    any scale. A split that changes begins anew with the units first seen under it, and the phases'
    e-values are multiplied: sum their `log_e`.
    """
    n = numpy.asarray(counts, numpy.float64)
    shares = numpy.asarray(weights, numpy.float64) / numpy.sum(weights)
    prior = _STRENGTH * shares
    each = gammaln(prior + n) - gammaln(prior) - xlogy(n, shares)
    total = n.sum(axis=-1)
    summed: Numbers = each.sum(axis=-1) + gammaln(_STRENGTH) - gammaln(_STRENGTH + total)
    return summed
