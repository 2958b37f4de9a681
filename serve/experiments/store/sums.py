"""The two queries behind reports: what each unit adds to each measure.

Sums by unit, phase and arm are made in SQL: as many rows come out as there are units, whatever the
traffic. Both tables' are put side by side here, as no planner guesses well how such sums join.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
from numpy.typing import NDArray
from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Select,
    case,
    cast,
    func,
    select,
)

from adapters.errors import UsageError
from adapters.metrics import BOOLEANS, LABELS
from serve.experiments.store.base import IMPLICIT, Measure, Units
from serve.experiments.store.tables import exposures, outcomes

_SUMS = 7
"""Where a row's sums begin."""


def sum_units(connection: Connection, experiment: str, measures: Sequence[Measure]) -> Units:
    """Return what `Store.units` promises."""
    asked_served, asked_posted = _served(experiment, measures), _posted(experiment, measures)
    firsts: dict[tuple[int, str], Any] = {}
    crossed = set()
    for row in connection.execute(asked_served):
        place = (row[0], row[1])
        if firsts.setdefault(place, row) is not row:
            crossed.add(place)
    sums = numpy.zeros((3, len(measures), len(firsts)))
    if firsts:
        _put(sums, measures, [row[_SUMS:] for row in firsts.values()], implicit=True)
        found = () if asked_posted is None else connection.execute(asked_posted)
        posted = {(row[0], row[1], row[2]): row for row in found}
        none = (None,) * (3 + 3 * len(measures))
        told = [posted.get((row[0], row[1], row[2]), none)[3:] for row in firsts.values()]
        _put(sums, measures, told, implicit=False)
    columns = list(zip(*firsts.values(), strict=True)) or [()] * _SUMS
    return Units(
        phase=numpy.asarray(columns[0], numpy.int64),
        unit=numpy.asarray(columns[1], numpy.str_),
        arm=numpy.asarray(columns[2], numpy.str_),
        probability=numpy.asarray(columns[3], numpy.float64),
        at_s=numpy.asarray(columns[4], numpy.float64),
        exposures=numpy.asarray(columns[5], numpy.int64),
        crossed=numpy.fromiter((place in crossed for place in firsts), numpy.bool_, len(firsts)),
        count=sums[0].astype(numpy.int64),
        sum=sums[1],
        squares=sums[2],
        source=numpy.asarray(columns[6], numpy.str_),
    )


def _served(experiment: str, measures: Sequence[Measure]) -> Select[Any]:
    """Choose a row a unit, phase and arm, first exposed first, with what the server measured."""
    t, first = exposures.c, exposures.alias("first")
    sums = [sum for each in measures if each.metric in IMPLICIT for sum in _sums(_implicit(each))]
    grouped = (
        select(t.phase, t.unit, t.arm, func.min(t.seq).label("first"), func.count().label("n"))
        .add_columns(*(sum.label(f"sum{number}") for number, sum in enumerate(sums)))
        .where(t.experiment == experiment)
        .group_by(t.phase, t.unit, t.arm)
        .subquery("grouped")
    )
    phase, unit, arm, seq, number, *summed = grouped.c
    chosen = (first.c.probability, first.c.at_s, number, first.c.source)
    return (
        select(phase, unit, arm, *chosen, *summed)
        .join_from(grouped, first, first.c.seq == seq)
        .order_by(seq)
    )


def _posted(experiment: str, measures: Sequence[Measure]) -> Select[Any] | None:
    """Choose a row a unit, phase and arm with what clients posted, if any of it is asked for."""
    t = outcomes.c
    asked = [each for each in measures if each.metric not in IMPLICIT]
    if not asked:
        return None
    sums = [sum for measure in asked for sum in _sums(_explicit(measure))]
    return (
        select(t.phase, t.unit, t.arm, *sums)
        .where(t.experiment == experiment, t.late.is_(False))
        .where(t.metric.in_(sorted({measure.metric for measure in asked})))
        .group_by(t.phase, t.unit, t.arm)
    )


def _put(
    sums: NDArray[numpy.float64], measures: Sequence[Measure], rows: list[Any], *, implicit: bool
) -> None:
    """Write three columns for each measure of one kind, in their order; None is 0."""
    places = [n for n, each in enumerate(measures) if (each.metric in IMPLICIT) is implicit]
    if places:
        columns = numpy.asarray([row[: 3 * len(places)] for row in rows], numpy.float64).T
        sums[:, places] = (
            numpy.nan_to_num(columns, nan=0.0).reshape(len(places), 3, -1).swapaxes(0, 1)
        )


def _sums(value: ColumnElement[Any]) -> list[ColumnElement[Any]]:
    """Return count, sum and sum of squares of what is not NULL."""
    return [func.count(value), func.sum(value), func.sum(value * value)]


def _implicit(measure: Measure) -> ColumnElement[Any]:
    column = exposures.c[measure.metric]
    if measure.metric in LABELS:
        return _shown(measure, number=None, label=column)
    if measure.metric in BOOLEANS:
        return _shown(measure, number=case((column, 1.0), else_=0.0), label=None)
    return _shown(measure, number=cast(column, Double), label=None)


def _explicit(measure: Measure) -> ColumnElement[Any]:
    t = outcomes.c
    shown = _shown(measure, number=t.number, label=t.label)
    return case((t.metric == measure.metric, shown))


def _shown(
    measure: Measure, *, number: ColumnElement[Any] | None, label: ColumnElement[Any] | None
) -> ColumnElement[Any]:
    """Return what a measure sums: NULL where nothing was measured."""
    if measure.label is not None:
        if label is None or measure.above is not None:
            raise UsageError(f"{measure.metric} has no labels.", fix="Measure its numbers.")
        return case((label == measure.label, 1.0), (label.is_not(None), 0.0))
    if number is None:
        raise UsageError(f"{measure.metric} has labels alone.", fix="Say which one to count.")
    if measure.above is not None:
        return case((number > measure.above, 1.0), (number.is_not(None), 0.0))
    return number
