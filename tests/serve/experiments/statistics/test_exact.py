"""Exact e-processes: no null gives them a mean above 1; all outcomes are added up to see it."""

from __future__ import annotations

import itertools
import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import beta as beta_function
from scipy.stats import binom, multinomial

from adapters.errors import UsageError
from serve.experiments.statistics import blocks, bounded, counts, guardrails, sample_ratio

ALPHA = 0.05
rates = st.floats(0.01, 0.99)
few = st.integers(0, 200)


def sequences(values: list[float], length: int) -> numpy.ndarray:
    """Return all sequences of these values: (values^length, length)."""
    return numpy.array(list(itertools.product(values, repeat=length)))


class TestBlocks:
    """Two rates by pairs."""

    @pytest.mark.parametrize("rate", [0.001, 0.03, 0.2, 0.5, 0.77, 0.999])
    def test_its_mean_is_at_most_1_under_any_common_rate(self, rate: float) -> None:
        every = sequences([0, 1], 10)
        a, b = every[:, :5], every[:, 5:]
        chance = numpy.where(every == 1, rate, 1 - rate).prod(axis=1)
        for evidence in numpy.exp(blocks.log_e(a, b)).T:
            assert chance @ evidence <= 1 + 1e-12

    def test_its_mean_is_at_most_1_where_the_common_rate_moves(self) -> None:
        moving = numpy.array([0.9, 0.1, 0.5, 0.02, 0.7])
        every = sequences([0, 1], 10)
        both = numpy.tile(moving, 2)
        chance = numpy.where(every == 1, both, 1 - both).prod(axis=1)
        assert chance @ numpy.exp(blocks.log_e(every[:, :5], every[:, 5:])[:, -1]) <= 1 + 1e-12

    @given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20))
    def test_as_computed_pair_by_pair(self, pairs: list[tuple[bool, bool]]) -> None:
        evidence, expected = 1.0, []
        seen, won = 0, [0, 0]
        for pair in pairs:
            theta = [(0.18 + wins) / (0.36 + seen) for wins in won]
            common = sum(theta) / 2
            for y, p in zip(pair, theta, strict=True):
                evidence *= (p if y else 1 - p) / (common if y else 1 - common)
            expected.append(evidence)
            seen, won = seen + 1, [wins + y for wins, y in zip(won, pair, strict=True)]
        found = numpy.exp(blocks.log_e(*numpy.array(pairs, float).T))
        assert found.tolist() == pytest.approx(expected)

    @given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
    def test_neither_arm_nor_outcome_has_a_side(self, pairs: list[tuple[bool, bool]]) -> None:
        a, b = numpy.array(pairs, float).T
        found = blocks.log_e(a, b).tolist()
        assert blocks.log_e(b, a).tolist() == pytest.approx(found, abs=1e-9)
        assert blocks.log_e(1 - a, 1 - b).tolist() == pytest.approx(found, abs=1e-9)


class TestBounded:
    """Means in [0, 1] by betting."""

    @pytest.mark.parametrize("chance", [(0.2, 0.3, 0.5), (0.9, 0.0, 0.1), (0.0, 0.05, 0.95)])
    def test_its_mean_is_at_most_1_at_the_true_mean(self, chance: tuple[float, ...]) -> None:
        values = [0.0, 0.4, 1.0]
        mean = float(numpy.dot(values, chance))
        every = sequences(values, 6)
        weight = numpy.array(list(itertools.product(chance, repeat=6))).prod(axis=1)
        for evidence in numpy.exp(bounded.log_e(every, mean, ALPHA)).T:
            assert weight @ evidence <= 1 + 1e-12
        for m in (mean, (1 + mean) / 2):
            for evidence in numpy.exp(bounded.log_e_above(every, m, ALPHA)).T:
                assert weight @ evidence <= 1 + 1e-12

    @pytest.mark.parametrize(
        ("n", "low", "high"),
        [
            (5, 0.0, 0.78431),
            (10, 0.16277, 0.71087),
            (20, 0.24220, 0.61713),
            (40, 0.32163, 0.58203),
        ],
    )
    def test_as_ville_has_it(self, n: int, low: float, high: float) -> None:
        """Values of ville 0.1.0, `BettingCS(intersect=True, grid=100_001)`, widened to its grid."""
        y = (numpy.arange(40) * 7 % 13) / 13
        ends = bounded.interval(y[:n], ALPHA)
        assert [float(end) for end in ends] == pytest.approx([low, high], abs=2.1e-5)

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
    def test_as_computed_bet_by_bet(self, outcomes: list[float]) -> None:
        m, up, down, mean, dev = 0.4, 1.0, 1.0, 0.5, 0.25
        for t, x in enumerate(outcomes, start=1):
            variance = dev / t
            bet = math.sqrt(2 * math.log(2 / ALPHA) / (variance * t * math.log(1 + t)))
            up *= 1 + min(bet, 0.5 / m) * (x - m)
            down *= 1 - min(bet, 0.5 / (1 - m)) * (x - m)
            mean = (0.5 + sum(outcomes[:t])) / (t + 1)
            dev += (x - mean) ** 2
        found = bounded.log_e(outcomes, m, ALPHA)[-1]
        assert found == pytest.approx(math.log(max(up, down) / 2), abs=1e-9)

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.01, 0.99))
    def test_the_interval_holds_what_was_never_excluded(
        self, outcomes: list[float], m: float
    ) -> None:
        low, high = bounded.interval(outcomes, ALPHA)
        most = bounded.log_e(outcomes, m, ALPHA).max()
        if abs(most - math.log(1 / ALPHA)) > 1e-9:
            assert (low <= m <= high) == (most < math.log(1 / ALPHA))

    @given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
    def test_more_outcomes_never_widen_it(self, outcomes: list[float]) -> None:
        low, high = bounded.interval(outcomes[:-1], ALPHA)
        later = bounded.interval(outcomes, ALPHA)
        assert later[0] >= low - 1e-12
        assert later[1] <= high + 1e-12

    def test_runs_are_computed_side_by_side(self) -> None:
        y = numpy.random.default_rng(9).random((4, 30))
        low, high = bounded.interval(y, ALPHA)
        for run, alone in enumerate(y):
            ends = bounded.interval(alone, ALPHA)
            assert (low[run], high[run]) == (float(ends[0]), float(ends[1]))

    def test_a_difference_of_pairs(self) -> None:
        chance = numpy.random.default_rng(10)
        a, b = chance.random(2000) * 0.5, 0.5 + chance.random(2000) * 0.5
        low, high = bounded.difference(a, b, ALPHA)
        assert -1 <= low < 0.5 < high <= 1
        assert low > 0.45
        assert bounded.difference(b, a, ALPHA)[0] == pytest.approx(-float(high))

    def test_nothing_is_known_of_nothing(self) -> None:
        assert bounded.interval([], ALPHA) == (0, 1)

    @pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
    def test_what_is_out_of_bounds_is_refused(self, value: float) -> None:
        with pytest.raises(UsageError, match="between 0 and 1"):
            bounded.log_e([0.5, value], 0.5, ALPHA)


