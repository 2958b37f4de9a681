"""Asymptotic confidence sequences: intervals of a mean or difference, valid at all times at once.

Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory and asymptotic
confidence sequences" (Annals of Statistics 2024, arXiv 2103.06476), as in GrowthBook. S_n, the sum
of n centred contributions of variance σ², nears a Brownian motion W(nσ²) (strong approximation);
mixing its likelihood ratios over effects drawn from N(0, σ²ρ²) gives the e-value

    E_n = (nρ²+1)^-½ · exp(ρ²n²Δ̂² / (2σ̂²(nρ²+1)))

and inverting E_n ≥ 1/α gives Δ̂ ± σ̂·√(2(nρ²+1)/(n²ρ²)·ln(√(nρ²+1)/α)). ρ says at which n the
interval is as narrow as it can be; it holds for every ρ that was chosen beforehand.

**The smallest samples.** The approximation is of large n, so nothing is claimed early: the interval
is the whole line and E is 1 until each arm has `FEWEST_UNITS` units and its variance rests on
`FEWEST_EFFECTIVE` of them (`estimates.effective`): for a rate, on 20 outcomes of the rarer kind. An
e-process that begins late is still one; held back is only what could not be trusted. The second
condition is a small canary's: 100 units that saw no event of 1 % have a variance of 0, and of
comparisons of equal arms at 95:5, held back by 100 units alone, 38 % were once "significant"
(docs/statistics.md has the figures with both). ρ helps too: for a planned 5 000 units the first
interval, at 200, needs 5.1 standard errors. Who cannot wait has the exact methods (`blocks`,
`bounded`, `counts`).
"""

from __future__ import annotations

import math

import numpy
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr, ndtr

from serve.experiments.statistics.estimates import Estimate, Numbers

FEWEST_UNITS = 100
"""Of each arm, before anything is said."""
FEWEST_EFFECTIVE = 20
"""On which an arm's variance rests: it is then known to about a fifth."""
PLANNED_UNITS = 5_000
"""n*, of all arms in a comparison, where nobody planned: GrowthBook's default."""


def tuned(alpha: float, planned: float = PLANNED_UNITS) -> float:
    """Return ρ² = (−2 ln α + ln(1 − 2 ln α))/n*: narrowest near n* (ibid., eq. 161 of v7)."""
    return (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / planned


def log_e(
    estimate: Estimate, alpha: float, *, null: float = 0.0, planned: float = PLANNED_UNITS
) -> Numbers:
    """Return the evidence against "it is `null`", elementwise; 0 while held back."""
    rate = tuned(alpha, planned) * estimate.units
    mixed = _scaled(estimate, null, rate) ** 2 / 2 - numpy.log1p(rate) / 2
    return numpy.where(_speaks(estimate), mixed, 0.0)


def interval(
    estimate: Estimate, alpha: float, *, planned: float = PLANNED_UNITS
) -> tuple[Numbers, Numbers]:
    """Return its ends, elementwise: the values against which log_e is below ln(1/α)."""
    rate = tuned(alpha, planned) * estimate.units
    with numpy.errstate(divide="ignore", invalid="ignore"):
        x = numpy.sqrt(numpy.log1p(rate) - 2 * math.log(alpha))
        half = numpy.where(_speaks(estimate), x * _unscaled(estimate, rate), numpy.inf)
    return estimate.value - half, estimate.value + half


def log_e_above(
    estimate: Estimate, alpha: float, *, null: float = 0.0, planned: float = PLANNED_UNITS
) -> Numbers:
    """Return the evidence against "it is at most `null`", elementwise; 0 while held back.

    The mixture is of positive effects alone, |N(0, σ²ρ²)|, ρ tuned at 2α:
    E = 2(nρ²+1)^-½ · exp(x²/2) · Φ(x), x = ρn(Δ̂ − null)/(σ̂√(nρ²+1)) (Robbins 1970; Howard, Ramdas,
    McAuliffe, Sekhon 2021, arXiv 1810.08240, eq. 15). Against "at least": negate value and null.
    """
    rate = tuned(2 * alpha, planned) * estimate.units
    x = _scaled(estimate, null, rate)
    mixed = math.log(2) - numpy.log1p(rate) / 2 + x**2 / 2 + log_ndtr(x)
    return numpy.where(_speaks(estimate), mixed, 0.0)


def lower(estimate: Estimate, alpha: float, *, planned: float = PLANNED_UNITS) -> Numbers:
    """Return the bound above which the true value lies at all times, with probability 1 − α.

    The `null` at which `log_e_above` is ln(1/α), solved to a float's end by Newton's method, which
    comes down from the closed form of Waudby-Smith et al. (ibid., one-sided; a little wider) on a
    convex function and so cannot miss.
    """
    rate = tuned(2 * alpha, planned) * estimate.units
    target = numpy.log1p(rate) / 2 - math.log(2 * alpha)
    x = numpy.sqrt(2 * numpy.log1p(numpy.exp(target)))
    for _ in range(12):
        slope = x + numpy.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) / ndtr(x)
        x = x - (x**2 / 2 + log_ndtr(x) - target) / slope
    with numpy.errstate(divide="ignore", invalid="ignore"):
        return numpy.where(
            _speaks(estimate), estimate.value - x * _unscaled(estimate, rate), -numpy.inf
        )


def always_valid_p(log_e: ArrayLike) -> Numbers:
    """Return min over the looks so far of 1/E, at most 1; looks on the last axis.

    Below α at any time, with probability at most α under the null (Johari, Koomen, Pekelis, Walsh,
    "Always valid inference", 2022, arXiv 1512.04922). Never rises.
    """
    most = numpy.maximum.accumulate(numpy.asarray(log_e, numpy.float64), axis=-1)
    p: Numbers = numpy.exp(-numpy.maximum(most, 0.0))
    return p


def intersected(low: ArrayLike, high: ArrayLike) -> tuple[Numbers, Numbers]:
    """Return what no look so far excludes; looks on the last axis. Never widens.

    As valid as the sequence, but for an effect that stays the same: where it moves, so should the
    interval, and one does not intersect. Ends that cross say that it moved (or the 1 in 1/α came).
    """
    return (
        numpy.maximum.accumulate(numpy.asarray(low, numpy.float64), axis=-1),
        numpy.minimum.accumulate(numpy.asarray(high, numpy.float64), axis=-1),
    )


def _speaks(estimate: Estimate) -> NDArray[numpy.bool_]:
    many = numpy.asarray(estimate.fewest >= FEWEST_UNITS)
    return numpy.asarray(many & (estimate.effective >= FEWEST_EFFECTIVE))


def _scaled(estimate: Estimate, null: float, rate: Numbers) -> Numbers:
    """Return x = ρn(Δ̂ − null)/(σ̂√(nρ²+1)), 0 while held back; `rate` is nρ²."""
    with numpy.errstate(divide="ignore", invalid="ignore"):
        x = (estimate.value - null) / _unscaled(estimate, rate)
    return numpy.where(_speaks(estimate), x, 0.0)


def _unscaled(estimate: Estimate, rate: Numbers) -> Numbers:
    """Return what one of x is worth, σ̂√(nρ²+1)/(ρn)."""
    with numpy.errstate(divide="ignore", invalid="ignore"):
        return numpy.sqrt(estimate.variance * (rate + 1) / (rate * estimate.units))
