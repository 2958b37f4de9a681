"""The same as `simulate`, for the exact method: pairs at equal shares, looked at after each."""

from __future__ import annotations

import numpy

from adapters.errors import UsageError
from serve.experiments.statistics import blocks, bounded
from serve.experiments.statistics.estimates import Numbers
from serve.experiments.statistics.plan import Plan
from serve.experiments.statistics.simulate import Runs, Simulated, first_claim, gathered

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
    return gathered(
        lambda effect, size, begun: _run(plan, effect, size, pairs, [seed, begun]),
        plan.effect,
        runs,
        at_once,
    )


def _run(plan: Plan, effect: float, runs: int, pairs: int, seed: list[int]) -> Runs:
    chance = numpy.random.default_rng(seed)
    means = [plan.mean] * (plan.arms - 1) + [plan.mean + effect]
    control, *others = (_outcomes(chance, plan, mean, (runs, pairs)) for mean in means)
    seen = numpy.arange(1, pairs + 1).astype(numpy.float64)
    log_e = numpy.stack([_evidence(plan, control, arm) for arm in others], axis=-1)
    value = numpy.stack([numpy.cumsum(arm - control, axis=-1) / seen for arm in others], axis=-1)
    return first_claim(plan, log_e, value, effect, plan.arms * seen)


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
