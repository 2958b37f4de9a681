"""Means, ratios and shares of units: values, variances, and on how much these rest."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from adapters.errors import UsageError
from serve.experiments.statistics import estimates
from serve.experiments.statistics.covariates import adjusted

numbers = st.floats(-1e3, 1e3)
some = arrays(float, st.integers(2, 30), elements=numbers)
seed = st.integers(0, 2**32 - 1)


@given(some, seed)
def test_a_mean_does_not_know_the_order_of_units(values: numpy.ndarray, chance: int) -> None:
    shuffled = numpy.random.default_rng(chance).permutation(values)
    one, other = estimates.mean(values), estimates.mean(shuffled)
    assert other.value == pytest.approx(one.value, abs=1e-9)
    assert other.variance == pytest.approx(one.variance, abs=1e-6)


def test_runs_are_means_of_their_own() -> None:
    values = numpy.random.default_rng(1).normal(size=(3, 50))
    together = estimates.mean(values)
    for run, alone in enumerate(map(estimates.mean, values)):
        assert together.value[run] == pytest.approx(float(alone.value))
        assert together.variance[run] == pytest.approx(float(alone.variance))
        assert together.effective[run] == pytest.approx(float(alone.effective))


@given(st.integers(0, 40), st.integers(0, 40))
def test_a_proportion_is_the_mean_of_ones_and_zeros(ones: int, zeros: int) -> None:
    counted = estimates.proportion(ones, ones + zeros)
    if ones + zeros < 2:
        assert not numpy.isfinite(counted.variance)
        return
    found = estimates.mean(numpy.repeat([1.0, 0.0], [ones, zeros]))
    for field in ("units", "value", "variance", "fewest", "effective"):
        assert float(getattr(counted, field)) == pytest.approx(
            float(getattr(found, field)), abs=1e-9
        )


def test_a_ratio_has_the_delta_methods_variance() -> None:
    """The value and variance of gbstats 0.8.0, `RatioStatistic`, on the same units."""
    x, d = [1, 4, 2, 0, 3, 5, 2, 2], [2, 5, 2, 1, 3, 9, 4, 2]
    found = estimates.mean(estimates.linearised(x, d))
    assert float(found.value) == pytest.approx(0.6785714285714286)
    assert float(found.variance) == pytest.approx(0.05188314392812521)


@given(some)
def test_a_ratio_to_ones_is_the_mean(values: numpy.ndarray) -> None:
    assert estimates.linearised(values, numpy.ones_like(values)) == pytest.approx(values, abs=1e-9)


@given(st.lists(st.tuples(st.sampled_from("abcde"), numbers), min_size=1, max_size=30))
def test_outcomes_are_added_up_by_unit(outcomes: list[tuple[str, float]]) -> None:
    units, values = zip(*outcomes, strict=True)
    sums, counts = estimates.by_unit(units, values)
    for place, unit in enumerate(sorted(set(units))):
        own = [value for who, value in outcomes if who == unit]
        assert counts[place] == len(own)
        assert sums[place] == pytest.approx(sum(own), abs=1e-9)


def test_a_quantile_is_a_share_above_a_limit() -> None:
    units, latency_ms = ["a", "a", "b", "b", "c", "d"], [900, 100, 850, 950, 10, 20]
    found = estimates.mean(estimates.exceedances(units, latency_ms, 800))
    assert float(found.value) == pytest.approx(3 / 6)
    assert float(found.units) == 4


def test_alike_outcomes_of_one_unit_do_not_count_as_many() -> None:
    """20 copies of each unit's outcome: as uncertain as one of each, not 20 times less."""
    outcomes = numpy.random.default_rng(3).integers(0, 2, 200).astype(float)
    one = estimates.mean(outcomes)
    sums, counts = estimates.by_unit(
        numpy.repeat(numpy.arange(200), 20), numpy.repeat(outcomes, 20)
    )
    many = estimates.mean(estimates.linearised(sums, counts))
    assert float(many.variance) == pytest.approx(float(one.variance))
    assert float(many.units) == float(one.units)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (numpy.repeat([0.0, 1.0], [500, 500]), 1000),  # a rate of ½: all of them
        (numpy.repeat([0.0, 1.0], [9990, 10]), 10),  # a rate of 0.1 %: the events
        (numpy.random.default_rng(2).normal(size=90_000), 30_000),  # kurtosis 3
        (numpy.ones(50), 0),
    ],
)
def test_a_variance_rests_on_what_varies(values: numpy.ndarray, expected: float) -> None:
    assert float(estimates.effective(values)) == pytest.approx(expected, rel=0.02)


@given(some, some)
def test_a_difference_turns_its_sign_with_the_arms(a: numpy.ndarray, b: numpy.ndarray) -> None:
    there = estimates.difference(estimates.mean(a), estimates.mean(b))
    back = estimates.difference(estimates.mean(b), estimates.mean(a))
    assert float(there.value) == -float(back.value)
    assert float(there.variance) == pytest.approx(float(back.variance))
    assert float(there.units) == len(a) + len(b)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(UsageError, match="not a finite number"):
        estimates.mean([0.0, 1.0, value])


def test_one_unit_has_no_variance() -> None:
    with pytest.raises(UsageError, match="fewer than two units"):
        estimates.mean([1.0])


def test_a_ratio_to_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="denominators"):
        estimates.linearised([1.0, 2.0], [0.0, 0.0])


def test_a_covariate_takes_its_share_of_the_variance_and_none_of_the_mean() -> None:
    chance = numpy.random.default_rng(4)
    before = chance.normal(size=20_000)
    after = 5 + 0.8 * before + 0.6 * chance.normal(size=20_000)
    found = adjusted(after, before)
    assert found.mean() == pytest.approx(after.mean())
    explained = numpy.corrcoef(after, before)[0, 1] ** 2
    assert found.var() == pytest.approx((1 - explained) * after.var(), rel=1e-9)


def test_who_was_not_known_before_keeps_the_value() -> None:
    found = adjusted([1.0, 2.0, 3.0, 9.0], [1.0, 2.0, 3.0, float("nan")])
    assert found[3] == 9.0
    assert found[:3] == pytest.approx([2.0, 2.0, 2.0])


@pytest.mark.parametrize("covariate", [7.0, float("nan")])
def test_a_covariate_that_says_nothing_changes_nothing(covariate: float) -> None:
    assert adjusted([1.0, 2.0, 4.0], [covariate] * 3).tolist() == [1.0, 2.0, 4.0]


def test_a_constant_that_a_mean_cannot_hold_changes_nothing_either() -> None:
    """0.1 + 0.1 + 0.1 is not 0.3: deviations of a rounding error are no spread."""
    found = adjusted([1.0, 2.0, 4.0, 9.0], [0.1, 0.1, 0.1, float("nan")])
    assert found == pytest.approx([1.0, 2.0, 4.0, 9.0])
