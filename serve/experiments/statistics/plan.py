"""What an experiment is planned to be, and how many units it needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy

from adapters.errors import UsageError
from serve.experiments.statistics import sequences
from serve.experiments.statistics.estimates import Estimate


@dataclass(frozen=True, slots=True)
class Step:
    """So many units under one split; several make a ramp."""

    units: int
    weights: tuple[float, ...]
    """(arms,), control first, in any scale"""

    @property
    def shares(self) -> tuple[float, ...]:
        """The weights as probabilities."""
        total = sum(self.weights)
        return tuple(weight / total for weight in self.weights)


@dataclass(frozen=True, slots=True)
class Plan:
    """A primary metric, its minimum effect of interest, and the traffic.

    Raises:
        UsageError: something in it cannot be meant.
    """

    steps: tuple[Step, ...]
    mean: float
    """control's, of one unit's outcome"""
    effect: float
    """the least that is worth finding, added to the mean in one arm; either sign"""
    variance: float | None = None
    """of one unit's outcome; None: a proportion, `mean`·(1 − `mean`)"""
    alpha: float = 0.05
    planned: int = sequences.PLANNED_UNITS
    """n* of the confidence sequence; `units_needed` is a good one"""

    def __post_init__(self) -> None:
        arms = {len(step.weights) for step in self.steps}
        if len(arms) != 1 or min(arms) < 2:
            raise UsageError(
                "A plan needs two arms or more.", fix="Give each step a weight an arm."
            )
        for step in self.steps:
            if step.units < 1 or not all(0 < w < math.inf for w in step.weights):
                raise UsageError(f"Not a step: {step}.", fix="Use units and weights above 0.")
        if not 0 < self.alpha < 0.5 or self.planned < 1:
            raise UsageError(
                f"Alpha is {self.alpha}, planned {self.planned}.", fix="Try 0.05, 5000."
            )
        if not math.isfinite(self.mean) or not math.isfinite(self.effect) or not self.effect:
            raise UsageError(
                f"A minimum effect of {self.effect} on {self.mean} is none.",
                fix="Give the least difference that is worth finding.",
            )
        if self.variance is None:
            if not 0 < self.mean < 1 or not 0 < self.mean + self.effect < 1:
                raise UsageError(
                    f"A proportion cannot go from {self.mean} to {self.mean + self.effect}.",
                    fix="Both must lie between 0 and 1; a mean needs its variance.",
                )
        elif not 0 < self.variance < math.inf:
            raise UsageError(f"A variance of {self.variance} is none.", fix="Use one above 0.")

    @property
    def arms(self) -> int:
        """How many, control included."""
        return len(self.steps[0].weights)

    @property
    def comparisons(self) -> int:
        """m: each arm against control."""
        return self.arms - 1

    @property
    def units(self) -> int:
        """Of all steps: when it ends without a decision."""
        return sum(step.units for step in self.steps)

    def spread(self, mean: float) -> float:
        """Return the variance of one unit's outcome in an arm of that mean."""
        return mean * (1 - mean) if self.variance is None else self.variance


def units_fixed(plan: Plan, power: float = 0.8) -> int:
    """Return n of all arms for a z-test that looks once, at its end, at the last step's shares.

    (z_{1−α/2m} + z_power)² (s²_A/π_A + s²_B/π_B)/effect², largest over the arms: what peeking is
    compared with.
    """
    z = NormalDist().inv_cdf
    quantiles = z(1 - plan.alpha / (2 * plan.comparisons)) + z(power)
    return math.ceil((quantiles / plan.effect) ** 2 * _variance(plan))


def units_needed(plan: Plan, power: float = 0.8, *, most: int = 10**9) -> int:
    """Return n of all arms at which the confidence sequence excludes 0 with this probability.

    The least n at which effect ≥ half width + z_power · standard error, at the last step's shares.
    By then it is excluded at least so often: a look before that may have done it, and `simulate`
    says how much sooner.

    Raises:
        UsageError: it would take more than `most`.
    """
    z, variance = NormalDist().inv_cdf(power), _variance(plan)
    low, high = 2 * sequences.FEWEST_UNITS, most + 1
    while low < high:
        n = (low + high) // 2
        of_n = (numpy.asarray(each) for each in (float(n), 0.0, variance, math.inf, math.inf))
        _, half = sequences.interval(
            Estimate(*of_n), plan.alpha / plan.comparisons, planned=plan.planned
        )
        if abs(plan.effect) >= half + z * math.sqrt(variance / n):
            high = n
        else:
            low = n + 1
    if low > most:
        raise UsageError(
            f"An effect of {plan.effect} needs more than {most} units.",
            fix="Look for a larger effect, or a metric that varies less.",
        )
    return low


def _variance(plan: Plan) -> float:
    """Return n·SE² of the difference between control and the smallest arm, n of all arms."""
    shares = plan.steps[-1].shares
    arm = plan.spread(plan.mean + plan.effect) / min(shares[1:])
    return plan.spread(plan.mean) / shares[0] + arm
