"""Which method answers, and that its numbers are those of others on the same outcomes."""

from __future__ import annotations

import itertools
import math

import numpy
import pytest
from scipy import stats
from scipy.integrate import quad

from serve.experiments.analysis.report import Comparison, Report
from serve.experiments.statistics import blocks, guardrails
from serve.experiments.store.base import Measure
from tests.serve.experiments.analysis.traffic import SOLVED, Traffic, design, phase, report

COST = Measure("cost")
VOTES = {label: Measure("preferred", label=label) for label in ("win", "loss", "tie")}
ALPHA, PLANNED = 0.05, 5000


def only(found: Report) -> Comparison:
    (comparison,) = found.comparisons
    return comparison


def check_sequence(
    found: Comparison, units: int, value: float, error: float, alpha: float = ALPHA
) -> None:
    """GrowthBook's closed form, from a standard error that somebody else computed."""
    rho2 = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / PLANNED
    nr = units * rho2
    half = (
        error
        * math.sqrt(units)
        * math.sqrt(2 * (nr + 1) / (units * nr) * math.log(math.sqrt(nr + 1) / alpha))
    )
    assert found.value == pytest.approx(value, rel=1e-9)
    assert found.low == pytest.approx(value - half, rel=1e-9)
    assert found.high == pytest.approx(value + half, rel=1e-9)
    z = value / error
    assert found.log_e == pytest.approx(nr * z**2 / (2 * (nr + 1)) - math.log(nr + 1) / 2, rel=1e-9)


