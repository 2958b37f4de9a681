"""Limits of a key: what is let in within a minute, what is owed, and what the headers say."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.http.failures import RateLimited
from serve.tenants.rates import Allowance, Bucket, duration

LIMITS = st.integers(1, 1000)
STEPS = st.lists(st.tuples(st.floats(0, 90), st.integers(0, 1500)), max_size=60)


@given(LIMITS, STEPS)
def test_no_span_of_time_lets_in_more_than_its_share_and_one_burst(
    limit: int, steps: list[tuple[float, int]]
) -> None:
    bucket, now, taken = Bucket(limit, 0.0), 0.0, []
    for pause, amount in steps:
        now += pause
        if bucket.take(amount, now) == 0.0:
            taken.append((now, min(amount, limit)))
        assert 0 <= bucket.remaining(now) <= limit
    for i, (begin, _) in enumerate(taken):
        for j in range(i, len(taken)):
            span = taken[j][0] - begin
            let_in = sum(amount for _, amount in taken[i : j + 1])
            assert let_in <= limit * (1 + span / 60) + 1e-3


@given(LIMITS, STEPS, st.integers(1, 1500))
def test_who_waits_as_long_as_was_said_gets_it_and_not_much_sooner(
    limit: int, steps: list[tuple[float, int]], amount: int
) -> None:
    bucket, now = Bucket(limit, 0.0), 0.0
    for pause, taken in steps:
        now += pause
        bucket.take(taken, now)
    wait_s = bucket.take(amount, now)
    if wait_s:
        assert bucket.take(amount, now + wait_s * 0.99 - 1e-3) > 0.0
        assert bucket.take(amount, now + wait_s) == 0.0


@given(LIMITS, st.lists(st.tuples(st.integers(0, 900), st.integers(0, 900)), max_size=30))
def test_in_the_long_run_what_was_spent_is_within_the_limit(
    limit: int, requests: list[tuple[int, int]]
) -> None:
    """Whatever was estimated: what is spent beyond it is owed, so the next one waits for it."""
    bucket, now, total = Bucket(limit, 0.0), 0.0, 0
    for estimate, spent in requests:
        if wait_s := bucket.take(estimate, now):
            now += wait_s
            assert bucket.take(estimate, now) == 0.0
        assert total + min(estimate, limit) <= limit * (1 + now / 60) + 1e-3
        bucket.settle(estimate, spent, now)
        total += spent
    now += bucket.full_in_s(now)
    assert bucket.remaining(now) == limit
    assert total <= limit * now / 60 + 1e-3


def test_it_fills_up_evenly_and_no_further() -> None:
    bucket = Bucket(60, 0.0)
    assert bucket.take(60, 0.0) == 0.0
    assert bucket.take(1, 0.0) == pytest.approx(1.0)
    assert bucket.remaining(10.5) == 10
    assert bucket.full_in_s(30.0) == pytest.approx(30.0)
    assert bucket.remaining(1e6) == 60
    assert bucket.take(1, 0.0) == 0.0, "a clock that goes back takes nothing away"


def test_an_estimate_above_the_limit_needs_a_full_bucket_and_is_settled_as_it_was() -> None:
    bucket = Bucket(100, 0.0)
    bucket.take(1, 0.0)
    assert bucket.take(5000, 0.0) == pytest.approx(0.6)
    assert bucket.take(5000, 0.6) == 0.0
    assert bucket.remaining(0.6) == 0
    bucket.settle(5000, 40, 0.6)
    assert bucket.remaining(0.6) == 60
    bucket.take(10, 0.6)
    bucket.settle(10, 160, 0.6)
    assert bucket.remaining(0.6) == 0
    assert bucket.take(1, 0.6) == pytest.approx((100 + 1) * 0.6), "a hundred is owed"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0s"), (0.0004, "1ms"), (0.5, "500ms"), (1, "1s"), (12.25, "12.25s"), (59.9999, "1m0s"),
     (60, "1m0s"), (90.5, "1m30.5s")],
)  # fmt: skip
def test_times_as_openai_writes_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_an_allowance_says_what_is_left_of_both() -> None:
    now = 0.0
    allowance = Allowance(2, 1000, lambda: now)
    allowance.take_request()
    allowance.reserve_tokens(400)
    assert dict(allowance.headers()) == {
        b"x-ratelimit-limit-requests": b"2",
        b"x-ratelimit-remaining-requests": b"1",
        b"x-ratelimit-reset-requests": b"30s",
        b"x-ratelimit-limit-tokens": b"1000",
        b"x-ratelimit-remaining-tokens": b"600",
        b"x-ratelimit-reset-tokens": b"24s",
    }
    allowance.take_request()
    with pytest.raises(RateLimited) as refused:
        allowance.take_request()
    assert (refused.value.resource, math.ceil(refused.value.retry_after_s)) == ("requests", 30)
    now = 30.0
    allowance.take_request()


def test_what_is_not_limited_is_not_counted() -> None:
    allowance = Allowance(None, 10, lambda: 0.0)
    for _ in range(100):
        allowance.take_request()
    assert {name for name, _ in allowance.headers()} == {
        b"x-ratelimit-limit-tokens",
        b"x-ratelimit-remaining-tokens",
        b"x-ratelimit-reset-tokens",
    }
    assert not Allowance(1, None).counts_tokens