class TestCounts:
    """One rate, and preferences."""

    @given(rates, st.integers(0, 60))
    def test_its_mean_is_1_at_the_true_rate(self, rate: float, n: int) -> None:
        s = numpy.arange(n + 1)
        evidence = numpy.exp(counts.log_e(s, n - s, rate))
        assert binom.pmf(s, n, rate) @ evidence == pytest.approx(1)

    @given(few, few)
    def test_preferences_by_the_formula(self, wins: int, losses: int) -> None:
        n = wins + losses
        expected = 2.0**n * beta_function(0.5 + wins, 0.5 + losses) / beta_function(0.5, 0.5)
        assert math.exp(counts.preferences(wins, losses)) == pytest.approx(expected, rel=1e-6)
        assert counts.preferences(wins, losses) == counts.preferences(losses, wins)

    def test_preferences_as_ville_has_them(self) -> None:
        """Values of ville 0.1.0, `BernoulliTest(0.5, prior=(0.5, 0.5))`."""
        assert counts.preferences(21, 0) == pytest.approx(12.4555128)
        assert counts.preferences(21, 9) == pytest.approx(0.532708464)

    @given(st.integers(1, 100), st.integers(0, 100))
    def test_evidence_grows_with_every_win_of_who_is_ahead(self, more: int, losses: int) -> None:
        ahead = losses + more
        assert counts.preferences(ahead + 1, losses) > counts.preferences(ahead, losses)

    @pytest.mark.parametrize(
        ("s", "n", "low", "high"),
        [
            (0, 10, 0.0, 0.3769873509906775),
            (3, 10, 0.03251513978805888, 0.7475871099149967),
            (50, 100, 0.3382575526457916, 0.6617424473542086),
            (7, 1000, 0.001175612790119338, 0.021397681646893985),
        ],
    )
    def test_the_interval_as_ville_has_it(self, s: int, n: int, low: float, high: float) -> None:
        """Values of ville 0.1.0, `BernoulliCS(prior=(0.5, 0.5), intersect=False)`."""
        ends = counts.interval(s, n - s, ALPHA)
        assert [float(end) for end in ends] == pytest.approx([low, high], abs=1e-9)

    @given(few, few, rates)
    def test_the_interval_holds_what_is_not_excluded(self, s: int, f: int, rate: float) -> None:
        low, high = counts.interval(s, f, ALPHA)
        evidence = counts.log_e(s, f, rate)
        if abs(evidence - math.log(1 / ALPHA)) > 1e-9:
            assert (low <= rate <= high) == (evidence < math.log(1 / ALPHA))

    def test_nothing_is_known_of_nothing(self) -> None:
        assert counts.interval(0, 0, ALPHA) == (0, 1)


