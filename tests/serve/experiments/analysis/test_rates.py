"""How often whole reports err where there is nothing, and what they find where there is something.

Where units come once, the 20 to 60 looks of one report are those of somebody who looked as often.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import numpy
import pytest

from adapters.experiments import Phase
from serve.experiments.analysis.report import Report
from serve.experiments.statistics.guardrails import log_e_above
from serve.experiments.store.base import Measure
from tests.serve.experiments.analysis.traffic import SOLVED, Traffic, design, phase, report
from tests.serve.experiments.analysis.visits import reports
from tests.serve.experiments.statistics.chances import at_least, at_most

ERROR, COST, PRIOR = Measure("error"), Measure("cost"), Measure("prior")
RUNS, ALPHA = 60, 0.05
PLAN = design("solved", planned_units=1_500)
Run = Callable[[numpy.random.Generator], Report]


def plain(chance: numpy.random.Generator, effect: float = 0.0) -> Report:
    arm = chance.integers(0, 2, 1_500)
    solved = chance.random(1_500) < 0.3 + effect * arm
    return report(Traffic(1, arm, outcomes={SOLVED: solved}), phase(design=PLAN))


def three_arms(chance: numpy.random.Generator) -> Report:
    arm = chance.integers(0, 3, 1_500)
    solved = chance.random(1_500) < 0.3
    return report(
        Traffic(1, arm, outcomes={SOLVED: solved}), phase(shares=(1 / 3, 1 / 3, 1 / 3), design=PLAN)
    )


def returning(chance: numpy.random.Generator) -> Report:
    """A unit's responses are alike: counted one by one they would be 34 % false positives."""
    units, arm = 600, chance.integers(0, 2, 600)
    solved = chance.binomial(20, chance.beta(0.6, 1.4, units)).astype(float)
    return report(
        Traffic(1, arm, outcomes={SOLVED: solved}, counts={SOLVED: 20}), phase(design=PLAN)
    )


def ramped(chance: numpy.random.Generator, effect: float = 0.0) -> Report:
    """5, 20, 50 %, each unit by one hash and back now and then, over a base rate of 20 to 50 %."""
    number = numpy.repeat([1, 2, 3], 700)
    unit = chance.integers(0, 1_800, 2_100)
    place = chance.random(1_800)[unit]
    arm = (place > 1 - numpy.array([0.05, 0.2, 0.5])[number - 1]).astype(int)
    solved = chance.random(2_100) < numpy.linspace(0.2, 0.5, 2_100) + effect * arm
    _, first = numpy.unique(number * 1_800 + unit, return_index=True)
    kept = numpy.sort(first)  # a row a unit and phase
    traffic = Traffic(number[kept], arm[kept], unit[kept], outcomes={SOLVED: solved[kept]})
    return report(
        traffic,
        phase(1, (0.95, 0.05), PLAN),
        phase(2, (0.8, 0.2), PLAN),
        phase(3, (0.5, 0.5), PLAN),
    )


def foreseen(chance: numpy.random.Generator) -> Report:
    """5, 20, 50 %, over a drift, of units of which a rate of before is known; of some it is not."""
    number = numpy.repeat([1, 2, 3], 700)
    arm = (chance.random(2_100) < numpy.array([0.05, 0.2, 0.5])[number - 1]).astype(int)
    rate = chance.beta(0.3, 0.7, 2_100)
    solved = chance.random(2_100) < 0.7 * rate + numpy.linspace(0, 0.3, 2_100)
    prior = numpy.where(chance.random(2_100) < 0.8, rate, numpy.nan)
    plan = design("solved:covariate=prior", planned_units=1_500)
    shares = ((0.95, 0.05), (0.8, 0.2), (0.5, 0.5))
    return report(
        Traffic(number, arm, outcomes={SOLVED: solved, PRIOR: prior}),
        *(phase(n, each, plan) for n, each in enumerate(shares, start=1)),
    )


def foreseen_plainly(chance: numpy.random.Generator) -> Report:
    arm, rate = chance.integers(0, 2, 1_500), chance.beta(0.3, 0.7, 1_500)
    plan = design("solved:covariate=prior", planned_units=1_500)
    outcomes = {SOLVED: chance.random(1_500) < rate, PRIOR: rate}
    return report(Traffic(1, arm, outcomes=outcomes), phase(design=plan))


def taken_out(chance: numpy.random.Generator) -> Report:
    """v3 is out after a third, and its units get the control; the base rate drifts."""
    number = numpy.repeat([1, 2, 2], 500)
    place = chance.integers(0, 3, 1_500)
    arm = numpy.where((number == 2) & (place == 2), 0, place)
    solved = chance.random(1_500) < numpy.linspace(0.2, 0.5, 1_500)
    thirds = (1 / 3, 1 / 3, 1 / 3)
    return report(
        Traffic(number, arm, outcomes={SOLVED: solved}),
        phase(1, thirds, PLAN),
        phase(2, thirds, PLAN, out=["v3"]),
    )


