"""What an experiment's exposures and outcomes prove by now. Pure, but for the one read of a store.

`analyse` chooses for each question the function of `serve.experiments.statistics` whose guarantee
holds in the case at hand; docs/statistics.md says which, and `report` what comes out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy

from adapters.experiments import Phase
from serve.experiments.analysis.compare import compare, look_back
from serve.experiments.analysis.guard import guards
from serve.experiments.analysis.measures import IMPLICIT, Rows, asked
from serve.experiments.analysis.report import Comparison, Look, Price, Report, Verdict
from serve.experiments.analysis.shown import sides, standing
from serve.experiments.analysis.verdict import conclude, decided
from serve.experiments.statistics import sample_ratio
from serve.experiments.store.base import Store
from serve.experiments.store.units import key_of

__all__ = ["Report", "Verdict", "analyse"]

_LOOKS = 60
"""At most, at the primary metric."""


def analyse(
    name: str, phases: Sequence[Phase], store: Store, *, now_s: float, price: Price | None = None
) -> Report:
    """Return all that is known of one experiment of the adapter `name`.

    `phases`: all of it, oldest first, as in the registry; at least one. `now_s`: Unix time, for
    `Report.as_of_s` alone. `price`: to tell what arms cost; it decides nothing. Reads the store
    once, blocking: not for the event loop. The design is the last phase's: it never changes.

    Raises:
        UsageError: a metric asks for what the server's own outcomes do not have.
        Unavailable: the store is gone.
    """
    phase, design = phases[-1], phases[-1].design
    measures = asked((*design.metrics, *IMPLICIT))
    units = store.units(key_of(name, phase.experiment), measures)
    rows = Rows.of(units, phases, measures)
    with numpy.errstate(all="ignore"):  # what overflowed is told as not known
        mismatch = _sample_ratio(rows)
        frozen = mismatch >= sample_ratio.FROZEN_AT
        compared, looks = _compared(rows, phase)
        compared = decided(compared, design, frozen=frozen)
        guarded = guards(rows, design)
        shown = sides(rows, units, phase, price)
        bets = standing(rows, design.primary, phase) if design.primary else None
    live = [side.arm for side in shown if not side.out]
    return Report(
        name,
        phase.experiment,
        phase.number,
        phase.status,
        now_s,
        design,
        shown,
        compared,
        guarded,
        looks,
        mismatch,
        frozen,
        conclude(name, phase, shown, compared, guarded, mismatch),
        dict(zip(live, bets.best.tolist(), strict=True)) if bets else None,
        dict(zip(live, bets.loss.tolist(), strict=True)) if bets else {},
        int(((units.source == "request") & ~units.crossed).sum()),
        price,
    )


def _compared(rows: Rows, phase: Phase) -> tuple[tuple[Comparison, ...], tuple[Look, ...]]:
    comparisons, looks = list[Comparison](), list[Look]()
    for metric in phase.design.metrics:
        if metric.role == "guardrail":
            continue
        for arm in range(1, len(rows.arms)):
            comparisons.append(compare(rows, metric, arm, phase.design))
            if metric.role == "primary":
                looks += look_back(rows, metric, arm, phase.design, _LOOKS)
    return tuple(comparisons), tuple(looks)


def _sample_ratio(rows: Rows) -> float:
    """Return the evidence that units do not get the arms that they should, over all splits.

    Each unit once, in the phase in which it came first: a later split would find it where the
    earlier one had put it. Phases of one split are one stream.
    """
    shares, which = numpy.unique(rows.shares[rows.new].round(9), axis=0, return_inverse=True)
    arms = rows.arm[rows.new]
    found = 0.0
    for place, expected in enumerate(shares):
        counts = numpy.bincount(arms[which == place], minlength=len(rows.arms))
        there = expected > 0
        if counts[~there].any():
            return math.inf  # in an arm that was out
        found += float(sample_ratio.log_e(counts[there], expected[there]))
    return found
