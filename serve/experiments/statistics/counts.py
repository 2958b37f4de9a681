"""One rate from counts, exactly: a Beta(½, ½) mixture over what it could be instead.

    E = B(½+s, ½+f) / B(½, ½) / (p^s (1−p)^f)

Robbins 1970; the prior is Jeffreys'. It depends on the counts alone, so order and batches do not
matter. The interval holds the rates against which E is below 1/α (Howard, Ramdas, McAuliffe, Sekhon
2021, arXiv 1810.08240).
"""

from __future__ import annotations

import math

import numpy
from numpy.typing import ArrayLike
from scipy.special import betaln, xlog1py, xlogy

from serve.experiments.statistics.estimates import Numbers

_HALVINGS = 60


def log_e(successes: ArrayLike, failures: ArrayLike, rate: ArrayLike) -> Numbers:
    """Return the evidence against "the rate is `rate`", elementwise."""
    s, f = numpy.asarray(successes, numpy.float64), numpy.asarray(failures, numpy.float64)
    likelihood = xlogy(s, rate) + xlog1py(f, -numpy.asarray(rate, numpy.float64))
    evidence: Numbers = betaln(0.5 + s, 0.5 + f) - betaln(0.5, 0.5) - likelihood
    return evidence


def preferences(wins: ArrayLike, losses: ArrayLike) -> Numbers:
    """Return the evidence against "either answer is preferred as often", elementwise.

    E = 2^(W+L) · B(½+W, ½+L)/B(½, ½). Ties say nothing of which is better: they are left out here,
    and reported beside it.
    """
    return log_e(wins, losses, 0.5)


def interval(successes: ArrayLike, failures: ArrayLike, alpha: float) -> tuple[Numbers, Numbers]:
    """Return the ends of the rate, elementwise; [0, 1] before the first outcome.

    Not for two arms at once: where two such intervals have come apart the rates differ, but that
    takes far longer than `blocks` does.
    """
    s, f = numpy.broadcast_arrays(
        numpy.asarray(successes, numpy.float64), numpy.asarray(failures, numpy.float64)
    )
    return _lower(s, f, alpha), 1 - _lower(f, s, alpha)


def _lower(s: Numbers, f: Numbers, alpha: float) -> Numbers:
    low = numpy.zeros(s.shape)
    high = s / numpy.maximum(s + f, 1)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        excluded = log_e(s, f, middle) >= math.log(1 / alpha)
        low, high = numpy.where(excluded, middle, low), numpy.where(excluded, high, middle)
    return low
