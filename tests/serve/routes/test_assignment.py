"""Who gets which arm: a pure function of unit, salt and weights."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from adapters.experiments import Arm, Design, Phase
from serve.routes.assignment import assign as seat

weights = st.floats(min_value=1e-3, max_value=1e6)
units = st.text(max_size=40)


def phase(*shares: float, salt: str = "s", out: Sequence[str] = (), **design: Any) -> Phase:
    named = [(f"v{n}", n, share) for n, share in enumerate(shares, start=1)]
    arms = tuple(Arm(name, number, share, name in out) for name, number, share in named)
    when = "2026-01-01T00:00:00+00:00"
    return Phase("e", 1, "running", salt, arms, when, "me", design=Design(**design))


def assign(phase: Phase, unit: str) -> Arm:
    """Return the arm of a unit that takes part."""
    assigned = seat(phase, unit)
    assert assigned
    return assigned.arm


@given(st.lists(weights, min_size=2, max_size=5), units)
def test_a_unit_always_gets_the_same_arm(shares: list[float], unit: str) -> None:
    assert assign(phase(*shares), unit) == assign(phase(*shares), unit)


@given(units)
def test_the_arm_is_the_hash_among_cumulative_shares(unit: str) -> None:
    digest = hashlib.sha256(f"s:{unit}".encode("utf-8", "surrogatepass")).hexdigest()
    fraction = int(digest, 16) / 16**64
    expected = "v1" if fraction < 0.2 else "v2" if fraction < 0.5 else "v3"
    assert assign(phase(20, 30, 50), unit).name == expected


@given(weights, weights, weights, weights, st.lists(units, min_size=1, max_size=50))
def test_a_changed_split_moves_units_one_way_only(
    a: float, b: float, c: float, d: float, some: list[str]
) -> None:
    before, after = phase(a, b), phase(c, d)
    moves = {(assign(before, u).name, assign(after, u).name) for u in some}
    assert not {("v1", "v2"), ("v2", "v1")} <= moves


@given(weights, weights, weights, units)
def test_only_the_ratio_of_weights_matters(a: float, b: float, factor: float, unit: str) -> None:
    one, other = phase(a, b), phase(a * 2**7, b * 2**7)
    assert assign(one, unit).name == assign(other, unit).name


@pytest.mark.parametrize("shares", [(50, 50), (90, 10), (1, 1, 2)])
def test_shares_are_as_asked(shares: tuple[float, ...]) -> None:
    count = 20_000
    split = phase(*shares)
    counts = Counter(assign(split, f"user-{number}").version for number in range(count))
    for number, share in enumerate(shares, start=1):
        assert counts[number] / count == pytest.approx(share / sum(shares), abs=0.012)  # > 3 sigma


def test_another_salt_assigns_afresh() -> None:
    some = [f"user-{number}" for number in range(200)]
    one = [assign(phase(50, 50, salt="a"), unit).name for unit in some]
    other = [assign(phase(50, 50, salt="b"), unit).name for unit in some]
    agree = sum(a == b for a, b in zip(one, other, strict=True))
    assert 60 < agree < 140


@given(st.floats(min_value=0.01, max_value=0.98), st.lists(units, min_size=1, max_size=50))
def test_an_arm_taken_out_moves_its_own_units_to_the_control_and_no_others(
    share: float, some: list[str]
) -> None:
    before = phase(1 - share, share / 2, share / 2)
    after = phase(1 - share, share / 2, share / 2, out=["v2"])
    for unit in some:
        had, has = assign(before, unit).name, assign(after, unit).name
        assert has == ("v1" if had == "v2" else had)
    told = after.probabilities()
    assert told == {"v1": pytest.approx(1 - share / 2), "v2": 0, "v3": pytest.approx(share / 2)}


@given(weights, weights, weights, units)
def test_the_probability_is_the_arms_own(a: float, b: float, c: float, unit: str) -> None:
    found = seat(phase(a, b, c), unit)
    assert found
    named = dict(zip(("v1", "v2", "v3"), (a, b, c), strict=True))
    assert found.probability == pytest.approx(named[found.arm.name] / (a + b + c))


@given(st.floats(min_value=0.01, max_value=1), st.floats(min_value=0.01, max_value=1), units)
def test_more_traffic_takes_units_in_and_none_out(one: float, other: float, unit: str) -> None:
    few, many = sorted((one, other))
    small = seat(phase(50, 50, traffic=few), unit)
    assert small is None or small == seat(phase(50, 50, traffic=many), unit)


@given(st.floats(min_value=0.1, max_value=0.9), st.text(min_size=1, max_size=4), units)
def test_experiments_of_one_layer_share_no_unit(cut: float, salt: str, unit: str) -> None:
    one = phase(50, 50, layer="checkout", traffic=cut)
    other = phase(30, 70, salt=salt, layer="checkout", layer_start=cut, traffic=1 - cut)
    assert seat(one, unit) is None or seat(other, unit) is None


def test_layers_and_holdouts_have_the_share_that_they_ask_for() -> None:
    some = [f"user-{number}" for number in range(10_000)]
    layered = phase(50, 50, layer="checkout", layer_start=0.25, traffic=0.5)
    assert sum(seat(layered, unit) is not None for unit in some) == pytest.approx(5000, abs=200)
    one, other = phase(50, 50, holdout=0.1), phase(50, 50, salt="t", holdout=0.1)
    left = [unit for unit in some if seat(one, unit) is None]
    assert left == [unit for unit in some if seat(other, unit) is None], "the same ones"
    assert len(left) == pytest.approx(1000, abs=120)


def test_who_is_listed_gets_the_named_arm_and_counts_nowhere() -> None:
    split = phase(99, 1, allow={"ann": "v2"}, exclude=("bob",))
    found = seat(split, "ann")
    assert found
    assert (found.arm.name, found.probability) == ("v2", None)
    assert seat(split, "bob") is None


def test_a_million_units_are_assigned_as_a_fair_hash_would() -> None:
    """Chi-square over 10^6 units, of 20 arms: below its 99.99 % quantile."""
    split, count = phase(*[5.0] * 20), 1_000_000
    bounds = [Fraction(n, 20) for n in range(1, 21)]
    counts = numpy.zeros(20, int)
    for number in range(count):
        digest = hashlib.sha256(f"s:user-{number}".encode()).digest()
        counts[int.from_bytes(digest[:8]) * 20 >> 64] += 1
        if number % 997 == 0:  # the same place as the whole digest's, and as `assign` says
            point = Fraction(int.from_bytes(digest), 1 << 256)
            place = next(n for n, end in enumerate(bounds) if point < end)
            assert assign(split, f"user-{number}").name == f"v{place + 1}"
    assert chisquare(counts).pvalue > 1e-4
