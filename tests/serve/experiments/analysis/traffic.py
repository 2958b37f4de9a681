"""Experiments as the analysis meets them: phases of a registry, and what a store sums of units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy

from adapters.experiments import Arm, Design, Phase, Status, check_arms, check_design
from adapters.metrics import Metric
from serve.experiments.analysis import Report, analyse
from serve.experiments.store.base import Measure, Store, Units

SOLVED = Measure("solved")


def design(*primary: str, guardrails: Sequence[str] = (), **given: Any) -> Design:
    """Return a design of metrics as people write them: the first decides, the others do not."""
    metrics = [
        Metric.parse(text, "secondary" if n else "primary") for n, text in enumerate(primary)
    ]
    metrics += [Metric.parse(text, "guardrail") for text in guardrails]
    return Design(tuple(metrics), **given)


def phase(
    number: int = 1,
    shares: Sequence[float] = (0.5, 0.5),
    design: Design = Design(),  # noqa: B008
    *,
    out: Sequence[str] = (),
    status: Status = "running",
) -> Phase:
    """Return a phase of arms v1, v2 …, of these shares."""
    arms = tuple(
        Arm(f"v{n}", n, share, out=f"v{n}" in out) for n, share in enumerate(shares, start=1)
    )
    check_arms(arms)
    check_design(design, arms)
    return Phase("ab-1", number, status, "salt", arms, "2026-11-26T08:00:00Z", "ann", "", design)


@dataclass
class Traffic:
    """Rows of units as a store gives them; to `analyse` it is one."""

    phase: Any
    arm: Any
    """(rows,): places, 0 the control"""
    unit: Any = None
    """None: each row is another's"""
    exposures: Any = 1
    crossed: Any = False
    source: Any = "user"
    outcomes: Mapping[Measure, Any] = field(default_factory=dict)
    """of each measure the sum a row, NaN where nothing was measured"""
    counts: Mapping[Measure, Any] = field(default_factory=dict)
    """of each measure how many make up the sum; else 1"""

    def units(self, experiment: str, measures: Sequence[Measure] = ()) -> Units:
        assert experiment == "support/ab-1"
        rows = len(numpy.atleast_1d(self.arm))
        sums, counts = numpy.zeros((2, len(measures), rows))
        for place, measure in enumerate(measures):
            if measure in self.outcomes:
                there = numpy.asarray(self.outcomes[measure], float)
                sums[place] = numpy.nan_to_num(there)
                counts[place] = ~numpy.isnan(there) * self.counts.get(measure, numpy.ones(rows))
        names = numpy.array([f"v{n}" for n in range(1, 10)])
        units = numpy.arange(rows) if self.unit is None else numpy.asarray(self.unit)
        return Units(
            phase=numpy.broadcast_to(numpy.asarray(self.phase), rows),
            arm=names[numpy.asarray(self.arm)] if rows else names[:0],
            unit=units.astype(numpy.str_),
            probability=numpy.full(rows, 0.5),
            at_s=1e9 + numpy.arange(float(rows)),
            exposures=numpy.broadcast_to(numpy.asarray(self.exposures), rows),
            crossed=numpy.broadcast_to(numpy.asarray(self.crossed), rows),
            count=counts.astype(numpy.int64),
            sum=sums,
            squares=sums**2,
            source=numpy.broadcast_to(numpy.asarray(self.source), rows),
        )


def report(traffic: Traffic, *phases: Phase) -> Report:
    return analyse("support", phases, cast(Store, traffic), now_s=2e9)
