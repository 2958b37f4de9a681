"""The range test: its rates climb, it ends where the loss diverges, and suggests by its rule."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy
import pytest

from adapters.demo.task import split
from adapters.errors import UsageError
from adapters.registry import Registry
from train.lr_find import diverges, found, lr_find, smooth
from train.plan import Job
from train.recipe import Recipe

RATES = numpy.geomspace(1e-6, 1e-1, 100).tolist()


def test_the_mean_weighs_each_step_before_by_a_tenth_less() -> None:
    assert smooth([2.0, 2.0, 2.0]) == pytest.approx([2, 2, 2])
    assert smooth([1.0, 0.0]) == pytest.approx([1, 0.9 / 1.9])


def fall(rate: float, at: float, lowest: float) -> float:
    """A loss that falls from 3 to `lowest` round the rate `at`, in two decades."""
    return lowest + (3 - lowest) / (1 + math.exp(2 * math.log(rate / at)))


def test_steepest_descent_is_suggested(tmp_path: Path) -> None:
    losses = [fall(rate, 1e-4, 1.0) for rate in RATES]
    assert not any(diverges(losses[: n + 1], 100) for n in range(100))
    suggestion = found(RATES, losses, False, tmp_path).suggestion
    # The mean lags behind by at most ten steps, half a decade.
    assert suggestion is not None
    assert 1e-4 <= suggestion <= 10**0.5 * 1e-4


def test_no_more_than_a_tenth_of_what_diverges(tmp_path: Path) -> None:
    losses = [fall(rate, 1e-4, 1.0) for rate in RATES if rate < 4e-4]
    while not diverges(losses, 100):
        losses.append(9.0)
    rate = RATES[len(losses) - 1]
    assert rate < 1e-3, "it is seen within steps"
    result = found(RATES[: len(losses)], losses, True, tmp_path)
    assert result.diverged_at == rate
    assert result.suggestion == pytest.approx(rate / 10)


def test_a_loss_that_does_not_fall_suggests_nothing(tmp_path: Path) -> None:
    assert found(RATES, [3 + rate for rate in RATES], False, tmp_path).suggestion is None


@pytest.fixture
def job(tmp_path: Path) -> Job:
    path = tmp_path / "support.jsonl"
    train, _ = split(32, 8)
    path.write_text("".join(json.dumps(example.row()) + "\n" for example in train))
    recipe = Recipe(tuner="lora", r=4, per_device_train_batch_size=4, max_loss_spike=2.0)
    return Job(str(path), "tiny", "lr-find", recipe)


def test_a_run_through_the_rates_publishes_nothing(job: Job, tmp_path: Path) -> None:
    result = lr_find(job, low=1e-5, high=1, num_steps=20, out=tmp_path / "out")
    rates = [point.learning_rate for point in result.points]
    assert rates == pytest.approx(numpy.geomspace(1e-5, 1, 20)[: len(rates)].tolist())
    losses = [point.loss for point in result.points]
    assert min(losses) < losses[0] / 2, "it learns at these rates"
    assert result.suggestion is not None
    assert 1e-5 < result.suggestion < 1e-1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"lr-find.svg", "lr-find.png"}
    assert Registry.open().names() == []


@pytest.mark.parametrize(
    ("recipe", "arguments"),
    [
        (Recipe(), {"low": 1e-2, "high": 1e-3}),
        (Recipe(), {"num_steps": 5}),
        (Recipe(method="grpo", reward=("exact_match",)), {}),
    ],
)
def test_what_cannot_be_tested_is_refused(recipe: Recipe, arguments: dict[str, float]) -> None:
    job = Job("rows.jsonl", "tiny", "lr-find", recipe)
    with pytest.raises(UsageError):
        lr_find(job, **arguments)  # type: ignore[arg-type]
