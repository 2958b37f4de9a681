"""What is shown and decides nothing: each arm's own numbers, and what one would bet on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy

from adapters.experiments import Phase
from adapters.metrics import Metric, Role
from serve.experiments.analysis.compare import preferred
from serve.experiments.analysis.estimated import alone
from serve.experiments.analysis.measures import IMPLICIT, LABELS, Rows
from serve.experiments.analysis.report import Measured, Price, Side
from serve.experiments.statistics import counts, posterior, sequences
from serve.experiments.store.base import Units


def sides(rows: Rows, units: Units, phase: Phase, price: Price | None) -> tuple[Side, ...]:
    """Return the arms, control first, with every metric of the design and the server's own."""
    shares = phase.probabilities()
    told: dict[str, tuple[Metric, bool]] = {}
    for metric in phase.design.metrics:
        told.setdefault(metric.title, (metric, False))
    for metric in IMPLICIT:
        told.setdefault(metric.title, (metric, True))
    found = []
    for place, arm in enumerate(phase.arms):
        there = rows.arm == place
        measured = [
            each
            for metric, implicit in told.values()
            for each in _measured(rows, metric, place, phase, implicit=implicit)
        ]
        found.append(
            Side(
                arm.name,
                arm.version,
                arm.out,
                shares[arm.name],
                len(numpy.unique(rows.unit[there])),
                int(rows.exposures[there].sum()),
                int((units.crossed & (units.arm == arm.name)).sum()),
                tuple(measured),
                _cost(measured, price),
            )
        )
    return tuple(found)


def _cost(measured: Sequence[Measured], price: Price | None) -> float | None:
    """Return what 1,000 responses cost, of as many tokens as those that were measured."""
    tokens = {each.title: each.value for each in measured}
    prompt, output = tokens["prompt_tokens"], tokens["output_tokens"]
    if price is None or prompt is None or output is None:
        return None
    return 1e3 * (prompt * price[0] + output * price[1]) / 1e6


def standing(rows: Rows, metric: Metric, phase: Phase) -> posterior.Standing | None:
    """Return how the arms that are not out stand, in their order; None before each has something.

    Rates of units with one response each have their Beta; all else is normal around the unit means.
    """
    arms = [place for place, arm in enumerate(phase.arms) if not arm.out]
    found = [_posterior(rows, metric, arm) for arm in arms]
    if any(each is None for each in found):
        return None
    return posterior.compare(found, lower_is_better=metric.direction == "decrease")


def _posterior(rows: Rows, metric: Metric, arm: int) -> Any:
    if metric.kind == "preference":
        wins, losses, _ = (int(each.sum()) for each in preferred(rows, metric, arm))
        return posterior.rate(wins, losses)
    summed = rows.summed(metric)
    there = summed.measured & (rows.arm == arm)
    x, once = summed.numerator[there], len(numpy.unique(rows.unit[there]))
    single = 0 < once == summed.count[there].sum()
    if single and metric.kind == "proportion" and ((x == 0) | (x == 1)).all():
        return posterior.rate(int(x.sum()), int(once - x.sum()))
    found = alone(rows, metric, arm)
    if found is None or not 0 < found.variance < math.inf:
        return None
    return posterior.normal(float(found.value), math.sqrt(found.variance / found.units))


def _measured(
    rows: Rows, metric: Metric, arm: int, phase: Phase, *, implicit: bool
) -> list[Measured]:
    role: Role | Literal["implicit"] = "implicit" if implicit else metric.role
    if metric.kind == "preference":
        return _votes(rows, metric, arm, phase)
    summed = rows.summed(metric)
    there = summed.measured & (rows.arm == arm)
    count, divisor = int(summed.count[there].sum()), float(summed.denominator[there].sum())
    value = low = high = None
    if divisor > 0:
        value = float(summed.numerator[there].sum()) / divisor
    found = alone(rows, metric, arm)
    if found is not None:
        design = phase.design
        ends = sequences.interval(found, design.alpha, planned=design.planned_units / 2)
        low, high = (float(end) if math.isfinite(end) else None for end in ends)
    return [Measured(metric.title, role, metric.kind, count, value, low, high)]


def _votes(rows: Rows, metric: Metric, arm: int, phase: Phase) -> list[Measured]:
    """Return P(win) − P(loss) of units that prefer one, and the share of units of each label."""
    won, lost, tied = preferred(rows, metric, arm)
    wins, losses = int(won.sum()), int(lost.sum())
    value = low = high = None
    if wins + losses:
        value = (wins - losses) / (wins + losses)
        ends = counts.interval(wins, losses, phase.design.alpha)
        low, high = (float(2 * end - 1) for end in ends)
    told = [Measured(metric.title, metric.role, metric.kind, wins + losses, value, low, high)]
    for label, units in zip(LABELS, (won, lost, tied), strict=True):
        share = float(units.mean()) if units.size else None
        title = f"{metric.title}={label}"
        told.append(Measured(title, metric.role, "proportion", units.size, share, None, None))
    return told
