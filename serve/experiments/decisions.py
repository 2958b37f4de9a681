"""What is done to an experiment without anybody's doing: decided from a report alone. Pure.

Safety first: an arm that breaks a guardrail goes before anything else is looked at. Then the policy
of the design: a canary's next step, a winner's promotion, a bandit's shares. Where arms do not get
their shares (`Report.frozen`) no comparison means anything, and nothing that rests on one is done;
a limit is of an arm alone, and holds there, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from adapters.experiments import Arm, Phase
from serve.experiments.analysis.report import Report
from serve.experiments.statistics import bandit

Kind = Literal["take_out", "stop", "promote", "step", "share"]

BANDIT_S = 600.0
"""How long a bandit's shares stay at least."""
_MOVED = 0.02
"""By how much one of them must have changed."""
_CLOSE = 1e-6
_PLACE = 1e-4
"""The weight of an arm that is out, under a bandit: its units get the control."""


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do."""

    kind: Kind
    """take_out: `arm`. stop: the experiment. promote: `arm`, and stop. step, share: `shares`."""
    reason: str
    """For the journal."""
    arm: str = ""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Of every arm; they sum to 1."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """For the alias's history."""


def keeps(phase: Phase) -> bool:
    """Say whether an experiment may ask for anything: whether it needs a report at all."""
    design = phase.design
    guarded = design.auto_rollback and bool(design.guardrails)
    return (
        phase.status == "running"
        and len(phase.arms) > 1
        and (guarded or design.auto_promote or design.policy != "split")
    )


def act(report: Report, phases: Sequence[Phase], now_s: float, *, seen: int = 0) -> Action | None:
    """Return the one thing to do now, or None.

    `phases`: of the experiment, the last one is that of the report. `seen`: units of a canary's arm
    since its share is what it is.
    """
    phase = phases[-1]
    if not keeps(phase) or report.phase != phase.number:
        return None
    if broken := _broken(report, phase):
        return _without(phase, *broken) if phase.design.auto_rollback else None
    if report.frozen:
        return None
    if phase.design.policy == "canary":
        return _canary(report, phases, now_s, seen)
    winner, evidence = report.verdict.arm, report.verdict.evidence
    if phase.design.auto_promote and report.verdict.kind == "winner" and winner and evidence:
        return Action("promote", _won(report, winner), winner, evidence=evidence)
    if phase.design.policy == "bandit":
        return _bandit(report, phase, now_s)
    return None


def under_this_share(phases: Sequence[Phase]) -> list[Phase]:
    """Return the last phases in which arms have the shares that they have now, oldest first."""
    found: list[Phase] = []
    for phase in reversed(phases):
        if not _same(phase.probabilities(), phases[-1].probabilities()):
            break
        found.insert(0, phase)
    return found


def _broken(report: Report, phase: Phase) -> tuple[str, str] | None:
    """Return the arm that breaks a guardrail worst, and what to say of it."""
    there = {arm.name for arm in phase.arms[1:] if not arm.out}
    guards = [
        guard
        for guard in report.guards
        if guard.breached and guard.arm in there and not (report.frozen and guard.limit is None)
    ]
    if not guards:
        return None
    worst = max(guards, key=lambda guard: guard.log_e - guard.threshold)
    bound = f"{worst.limit:g}" if worst.limit is not None else f"control by {worst.margin:g}"
    value = "" if worst.value is None else f" {worst.value:.3g},"
    said = f"{worst.title} of {worst.arm} is{value} beyond {bound} (e-value {_e(worst.log_e)})"
    return worst.arm, said


def _won(report: Report, winner: str) -> str:
    """Return why an arm won, or why the others lost to the control."""
    told = [
        f"{each.arm} is {each.decided} in {each.title} by {abs(each.value or 0):.3g} "
        f"(e-value {_e(each.log_e)})"
        for each in report.primary
        if each.decided and winner in (each.arm, report.control.arm)
    ]
    return "; ".join(told) or f"{winner} won"


def _without(phase: Phase, arm: str, said: str) -> Action:
    """Take an arm out; where none would be left beside the control, end it."""
    if any(not other.out and other.name != arm for other in phase.arms[1:]):
        return Action("take_out", said, arm)
    return Action("stop", f"rolled back: {said}", arm)


def _canary(report: Report, phases: Sequence[Phase], now_s: float, seen: int) -> Action | None:
    phase, design = phases[-1], phases[-1].design
    control, arm = phase.arms
    if arm.out:
        return None  # somebody took it out, and will say what comes next
    worse = next((c for c in report.primary if c.arm == arm.name and c.decided == "worse"), None)
    if worse:
        said = f"{worse.title} of {arm.name} is worse (e-value {_e(worse.log_e)})"
        return _without(phase, arm.name, said) if design.auto_rollback else None
    ran_s = _ran_s(phases, now_s)
    if seen < design.step_units or ran_s < design.step_s:
        return None
    share = phase.probabilities()[arm.name]
    step = next((step for step in design.steps if step > share + _CLOSE), 1.0)
    said = f"{seen} units and {ran_s:.0f} s at {share:.3g}, and nothing against it"
    if step < 1:
        return Action("step", said, arm.name, {control.name: 1 - step, arm.name: step})
    told = {"policy": "canary", "share": share, "units_at_share": seen, "seconds_at_share": ran_s}
    return Action("promote", said, arm.name, evidence={**report.verdict.evidence, **told})


def _bandit(report: Report, phase: Phase, now_s: float) -> Action | None:
    live = [arm for arm in phase.arms if not arm.out]
    best = report.best or {}
    if len(live) < 2 or not all(arm.name in best for arm in live):
        return None
    if not any(best[arm.name] for arm in live):
        return None
    if now_s - _began_s(phase) < BANDIT_S:
        return None
    found = bandit.shares([best[arm.name] for arm in live], floor=phase.design.floor)
    wanted = {arm.name: 0.0 for arm in phase.arms}
    wanted |= {arm.name: float(share) for arm, share in zip(live, found, strict=True)}
    shares = phase.probabilities()
    if max(abs(wanted[name] - shares[name]) for name in wanted) < _MOVED:
        return None
    said = ", ".join(f"P({arm.name} best) {best[arm.name]:.0%}" for arm in live)
    return Action("share", said, shares=_weights(phase.arms, wanted))


def _weights(arms: Sequence[Arm], wanted: Mapping[str, float]) -> dict[str, float]:
    """Return the weights that give arms these probabilities: whoever is out keeps a place."""
    weights = {arm.name: _PLACE if arm.out else wanted[arm.name] for arm in arms}
    weights[arms[0].name] -= _PLACE * sum(arm.out for arm in arms)
    return weights


def _ran_s(phases: Sequence[Phase], now_s: float) -> float:
    """Return for how long it ran under the present shares; pauses do not count.

    A clock that went back has counted nothing: it may take longer, never shorter.
    """
    ends = [_began_s(phase) for phase in phases[1:]] + [now_s]
    same = under_this_share(phases)
    spans = zip(same, ends[len(phases) - len(same) :], strict=True)
    return sum(max(0.0, end - _began_s(phase)) for phase, end in spans if phase.status == "running")


def _began_s(phase: Phase) -> float:
    return datetime.fromisoformat(phase.time).timestamp()


def _same(some: Mapping[str, float], others: Mapping[str, float]) -> bool:
    return some.keys() == others.keys() and all(
        math.isclose(some[name], others[name], rel_tol=0, abs_tol=_CLOSE) for name in some
    )


def _e(log_e: float) -> str:
    return f"{math.exp(min(log_e, 700)):.3g}"
