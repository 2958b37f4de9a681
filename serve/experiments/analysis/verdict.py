"""What follows: who won, who broke a guardrail, whether anything may be concluded at all. Pure.

First of these: a guardrail broken by an arm that is not out; shares that are wrong, so that nothing
else counts (nor a margin before, which compares: a limit is of an arm alone); a winner; no
difference that matters; a stop before any of it; else, wait.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy

from adapters.experiments import Design, Phase
from adapters.metrics import Direction
from serve.experiments.analysis import wording
from serve.experiments.analysis.report import Comparison, Decision, Guard, Side, Verdict, plain
from serve.experiments.statistics import sample_ratio
from serve.experiments.statistics.multiplicity import discoveries, threshold

_LARGEST = 700.0
"""of what a float's exponential can hold"""


def decided(
    comparisons: Sequence[Comparison], design: Design, *, frozen: bool
) -> tuple[Comparison, ...]:
    """Return the comparisons with what each proves: nothing where shares are wrong.

    The primary metric's by α/m, any false claim at all with probability α; the others together by
    e-BH, a share of α of their claims.
    """
    primary = [each for each in comparisons if each.role == "primary"]
    others = [each for each in comparisons if each.role != "primary"]
    needed = threshold(design.alpha, max(1, len(primary)))
    proved = {id(each) for each in primary if each.log_e >= needed}
    if others:
        found = discoveries(numpy.array([each.log_e for each in others]), design.alpha)
        proved |= {id(each) for each, claimed in zip(others, found, strict=True) if claimed}
    better: dict[str, Direction] = {
        metric.title: metric.direction for metric in design.metrics if metric.role != "guardrail"
    }

    def told(each: Comparison) -> Comparison:
        if frozen or id(each) not in proved or not each.value:
            return each
        good = (each.value > 0) == (better[each.title] == "increase")
        return replace(each, decided="better" if good else "worse")

    return tuple(map(told, comparisons))


def conclude(
    adapter: str,
    phase: Phase,
    sides: Sequence[Side],
    comparisons: Sequence[Comparison],
    guards: Sequence[Guard],
    sample_ratio_log_e: float,
) -> Verdict:
    """Return the verdict on comparisons that are `decided`."""
    frozen = sample_ratio_log_e >= sample_ratio.FROZEN_AT
    live = [side.arm for side in sides[1:] if not side.out]
    primary = [each for each in comparisons if each.role == "primary" and each.arm in live]
    kind, arm = _kind(phase, live, primary, guards, frozen=frozen)
    shown = next((each for each in primary if each.arm == arm), None) or _leading(phase, primary)
    said = _said(adapter, phase, kind, arm, live, shown, guards)
    evidence = _evidence(phase, sides, shown, guards, sample_ratio_log_e)
    return Verdict(kind, arm, said, evidence)


def _kind(
    phase: Phase,
    live: Sequence[str],
    primary: Sequence[Comparison],
    guards: Sequence[Guard],
    *,
    frozen: bool,
) -> tuple[Decision, str | None]:
    broken = [g.arm for g in guards if g.breached and not (frozen and g.limit is None)]
    if arm := next((arm for arm in broken if arm in live), None):
        return "breached", arm
    if frozen:
        return "frozen", None
    if broken and not live:
        return "breached", broken[0]
    if better := [each for each in primary if each.decided == "better"]:
        leading = _leading(phase, better)
        assert leading
        return "winner", leading.arm
    if primary and all(each.decided == "worse" for each in primary):
        return "winner", phase.control.name
    if primary and all(_within(each, phase.design) for each in primary):
        return "no_difference", None
    return ("stopped" if phase.status == "stopped" else "collecting"), None


def _leading(phase: Phase, among: Sequence[Comparison]) -> Comparison | None:
    """Return what looks best by now, or the first one."""
    metric = phase.design.primary
    sign = -1 if metric and metric.direction == "decrease" else 1
    measured = [each for each in among if each.value is not None]
    if not measured:
        return among[0] if among else None
    return max(measured, key=lambda each: sign * (each.value or 0.0))


def _within(each: Comparison, design: Design) -> bool:
    effect = design.primary.effect if design.primary else None
    if effect is None or each.low is None or each.high is None:
        return False
    return -effect < each.low and each.high < effect


