"""What a report says of what a store holds: who counts, what is measured, and that it is JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import UsageError
from serve.experiments.analysis import analyse
from serve.experiments.analysis.page import page
from serve.experiments.analysis.report import Measured, Price, Report
from serve.experiments.analysis.text import text
from serve.experiments.store.base import IMPLICIT, Measure
from serve.experiments.store.sql import SqlStore
from tests.serve.experiments.analysis.traffic import SOLVED, Traffic, design, phase, report
from tests.serve.experiments.store.rows import exposure, outcome

ERROR = Measure("error")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    opened = SqlStore(f"sqlite:///{tmp_path}/experiments.db")
    yield opened
    opened.close()


def measured(report: Report, place: int, title: str) -> Measured:
    (found,) = (each for each in report.sides[place].metrics if each.title == title)
    return found


def said(report: Report) -> str:
    return json.dumps(report.as_json(), allow_nan=False)


class TestOfARealStore:
    """A few rows, by hand."""

    def test_each_metric_is_what_was_measured(self, store: SqlStore) -> None:
        store.expose(
            [
                exposure("ann", "v1", latency_ms=100.0, output_tokens=10, error=False),
                exposure("ann", "v1", latency_ms=300.0, output_tokens=20, error=True),
                exposure("bob", "v2", latency_ms=50.0, ttft_ms=5.0, finish_reason="length"),
                exposure("eve", "v2", latency_ms=70.0, finish_reason="stop"),
            ]
        )
        store.record(
            [
                outcome(True, "ann", "v1", request_id="1"),
                outcome(False, "ann", "v1", request_id="2"),
                outcome(True, "bob", "v2"),
                outcome(30.0, "bob", "v2", metric="cost"),
                outcome("win", "eve", "v2", metric="preferred"),
            ]
        )
        plan = design("solved", "cost/solved", "finish_reason=length", "preferred:preference")
        found = analyse("support", [phase(design=plan)], store, now_s=5.0)
        control, arm = found.sides
        assert (control.units, control.exposures, arm.units, arm.exposures) == (1, 2, 2, 2)
        assert (control.share, control.version, found.as_of_s) == (0.5, 1, 5.0)
        assert measured(found, 0, "solved").value == 0.5
        assert measured(found, 0, "solved").count == 2
        assert measured(found, 0, "error").value == 0.5
        assert measured(found, 0, "latency_ms").value == 200
        assert measured(found, 0, "ttft_ms").value is None
        assert measured(found, 1, "ttft_ms").value == 5
        assert measured(found, 1, "cost/solved").value == 30
        assert measured(found, 1, "finish_reason=length").value == 0.5
        assert measured(found, 1, "preferred").value == 1
        assert measured(found, 1, "preferred=tie").value == 0
        assert measured(found, 1, "output_tokens").role == "implicit"
        assert found.verdict.kind == "collecting"
        said(found)

    def test_of_nothing_at_all(self, store: SqlStore) -> None:
        plan = design("solved", "cost/solved", guardrails=["error<=5%", "solved:margin=0.1"])
        for method in ("asymptotic", "exact"):
            whole = design("solved", guardrails=["error<=5%"], method="exact")
            chosen = plan if method == "asymptotic" else whole
            found = analyse("support", [phase(design=chosen)], store, now_s=0)
            assert found.verdict.kind == "collecting"
            assert [side.units for side in found.sides] == [0, 0]
            assert not found.looks
            assert not found.frozen
            assert {each.p for each in found.comparisons} == {1.0}
            assert not any(guard.breached for guard in found.guards)
            said(found)

    @pytest.mark.parametrize("name", IMPLICIT)
    def test_whatever_may_be_asked_of_the_server_can_be_answered(
        self, store: SqlStore, name: str
    ) -> None:
        store.expose([exposure("ann", "v1"), exposure("bob", "v2", finish_reason="stop")])
        forms = ("{}", "{}:mean", "{}=stop", "{}>0.5", "{}/cost", "cost/{}", "{}:preference")
        asked = []
        for form in forms:
            with suppress(UsageError):
                asked.append(design(form.format(name)))
        assert asked
        for plan in asked:
            said(analyse("support", [phase(design=plan)], store, now_s=0))


class TestCost:
    """Of 1,000 responses, at 0.1 and 0.4 of some currency a million tokens."""

    @staticmethod
    def costs(store: SqlStore, price: Price | None) -> list[float | None]:
        found = analyse("support", [phase()], store, now_s=0, price=price)
        assert found.as_json()["price"] == (list(price) if price else None)
        return [side.cost for side in found.sides]

    def test_is_of_the_tokens_of_both_kinds(self, store: SqlStore) -> None:
        store.expose(
            [
                exposure("ann", "v1", prompt_tokens=100, output_tokens=10),
                exposure("ann", "v1", prompt_tokens=300, output_tokens=30),
                exposure("bob", "v1", error=True),  # of which nothing is known
                exposure("eve", "v2", prompt_tokens=200, output_tokens=1000),
            ]
        )
        assert self.costs(store, (0.1, 0.4)) == [pytest.approx(0.028), pytest.approx(0.42)]
        assert self.costs(store, (0.0, 0.0)) == [0.0, 0.0]
        assert self.costs(store, None) == [None, None]

    def test_of_rows_older_than_prompt_tokens_it_is_not_known(self, store: SqlStore) -> None:
        store.expose([exposure("ann", "v1", output_tokens=10), exposure("eve", "v2")])
        assert self.costs(store, (0.1, 0.4)) == [None, None]

    def test_stands_beside_each_arm_where_a_price_was_said(self, store: SqlStore) -> None:
        store.expose([exposure("ann", "v1", prompt_tokens=200, output_tokens=20)])
        found = analyse("support", [phase()], store, now_s=0, price=(0.1, 0.4))
        for shown in (text(found), page(found)):
            assert "cost of 1,000" in shown
            assert "0.028" in shown
            assert "at 0.1 and 0.4 a million prompt and output tokens" in shown
        assert "cost" not in text(analyse("support", [phase()], store, now_s=0))


def test_who_crossed_counts_nowhere_and_is_told() -> None:
    arm = numpy.array([0, 1] * 300)
    crossed = numpy.arange(600) % 3 == 0
    solved = numpy.where(crossed, 1.0, numpy.arange(600) % 2)
    traffic = Traffic(1, arm, crossed=crossed, outcomes={SOLVED: solved})
    found = report(traffic, phase(design=design("solved")))
    assert [side.crossed for side in found.sides] == [100, 100]
    assert [side.units for side in found.sides] == [200, 200]
    assert measured(found, 0, "solved").value == 0
    assert measured(found, 0, "solved").count == 200


def test_an_arm_that_nobody_has_yet_is_waited_for() -> None:
    traffic = Traffic(1, numpy.zeros(500, int), outcomes={SOLVED: numpy.arange(500) % 2})
    found = report(traffic, phase(shares=(0.99, 0.01), design=design("solved")))
    assert found.comparisons[0].value is None
    assert found.comparisons[0].waiting
    assert found.best is None
    assert "Too early" in found.verdict.said
    said(found)


def test_phases_and_arms_that_the_registry_does_not_have_count_nowhere() -> None:
    traffic = Traffic([1, 1, 7, 1], [0, 1, 0, 3], outcomes={SOLVED: numpy.ones(4)})
    found = report(traffic, phase(design=design("solved")))
    assert [side.units for side in found.sides] == [1, 1]


def test_a_unit_is_one_unit_over_all_phases() -> None:
    """Paused and resumed: the shares are the same, and so is everybody's arm."""
    arm = numpy.tile([0, 1], 200)
    unit = numpy.arange(400)
    twice = Traffic(
        numpy.repeat([1, 3], 400),
        numpy.tile(arm, 2),
        numpy.tile(unit, 2),
        outcomes={SOLVED: numpy.tile(unit % 3 == 0, 2)},
    )
    once = Traffic(1, arm, unit, 2, outcomes={SOLVED: 2 * (unit % 3 == 0)}, counts={SOLVED: 2})
    plan = design("solved")
    two = report(
        twice, phase(1, design=plan), phase(2, design=plan, status="paused"), phase(3, design=plan)
    )
    one = report(once, phase(design=plan))
    assert two.comparisons == one.comparisons
    assert two.sides == one.sides
    assert two.sample_ratio_log_e == pytest.approx(one.sample_ratio_log_e)
    assert two.phase == 3


