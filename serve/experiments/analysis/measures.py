"""What each unit adds to each metric: the store's sums, as the statistics want them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy
from numpy.typing import NDArray

from adapters.experiments import Phase
from adapters.metrics import Metric
from serve.experiments.statistics.estimates import Numbers
from serve.experiments.store.base import Measure, Units

IMPLICIT = (
    Metric("error", direction="decrease"),
    Metric("latency_ms", kind="mean", direction="decrease"),
    Metric("ttft_ms", kind="mean", direction="decrease"),
    Metric("prompt_tokens", kind="mean", direction="decrease"),
    Metric("output_tokens", kind="mean", direction="decrease"),
)
"""What is shown of every experiment."""
LABELS = ("win", "loss", "tie")
"""Of a preference."""


def measures_of(metric: Metric) -> tuple[Measure, ...]:
    """Return what the store is asked for: of a ratio two sums, of a preference three.

    The metric's own comes first; no metric has both a denominator and a covariate.
    """
    if metric.kind == "preference":
        return tuple(Measure(metric.name, label=label) for label in LABELS)
    own = Measure(metric.name, above=metric.above, label=metric.label)
    beside = (metric.denominator, metric.covariate)
    return (own, *(Measure(name) for name in beside if name is not None))


@dataclass(frozen=True, slots=True)
class Summed:
    """A metric row by row, (rows,) each: its value there is numerator by denominator."""

    numerator: Numbers
    denominator: Numbers
    """How many responses were measured; of a ratio the sum that divides."""
    measured: NDArray[numpy.bool_]
    count: NDArray[numpy.int64]


@dataclass(frozen=True, slots=True)
class Rows:
    """One row a unit and phase that counts, in the order in which they were first exposed.

    Shapes: (rows,); (rows, arms) of `shares`; (measures, rows) of the sums.
    """

    arms: tuple[str, ...]
    """Control first; `arm` holds places in it."""
    measures: tuple[Measure, ...]
    phase: NDArray[numpy.int64]
    arm: NDArray[numpy.int64]
    unit: NDArray[numpy.int64]
    """Numbered in the order in which they came."""
    new: NDArray[numpy.bool_]
    """It is the unit's first row of all phases."""
    at_s: Numbers
    exposures: NDArray[numpy.int64]
    shares: Numbers
    """Probability of each arm in the row's phase."""
    count: NDArray[numpy.int64]
    sum: Numbers

    @classmethod
    def of(cls, units: Units, phases: Sequence[Phase], measures: tuple[Measure, ...]) -> Rows:
        """Keep the rows that count: in one arm of a phase that there is, and not crossed."""
        arms = tuple(arm.name for arm in phases[-1].arms)
        numbers: dict[str, int] = {}
        unit = numpy.fromiter(
            (numbers.setdefault(each, len(numbers)) for each in units.unit.tolist()),
            numpy.int64,
            len(units.unit),
        )
        new = numpy.zeros(len(unit), numpy.bool_)
        new[numpy.unique(unit, return_index=True)[1]] = True
        arm = numpy.full(len(unit), -1, numpy.int64)
        for place, name in enumerate(arms):
            arm[units.arm == name] = place
        shares = numpy.zeros((len(unit), len(arms)))
        for phase in phases:
            by_name = phase.probabilities()
            shares[units.phase == phase.number] = [by_name.get(name, 0.0) for name in arms]
        every = cls(
            arms,
            measures,
            units.phase,
            arm,
            unit,
            new,
            units.at_s,
            units.exposures,
            shares,
            units.count,
            units.sum,
        )
        return every.where((arm >= 0) & ~units.crossed & shares.any(axis=1))

    def __len__(self) -> int:
        return len(self.arm)

    @property
    def steady(self) -> bool:
        """All of it came under the same shares."""
        return bool(numpy.allclose(self.shares, self.shares[:1], rtol=0, atol=1e-9))

    def where(self, chosen: NDArray[numpy.bool_] | slice) -> Rows:
        """Return some of the rows."""
        cut: dict[str, Any] = {
            each.name: value[..., chosen] if each.name != "shares" else value[chosen]
            for each in fields(self)
            if isinstance(value := getattr(self, each.name), numpy.ndarray)
        }
        return replace(self, **cut)

    def summed(self, metric: Metric) -> Summed:
        """Return a metric that is no preference."""
        places = [self.measures.index(measure) for measure in measures_of(metric)]
        numerator, count = self.sum[places[0]], self.count[places[0]]
        if metric.denominator is None:
            return Summed(numerator, count.astype(numpy.float64), count > 0, count)
        measured = (count > 0) | (self.count[places[1]] > 0)
        return Summed(numerator, self.sum[places[1]], measured, measured.astype(numpy.int64))

    def before(self, metric: Metric) -> Numbers:
        """Return each unit's covariate, by its number: the mean of what was posted of it.

        NaN: nothing was, or the metric has no covariate.
        """
        if metric.covariate is None:
            return numpy.full(int(self.unit.max(initial=-1)) + 1, numpy.nan)
        place = self.measures.index(Measure(metric.covariate))
        total = numpy.bincount(self.unit, self.sum[place])
        count = numpy.bincount(self.unit, self.count[place])
        return numpy.where(count > 0, total / numpy.maximum(count, 1), numpy.nan)

    def votes(self, metric: Metric) -> tuple[Numbers, Numbers, Numbers]:
        """Return wins, losses and ties of a preference: (rows,) each, counts of answers."""
        win, loss, tie = (self.sum[self.measures.index(each)] for each in measures_of(metric))
        return win, loss, tie


def asked(metrics: Iterable[Metric]) -> tuple[Measure, ...]:
    """Return each measure once."""
    return tuple(dict.fromkeys(measure for each in metrics for measure in measures_of(each)))
