"""Guardrails: whether an arm breaks its limit, or is worse than control by more than its margin.

A limit is asked of units, not of responses: `guardrails.log_e_above` of the sum of each unit's
share of bad responses. One unit's responses are alike, and a row of its failures is one failure.
The e-value stays one with shares for outcomes: each factor of it is convex in the outcome, so among
all distributions on [0, 1] of one mean that of 0 and 1 alone has the largest mean of E.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy

from adapters.experiments import Design
from adapters.metrics import Metric
from serve.experiments.analysis.compare import preferred
from serve.experiments.analysis.estimated import by_unit, difference
from serve.experiments.analysis.measures import Rows
from serve.experiments.analysis.report import Guard
from serve.experiments.statistics import guardrails
from serve.experiments.statistics.multiplicity import threshold


def guards(rows: Rows, design: Design) -> tuple[Guard, ...]:
    """Return each guardrail of each arm beside control, at α/g each."""
    watched = design.guardrails
    if not watched:
        return ()
    needed = threshold(design.alpha, len(watched))
    found = []
    for metric in watched:
        for arm in range(1, len(rows.arms)):
            value, evidence = (
                _beyond(rows, metric, arm, design)
                if metric.limit is None
                else _above(rows, metric, arm, metric.limit)
            )
            limits = metric.limit, metric.margin
            breached = evidence >= needed
            found.append(
                Guard(metric.title, rows.arms[arm], value, *limits, evidence, needed, breached)
            )
    return tuple(found)


def _above(rows: Rows, metric: Metric, arm: int, limit: float) -> tuple[float | None, float]:
    """Return the arm's mean share, and the evidence that it is above the limit."""
    summed = rows.summed(metric)
    chosen = summed.measured & (rows.arm == arm)
    _, (bad, seen) = by_unit(rows, chosen, summed.numerator, summed.denominator)
    if not seen.size:
        return None, 0.0
    share = numpy.clip(bad / seen, 0, 1)  # a number may have been posted as the proportion
    evidence = guardrails.log_e_above(share.sum(), (1 - share).sum(), limit)
    return float(share.mean()), float(evidence)


def _beyond(rows: Rows, metric: Metric, arm: int, design: Design) -> tuple[float | None, float]:
    """Return by how much the arm is worse, and the evidence that it is by more than the margin."""
    margin = metric.margin or 0.0
    if metric.kind == "preference":
        wins, losses, _ = (int(each.sum()) for each in preferred(rows, metric, arm))
        if not wins + losses:
            return None, 0.0
        limit = (1 + margin) / 2  # P(loss) − P(win) above the margin
        evidence = guardrails.log_e_above(losses, wins, limit) if limit < 1 else 0.0
        return (losses - wins) / (wins + losses), float(evidence)
    found = difference(rows, metric, arm, steady=rows.steady)
    if found is None or not math.isfinite(found.value):
        return None, 0.0
    worse = found if metric.direction == "decrease" else replace(found, value=-found.value)
    alpha = design.alpha / len(design.guardrails)
    evidence = guardrails.log_e_beyond(worse, margin, alpha, planned=design.planned_units)
    return float(worse.value), float(evidence) if math.isfinite(evidence) else 0.0