def ratio(chance: numpy.random.Generator) -> Report:
    """Under a ramp, too; one arm's units do twice as much of both."""
    number = numpy.repeat([1, 2], 900)
    arm = (chance.random(1_800) < numpy.where(number == 1, 0.1, 0.5)).astype(int)
    solved = chance.poisson(1 + arm).astype(float)
    cost = chance.poisson(3 * solved).astype(float)
    plan = design("cost/solved", planned_units=1_500)
    return report(
        Traffic(number, arm, outcomes={SOLVED: solved, COST: cost}),
        phase(1, (0.9, 0.1), plan),
        phase(2, (0.5, 0.5), plan),
    )


def exact(chance: numpy.random.Generator, effect: float = 0.0) -> Report:
    arm = chance.integers(0, 2, 300)
    solved = chance.random(300) < 0.2 + effect * arm
    plan = design("solved", method="exact")
    return report(Traffic(1, arm, outcomes={SOLVED: solved}), phase(design=plan))


def preferred(chance: numpy.random.Generator, effect: float = 0.0) -> Report:
    arm = chance.integers(0, 2, 600)
    win = (chance.random(600) < 0.5 + effect).astype(float)
    votes = {"win": win, "loss": 1 - win, "tie": 0 * win}
    outcomes = {Measure("liked", label=label): each for label, each in votes.items()}
    return report(Traffic(1, arm, outcomes=outcomes), phase(design=design("liked:preference")))


@pytest.mark.parametrize(
    "run",
    [
        plain,
        three_arms,
        returning,
        ramped,
        foreseen,
        foreseen_plainly,
        taken_out,
        ratio,
        exact,
        preferred,
    ],
)
def test_nothing_is_rarely_claimed_where_there_is_nothing(run: Run) -> None:
    false = 0
    for seed in range(RUNS):
        found = run(numpy.random.default_rng([1, seed]))
        assert not found.frozen
        arms = len(found.sides) - 1
        false += any(look.p <= ALPHA / arms for look in found.looks)
    assert false <= at_most(RUNS, ALPHA)


@pytest.mark.parametrize("shares", [[0.5], [0.05, 0.2, 0.5], [0.5, 0.1, 0.5]])
def test_nor_while_it_runs_and_units_return_and_outcomes_are_late(shares: list[float]) -> None:
    """`loadtests.whole_reports` is the same, many times over."""
    false = 0
    for seed in range(12):
        seen = reports(numpy.random.default_rng([8, seed]), shares, looks=5)
        false += any(found.verdict.kind == "winner" for found in seen)
    assert false <= at_most(12, ALPHA)


def test_what_is_there_is_found_meanwhile_and_stays_found() -> None:
    found = list(reports(numpy.random.default_rng(9), [0.05, 0.2, 0.5], effect=0.2))
    kinds = [each.verdict.kind for each in found]
    assert kinds == sorted(kinds)  # collecting, then winner
    assert kinds[-1] == "winner"
    assert found[-1].verdict.arm == "v2"


@pytest.mark.parametrize(
    ("run", "effect", "power"),
    [(plain, 0.15, 0.95), (ramped, 0.15, 0.9), (exact, 0.3, 0.9), (preferred, 0.2, 0.9)],
)
def test_what_is_there_is_found(run: Callable[..., Report], effect: float, power: float) -> None:
    won = [run(numpy.random.default_rng([2, seed]), effect).verdict for seed in range(30)]
    right = sum((verdict.kind, verdict.arm) == ("winner", "v2") for verdict in won)
    assert right >= at_least(30, power)
    assert all(verdict.arm in (None, "v2") for verdict in won)


def test_a_ramp_over_a_drifting_base_rate_fools_plain_means() -> None:
    """What `ramped` shows is not easy: each arm's own numbers differ, with nothing there."""
    found = ramped(numpy.random.default_rng(3))
    shown = [
        next(each.value for each in side.metrics if each.title == "solved") for side in found.sides
    ]
    assert (shown[1] or 0) - (shown[0] or 0) > 0.05
    assert found.verdict.kind == "collecting"


