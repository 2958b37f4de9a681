"""Asymptotic confidence sequences: as published, and silent while they know little."""

from __future__ import annotations

import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from serve.experiments.statistics import sequences
from serve.experiments.statistics.estimates import Estimate, difference, proportion

ALPHA = 0.05
effects = st.floats(-1, 1)
variances = st.floats(1e-4, 1e4)
sizes = st.integers(200, 10**6)


def known(units: float, value: float, variance: float) -> Estimate:
    fields = (units, value, variance, units / 2, units / 2)
    return Estimate(*(numpy.asarray(each, float) for each in fields))


def moments(n: int, total: float, squares: float) -> Estimate:
    fields = (n, total / n, (squares - total**2 / n) / (n - 1), n, n / 3)
    return Estimate(*(numpy.asarray(each, float) for each in fields))


def rate(s: int, n: int) -> Estimate:
    """A proportion with the variance p(1 − p), where `proportion` has n/(n − 1) of it."""
    return known(n, s / n, s / n * (1 - s / n))


MEANS = difference(moments(3407, 1396.87, 52377.9767), moments(3461, 2422.7, 134698.29))
RATES = difference(rate(300, 1000), rate(350, 1001))


@pytest.mark.parametrize(
    ("found", "alpha", "planned", "low", "high", "p"),
    [
        (MEANS, 0.05, 5000, -0.08941009553834556, 0.6694100955383455, 0.290744559185973),
        (MEANS, 0.05, 600, -0.1167879701765549, 0.6967879701765549, 0.6629211716379726),
        (RATES, 0.05, 5000, -0.01566113118222366, 0.11496183048292295, 0.2393975793234772),
        (RATES, 0.01, 5000, -0.026616208859599796, 0.1259169081602991, 0.23349089187058908),
    ],
)
def test_as_growthbook_has_it(
    found: Estimate, alpha: float, planned: int, low: float, high: float, p: float
) -> None:
    """Values of gbstats 0.8.0, `SequentialTwoSidedTTest`."""
    ends = sequences.interval(found, alpha, planned=planned)
    assert [float(end) for end in ends] == pytest.approx([low, high])
    assert math.exp(-float(sequences.log_e(found, alpha, planned=planned))) == pytest.approx(p)


