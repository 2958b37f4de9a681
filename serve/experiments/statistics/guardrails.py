"""Limits that an arm must not break: evidence that it does, at any time.

A guardrail is either a rate against a fixed limit (errors; answers later than a fixed objective) or
a difference to control against a margin. With m guardrails roll back where `log_e` reaches
`multiplicity.threshold(alpha, m)`: a sound arm is then ever rolled back with probability at most α.
"""

from __future__ import annotations

import numpy
from numpy.typing import ArrayLike
from scipy.special import betaincc, betaln, xlog1py, xlogy

from serve.experiments.statistics import sequences
from serve.experiments.statistics.estimates import Estimate, Numbers


def log_e_above(bad: ArrayLike, good: ArrayLike, limit: float) -> Numbers:
    """Return the evidence against "the rate is at most `limit`", elementwise; 0 < limit < 1.

    E = ∫ p^s(1−p)^f w(p) dp / (limit^s (1−limit)^f), w = Beta(½, ½) cut to [limit, 1]. It holds as
    long as no outcome is bad with a probability above the limit, given those before it. Where one
    unit's outcomes are alike, sum each unit's share of bad and of good ones: E's factors are convex
    in the outcome, so shares are no worse than 0 and 1. −∞ where the rate is so far below that a
    float cannot tell E from 0.
    """
    s, f = numpy.asarray(bad, numpy.float64), numpy.asarray(good, numpy.float64)
    mixture = _log_tail(0.5 + s, 0.5 + f, limit) - _log_tail(0.5, 0.5, limit)
    evidence: Numbers = mixture - xlogy(s, limit) - xlog1py(f, -limit)
    return evidence


def log_e_beyond(
    worsening: Estimate,
    margin: float,
    alpha: float,
    *,
    planned: float = sequences.PLANNED_UNITS,
) -> Numbers:
    """Return the evidence that an arm is worse than control by more than `margin`, elementwise.

    `worsening`: by how much it is worse, so arm − control where lower is better. Asymptotic, and
    held back as all of `sequences`.
    """
    return sequences.log_e_above(worsening, alpha, null=margin, planned=planned)


def _log_tail(a: ArrayLike, b: ArrayLike, start: float) -> Numbers:
    """Return ln ∫ p^(a−1) (1−p)^(b−1) dp from `start` to 1."""
    with numpy.errstate(divide="ignore"):
        tail: Numbers = betaln(a, b) + numpy.log(betaincc(a, b, start))
    return tail
