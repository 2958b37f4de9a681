"""An arm beside the control in one metric: what is proved, by the method that the case asks for.

| case | method |
| --- | --- |
| a preference | `preferences`: units that won more often than they lost, exact |
| the exact method, a proportion | `blocks` on pairs of units, their interval by `bounded` |
| the exact method, a mean | `bounded` on pairs of units |
| shares that never changed | `difference`: a confidence sequence of unit means |
| shares that changed | `propensities`: the same, each row weighted by its phase's probabilities |

Of the last two what a metric's covariate foretold is taken out first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy
from numpy.typing import NDArray

from adapters.experiments import Design
from adapters.metrics import Metric
from serve.experiments.analysis.estimated import by_unit, difference
from serve.experiments.analysis.measures import Rows
from serve.experiments.analysis.report import Comparison, Look, Method
from serve.experiments.statistics import blocks, bounded, counts, sequences
from serve.experiments.statistics.estimates import Estimate, Numbers

Chosen = NDArray[numpy.bool_]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known at one look: as in `Comparison`."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    log_e: float = 0.0
    waiting: str = ""

    @property
    def p(self) -> float:
        """1/E, at most 1."""
        return math.exp(-max(self.log_e, 0.0))


_NOTHING = Finding(waiting="nothing to compare yet")


def compare(rows: Rows, metric: Metric, arm: int, design: Design) -> Comparison:
    """Return what is known now, not decided yet."""
    method = _method(rows, metric, design)
    found = _find(rows, metric, arm, design, method)
    return Comparison(
        metric.title,
        metric.role,
        metric.kind,
        rows.arms[arm],
        method,
        found.value,
        found.low,
        found.high,
        found.log_e,
        found.p,
        None,
        found.waiting,
        _adjusted(rows, metric, arm),
    )


def look_back(rows: Rows, metric: Metric, arm: int, design: Design, most: int) -> list[Look]:
    """Return the same after even shares of the rows, the last look of all: at most so many.

    Of the exact methods, whose intervals are found by halving, a third.
    """
    method = _method(rows, metric, design)
    looks = most if method in ("difference", "propensities") else math.ceil(most / 3)
    ends = numpy.unique(numpy.linspace(0, len(rows), looks + 1).round().astype(int))
    seen, units = list[Look](), 0
    for start, end in pairwise(ends):
        found = _find(rows.where(slice(0, end)), metric, arm, design, method)
        units += int(rows.new[start:end].sum())
        at_s = float(rows.at_s[end - 1])
        ends_of = (found.value, found.low, found.high)
        seen.append(Look(rows.arms[arm], units, at_s, *ends_of, found.log_e, found.p))
    return seen


def _method(rows: Rows, metric: Metric, design: Design) -> Method:
    """Return what the design and the shares ask for; outcomes have no say."""
    if metric.kind == "preference":
        return "preferences"
    if design.method == "exact":
        return "blocks" if metric.kind == "proportion" else "bounded"
    return "difference" if rows.steady else "propensities"


def _adjusted(rows: Rows, metric: Metric, arm: int) -> bool:
    """Say whether a covariate was posted of any unit that is compared."""
    compared = rows.unit[(rows.arm == 0) | (rows.arm == arm)]
    return bool(numpy.isfinite(rows.before(metric)[compared]).any())


def _find(rows: Rows, metric: Metric, arm: int, design: Design, method: Method) -> Finding:
    alpha = design.alpha / (len(rows.arms) - 1)
    if method == "preferences":
        return _preferences(rows, metric, arm, alpha)
    if method in ("blocks", "bounded"):
        return _pairs(rows, metric, arm, alpha, method)
    found = difference(rows, metric, arm, steady=method == "difference")
    return _NOTHING if found is None else _sequence(found, alpha, design.planned_units)


def _sequence(found: Estimate, alpha: float, planned: int) -> Finding:
    ends = sequences.interval(found, alpha, planned=planned)
    evidence = float(sequences.log_e(found, alpha, planned=planned))
    value, low, high = (_finite(each) for each in (found.value, *ends))
    if value is None or not math.isfinite(evidence):
        return Finding(waiting="the outcomes are too large to be squared")
    return Finding(value, low, high, evidence, _waiting(found))


def _pairs(rows: Rows, metric: Metric, arm: int, alpha: float, method: Method) -> Finding:
    """Compare the i-th unit of one arm with the i-th of the other, of those that were measured.

    Only rows of phases that gave both the same share are in it: after another arm was taken out,
    whose units the control got, no pair is of one time any more. A unit's share of its responses
    may stand for its outcome in `blocks`, too: in it each factor of E is convex, so that no
    distribution on [0, 1] has a larger mean of E than 0 and 1 alone.
    """
    summed = rows.summed(metric)
    equal = numpy.isclose(rows.shares[:, 0], rows.shares[:, arm], rtol=0, atol=1e-9)
    sides = []
    for side in (0, arm):
        chosen = equal & summed.measured & (rows.arm == side)
        _, (x, d) = by_unit(rows, chosen, summed.numerator, summed.denominator)
        sides.append(x / d)
    pairs = min(map(len, sides))
    if not pairs:
        return _NOTHING
    control, own = (values[:pairs] for values in sides)
    if not all(((values >= 0) & (values <= 1)).all() for values in (control, own)):
        return Finding(waiting="an outcome is not between 0 and 1")
    low, high = bounded.difference(control, own, alpha)
    path = (
        blocks.log_e(control, own)
        if method == "blocks"
        else bounded.log_e(bounded.paired(control, own), 0.5, alpha)
    )
    value = float(own.mean() - control.mean())
    return Finding(value, float(low), float(high), float(path[-1]))


def _preferences(rows: Rows, metric: Metric, arm: int, alpha: float) -> Finding:
    wins, losses, _ = (int(each.sum()) for each in preferred(rows, metric, arm))
    if not wins + losses:
        return _NOTHING
    low, high = counts.interval(wins, losses, alpha)
    evidence = counts.preferences(wins, losses)
    value = (wins - losses) / (wins + losses)
    return Finding(value, float(2 * low - 1), float(2 * high - 1), float(evidence))


def preferred(rows: Rows, metric: Metric, arm: int) -> tuple[Chosen, Chosen, Chosen]:
    """Return which units won more often than they lost, lost more often, and neither: (units,).

    A unit's votes are alike: however many it casts, it is one.
    """
    win, loss, tie = rows.votes(metric)
    voted = (win + loss + tie > 0) & (rows.arm == arm)
    _, (win, loss) = by_unit(rows, voted, win, loss)
    return win > loss, loss > win, win == loss


def _waiting(found: Estimate) -> str:
    if found.fewest < sequences.FEWEST_UNITS:
        return f"{found.fewest:.0f} of {sequences.FEWEST_UNITS} units that an arm needs"
    if not found.effective >= sequences.FEWEST_EFFECTIVE:
        needed = sequences.FEWEST_EFFECTIVE
        return f"an arm's variance rests on {found.effective:.0f} of {needed} units that it needs"
    return ""


def _finite(value: Numbers) -> float | None:
    return float(value) if math.isfinite(value) else None
