"""Reports of which a test says only what matters to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from adapters.experiments import Arm, Design, Phase
from adapters.metrics import Metric
from serve.experiments.analysis.report import Comparison, Guard, Report, Side, Verdict

BEGAN_S = 1_800_000_000.0
GUARD = Metric("error", "guardrail", direction="decrease", limit=0.05)
PRIMARY = Metric("solved", "primary")


def phases(*shares: float, **design: Any) -> list[Phase]:
    """Return the first phase of an experiment that runs; v1 is the control."""
    named = [(f"v{n}", n, share) for n, share in enumerate(shares, start=1)]
    chosen = Design(**{"metrics": (PRIMARY, GUARD), **design})
    arms = tuple(Arm(*each) for each in named)
    return [Phase("ab-1", 1, "running", "salt", arms, time_of(BEGAN_S), "me", design=chosen)]


def then(earlier: Sequence[Phase], after_s: float, **changed: Any) -> list[Phase]:
    """Return phases with one more, so long after the first."""
    number, time = len(earlier) + 1, time_of(BEGAN_S + after_s)
    return [*earlier, replace(earlier[-1], number=number, time=time, **changed)]


def time_of(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds")


def guard(arm: str = "v2", *, breached: bool = True, **given: Any) -> Guard:
    plain = {"value": 0.152, "limit": 0.05, "margin": None, "threshold": 3.0}
    return Guard(
        "error", arm, **{**plain, "log_e": 4.5 if breached else 0.1, **given}, breached=breached
    )


def comparison(arm: str = "v2", decided: Any = None, **given: Any) -> Comparison:
    plain = {"value": 0.1, "low": 0.05, "high": 0.15, "log_e": 8.0, "p": 0.001, "waiting": ""}
    return Comparison(
        "solved", "primary", "proportion", arm, "difference", **{**plain, **given}, decided=decided
    )


def report(of: Sequence[Phase], **given: Any) -> Report:
    """Return a report of the last phase, in which nothing is proved."""
    phase = of[-1]
    shares = phase.probabilities()
    sides = [
        Side(arm.name, arm.version, arm.out, shares[arm.name], 100, 200, 0, ())
        for arm in phase.arms
    ]
    plain = {
        "adapter": "support", "experiment": phase.experiment, "phase": phase.number,
        "status": phase.status, "as_of_s": BEGAN_S, "design": phase.design, "sides": tuple(sides),
        "comparisons": (), "guards": (), "looks": (), "sample_ratio_log_e": 0.0, "frozen": False,
        "verdict": Verdict("collecting", None, "Wait.", {"experiment": phase.experiment}),
    }  # fmt: skip
    return Report(**{**plain, **given})


def won(arm: str = "v2") -> Verdict:
    return Verdict("winner", arm, f"{arm} is better.", {"experiment": "ab-1", "e_value": 3000.0})
