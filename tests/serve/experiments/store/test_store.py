"""What `Store` promises, asked of both databases through the port."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from typing import Any

import numpy
import pytest

from adapters.errors import Conflict, UsageError
from serve.experiments.store.base import IMPLICIT, MOST_OUTCOMES, Measure, Receipt, Store
from tests.serve.experiments.store.conftest import Open
from tests.serve.experiments.store.rows import EXPERIMENT, exposure, outcome, shadow


def statuses(told: list[Receipt | Conflict]) -> list[str]:
    return [each.status if isinstance(each, Receipt) else "conflict" for each in told]


def test_what_was_kept_is_there_for_whoever_opens_it_next(opened: Open) -> None:
    store = opened()
    given = [
        exposure(
            "ann",
            latency_ms=12.5,
            ttft_ms=3.0,
            prompt_tokens=40,
            output_tokens=7,
            finish_reason="stop",
        ),
        exposure("ben", "base", error=True, refusal=True, regenerate=True, source="session"),
    ]
    posted = [
        outcome(True),
        outcome(0.1 + 0.2, metric="stars", comment="was für ein Zahlwort: 三"),
        outcome("cross", metric="mood", key="k" * 200),
        outcome(-3, metric="cents", late=True),
    ]
    store.expose(given)
    assert statuses(store.record(posted)) == ["recorded", "recorded", "recorded", "late"]
    store.close()
    other = opened()
    assert list(other.exposures(EXPERIMENT)) == given
    assert sorted(other.outcomes(EXPERIMENT), key=posted.index) == posted
    assert list(other.exposures("support/ab-2")) == list(other.outcomes("support/ab-2")) == []


def test_a_batch_of_exposures_written_again_changes_nothing(store: Store) -> None:
    batch = [exposure("ann"), exposure("ben")]
    store.expose(batch)
    store.expose([*batch, exposure("ann")])
    store.expose([])
    assert [each.unit for each in store.exposures(EXPERIMENT)] == ["ann", "ben", "ann"]


def test_text_that_a_database_does_not_take_spoils_no_exposure(store: Store) -> None:
    store.expose([exposure("a\0b\ud800", latency_ms=math.nan, ttft_ms=math.inf)])
    (kept,) = store.exposures(EXPERIMENT)
    assert (kept.unit, kept.latency_ms, kept.ttft_ms) == ("a\ufffdb?", None, None)
    assert store.exposure("r-a\0b\ud800") == kept, "and it is found by what it was called"


def test_what_shadows_answered_is_there_for_whoever_opens_it_next(opened: Open) -> None:
    store = opened()
    pair = {"prompt": '{"messages": []}', "answer": "größer", "shadow_answer": "🦊"}
    given = [shadow("ann", latency_ms=12.5, output_tokens=7, **pair), shadow("ben", error=True)]
    store.shadow(given)
    store.shadow([given[0], shadow("a\0b\ud800", answer="\0")])
    store.shadow([])
    store.close()
    other = opened()
    *same, spoilt = other.shadows(EXPERIMENT)
    assert same == given
    assert (spoilt.unit, spoilt.answer) == ("a\ufffdb?", "\ufffd")
    assert list(other.shadows("support/ab-2")) == []


def test_a_request_is_found_by_its_id_the_latest_of_them(store: Store) -> None:
    store.expose([exposure("ann", request_id="r"), exposure("ben", request_id="r")])
    found = store.exposure("r")
    assert found is not None
    assert found.unit == "ben"
    assert store.exposure("s") is None


@pytest.mark.parametrize("first", [True, 1.0, 0, "yes", -1e99])
def test_repeated_the_first_stands(store: Store, first: Any) -> None:
    kept = outcome(first, comment="the first")
    store.record([kept])
    (told,) = store.record([outcome(first, comment="the second", at_s=3000.0)])
    assert told == Receipt(kept, "repeated")
    assert list(store.outcomes(EXPERIMENT)) == [kept]


@pytest.mark.parametrize(
    "other",
    [outcome(False), outcome(1.0), outcome("True"), outcome(True, metric="other", key="solved")],
    ids=["value", "kind", "label", "metric"],
)
def test_another_value_under_the_same_key_is_a_conflict_and_harms_no_others(
    store: Store, other: Any
) -> None:
    store.record([outcome(True)])
    told = store.record([other, outcome(True, "ben")])
    assert statuses(told) == ["conflict", "recorded"]
    assert "solved = True already" in str(told[0])
    assert [each.value for each in store.outcomes(EXPERIMENT)] == [True, True]


def test_within_one_batch_the_first_stands_too(store: Store) -> None:
    one = outcome(True)
    batch = [one, one, outcome(False), outcome(True, key="2")]
    assert statuses(store.record(batch)) == ["recorded", "repeated", "conflict", "recorded"]
    assert statuses(store.record(batch)) == ["repeated", "repeated", "conflict", "repeated"]
    assert store.record([]) == []


def test_keys_are_of_one_request_of_one_unit_of_one_experiment(store: Store) -> None:
    batch = [
        outcome(True),
        outcome(False, request_id="other"),
        outcome(False, unit="ben", request_id="r-ann"),
        outcome(False, experiment="support/ab-2"),
    ]
    assert statuses(store.record(batch)) == ["recorded"] * 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"value": math.nan},
        {"value": -math.inf},
        {"value": 10**400},
        {"value": -1e101},
        {"value": 1e-101},
        {"value": ""},
        {"value": "x" * 201},
        {"value": "nul\0"},
        {"metric": "Solved!"},
        {"metric": ""},
        {"comment": "x" * 4001},
        {"comment": "half a sign \ud800"},
        {"key": "k" * 201},
        *({"metric": name} for name in IMPLICIT),
    ],
    ids=str,
)
def test_what_cannot_be_counted_is_refused_before_anything_is_written(wrong: Any) -> None:
    with pytest.raises(UsageError):
        outcome(**wrong)


def test_a_batch_has_a_size(store: Store) -> None:
    most = [outcome(n, request_id=str(n)) for n in range(MOST_OUTCOMES)]
    assert set(statuses(store.record(most))) == {"recorded"}
    assert set(statuses(store.record(most))) == {"repeated"}
    with pytest.raises(UsageError):
        store.record([*most, outcome()])


def test_the_same_outcomes_at_once_are_each_recorded_once(opened: Open) -> None:
    batch = [outcome(True, unit, request_id=str(n)) for n in range(500) for unit in ("ann", "ben")]
    told: list[list[str]] = []
    start = threading.Barrier(4)

    def write(store: Store, turn: int) -> None:
        start.wait()
        told.append(statuses(store.record(batch if turn % 2 else batch[::-1])))

    threads = [threading.Thread(target=write, args=(opened(), turn)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each.count("recorded") for each in told) == len(batch)
    assert sum(each.count("repeated") for each in told) == 3 * len(batch)


def test_units_are_summed_by_phase_under_their_first_arm(store: Store) -> None:
    store.expose(
        [
            exposure(
                "ann",
                "v1",
                at_s=5.0,
                probability=0.2,
                output_tokens=3,
                latency_ms=100.0,
                prompt_tokens=40,
            ),
            exposure("ben", "v2", at_s=1.0, probability=0.8, error=True, finish_reason="stop"),
            exposure("ann", "v1", at_s=6.0, output_tokens=4, latency_ms=300.0),
            exposure("ann", "v2", at_s=7.0, output_tokens=1000),  # somebody forced the other arm
            exposure("ann", "v2", phase=2, probability=0.5, finish_reason="length"),
            exposure("cid", "v1", experiment="support/ab-2"),
        ]
    )
    store.record(
        [
            outcome(2.0, "ann", metric="stars"),
            outcome(5.0, "ann", metric="stars", request_id="2"),
            outcome(1.0, "ann", "v2", metric="stars", request_id="3"),
            outcome(4.0, "ann", "v2", phase=2, metric="stars", request_id="4"),
            outcome(3.0, "ben", "v2", metric="stars", late=True),
            outcome(9.0, "dan", metric="stars"),  # whose exposure was dropped
            outcome("happy", "ben", "v2", metric="mood", request_id="5"),
            outcome("cross", "ben", "v2", metric="mood", request_id="6"),
            outcome(True, "ben", "v2", metric="solved", request_id="5"),
        ]
    )
    measures = [
        Measure("stars"),
        Measure("stars", above=2),
        Measure("mood", label="happy"),
        Measure("solved"),
        Measure("prompt_tokens"),
        Measure("output_tokens"),
        Measure("latency_ms", above=100),
        Measure("error"),
        Measure("finish_reason", label="length"),
    ]
    units = store.units(EXPERIMENT, measures)
    rows = [(1, "v1", "ann"), (1, "v2", "ben"), (2, "v2", "ann")]
    assert list(zip(units.phase, units.arm, units.unit, strict=True)) == rows
    assert units.probability.tolist() == [0.2, 0.8, 0.5]
    assert units.at_s.tolist() == [5.0, 1.0, 1000.0]
    assert units.exposures.tolist() == [2, 1, 1]
    assert units.crossed.tolist() == [True, False, False]
    expected = {  # count, sum, sum of squares, each of the three rows
        "stars": ([2, 0, 1], [7, 0, 4], [29, 0, 16]),
        "stars above 2": ([2, 0, 1], [1, 0, 1], [1, 0, 1]),
        "happy": ([0, 2, 0], [0, 1, 0], [0, 1, 0]),
        "solved": ([0, 1, 0], [0, 1, 0], [0, 1, 0]),
        "prompt_tokens": ([1, 0, 0], [40, 0, 0], [1600, 0, 0]),
        "output_tokens": ([2, 0, 0], [7, 0, 0], [25, 0, 0]),
        "latency above 100": ([2, 0, 0], [1, 0, 0], [1, 0, 0]),
        "error": ([2, 1, 1], [0, 1, 0], [0, 1, 0]),
        "length": ([0, 1, 1], [0, 0, 1], [0, 0, 1]),
    }
    found = zip(units.count.tolist(), units.sum.tolist(), units.squares.tolist(), strict=True)
    assert dict(zip(expected, found, strict=True)) == expected


def test_the_largest_and_the_smallest_numbers_can_be_summed(store: Store) -> None:
    store.expose([exposure(name) for name in ("ann", "ben")])
    store.record([outcome(-1e100), outcome(1e-100, "ben"), outcome(0, "ben", key="0")])
    units = store.units(EXPERIMENT, [Measure("solved")])
    assert units.sum.tolist() == [[-1e100, 1e-100]]
    assert units.squares.tolist() == [[pytest.approx(1e200), pytest.approx(1e-200)]]


def test_nothing_measured_is_nothing_summed(store: Store) -> None:
    empty = store.units(EXPERIMENT, [Measure("stars"), Measure("error")])
    assert (empty.unit.shape, empty.count.shape) == ((0,), (2, 0))
    store.expose([exposure()])
    assert store.units(EXPERIMENT).count.shape == (0, 1)
    assert store.units(EXPERIMENT, [Measure("stars")]).count.tolist() == [[0]]


@pytest.mark.parametrize(
    "measure",
    [
        Measure("latency_ms", label="slow"),
        Measure("finish_reason"),
        Measure("mood", label="happy", above=1),
    ],
)
def test_a_measure_that_makes_no_sense_is_refused(store: Store, measure: Measure) -> None:
    with pytest.raises(UsageError):
        store.units(EXPERIMENT, [measure])


def test_clocks_that_go_backwards_change_nothing(store: Store) -> None:
    store.expose([exposure("ann", "v1", at_s=2000.0)])
    store.expose([replace(exposure("ann", "v2", at_s=1.0), request_id="later")])
    units = store.units(EXPERIMENT)
    assert (units.arm.tolist(), units.at_s.tolist()) == (["v1"], [2000.0])
    assert units.phase.dtype == units.exposures.dtype == numpy.int64