class TestOutsideReferences:
    """SciPy, and textbook formulas written out."""

    def test_one_response_each_is_welch(self) -> None:
        chance = numpy.random.default_rng(1)
        arm = chance.integers(0, 2, 3_000)
        y = (chance.random(3_000) < 0.3 + 0.05 * arm).astype(float)
        found = only(report(Traffic(1, arm, outcomes={SOLVED: y}), phase(design=design("solved"))))
        welch = stats.ttest_ind(y[arm == 1], y[arm == 0], equal_var=False)
        value = y[arm == 1].mean() - y[arm == 0].mean()
        check_sequence(found, 3_000, value, value / welch.statistic)
        assert found.method == "difference"

    def test_many_responses_each_are_least_squares_clustered_by_unit(self) -> None:
        """The sandwich of y ~ 1 + arm over single responses, unit by unit."""
        chance = numpy.random.default_rng(2)
        units = 800
        arm = numpy.arange(units) % 2
        seen = chance.integers(1, 12, units)
        rate = chance.beta(2, 3, units)
        solved = chance.binomial(seen, rate).astype(float)
        traffic = Traffic(1, arm, outcomes={SOLVED: solved}, counts={SOLVED: seen})
        found = only(report(traffic, phase(design=design("solved"))))

        who = numpy.repeat(numpy.arange(units), seen)
        y = numpy.concatenate(
            [[1.0] * int(s) + [0.0] * int(n - s) for s, n in zip(solved, seen, strict=True)]
        )
        x = numpy.stack([numpy.ones(len(y)), arm[who]], axis=1)
        bread = numpy.linalg.inv(x.T @ x)
        slopes = bread @ x.T @ y
        scores = numpy.stack(
            [numpy.bincount(who, (y - x @ slopes) * column) for column in x.T], axis=1
        )
        sandwich = bread @ scores.T @ scores @ bread
        half = units // 2
        error = math.sqrt(sandwich[1, 1] * half / (half - 1))
        check_sequence(found, units, slopes[1], error)

    def test_statsmodels_says_the_same(self) -> None:
        """Numbers of statsmodels 0.15.0 on these outcomes; its sandwich has no n/(n − 1)."""
        i = numpy.arange(400)
        arm, place = i % 2, i * 37 % 11
        once = (place + arm > 6).astype(float)
        found = only(
            report(Traffic(1, arm, outcomes={SOLVED: once}), phase(design=design("solved")))
        )
        # CompareMeans(DescrStatsW(arm), DescrStatsW(control)).std_meandiff_separatevar
        check_sequence(found, 400, 0.085, 0.0490756261847685)

        seen = 1 + i * i % 7
        solved = numpy.floor(seen * (3 + place + arm) / 16)
        traffic = Traffic(1, arm, outcomes={SOLVED: solved}, counts={SOLVED: seen})
        found = only(report(traffic, phase(design=design("solved"))))
        # OLS(y, [1, arm]).fit(cov_type="cluster", groups=unit, use_correction=False)
        clustered = 0.026258534103791413 * math.sqrt(200 / 199)
        check_sequence(found, 400, 0.050083472454089714, clustered)

    def test_several_arms_share_alpha(self) -> None:
        chance = numpy.random.default_rng(5)
        arm = chance.integers(0, 3, 3_000)
        y = (chance.random(3_000) < 0.3).astype(float)
        traffic, thirds = Traffic(1, arm, outcomes={SOLVED: y}), (1 / 3, 1 / 3, 1 / 3)
        found = report(traffic, phase(shares=thirds, design=design("solved"))).comparisons[1]
        welch = stats.ttest_ind(y[arm == 2], y[arm == 0], equal_var=False)
        value = y[arm == 2].mean() - y[arm == 0].mean()
        units = int((arm != 1).sum())
        check_sequence(found, units, value, value / welch.statistic, alpha=ALPHA / 2)

    def test_units_without_an_outcome_change_nothing(self) -> None:
        chance = numpy.random.default_rng(6)
        arm, solved = chance.integers(0, 2, 2_000), chance.random(2_000) < 0.3
        silent = chance.random(2_000) < 0.7
        told = Traffic(1, arm, outcomes={SOLVED: numpy.where(silent, numpy.nan, solved)})
        alone = Traffic(1, arm[~silent], outcomes={SOLVED: solved[~silent]})
        plan = phase(design=design("solved"))
        assert report(told, plan).comparisons == report(alone, plan).comparisons

    def test_a_ratio_is_the_delta_method(self) -> None:
        chance = numpy.random.default_rng(3)
        arm = chance.integers(0, 2, 1_000)
        solved = chance.poisson(2, 1_000).astype(float)
        cost = solved * 3 + chance.exponential(2, 1_000)
        traffic = Traffic(1, arm, outcomes={SOLVED: solved, COST: cost})
        found = only(report(traffic, phase(design=design("cost/solved"))))
        ratios, squares = [], 0.0
        for side in (0, 1):
            x, d = cost[arm == side], solved[arm == side]
            ratio = x.mean() / d.mean()
            (vx, vxd), (_, vd) = numpy.cov(x, d)
            squares += (vx - 2 * ratio * vxd + ratio**2 * vd) / (len(x) * d.mean() ** 2)
            ratios.append(ratio)
        check_sequence(found, 1_000, ratios[1] - ratios[0], math.sqrt(squares))

    def test_changed_shares_are_weighted_by_hand(self) -> None:
        chance = numpy.random.default_rng(4)
        number = numpy.repeat([1, 2], 600)
        share = numpy.where(number == 1, 0.2, 0.5)
        arm = (chance.random(1_200) < share).astype(int)
        y = (chance.random(1_200) < 0.4).astype(float)
        plan = design("solved")
        found = only(
            report(
                Traffic(number, arm, outcomes={SOLVED: y}),
                phase(1, (0.8, 0.2), plan),
                phase(2, (0.5, 0.5), plan),
            )
        )
        weighted, weights = [], []
        for i in range(1_200):
            past = y[:i].mean() if i else y[0]
            h = 1 / (1 / share[i] + 1 / (1 - share[i]))
            psi = (y[i] - past) * (1 / share[i] if arm[i] else -1 / (1 - share[i]))
            weighted.append(h * psi)
            weights.append(h)
        assert found.method == "propensities"
        assert found.value == pytest.approx(sum(weighted) / sum(weights), rel=1e-9)

    def test_preferences_are_a_mixture_of_coins(self) -> None:
        """A unit votes once, whatever it posts: 30 units win, 12 lose, 5 are undecided."""
        wins = numpy.array([3.0] * 20 + [1.0] * 10 + [0.0] * 12 + [1.0] * 5)
        losses = numpy.array([0.0] * 30 + [2.0] * 12 + [1.0] * 5)
        arm = numpy.append(numpy.ones(47, int), numpy.zeros(3, int))
        votes = {"win": wins, "loss": losses, "tie": numpy.zeros(47)}
        traffic = Traffic(
            1, arm, outcomes={VOTES[k]: numpy.append(v, [0.0] * 3) for k, v in votes.items()}
        )
        found = only(report(traffic, phase(design=design("preferred:preference"))))
        mixture, _ = quad(lambda p: p**30 * (1 - p) ** 12 * stats.beta.pdf(p, 0.5, 0.5), 0, 1)
        assert found.method == "preferences"
        assert found.log_e == pytest.approx(math.log(mixture * 2**42), rel=1e-6)
        assert found.value == pytest.approx(18 / 42)
        assert found.low is not None
        assert found.low < 18 / 42 < (found.high or 0)


