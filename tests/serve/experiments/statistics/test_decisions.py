"""What is shown, shared out and claimed: posteriors, bandits, several questions at once."""

from __future__ import annotations

import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import betaln
from scipy.stats import beta, norm

from adapters.errors import UsageError
from serve.experiments.statistics import bandit, multiplicity, posterior

counts = st.integers(0, 300)


class TestPosterior:
    """Arms beside each other."""

    @given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
    def test_two_rates_in_closed_form(self, s: int, f: int, t: int, g: int) -> None:
        """P(p_B > p_A), a finite sum for whole parameters (Miller 2014, "Bayesian A/B testing")."""
        a, b, c, d = s + 1, f + 1, t + 1, g + 1
        exact = sum(
            math.exp(betaln(a + i, b + d) - math.log(d + i) - betaln(1 + i, d) - betaln(a, b))
            for i in range(c)
        )
        standing = posterior.compare([posterior.rate(s, f), posterior.rate(t, g)])
        assert standing.best[1] == pytest.approx(exact, abs=1e-4)

    @given(st.lists(st.tuples(counts, counts), min_size=2, max_size=5))
    def test_somebody_is_best_and_nobody_loses_less_than_nothing(
        self, arms: list[tuple[int, int]]
    ) -> None:
        standing = posterior.compare([posterior.rate(s, f) for s, f in arms])
        assert standing.best.sum() == pytest.approx(1)
        assert (standing.loss >= 0).all()

    @given(st.lists(st.tuples(counts, counts), min_size=2, max_size=4))
    def test_the_order_of_arms_does_not_matter(self, arms: list[tuple[int, int]]) -> None:
        rates = [posterior.rate(s, f) for s, f in arms]
        one, other = posterior.compare(rates), posterior.compare(rates[::-1])
        assert one.best.tolist() == pytest.approx(other.best[::-1].tolist(), abs=1e-9)
        assert one.loss.tolist() == pytest.approx(other.loss[::-1].tolist(), abs=1e-9)

    @given(st.floats(-3, 3), st.floats(0.5, 2), st.floats(-3, 3), st.floats(0.5, 2))
    def test_two_normals_in_closed_form(self, m: float, s: float, k: float, t: float) -> None:
        standing = posterior.compare([posterior.normal(m, s), posterior.normal(k, t)])
        both = math.hypot(s, t)
        ahead = (k - m) / both
        assert standing.best[1] == pytest.approx(norm.cdf(ahead), abs=1e-4)
        lost = both * (norm.pdf(ahead) + ahead * norm.cdf(ahead))  # E[max(θ_B − θ_A, 0)]
        assert standing.loss[0] == pytest.approx(lost, abs=1e-3)

    def test_three_rates_by_quadrature(self) -> None:
        arms = [(30, 70), (36, 64), (5, 9)]
        dists = [beta(1 + s, 1 + f) for s, f in arms]
        standing = posterior.compare(dists)
        for i, own in enumerate(dists):
            others = [d for j, d in enumerate(dists) if j != i]

            def inside(x: float, own=own, others=others) -> float:  # type: ignore[no-untyped-def]
                return float(own.pdf(x) * numpy.prod([d.cdf(x) for d in others]))

            assert standing.best[i] == pytest.approx(quad(inside, 0, 1, limit=200)[0], abs=1e-5)

    def test_lower_can_be_better(self) -> None:
        slow, fast = posterior.normal(900, 20), posterior.normal(800, 20)
        standing = posterior.compare([slow, fast], lower_is_better=True)
        assert standing.best[1] > 0.99
        assert standing.loss[0] == pytest.approx(100, rel=0.01)
        mirrored = posterior.compare([posterior.normal(-900, 20), posterior.normal(-800, 20)])
        assert standing.best.tolist() == pytest.approx(mirrored.best.tolist())
        assert standing.loss.tolist() == pytest.approx(mirrored.loss.tolist(), abs=1e-9)