def stopped(rate: float, n: int) -> list[float]:
    """Return the probability of having been stopped by each outcome, a limit of 5 % at α."""
    going, by_now, each = numpy.zeros(n + 2), 0.0, []
    going[0] = 1
    for seen in range(1, n + 1):
        going[1:] = going[1:] * (1 - rate) + going[:-1] * rate
        going[0] *= 1 - rate
        bad = numpy.arange(seen + 1)
        over = guardrails.log_e_above(bad, seen - bad, 0.05) >= math.log(1 / ALPHA)
        by_now += float(going[: seen + 1][over].sum())
        going[: seen + 1][over] = 0
        each.append(by_now)
    return each


class TestGuardrails:
    """A rate against a limit."""

    @given(st.floats(0.01, 0.9), st.just(0.0) | st.floats(1e-9, 1.0), st.integers(0, 60))
    def test_its_mean_is_at_most_1_at_any_rate_within(
        self, limit: float, part: float, n: int
    ) -> None:
        s = numpy.arange(n + 1)
        evidence = numpy.exp(guardrails.log_e_above(s, n - s, limit))
        assert binom.pmf(s, n, part * limit) @ evidence <= 1 + 1e-9
        assert binom.pmf(s, n, limit) @ evidence == pytest.approx(1)

    @given(few, few, st.floats(0.01, 0.9))
    def test_every_bad_outcome_adds_evidence(self, bad: int, good: int, limit: float) -> None:
        before = guardrails.log_e_above(bad, good, limit)
        assert guardrails.log_e_above(bad + 1, good, limit) > before or before == -math.inf

    @pytest.mark.parametrize(("bad", "good"), [(0, 0), (2, 1), (5, 60), (40, 200)])
    def test_it_is_the_integral(self, bad: int, good: int) -> None:
        """By the midpoint rule in θ, p = sin²θ, which makes Beta(½, ½) uniform."""
        limit = 0.05
        start, steps = math.asin(math.sqrt(limit)), 200_000
        theta = start + (numpy.arange(steps) + 0.5) * (math.pi / 2 - start) / steps
        p = numpy.sin(theta) ** 2
        ratio = (p / limit) ** bad * ((1 - p) / (1 - limit)) ** good
        found = math.exp(guardrails.log_e_above(bad, good, limit))
        assert found == pytest.approx(ratio.mean(), rel=1e-6)

    def test_how_soon_it_stops_three_times_the_limit(self) -> None:
        """Exactly: the chances of all counts that were not stopped, carried from one to the next.

        A true 15 % against 5 %: half of all within 57 outcomes. Of arms at the limit itself 1.7 %
        are stopped within 600.
        """
        assert stopped(0.15, 56)[-1] < 0.5 <= stopped(0.15, 57)[-1]
        assert stopped(0.15, 400)[-1] > 0.999
        assert stopped(0.05, 600)[-1] == pytest.approx(0.0174, abs=1e-4)

    def test_far_below_the_limit_there_is_no_evidence_and_no_warning(self) -> None:
        assert guardrails.log_e_above(10, 10**6, 0.05) == -math.inf


class TestSampleRatio:
    """Counts against shares."""

    @pytest.mark.parametrize("weights", [(1, 1), (90, 10), (1, 2, 3)])
    def test_its_mean_is_1_under_the_shares(self, weights: tuple[int, ...]) -> None:
        n = 30
        every = numpy.array(
            [c for c in itertools.product(range(n + 1), repeat=len(weights)) if sum(c) == n]
        )
        shares = numpy.array(weights) / sum(weights)
        chance = multinomial.pmf(every, n, shares)
        assert chance @ numpy.exp(sample_ratio.log_e(every, weights)) == pytest.approx(1)

    @pytest.mark.parametrize(
        ("seen", "weights", "expected"),
        [
            ((5100, 4900), (1, 1), -0.3295119015238015),
            ((620, 320), (2, 1), -1.0823854866017655),
            ((30, 40, 50), (2, 3, 5), 0.14088073740254003),
        ],
    )
    def test_as_ssrm_test_has_it(
        self, seen: tuple[int, ...], weights: tuple[int, ...], expected: float
    ) -> None:
        """Values of ssrm-test 0.1.5 (the authors'), concentration 100."""
        assert sample_ratio.log_e(seen, weights) == pytest.approx(expected, abs=1e-9)

    @given(st.lists(few, min_size=2, max_size=5), st.randoms(use_true_random=False))
    def test_the_order_of_arms_does_not_matter(self, seen: list[int], chance: object) -> None:
        weights = list(range(1, len(seen) + 1))
        order = list(range(len(seen)))
        chance.shuffle(order)  # type: ignore[attr-defined]
        one = sample_ratio.log_e(seen, weights)
        other = sample_ratio.log_e([seen[i] for i in order], [weights[i] for i in order])
        assert one == pytest.approx(float(other), abs=1e-9)

    def test_51_to_49_is_found_and_50_to_50_is_not(self) -> None:
        n = 100_000
        assert sample_ratio.log_e([0.51 * n, 0.49 * n], [1, 1]) > sample_ratio.FROZEN_AT
        assert sample_ratio.log_e([0.5 * n, 0.5 * n], [1, 1]) < 0
