"""The store against a plain model of it: lists and dictionaries, and sums by hand."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from serve.experiments.store.base import Exposure, Measure, Outcome, Receipt
from serve.experiments.store.sql import SqlStore
from serve.experiments.store.tables import exposures, outcomes

EXPERIMENTS = ("support/ab-1", "tone/ab-1")
ARMS, UNITS, REQUESTS = ("v1", "v2", "base"), ("ann", "ben", "cid"), ("1", "2")
MEASURES = [
    Measure("stars"),
    Measure("stars", above=1.5),
    Measure("solved"),
    Measure("mood", label="happy"),
    Measure("prompt_tokens"),
    Measure("output_tokens"),
    Measure("refusal"),
    Measure("regenerate"),
    Measure("finish_reason", label="stop"),
]
placed = {
    "experiment": st.sampled_from(EXPERIMENTS),
    "phase": st.integers(1, 2),
    "arm": st.sampled_from(ARMS),
    "unit": st.sampled_from(UNITS),
    "request_id": st.sampled_from(REQUESTS),
    "at_s": st.floats(0, 1e10),
}
some_exposures = st.lists(
    st.builds(
        Exposure,
        **placed,
        probability=st.sampled_from([0.1, 0.5]),
        refusal=st.booleans(),
        regenerate=st.booleans(),
        source=st.sampled_from(["user", "request"]),
        prompt_tokens=st.none() | st.integers(1, 5),
        output_tokens=st.none() | st.integers(0, 5),
        finish_reason=st.none() | st.sampled_from(["stop", "length"]),
    ),
    max_size=6,
)
measured = st.one_of(
    st.tuples(st.just("stars"), st.sampled_from([0.0, 1.0, 1.5, 2.0])),
    st.tuples(st.just("solved"), st.booleans()),
    st.tuples(st.just("mood"), st.sampled_from(["happy", "cross"])),
)


def _outcome(measured: tuple[str, Any], **given: Any) -> Outcome:
    return Outcome(metric=measured[0], value=measured[1], **given)


some_outcomes = st.lists(
    st.builds(_outcome, measured, **placed, key=st.sampled_from(["", "k"]), late=st.booleans()),
    max_size=6,
)


class Machine(RuleBasedStateMachine):
    """Whatever is done to the store is done to the model; then both are asked."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.store = SqlStore(url)
        with self.store._database.transaction() as connection:
            for table in (exposures, outcomes):
                connection.execute(table.delete())
        self.exposed: list[Exposure] = []
        self.posted: dict[tuple[str, ...], Outcome] = {}

    def teardown(self) -> None:
        self.store.close()

    @rule(batch=some_exposures, again=st.booleans())
    def expose(self, batch: list[Exposure], again: bool) -> None:
        for _ in range(1 + again):
            self.store.expose(batch)
        self.exposed += batch

    @rule(batch=some_outcomes)
    def record(self, batch: list[Outcome]) -> None:
        for outcome, told in zip(batch, self.store.record(batch), strict=True):
            name = (outcome.experiment, outcome.unit, outcome.request_id, outcome.key)
            first = self.posted.setdefault(name, outcome)
            if first is outcome:
                assert told == Receipt(outcome, "late" if outcome.late else "recorded")
            elif (first.metric, first.value) == (outcome.metric, outcome.value):
                assert told == Receipt(first, "repeated")
            else:
                assert not isinstance(told, Receipt)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = SqlStore(self.url)

    @invariant()
    def both_hold_the_same(self) -> None:
        for experiment in EXPERIMENTS:
            exposed = [each for each in self.exposed if each.experiment == experiment]
            posted = [each for each in self.posted.values() if each.experiment == experiment]
            assert list(self.store.exposures(experiment)) == exposed
            assert sorted(map(repr, self.store.outcomes(experiment))) == sorted(map(repr, posted))
            self._same_sums(experiment, exposed, posted)
        for request in REQUESTS:
            named = [each for each in self.exposed if each.request_id == request]
            assert self.store.exposure(request) == (named[-1] if named else None)

    def _same_sums(self, experiment: str, exposed: list[Exposure], posted: list[Outcome]) -> None:
        first: dict[tuple[int, str], Exposure] = {}
        for each in exposed:
            first.setdefault((each.phase, each.unit), each)
        found = self.store.units(experiment, MEASURES)
        assert list(zip(found.phase, found.unit, strict=True)) == list(first)
        for row, (place, entry) in enumerate(first.items()):
            served = [each for each in exposed if (each.phase, each.unit) == place]
            ours = [each for each in served if each.arm == entry.arm]
            told = [
                each
                for each in posted
                if (each.phase, each.unit, each.arm, each.late) == (*place, entry.arm, False)
            ]
            assert (found.arm[row], found.at_s[row]) == (entry.arm, entry.at_s)
            assert found.probability[row] == entry.probability
            assert found.source[row] == entry.source
            assert found.exposures[row] == len(ours)
            assert found.crossed[row] == (len(ours) < len(served))
            for number, measure in enumerate(MEASURES):
                values = _values(measure, ours, told)
                assert found.count[number, row] == len(values)
                assert found.sum[number, row] == sum(values)
                assert found.squares[number, row] == sum(value * value for value in values)


def _values(measure: Measure, served: list[Exposure], told: list[Outcome]) -> list[float]:
    """Return what a measure sees of one unit."""
    values = [each.value for each in told if each.metric == measure.metric]
    values += [getattr(each, measure.metric) for each in served if hasattr(each, measure.metric)]
    seen: list[Any] = [value for value in values if value is not None]
    if measure.label:
        return [float(value == measure.label) for value in seen]
    return [float(v) if measure.above is None else float(v > measure.above) for v in seen]


def test_it_is_what_the_model_is_whatever_is_done(url: str) -> None:
    run_state_machine_as_test(
        lambda: Machine(url),
        settings=settings(
            max_examples=8,
            stateful_step_count=8,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