class TestSampleRatio:
    """100 000 units."""

    @staticmethod
    def split(share: float, *phases: Phase) -> Report:
        chance = numpy.random.default_rng(4)
        number = numpy.sort(chance.integers(1, len(phases) + 1, 100_000))
        return report(Traffic(number, (chance.random(100_000) < share).astype(int)), *phases)

    def test_a_split_of_51_to_49_freezes_decisions(self) -> None:
        found = self.split(0.49, phase())
        assert found.frozen
        assert found.verdict.kind == "frozen"
        assert self.split(0.49, phase(1), phase(2), phase(3)).frozen

    def test_the_right_split_does_not(self) -> None:
        assert not self.split(0.5, phase()).frozen

    def test_units_that_come_back_after_a_ramp_are_no_mismatch(self) -> None:
        """All of phase 1 come again in phase 2, and nobody new: their arms are 90:10 no more."""
        chance = numpy.random.default_rng(5)
        place = chance.random(20_000)
        arm = numpy.concatenate([place > 0.9, place > 0.5]).astype(int)
        traffic = Traffic(numpy.repeat([1, 2], 20_000), arm, numpy.tile(numpy.arange(20_000), 2))
        found = report(traffic, phase(1, (0.9, 0.1)), phase(2, (0.5, 0.5)))
        assert not found.frozen

    def test_a_unit_in_an_arm_that_was_out_freezes(self) -> None:
        found = report(Traffic(2, [0, 0, 1]), phase(1), phase(2, out=["v2"]))
        assert found.frozen
        assert found.as_json()["sample_ratio_log_e"] is None


class TestGuardrails:
    """A limit of 5 % errors."""

    PHASE = phase(design=design(guardrails=["error<=5%"]))

    def units_until_broken(self, rate: float, seed: int) -> int:
        """Return after how many of the arm's units the report said so, 200 where it did not."""
        chance = numpy.random.default_rng([6, seed])
        bad = (chance.random(400) < rate).astype(float)
        arm = numpy.tile([0, 1], 200)
        for seen in range(5, 201, 5):
            cut = slice(0, 2 * seen)
            found = report(Traffic(1, arm[cut], outcomes={ERROR: bad[cut]}), self.PHASE)
            if found.verdict.kind == "breached":
                assert found.verdict.arm == "v2"
                return seen
        return 200

    def test_a_true_15_percent_is_found_as_soon_as_promised(self) -> None:
        assert median(self.units_until_broken(0.15, seed) for seed in range(30)) <= 75

    def test_a_sound_arm_stays(self) -> None:
        broken = sum(self.units_until_broken(0.05, seed) < 200 for seed in range(30))
        assert broken <= at_most(30, ALPHA)

    def test_one_unit_that_always_fails_is_one_unit(self) -> None:
        arm = numpy.tile([0, 1], 100)
        errors = numpy.where(numpy.arange(200) == 1, 500, 0)
        served = numpy.where(numpy.arange(200) == 1, 500, 1)
        traffic = Traffic(1, arm, outcomes={ERROR: errors}, counts={ERROR: served})
        (guard,) = report(traffic, self.PHASE).guards
        assert guard.value == pytest.approx(0.01)
        assert not guard.breached
        assert guard.log_e == pytest.approx(float(log_e_above(1, 99, 0.05)))

    def test_several_guardrails_share_alpha(self) -> None:
        plan = design(guardrails=["error<=5%", "latency_ms:mean:margin=50"])
        found = report(Traffic(1, [0, 1]), phase(design=plan)).guards
        assert [guard.threshold for guard in found] == [pytest.approx(numpy.log(2 / ALPHA))] * 2

    def test_one_unit_that_fails_half_the_time_is_half_a_failure(self) -> None:
        arm = numpy.tile([0, 1], 10)
        errors = numpy.where(arm == 1, 4, 0)
        traffic = Traffic(1, arm, outcomes={ERROR: errors}, counts={ERROR: 8 + 0 * arm})
        (guard,) = report(traffic, self.PHASE).guards
        assert guard.value == 0.5
        assert guard.log_e == pytest.approx(float(log_e_above(5, 5, 0.05)))

    @pytest.mark.parametrize(
        ("written", "better", "broken"),
        [
            ("latency_ms:mean:margin=50", 0.0, True),
            ("latency_ms:mean:margin=200", 0.0, False),
            ("solved:margin=0.05", -0.2, True),
            ("solved:margin=0.05", 0.2, False),
        ],
    )
    def test_a_margin_is_of_the_bad_direction(
        self, written: str, better: float, broken: bool
    ) -> None:
        chance = numpy.random.default_rng(7)
        arm = chance.integers(0, 2, 3_000)
        outcomes = {
            Measure("latency_ms"): 500 + 100 * arm + chance.normal(0, 100, 3_000),
            SOLVED: chance.random(3_000) < 0.5 + better * arm,
        }
        plan = design(guardrails=[written])
        (guard,) = report(Traffic(1, arm, outcomes=outcomes), phase(design=plan)).guards
        assert guard.breached is broken

    def test_a_margin_of_preferences(self) -> None:
        arm = numpy.ones(100, int)
        lost = (numpy.arange(100) % 4 > 0).astype(float)
        votes = {"win": 1 - lost, "loss": lost, "tie": 0 * lost}
        outcomes = {Measure("liked", label=label): each for label, each in votes.items()}
        for margin, broken in ((0.1, True), (0.5, False), (1.5, False)):
            plan = design(guardrails=[f"liked:preference:margin={margin}"])
            (guard,) = report(Traffic(1, arm, outcomes=outcomes), phase(design=plan)).guards
            assert guard.value == 0.5
            assert guard.breached is broken
