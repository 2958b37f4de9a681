"""Traffic as it comes: units return, outcomes are late, the base rate moves, shares change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy

from serve.experiments.analysis.report import Report
from tests.serve.experiments.analysis.traffic import SOLVED, Traffic, design, phase, report

_UNITS, _REQUESTS = 1_500, 6_000
PLAN = design("solved", planned_units=_UNITS)


def reports(
    chance: numpy.random.Generator,
    shares: Sequence[float],
    *,
    looks: int = 15,
    drift: float = 0.3,
    effect: float = 0.0,
) -> Iterator[Report]:
    """Yield the reports that somebody sees who looks at even times, until all is told.

    `shares`: the second arm's, phase by phase. Each unit has a rate of its own, to which `drift` is
    added little by little; half of the outcomes come up to a fifth of the time later.
    """
    unit = chance.integers(0, _UNITS, _REQUESTS)
    own, place = chance.beta(0.6, 1.4, _UNITS), chance.random(_UNITS)
    at = numpy.linspace(0, 1, _REQUESTS)
    step = numpy.minimum((at * len(shares)).astype(int), len(shares) - 1)
    arm = (place[unit] > 1 - numpy.asarray(shares)[step]).astype(int)
    solved = chance.random(_REQUESTS) < 0.6 * own[unit] + drift * at + effect * arm
    told = at + (chance.random(_REQUESTS) < 0.5) * chance.random(_REQUESTS) / 5
    phases = [phase(n, (1 - share, share), PLAN) for n, share in enumerate(shares, start=1)]
    for now in numpy.linspace(1 / looks, 1.2, looks):
        seen = at <= now
        known = told[seen] <= now
        _, first, row = numpy.unique(
            (step * _UNITS + unit)[seen], return_index=True, return_inverse=True
        )
        order = numpy.argsort(first)
        count = numpy.bincount(row, known)[order]
        total = numpy.bincount(row, known & solved[seen])[order]
        kept = first[order]
        traffic = Traffic(
            step[kept] + 1,
            arm[kept],
            unit[kept],
            outcomes={SOLVED: numpy.where(count > 0, total, numpy.nan)},
            counts={SOLVED: count},
        )
        yield report(traffic, *phases[: step[seen].max() + 1])
