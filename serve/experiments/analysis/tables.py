"""A report as tables of words: the same in the terminal and on the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from adapters.metrics import Kind
from serve.experiments.analysis import wording
from serve.experiments.analysis.report import Comparison, Guard, Measured, Report
from serve.experiments.statistics import sample_ratio

Row = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of words under headers; None where there is nothing to say."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""
    """What to know when reading it."""


def headline(report: Report) -> str:
    """Return what it is a report of, and of when."""
    when = datetime.fromtimestamp(report.as_of_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    phase = f"phase {report.phase}, {report.status}"
    return f"{report.adapter} · {report.experiment} · {phase} · {when}"


def tables(report: Report) -> tuple[Table, ...]:
    """Return the report's tables, those of which there is something."""
    primary = report.primary
    others = tuple(each for each in report.comparisons if each.role != "primary")
    found = (
        _compared(report, primary, _primary_note(report)),
        _guarded(report),
        _arms(report),
        _metrics(report),
        _compared(report, others, "Decided by e-BH: a share of α of all such claims is false."),
    )
    return tuple(each for each in found if each and each.rows)


def _arms(report: Report) -> Table:
    best, loss = report.best or {}, report.loss
    primary = report.design.primary
    kind: Kind = primary.kind if primary else "mean"
    rows = tuple(
        (
            side.arm,
            "out" if side.out else f"{side.share:.1%}",
            f"{side.units:,}",
            f"{side.exposures:,}",
            f"{side.crossed:,}",
            f"{best[side.arm]:.1%}" if side.arm in best else None,
            wording.value(loss[side.arm], kind) if side.arm in loss else None,
            *((wording.value(side.cost, "mean"),) if report.price else ()),
        )
        for side in report.sides
    )
    headers = ["arm", "share", "units", "responses", "crossed", "P(best)", "expected loss"]
    note = _ratio_note(report)
    if report.price:
        headers.append("cost of 1,000")
        prompt, output = report.price
        note += (
            f" Cost of responses at {prompt:g} and {output:g} a million prompt and output tokens."
        )
    return Table("Arms", tuple(headers), rows, note)


def _ratio_note(report: Report) -> str:
    found, limit = wording.e_value(report.sample_ratio_log_e), math.exp(sample_ratio.FROZEN_AT)
    state = "not what they should be" if report.frozen else "as they should be"
    said = f"Shares are {state} (E {found}, frozen from {limit:,.0f} on). P(best) decides nothing."
    if report.by_request:
        said += (
            f" {report.by_request:,} units were single requests, as nothing said who asked:"
            " whoever asked again may have met another arm."
        )
    return said


def _metrics(report: Report) -> Table:
    """Return one row a metric, one column an arm."""
    columns = [side.metrics for side in report.sides]
    rows = tuple(
        (each[0].title, each[0].role, *map(_measured, each)) for each in zip(*columns, strict=True)
    )
    sure = f"{100 * (1 - report.design.alpha):g}%"
    note = f"Each arm by itself, and of how many; intervals hold at all times ({sure})."
    return Table("Metrics", ("metric", "", *(side.arm for side in report.sides)), rows, note)


def _measured(each: Measured) -> str | None:
    if each.value is None:
        return None
    said = wording.value(each.value, each.kind)
    if each.low is not None and each.high is not None:
        ends = (wording.value(end, each.kind) for end in (each.low, each.high))
        said += f" ({' to '.join(ends)})"
    return f"{said} of {each.count:,}"


def _compared(report: Report, found: Sequence[Comparison], note: str) -> Table | None:
    if not found:
        return None
    control = report.control.arm
    role = "Primary metric" if found[0].role == "primary" else "Secondary metrics"
    headers = ("metric", "arm", f"less {control}", "interval", "E", "p", "decided", "method")
    rows = tuple(
        (
            each.title,
            each.arm,
            wording.difference(each.value, each.kind),
            wording.interval(each.low, each.high, each.kind),
            wording.e_value(each.log_e),
            wording.p(each.p),
            each.decided or each.waiting or "not yet",
            f"{each.method}, CUPED" if each.adjusted else each.method,
        )
        for each in found
    )
    if any(each.method == "blocks" for each in found):
        note += (
            " E of blocks decides; the interval, by betting (bounded), may leave 0 later or sooner."
        )
    if any(each.adjusted for each in found):
        note += " CUPED: less what was known before, so not the difference of the arms' own values."
    return Table(role, headers, rows, note)


def _primary_note(report: Report) -> str:
    arms, alpha = max(1, len(report.sides) - 1), report.design.alpha
    sure = f"{100 * (1 - alpha / arms):g}%"
    return (
        f"Decided from E = {arms / alpha:,.0f} (p {alpha / arms:.3g}) on, however often one looks:"
        f" any false claim has probability {alpha:g}. Intervals hold at all times ({sure})."
    )


def _guarded(report: Report) -> Table:
    metrics = {metric.title: metric.kind for metric in report.design.guardrails}
    rows = tuple(_guard(each, metrics[each.title]) for each in report.guards)
    headers = ("guardrail", "arm", "found", "allowed", "E", "broken from", "state")
    return Table("Guardrails", headers, rows)


def _guard(each: Guard, kind: Kind) -> Row:
    if each.limit is not None:
        found, allowed = wording.value(each.value, kind), wording.value(each.limit, kind)
    else:
        found = wording.difference(each.value, kind)
        allowed = f"{wording.difference(each.margin, kind)} worse"
    return (
        each.title,
        each.arm,
        found,
        allowed,
        wording.e_value(each.log_e),
        f"{math.exp(each.threshold):,.0f}",
        "broken" if each.breached else "kept",
    )