class TestBandit:
    """Top-two Thompson sampling."""

    beliefs = st.lists(st.floats(0, 1), min_size=2, max_size=6).filter(lambda a: sum(a) > 0.1)

    @given(beliefs)
    def test_everybody_gets_the_floor_and_all_is_shared_out(self, best: list[float]) -> None:
        shares = bandit.shares(best)
        assert shares.sum() == pytest.approx(1)
        assert (shares >= 0.05 - 1e-12).all()

    @given(beliefs)
    def test_who_is_likelier_best_gets_no_less(self, best: list[float]) -> None:
        shares = bandit.shares(best)
        order = numpy.argsort(best)
        assert (numpy.diff(shares[order]) >= -1e-9).all()

    @pytest.mark.parametrize("best", [(0.6, 0.3, 0.1), (0.5, 0.5), (0.97, 0.02, 0.005, 0.005)])
    def test_as_played(self, best: tuple[float, ...]) -> None:
        """By drawing: a best arm; half of the time it, else draws until it is another."""
        chance, runs = numpy.random.default_rng(11), 200_000
        leads = chance.choice(len(best), size=runs, p=best)
        played = leads.copy()
        again = chance.random(runs) < 0.5
        while again.any():
            played[again] = chance.choice(len(best), size=int(again.sum()), p=best)
            again &= played == leads
        seen = numpy.bincount(played, minlength=len(best)) / runs
        floored = 0.05 + (1 - 0.05 * len(best)) * seen
        error = 4.9 * math.sqrt(0.25 / runs)
        assert bandit.shares(best).tolist() == pytest.approx(floored.tolist(), abs=error)

    def test_a_certain_winner_gets_half_and_the_rest_share(self) -> None:
        assert bandit.shares([1, 0, 0]).tolist() == pytest.approx([0.475, 0.2625, 0.2625])
        nearly = bandit.shares([1, 3e-300, 1e-300])
        assert nearly.tolist() == pytest.approx([0.475, 0.36875, 0.15625])

    @pytest.mark.parametrize("floor", [0.0, 0.049, 0.51, float("nan")])
    def test_an_impossible_floor_is_refused(self, floor: float) -> None:
        with pytest.raises(UsageError, match="floor"):
            bandit.shares([0.5, 0.5], floor=floor)


class TestMultiplicity:
    """Several nulls."""

    def test_each_of_m_questions_needs_m_times_the_evidence(self) -> None:
        assert multiplicity.threshold(0.05) == pytest.approx(math.log(20))
        assert multiplicity.threshold(0.05, 3) == pytest.approx(math.log(60))

    def test_as_ville_has_it(self) -> None:
        """Values of ville 0.1.0, `ebh(e, alpha=0.05)`."""
        found = multiplicity.discoveries(numpy.log([300, 1, 45, 20, 200, 0.1, 70]), 0.05)
        assert found.tolist() == [True, False, True, False, True, False, True]

    @given(st.lists(st.floats(-5, 12), min_size=1, max_size=8))
    def test_as_defined(self, evidence: list[float]) -> None:
        m, ranked = len(evidence), sorted(evidence, reverse=True)
        most = max(
            (k for k in range(1, m + 1) if ranked[k - 1] >= math.log(m / 0.05) - math.log(k)),
            default=0,
        )
        found = multiplicity.discoveries(evidence, 0.05)
        assert found.sum() == most
        assert sorted(numpy.array(evidence)[found], reverse=True) == ranked[:most]

    @given(st.lists(st.floats(-5, 12), min_size=1, max_size=8))
    def test_what_all_together_need_is_found(self, evidence: list[float]) -> None:
        alone = numpy.asarray(evidence) >= multiplicity.threshold(0.05, len(evidence))
        assert (multiplicity.discoveries(evidence, 0.05) >= alone).all()

    def test_looks_are_answered_side_by_side(self) -> None:
        looks = numpy.array([[0.0, 5.0, 1.0], [9.0, 4.0, 4.0], [0.0, 0.0, 0.0]])
        found = multiplicity.discoveries(looks, 0.05)
        slowly = [multiplicity.discoveries(look, 0.05).tolist() for look in looks]
        assert found.tolist() == slowly == [[False, True, False], [True] * 3, [False] * 3]