@pytest.mark.parametrize(
    ("n", "bound"),
    [
        (200, 0.31821741165845396),
        (1000, 0.09521439734909146),
        (5000, 0.039148197481181486),
        (20000, 0.02044432651725915),
    ],
)
def test_one_side_as_ville_has_it(n: int, bound: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of ville 0.1.0, `normal_mixture(n, 0.05, 1/ρ², one_sided=True) / n` at ρ² = 0.0016."""
    monkeypatch.setattr(sequences, "tuned", lambda alpha, planned: 0.0016)
    assert -float(sequences.lower(known(n, 0, 1), ALPHA)) == pytest.approx(bound, rel=1e-6)


@pytest.mark.parametrize(
    ("n", "mean", "evidence"), [(200, 37 / 650, 2.10162148), (300, 0.06, 4.25598686)]
)
def test_with_a_known_variance_it_is_the_msprt(
    n: int, mean: float, evidence: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values of ville 0.1.0, `MSPRT(sigma=0.3, tau=0.06)`: τ = σρ."""
    monkeypatch.setattr(sequences, "tuned", lambda alpha, planned: (0.06 / 0.3) ** 2)
    assert float(sequences.log_e(known(n, mean, 0.3**2), ALPHA)) == pytest.approx(evidence)


@pytest.mark.parametrize("value", [-0.05, 0.0, 0.02, 0.2])
def test_evidence_is_the_mixture_of_likelihood_ratios(value: float) -> None:
    """By quadrature over the effects δ ~ N(0, σ²ρ²): of both signs, and of positive ones alone."""
    n, variance = 400, 0.2
    found = known(n, value, variance)

    def ratio(effect: float) -> float:
        return math.exp(n * (value * effect - effect**2 / 2) / variance)

    def mixed(alpha: float, low: float) -> float:
        width = math.sqrt(variance * sequences.tuned(alpha))
        area = quad(lambda d: ratio(d) * norm.pdf(d, 0, width), low, 12 * width, limit=200)[0]
        return math.log(area / norm.sf(low, 0, width))

    width = math.sqrt(variance * sequences.tuned(ALPHA))
    assert float(sequences.log_e(found, ALPHA)) == pytest.approx(
        mixed(ALPHA, -12 * width), abs=1e-6
    )
    above = float(sequences.log_e_above(found, ALPHA))
    assert above == pytest.approx(mixed(2 * ALPHA, 0), abs=1e-6)


@given(sizes, effects, variances, effects)
def test_the_interval_holds_what_the_evidence_does_not_exclude(
    n: int, value: float, variance: float, null: float
) -> None:
    found = known(n, value, variance)
    low, high = sequences.interval(found, ALPHA)
    evidence = float(sequences.log_e(found, ALPHA, null=null))
    if abs(evidence - math.log(1 / ALPHA)) > 1e-9:
        assert (low < null < high) == (evidence < math.log(1 / ALPHA))
    bound, above = sequences.lower(found, ALPHA), sequences.log_e_above(found, ALPHA, null=null)
    if abs(float(above) - math.log(1 / ALPHA)) > 1e-9:
        assert (bound < null) == (above < math.log(1 / ALPHA))


@given(sizes, effects, variances)
def test_one_side_is_narrower_than_two_and_than_the_published_closed_form(
    n: int, value: float, variance: float
) -> None:
    found = known(n, value, variance)
    bound = float(sequences.lower(found, ALPHA))
    rate = sequences.tuned(2 * ALPHA) * n
    factor = math.log(1 + math.sqrt(rate + 1) / (2 * ALPHA))
    half = math.sqrt(variance * 2 * (rate + 1) / (n * rate) * factor)
    assert value - half <= bound < value


@given(sizes, st.floats(0, 1), st.floats(0, 1), variances)
def test_evidence_grows_with_the_effect(n: int, a: float, b: float, variance: float) -> None:
    less, more = (known(n, value, variance) for value in sorted((a, b)))
    assert sequences.log_e(less, ALPHA) <= sequences.log_e(more, ALPHA)
    assert sequences.log_e_above(less, ALPHA) <= sequences.log_e_above(more, ALPHA)


@given(sizes, effects, variances, st.floats(1e-3, 1e3))
def test_evidence_knows_no_units_of_measurement(
    n: int, value: float, variance: float, scale: float
) -> None:
    one, other = known(n, value, variance), known(n, value * scale, variance * scale**2)
    assert sequences.log_e(one, ALPHA) == pytest.approx(
        float(sequences.log_e(other, ALPHA)), rel=1e-6
    )


def test_it_is_tuned_to_the_planned_size() -> None:
    """No other n* gives a half width at n that is smaller by more than the tuning is rounded."""
    found, planned = known(3000, 0, 1), range(1000, 9000, 500)
    halves = {n: float(sequences.interval(found, ALPHA, planned=n)[1]) for n in planned}
    assert min(halves.values()) >= 0.999 * halves[3000]


@pytest.mark.parametrize(
    ("control", "arm"),
    [
        (proportion(50, 500), proportion(45, 99)),  # 99 units
        (proportion(500, 1900), proportion(0, 100)),  # no event, so no variance
        (proportion(500, 1900), proportion(19, 1000)),  # 19 events
        (proportion(0, 0), proportion(0, 0)),
        (proportion(1000, 1000), proportion(0, 1000)),
    ],
)
def test_nothing_is_claimed_of_little(control: Estimate, arm: Estimate) -> None:
    found = difference(control, arm)
    assert sequences.log_e(found, ALPHA) == 0
    assert sequences.log_e_above(found, ALPHA, null=-1) == 0
    assert sequences.lower(found, ALPHA) == -math.inf
    low, high = sequences.interval(found, ALPHA)
    assert (low, high) == (-math.inf, math.inf)


def test_enough_is_a_hundred_units_and_twenty_events() -> None:
    assert sequences.log_e(difference(proportion(50, 100), proportion(22, 100)), ALPHA) > 0
    assert sequences.log_e(difference(proportion(500, 1900), proportion(21, 1000)), ALPHA) > 0


looks = st.lists(st.floats(-5, 20), min_size=1, max_size=20)


@given(looks)
def test_an_always_valid_p_never_rises(evidence: list[float]) -> None:
    p = sequences.always_valid_p(evidence)
    assert (numpy.diff(p) <= 0).all()
    slowly = [min(1.0, *(math.exp(-e) for e in evidence[: i + 1])) for i in range(len(evidence))]
    assert p.tolist() == pytest.approx(slowly)


@given(st.lists(st.tuples(effects, st.floats(0, 1)), min_size=1, max_size=20))
def test_intersected_intervals_only_shrink(intervals: list[tuple[float, float]]) -> None:
    middles, halves = (numpy.array(each) for each in zip(*intervals, strict=True))
    low, high = sequences.intersected(middles - halves, middles + halves)
    assert (numpy.diff(low) >= 0).all()
    assert (numpy.diff(high) <= 0).all()
    assert low[-1] == (middles - halves).max()
    assert high[-1] == (middles + halves).min()
