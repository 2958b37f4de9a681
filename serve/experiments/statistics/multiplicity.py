"""Several questions at once: what evidence each needs so that the error rate is of all together."""

from __future__ import annotations

import math

import numpy
from numpy.typing import ArrayLike, NDArray


def threshold(alpha: float, questions: int = 1) -> float:
    """Return what `log_e` must reach, ln(m/α): any false claim at all with probability ≤ α.

    Bonferroni; for the arms of an experiment against control, and for its guardrails. The intervals
    that go with it are of α/m.
    """
    return math.log(questions / alpha)


def discoveries(log_e: ArrayLike, alpha: float) -> NDArray[numpy.bool_]:
    """Return which nulls e-BH rejects: (..., questions), questions on the last axis.

    Those with the k largest e-values, k the most for which the k-th is at least m/(kα). Of what is
    claimed at most a share of α is false on average, however the e-values depend on each other
    (Wang, Ramdas, "False discovery rate control with e-values", JRSS B 2022, arXiv 2009.02824). For
    secondary metrics, where many are looked at and none decides.
    """
    evidence = numpy.asarray(log_e, numpy.float64)
    ranked = -numpy.sort(-evidence, axis=-1)
    ranks = numpy.arange(1, evidence.shape[-1] + 1)
    enough = ranked >= math.log(evidence.shape[-1] / alpha) - numpy.log(ranks)
    most = (enough * ranks).max(axis=-1, initial=0)
    needed = math.log(evidence.shape[-1] / alpha) - numpy.log(numpy.maximum(most, 1))
    return numpy.asarray((evidence >= needed[..., None]) & (most > 0)[..., None])
