"""What a design will do, before it starts: simulated on its own shares, metric and error rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from adapters.errors import UsageError
from adapters.experiments import Arm, Design
from adapters.metrics import Metric
from serve.experiments.statistics.plan import Plan, Step, units_fixed
from serve.experiments.statistics.simulate import Simulated, simulate
from serve.experiments.statistics.simulate_exact import simulate_exact


@dataclass(frozen=True, slots=True)
class Forecast:
    """A plan, and what came of it many times over."""

    metric: Metric
    method: str
    plan: Plan
    simulated: Simulated
    seed: int
    fixed: int
    """Units of all arms for 80 % power of a z-test that looks once, at its end."""

    @property
    def within(self) -> float | None:
        """Units within which four in five runs found it; None: fewer did."""
        found = self.simulated.found >= 0.8 * self.simulated.runs
        return float(numpy.quantile(self.simulated.ended_effect, 0.8)) if found else None

    def as_json(self, units_per_day: float | None = None) -> dict[str, Any]:
        """Return it as plain JSON; durations in days where traffic is known."""
        found, median = self.simulated, float(numpy.median(self.simulated.ended_effect))
        mean = float(self.simulated.ended_effect.mean())

        def days(units: float | None) -> float | None:
            return None if units is None or units_per_day is None else units / units_per_day

        return {
            "metric": self.metric.title,
            "method": self.method,
            "alpha": self.plan.alpha,
            "mean": self.plan.mean,
            "effect": self.plan.effect,
            "arms": self.plan.arms,
            "units": self.plan.units,
            "runs": found.runs,
            "seed": self.seed,
            "false_positive_rate": _rate(found.false_positive_rate),
            "power": _rate(found.power),
            "misled": found.misled / found.runs,
            "median_units": median,
            "mean_units": mean,
            "units_80_percent": self.within,
            "median_days": days(median),
            "mean_days": days(mean),
            "days_80_percent": days(self.within),
            "units_fixed": self.fixed,
        }


def forecast(
    arms: Sequence[Arm],
    design: Design,
    *,
    mean: float,
    sd: float | None = None,
    effect: float | None = None,
    units: int | None = None,
    runs: int = 2_000,
    seed: int = 0,
    drift: float = 0.0,
) -> Forecast:
    """Simulate a design. `mean`: of a unit's outcome under control; `sd`: needed unless it is a
    proportion; `effect`: the metric's own by default; `units`: of all arms, when it would be given
    up, by default `planned_units`. A canary's are those of its steps.

    Raises:
        UsageError: no primary metric or no effect is known, or what `Plan` and `simulate` refuse.
    """
    metric = design.primary
    if metric is None:
        raise UsageError("Nothing decides here.", fix="Name a metric: --primary solved:effect=3%")
    if metric.kind == "preference" or design.policy == "bandit":
        raise UsageError(
            "Preferences and bandits are not simulated.", fix="Simulate the same as a split."
        )
    size = effect if effect is not None else metric.effect
    if size is None:
        raise UsageError(
            "The least effect that is worth finding is not known.",
            fix=f"Say it: --primary {metric.title}:effect=0.03, or --effect.",
        )
    if metric.kind != "proportion" and sd is None:
        raise UsageError(f"{metric.title} needs its standard deviation.", fix="Give --sd.")
    plan = Plan(
        _steps(arms, design, units),
        mean,
        abs(size) if metric.direction == "increase" else -abs(size),
        None if metric.kind == "proportion" else (sd or 0.0) ** 2,
        design.alpha,
        design.planned_units,
    )
    simulated = (
        simulate_exact(plan, runs=runs, seed=seed)
        if design.method == "exact"
        else simulate(plan, runs=runs, seed=seed, drift=drift)
    )
    return Forecast(metric, design.method, plan, simulated, seed, units_fixed(plan))


def _steps(arms: Sequence[Arm], design: Design, units: int | None) -> tuple[Step, ...]:
    if design.policy != "canary":
        return (Step(units or design.planned_units, tuple(arm.weight for arm in arms)),)
    return tuple(
        Step(round(design.step_units / share), (1 - share, share))
        for share in design.steps
        if share < 1
    )


def _rate(found: tuple[float, float, float]) -> dict[str, float]:
    rate, low, high = found
    return {"rate": rate, "low": low, "high": high}
