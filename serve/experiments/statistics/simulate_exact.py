"""The same as `simulate`, for the exact method: pairs at equal shares, looked at after each."""

from __future__ import annotations

import numpy
from numpy.typing import NDArray

from adapters.errors import UsageError
from serve.experiments.statistics import blocks, bounded
from serve.experiments.statistics.estimates import Numbers
from serve.experiments.statistics.multiplicity import threshold
from serve.experiments.statistics.plan import Plan
from serve.experiments.statistics.simulate import Simulated

_OUTCOMES_AT_ONCE = 5_000_000


def simulate_exact(plan: Plan, *, runs: int = 2_000, seed: int = 0) -> Simulated:
    """Return what the plan does without its effect, and with it in the last arm.

    Outcomes are Bernoulli for a proportion (`blocks`), Beta of the plan's mean and variance else
    (`bounded`). Each arm's i-th unit is paired with the control's. Same seed, same result.

    Raises:
        UsageError: shares are not equal or change, or no outcome in [0, 1] has such a variance.
    """
    if len(plan.steps) > 1 or len(set(plan.steps[0].shares)) > 1:
        raise UsageError("The exact method needs equal shares that stay.", fix="Leave steps out.")
    if plan.variance is not None and not all(
        0 < mean < 1 and plan.variance < mean * (1 - mean)
        for mean in (plan.mean, plan.mean + plan.effect)
    ):
        raise UsageError(
            f"No outcome between 0 and 1 has a mean of {plan.mean} and a variance of"
            f" {plan.variance}.",
            fix="Scale the metric to 0 to 1.",
        )
    pairs = plan.units // plan.arms
    at_once = max(1, _OUTCOMES_AT_ONCE // (pairs * plan.arms))
    null, effect = (
        [
            _run(plan, size, min(at_once, runs - begun), pairs, [seed, begun])
            for begun in range(0, runs, at_once)
        ]
        for size in (0.0, plan.effect)
    )
    ended_null, said, _ = map(numpy.concatenate, zip(*null, strict=True))
    ended_effect, decided, right = map(numpy.concatenate, zip(*effect, strict=True))
    return Simulated(
        runs,
        int(said.sum()),
        int(right.sum()),
        int((decided & ~right).sum()),
        ended_null,
        ended_effect,
    )


def _run(
    plan: Plan, effect: float, runs: int, pairs: int, seed: list[int]
) -> tuple[Numbers, NDArray[numpy.bool_], NDArray[numpy.bool_]]:
    """Return, of each run, when it ended, whether by a claim, and whether that was all right."""
    chance = numpy.random.default_rng(seed)
    means = [plan.mean] * (plan.arms - 1) + [plan.mean + effect]
    control, *others = (_outcomes(chance, plan, mean, (runs, pairs)) for mean in means)
    log_e = numpy.stack([_evidence(plan, control, arm) for arm in others], axis=-1)
    seen = numpy.arange(1, pairs + 1)
    value = numpy.stack([numpy.cumsum(arm - control, axis=-1) / seen for arm in others], axis=-1)
    reached = log_e >= threshold(plan.alpha, plan.comparisons)
    said = numpy.any(reached, axis=-1)
    decided = numpy.asarray(numpy.any(said, axis=1))
    first = numpy.where(decided, numpy.argmax(said, axis=1), pairs - 1)
    at = numpy.arange(runs), first
    claimed = reached[at] * numpy.sign(value[at])
    truth = numpy.append(numpy.zeros(plan.comparisons - 1), numpy.sign(effect))
    right = numpy.asarray(decided & numpy.all(claimed == truth, axis=-1))
    return plan.arms * (first + 1.0), decided, right


def _evidence(plan: Plan, control: Numbers, arm: Numbers) -> Numbers:
    if plan.variance is None:
        return blocks.log_e(control, arm)
    return bounded.log_e(bounded.paired(control, arm), 0.5, plan.alpha / plan.comparisons)


def _outcomes(
    chance: numpy.random.Generator, plan: Plan, mean: float, shape: tuple[int, int]
) -> Numbers:
    if plan.variance is None:
        return numpy.asarray(chance.random(shape) < mean, numpy.float64)
    strength = mean * (1 - mean) / plan.variance - 1
    return numpy.asarray(chance.beta(mean * strength, (1 - mean) * strength, shape))