class TestTheExactMethod:
    """Pairs of units that were measured."""

    def test_the_i_th_measured_of_one_meets_the_i_th_of_the_other(self) -> None:
        arm = numpy.array([0, 0, 1, 0, 1, 1, 1])
        solved = numpy.array([1, math.nan, 0, 0, 1, math.nan, 1])
        found = only(
            report(
                Traffic(1, arm, outcomes={SOLVED: solved}),
                phase(design=design("solved", method="exact")),
            )
        )
        assert found.method == "blocks"
        assert found.log_e == pytest.approx(float(blocks.log_e([1, 0], [0, 1])[-1]))
        assert found.value == 0
        assert found.waiting == ""

    def test_a_mean_is_bounded_and_what_is_not_is_told(self) -> None:
        arm = numpy.tile([0, 1], 100)
        plan = design("solved:mean", method="exact")
        found = only(report(Traffic(1, arm, outcomes={SOLVED: arm * 0.8}), phase(design=plan)))
        assert found.method == "bounded"
        assert found.decided == "better"
        assert (found.low or 0) > 0
        stars = report(Traffic(1, arm, outcomes={SOLVED: arm * 4.0}), phase(design=plan))
        assert only(stars).log_e == 0
        assert "not between 0 and 1" in stars.verdict.said

    def test_pairs_are_of_phases_with_equal_shares(self) -> None:
        """Once v3 is out its units get the control: no pair of v1 and v2 is of one time then."""
        arm = numpy.array([0, 1, 0, 0, 1])
        plan, thirds = design("solved", method="exact"), (1 / 3, 1 / 3, 1 / 3)
        found = report(
            Traffic([1, 1, 2, 2, 2], arm, outcomes={SOLVED: numpy.array([0, 1, 0, 1, 1])}),
            phase(1, thirds, plan),
            phase(2, thirds, plan, out=["v3"]),
        )
        assert found.comparisons[0].log_e == pytest.approx(float(blocks.log_e([0], [1])[-1]))


class TestSharesOfAUnitForAnOutcome:
    """A unit's share of its responses, where an e-process is written for 0 and 1: E's mean is
    still at most 1, of every distribution, added up over all outcomes."""

    POINTS = (0.0, 0.3, 1.0)

    @pytest.mark.parametrize("chances", [(0.9, 0.05, 0.05), (0.5, 0.3, 0.2), (0.0, 1.0, 0.0)])
    def test_guardrails(self, chances: tuple[float, ...]) -> None:
        limit = float(numpy.dot(self.POINTS, chances))
        total = 0.0
        for drawn in itertools.product(range(3), repeat=6):
            share = numpy.array([self.POINTS[i] for i in drawn])
            log_e = guardrails.log_e_above(share.sum(), (1 - share).sum(), limit)
            total += math.prod(chances[i] for i in drawn) * math.exp(log_e)
        assert total <= 1 + 1e-9
        assert total > 0.05

    @pytest.mark.parametrize("chances", [(0.9, 0.05, 0.05), (0.5, 0.3, 0.2), (0.0, 1.0, 0.0)])
    def test_blocks(self, chances: tuple[float, ...]) -> None:
        total = 0.0
        for drawn in itertools.product(range(3), repeat=6):
            outcome = [self.POINTS[i] for i in drawn]
            log_e = float(blocks.log_e(outcome[:3], outcome[3:])[-1])
            total += math.prod(chances[i] for i in drawn) * math.exp(log_e)
        assert total <= 1 + 1e-9
        assert total > 0.5


@pytest.mark.parametrize(
    ("written", "method", "shares", "expected"),
    [
        ("solved", "asymptotic", 0.5, "difference"),
        ("solved", "asymptotic", 0.3, "propensities"),
        ("solved", "exact", 0.5, "blocks"),
        ("solved:mean", "exact", 0.5, "bounded"),
        ("cost/solved", "asymptotic", 0.3, "propensities"),
        ("preferred:preference", "asymptotic", 0.3, "preferences"),
    ],
)
def test_the_case_chooses(written: str, method: str, shares: float, expected: str) -> None:
    plan = design(written, method=method)
    found = report(
        Traffic([1, 1, 2, 2], [0, 1, 0, 1]),
        phase(1, (0.5, 0.5), plan),
        phase(2, (1 - shares, shares), plan),
    )
    assert only(found).method == expected


def test_a_later_split_that_nobody_has_met_changes_no_method() -> None:
    plan = design("solved")
    found = report(Traffic([1, 1], [0, 1]), phase(1, (0.5, 0.5), plan), phase(2, (0.9, 0.1), plan))
    assert only(found).method == "difference"