def test_looks_end_in_what_is_known_now() -> None:
    chance = numpy.random.default_rng(1)
    arm = chance.integers(0, 3, 3_000)
    solved = chance.random(3_000) < 0.3
    found = report(
        Traffic(1, arm, outcomes={SOLVED: solved}),
        phase(shares=(1 / 3, 1 / 3, 1 / 3), design=design("solved")),
    )
    for comparison in found.comparisons:
        looks = [look for look in found.looks if look.arm == comparison.arm]
        assert len(looks) == 60
        assert [look.units for look in looks] == sorted({look.units for look in looks})
        assert looks[-1].units == 3_000
        assert looks[-1].at_s == 1e9 + 2_999
        assert (looks[-1].value, looks[-1].log_e) == (comparison.value, comparison.log_e)
        assert looks[-1].p == comparison.p == pytest.approx(min(1, numpy.exp(-comparison.log_e)))


def test_the_posterior_is_of_arms_that_are_not_out() -> None:
    chance = numpy.random.default_rng(2)
    arm = chance.integers(0, 3, 900)
    traffic = Traffic(1, arm, outcomes={SOLVED: chance.random(900) < 0.2 + 0.1 * arm})
    thirds = (1 / 3, 1 / 3, 1 / 3)
    plan = design("solved")
    found = report(traffic, phase(1, thirds, plan), phase(2, thirds, plan, out=["v3"]))
    assert found.best is not None
    assert set(found.best) == set(found.loss) == {"v1", "v2"}
    assert sum(found.best.values()) == pytest.approx(1)
    assert found.best["v2"] > 0.9
    assert [side.share for side in found.sides] == pytest.approx([2 / 3, 1 / 3, 0])
    fewer_is_better = report(traffic, phase(1, thirds, design("solved:decrease")))
    assert fewer_is_better.best is not None
    assert max(fewer_is_better.best, key=fewer_is_better.best.__getitem__) == "v1"


