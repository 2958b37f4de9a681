"""Who gets which arm: a pure function of unit, salt and weights."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.types import Arm, Phase
from serve.routes.assignment import assign

weights = st.floats(min_value=1e-3, max_value=1e6)
units = st.text(max_size=40)


def phase(*shares: float, salt: str = "s") -> Phase:
    arms = tuple(Arm(f"v{n}", n, share) for n, share in enumerate(shares, start=1))
    return Phase("e", 1, "running", salt, arms, "2026-01-01T00:00:00+00:00", "me")


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
