"""What was known of a unit before makes comparisons sharper, and never other ones (CUPED)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest

from serve.experiments.analysis import analyse
from serve.experiments.analysis.report import Comparison, Report
from serve.experiments.analysis.text import text
from serve.experiments.statistics import estimates
from serve.experiments.statistics.covariates import adjusted
from serve.experiments.store.base import Measure
from serve.experiments.store.sql import SqlStore
from tests.serve.experiments.analysis.traffic import SOLVED, Traffic, design, phase, report
from tests.serve.experiments.store.rows import exposure, outcome

PRIOR, STARS = Measure("prior"), Measure("stars")
WITH, WITHOUT = "stars:mean:covariate=prior", "stars:mean"
EFFECT = 0.2


def run(
    seed: int, written: str, *, ramp: bool = False, known: float = 1.0, noise: float = 0.5
) -> Report:
    """Return a report on 2 000 units, whose stars are what they were before, noise, and EFFECT."""
    chance = numpy.random.default_rng([10, seed])
    number = numpy.repeat([1, 2], 1_000)
    share = numpy.where(number == 1, 0.2, 0.5) if ramp else numpy.full(2_000, 0.5)
    arm = (chance.random(2_000) < share).astype(int)
    before = chance.normal(3, 1, 2_000)
    stars = before + noise * chance.normal(size=2_000) + EFFECT * arm
    prior = numpy.where(chance.random(2_000) < known, before, numpy.nan)
    plan = design(written)
    shares = (0.8, 0.2) if ramp else (0.5, 0.5)
    traffic = Traffic(number, arm, outcomes={STARS: stars, PRIOR: prior})
    return report(traffic, phase(1, shares, plan), phase(2, (0.5, 0.5), plan))


def only(found: Report) -> Comparison:
    (comparison,) = found.comparisons
    return comparison


def width(found: Comparison) -> float:
    assert found.low is not None
    assert found.high is not None
    return found.high - found.low


@pytest.mark.parametrize("ramp", [False, True])
def test_the_interval_is_narrower_by_what_was_explained(ramp: bool) -> None:
    """Stars have the variance 1 + 0.25, of which the covariate explains 1."""
    with_, without = (only(run(0, written, ramp=ramp)) for written in (WITH, WITHOUT))
    assert width(with_) / width(without) == pytest.approx(0.2**0.5, rel=0.06)
    assert (with_.adjusted, without.adjusted) == (True, False)
    assert with_.log_e > without.log_e


@pytest.mark.parametrize("ramp", [False, True])
@pytest.mark.parametrize("known", [1.0, 0.5])
def test_the_difference_is_the_true_one(ramp: bool, known: float) -> None:
    found = [only(run(seed, WITH, ramp=ramp, known=known)).value or 0.0 for seed in range(25)]
    error = float(numpy.std(found, ddof=1)) / 5
    assert numpy.mean(found) == pytest.approx(EFFECT, abs=4 * error)
    assert error < 0.02


def test_unit_means_are_adjusted_over_both_arms_by_hand() -> None:
    chance = numpy.random.default_rng(11)
    arm, before = chance.integers(0, 2, 1_000), chance.normal(size=1_000)
    stars = before + chance.normal(size=1_000)
    traffic = Traffic(1, arm, outcomes={STARS: 3 * stars, PRIOR: before}, counts={STARS: 3})
    found = only(report(traffic, phase(design=design(WITH))))
    theta = numpy.cov(before, stars)[0, 1] / before.var(ddof=1)
    less = stars - theta * (before - before.mean())
    assert found.value == pytest.approx(less[arm == 1].mean() - less[arm == 0].mean(), abs=0.01)
    exact = adjusted(
        numpy.concatenate([stars[arm == 0], stars[arm == 1]]),
        numpy.concatenate([before[arm == 0], before[arm == 1]]),
    )
    first = int((arm == 0).sum())
    control, own = estimates.mean(exact[:first]), estimates.mean(exact[first:])
    assert found.value == pytest.approx(float(estimates.difference(control, own).value), rel=1e-9)


def test_without_a_covariate_posted_it_is_as_without_one() -> None:
    for ramp in (False, True):
        asked, not_asked = (run(1, each, ramp=ramp, known=0.0) for each in (WITH, WITHOUT))
        assert asked.comparisons == not_asked.comparisons
        assert asked.looks == not_asked.looks


def test_each_arms_own_numbers_stay_and_the_tables_say_so() -> None:
    with_, without = run(2, WITH), run(2, WITHOUT)
    assert with_.sides == without.sides
    assert "difference, CUPED" in text(with_)
    assert "less what was known before" in text(with_)
    assert "CUPED" not in text(without)
    assert with_.verdict.evidence["adjusted"] is True


@pytest.mark.parametrize("ramp", [False, True])
def test_of_an_arm_without_an_event_nothing_is_said(ramp: bool) -> None:
    """What is taken out varies, but on nothing rests what the arm's own variance is."""
    chance = numpy.random.default_rng(12)
    number = numpy.repeat([1, 2], 2_000)
    arm = (chance.random(4_000) < numpy.where(number == 2, 0.05, 0.1 if ramp else 0.05)).astype(int)
    solved = (chance.random(4_000) < 0.02) & (arm == 0)
    plan = design("solved:covariate=prior")
    traffic = Traffic(number, arm, outcomes={SOLVED: solved, PRIOR: chance.random(4_000)})
    share = 0.1 if ramp else 0.05
    found = only(report(traffic, phase(1, (1 - share, share), plan), phase(2, (0.95, 0.05), plan)))
    assert found.waiting == "an arm's variance rests on 0 of 20 units that it needs"
    assert (found.log_e, found.decided) == (0.0, None)


def test_a_margin_is_compared_sharper_too() -> None:
    plans = [design(guardrails=[f"{each}:decrease:margin=0.1"]) for each in (WITH, WITHOUT)]
    chance = numpy.random.default_rng(13)
    arm, before = chance.integers(0, 2, 2_000), chance.normal(3, 1, 2_000)
    stars = before + 0.1 * chance.normal(size=2_000) + 0.15 * arm
    traffic = Traffic(1, arm, outcomes={STARS: stars, PRIOR: before})
    broken = [report(traffic, phase(design=plan)).guards[0].breached for plan in plans]
    assert broken == [True, False]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    opened = SqlStore(f"sqlite:///{tmp_path}/experiments.db")
    yield opened
    opened.close()


def test_numbers_and_booleans_are_covariates_and_labels_are_none(store: SqlStore) -> None:
    """Of four units an arm, the prior is what they then do; one is known by a word alone."""
    told: list[float | bool | str] = [0.0, True, 1.0, "often"]
    for arm in ("v1", "v2"):
        for place, prior in enumerate(told):
            unit = f"{arm}-{place}"
            store.expose([exposure(unit, arm)])
            store.record([outcome(prior in (1.0, True), unit, arm)])
            store.record([outcome(prior, unit, arm, metric="prior")])
    plan = design("solved:covariate=prior")
    found = analyse("support", [phase(design=plan)], store, now_s=0.0)
    assert only(found).adjusted
    assert only(found).value == pytest.approx(0)
    assert [side.metrics[0].value for side in found.sides] == [0.5, 0.5]