def _said(
    adapter: str,
    phase: Phase,
    kind: Decision,
    arm: str | None,
    live: Sequence[str],
    shown: Comparison | None,
    guards: Sequence[Guard],
) -> str:
    control, over = phase.control.name, phase.status == "stopped"
    if kind == "breached":
        broken = next(guard for guard in guards if guard.breached and guard.arm == arm)
        said = f"{arm} broke the guardrail {broken.title} ({_broken(broken, phase.design)})"
        if over or arm not in live:
            return f"{said}: stay with {control}, and find out why."
        return f"{said}: take it out, or stop the experiment (adapters ab stop {adapter})."
    if kind == "frozen":
        return (
            "Arms do not get the shares that they should, so no comparison means anything: find out"
            " where units are lost, and start anew."
        )
    if kind == "winner":
        assert shown
        found = _found(shown)
        if arm == control:
            return f"Every other arm is worse than {control}, {shown.arm} by {found}: keep it."
        promote = f"adapters ab promote {adapter}"
        if over:
            there = f"{adapter}@{phase.design.alias}"
            return f"{arm} was better by {found}: if {there} is not there yet, {promote}."
        return f"{arm} is better by {found}: promote it ({promote})."
    if kind == "no_difference":
        assert phase.design.primary
        title, effect = phase.design.primary.title, phase.design.primary.effect
        least = wording.difference(effect, phase.design.primary.kind).lstrip("+")
        return f"No arm differs from {control} in {title} by {least}: keep what costs less."
    if kind == "stopped":
        return "It was stopped before anything was proved: stay with what is in production."
    return _wait(adapter, phase, live, shown)


def _wait(adapter: str, phase: Phase, live: Sequence[str], shown: Comparison | None) -> str:
    if phase.status != "running":
        state = "has not started" if phase.status == "draft" else "is paused"
        return f"It {state}, and nothing is collected: adapters ab start {adapter}."
    if not live:
        return f"Every arm but {phase.control.name} is out: adapters ab stop {adapter}."
    if shown is None:
        return "No primary metric was declared, so nothing is decided here: look, and choose."
    if shown.waiting:
        return f"Too early to say anything of {shown.title}: {shown.waiting}."
    return f"Nothing is proved yet, {shown.arm} differs by {_found(shown)}: let it run."


def _found(each: Comparison) -> str:
    value = wording.difference(each.value, each.kind)
    return f"{value} of {each.title} ({wording.interval(each.low, each.high, each.kind)})"


def _broken(guard: Guard, design: Design) -> str:
    metric = next(each for each in design.guardrails if each.title == guard.title)
    if guard.limit is not None:
        limit = wording.value(guard.limit, metric.kind)
        return f"{wording.value(guard.value, metric.kind)}, at most {limit}"
    margin = wording.difference(guard.margin, metric.kind).lstrip("+")
    return f"worse by {wording.difference(guard.value, metric.kind).lstrip('+')}, at most {margin}"


def _evidence(
    phase: Phase,
    sides: Sequence[Side],
    shown: Comparison | None,
    guards: Sequence[Guard],
    sample_ratio_log_e: float,
) -> dict[str, Any]:
    """Return what a reader of the alias's history needs to judge the decision by."""
    said: dict[str, Any] = {
        "experiment": phase.experiment,
        "phase": phase.number,
        "control": phase.control.name,
        "alpha": phase.design.alpha,
        "arms": len(sides),
        "units": {side.arm: side.units for side in sides},
        "sample_ratio_e_value": _e_value(sample_ratio_log_e),
        "guardrails": [
            {
                "metric": guard.title,
                "arm": guard.arm,
                "value": guard.value,
                "limit": guard.limit,
                "margin": guard.margin,
                "e_value": _e_value(guard.log_e),
                "breached": guard.breached,
            }
            for guard in guards
        ],
    }
    if shown:
        said |= {
            "metric": shown.title,
            "arm": shown.arm,
            "method": shown.method,
            "adjusted": shown.adjusted,
            "difference": shown.value,
            "interval": [shown.low, shown.high],
            "log_e": shown.log_e,
            "e_value": _e_value(shown.log_e),
            "p": shown.p,
        }
    whole: dict[str, Any] = plain(said)
    return whole


def _e_value(log_e: float) -> float:
    return math.exp(min(log_e, _LARGEST))
