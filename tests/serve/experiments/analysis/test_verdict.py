"""What follows from what is proved, and in which order of importance."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from adapters.experiments import Design, Phase
from serve.experiments.analysis.report import Comparison, Guard, Side, Verdict
from serve.experiments.analysis.verdict import conclude, decided
from tests.serve.experiments.analysis.traffic import design, phase

PLAN = design("solved:effect=0.05", "rating:mean", guardrails=["error<=5%"])
THIRDS = (1 / 3, 1 / 3, 1 / 3)
SOUND, WRONG = 0.0, math.log(1000)


def compared(arm: str = "v2", value: float | None = 0.1, log_e: float = 0.0, **given: Any) -> Any:
    plain = Comparison(
        "solved", "primary", "proportion", arm, "difference", value, -0.2, 0.2, log_e, 1.0, None, ""
    )
    return replace(plain, **given)


def guard(arm: str, *, breached: bool = True) -> Guard:
    return Guard("error", arm, 0.152, 0.05, None, 4.0 if breached else 0.0, 3.0, breached)


def concluded(
    comparisons: Sequence[Comparison],
    guards: Sequence[Guard] = (),
    *,
    ratio: float = SOUND,
    now: Phase | None = None,
) -> Verdict:
    now = now or phase(shares=THIRDS, design=PLAN)
    sides = [Side(a.name, a.version, a.out, 0.3, 400, 900, 0, ()) for a in now.arms]
    frozen = ratio >= WRONG
    told = decided(comparisons, now.design, frozen=frozen)
    verdict = conclude("support", now, sides, told, guards, ratio)
    json.dumps(verdict.evidence, allow_nan=False)
    assert verdict.said.endswith(".")
    assert "\n" not in verdict.said
    return verdict


NEEDED = math.log(2 / 0.05)


def test_the_better_arm_wins_and_its_evidence_is_told() -> None:
    verdict = concluded([compared("v2", 0.1, NEEDED, low=0.02, high=0.18), compared("v3", 0.2)])
    assert (verdict.kind, verdict.arm) == ("winner", "v2")
    assert verdict.said == (
        "v2 is better by +10.0 points of solved (+2.0 to +18.0):"
        " promote it (adapters ab promote support)."
    )
    told = verdict.evidence
    assert (told["arm"], told["difference"], told["interval"]) == ("v2", 0.1, [0.02, 0.18])
    assert told["e_value"] == pytest.approx(40)
    assert told["units"] == {"v1": 400, "v2": 400, "v3": 400}
    assert (told["experiment"], told["phase"], told["alpha"]) == ("ab-1", 1, 0.05)


def test_two_arms_share_the_error_rate() -> None:
    verdict = concluded([compared("v2", 0.1, NEEDED - 0.01), compared("v3", 0.2)])
    assert verdict.kind == "collecting"
    one = phase(design=PLAN)
    assert concluded([compared("v2", 0.1, math.log(20))], now=one).kind == "winner"


def test_of_several_better_arms_the_best_wins() -> None:
    both = [compared("v2", 0.1, 9.0), compared("v3", 0.2, 5.0)]
    assert concluded(both).arm == "v3"
    fewer = phase(shares=THIRDS, design=design("solved:decrease"))
    both = [compared("v2", -0.1, 9.0), compared("v3", -0.2, 5.0)]
    assert concluded(both, now=fewer).arm == "v3"
    assert concluded([compared("v2", 0.1, 9.0), compared("v3", 0.2, 9.0)], now=fewer).arm == "v1"


def test_the_control_wins_when_all_others_are_worse() -> None:
    worse = [compared("v2", -0.1, 9.0), compared("v3", -0.2, 9.0)]
    assert concluded(worse).arm == "v1"
    assert concluded([worse[0], compared("v3", -0.2, 1.0)]).kind == "collecting"
    out = phase(shares=THIRDS, design=PLAN, out=["v3"])
    assert concluded([worse[0], compared("v3", 0.2, 9.0)], now=out).arm == "v1"


def test_wrong_shares_freeze_everything_but_a_guardrail() -> None:
    found = [compared("v2", 0.1, 90.0)]
    assert concluded(found, ratio=WRONG).kind == "frozen"
    assert concluded(found, ratio=WRONG - 0.1).kind == "winner"
    assert concluded(found, [guard("v2")], ratio=WRONG).kind == "breached"
    beyond = replace(guard("v2"), limit=None, margin=0.1)
    assert concluded(found, [beyond], ratio=WRONG).kind == "frozen"
    told = decided(found, PLAN, frozen=True)
    assert [each.decided for each in told] == [None]


def test_a_broken_guardrail_comes_before_a_winner() -> None:
    found = [compared("v2", 0.1, 90.0), compared("v3", 0.1)]
    verdict = concluded(found, [guard("v2", breached=False), guard("v3")])
    assert (verdict.kind, verdict.arm) == ("breached", "v3")
    assert "error (15.2%, at most 5.0%)" in verdict.said
    assert [each["breached"] for each in verdict.evidence["guardrails"]] == [False, True]


def test_an_arm_that_is_out_is_no_news_unless_it_was_the_last() -> None:
    out = phase(shares=THIRDS, design=PLAN, out=["v2"])
    assert concluded([compared("v3", 0.1, 9.0)], [guard("v2")], now=out).arm == "v3"
    alone = phase(design=PLAN, out=["v2"])
    verdict = concluded([compared("v2", 0.1, 9.0)], [guard("v2")], now=alone)
    assert (verdict.kind, verdict.arm) == ("breached", "v2")
    assert concluded([compared("v2", 0.1, 9.0)], now=alone).kind == "collecting"


def test_no_difference_that_matters() -> None:
    inside = {"low": -0.04, "high": 0.049}
    assert concluded([compared(**inside), compared("v3", **inside)]).kind == "no_difference"
    assert concluded([compared(**inside), compared("v3")]).kind == "collecting"
    without = phase(design=design("solved"))
    assert concluded([compared(**inside)], now=without).kind == "collecting"
    early = compared(low=None, high=None)
    assert concluded([early], now=phase(design=PLAN)).kind == "collecting"


@pytest.mark.parametrize(
    ("status", "kind", "word"),
    [
        ("draft", "collecting", "has not started"),
        ("paused", "collecting", "is paused"),
        ("stopped", "stopped", "stopped before"),
        ("running", "collecting", "let it run"),
    ],
)
def test_without_a_decision_the_status_says_what_to_do(status: Any, kind: str, word: str) -> None:
    verdict = concluded([compared()], now=phase(design=PLAN, status=status))
    assert (verdict.kind, verdict.arm) == (kind, None)
    assert word in verdict.said


def test_a_decision_outlives_the_stop() -> None:
    verdict = concluded([compared("v2", 0.1, 9.0)], now=phase(design=PLAN, status="stopped"))
    assert verdict.kind == "winner"
    assert verdict.said.startswith("v2 was better by +10.0 points of solved")
    assert verdict.said.endswith(
        ": if support@production is not there yet, adapters ab promote support."
    )


def test_without_a_primary_metric_nothing_is_decided() -> None:
    other = compared(title="rating", role="secondary", kind="mean", log_e=90.0)
    verdict = concluded([other], now=phase(design=Design(PLAN.metrics[1:])))
    assert verdict.kind == "collecting"
    assert "No primary" in verdict.said


def test_secondary_metrics_are_claimed_by_e_bh() -> None:
    secondary = {"title": "rating", "role": "secondary", "kind": "mean"}
    told = decided(
        [
            compared("v2", 0.1, 0.0),
            compared("v2", 0.3, math.log(20), **secondary),
            compared("v3", -0.3, math.log(20), **secondary),
        ],
        PLAN,
        frozen=False,
    )
    assert [each.decided for each in told] == [None, "better", "worse"]  # 2/(2α) each
    told = decided(
        [
            compared("v2", 0.3, math.log(20), **secondary),
            compared("v3", -0.3, 0.0, **secondary),
        ],
        PLAN,
        frozen=False,
    )
    assert [each.decided for each in told] == [None, None]  # 2/α for one of two