def test_one_unit_that_was_in_both_arms_is_no_comparison() -> None:
    traffic = Traffic([1, 1, 2, 2], [0, 0, 1, 1], [7, 7, 7, 7], outcomes={SOLVED: [1, 0, 1, 0]})
    plan = design("solved")
    found = report(traffic, phase(1, design=plan), phase(2, (0.2, 0.8), plan))
    assert found.comparisons[0].value is None
    assert found.comparisons[0].method == "propensities"


@given(
    st.lists(
        st.tuples(
            st.integers(1, 3),
            st.integers(0, 2),
            st.integers(0, 8),
            st.sampled_from([0.0, 1.0, 0.5, -3.0, 1e100, -1e100, 1e-100, float("nan")]),
        ),
        max_size=40,
    ),
    st.sampled_from(["solved", "solved:mean", "solved/cost", "solved>0.7", "solved:preference"]),
    st.booleans(),
)
def test_whatever_was_posted_there_is_a_report(
    rows: list[tuple[int, int, int, float]], metric: str, ramped: bool
) -> None:
    phases, arms, units, values = ([row[n] for row in rows] for n in range(4))
    plan = design(metric, "cost:mean", guardrails=["error<=5%", "solved:margin=0.1"])
    thirds = (1 / 3, 1 / 3, 1 / 3)
    measures = [SOLVED, Measure("cost"), Measure("solved", above=0.7), ERROR]
    measures += [Measure("solved", label=label) for label in ("win", "loss", "tie")]
    traffic = Traffic(phases, arms, units, outcomes=dict.fromkeys(measures, values))
    found = report(
        traffic,
        phase(1, thirds, plan),
        phase(2, (0.2, 0.3, 0.5) if ramped else thirds, plan),
        phase(3, thirds, plan, out=["v3"]),
    )
    assert len(said(found)) > 100
    assert "nan" not in text(found)
    for svg in re.findall(r"<svg viewBox.*?</svg></svg>", page(found), re.DOTALL):
        ElementTree.fromstring(svg)
    for comparison in found.comparisons:
        assert comparison.p > 0 or comparison.log_e > 700
        assert (comparison.low is None) == (comparison.high is None)
