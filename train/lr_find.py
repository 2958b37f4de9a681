"""A learning-rate range test (Smith 2015, arXiv 1506.01186): one short run whose rate climbs.

Step i of n trains at `low * (high / low) ** (i / (n - 1))`. The loss is smoothed: a running mean in
which each step before weighs 0.9 of the next. It diverges where that has risen above its lowest by
half of the loss at the start (the mean of the first tenth), or is no number; the test ends there.
The suggestion is the rate of steepest descent of the smoothed loss over log(rate), before its
lowest point, but no more than a tenth of the rate at which it diverges. Nothing is published.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy
from transformers import TrainerCallback

from adapters.errors import Rejected, UsageError
from adapters.home import home
from train.before import load_tokenizer, prepare_rows, ready
from train.plan import Job, make_plan
from train.recipe import Recipe

_SMOOTHING = 0.9
_RISEN = 0.5
_TENTH = 0.1


@dataclass(frozen=True, slots=True)
class Point:
    """One step."""

    learning_rate: float
    loss: float
    smoothed_loss: float


@dataclass(frozen=True, slots=True)
class Found:
    """What a range test found."""

    points: Sequence[Point]
    diverged_at: float | None
    """The rate; None where `high` is not too high."""
    suggestion: float | None
    """None where the loss does not fall."""
    folder: Path
    """Holds `lr-find.svg` and `lr-find.png`."""

    def as_json(self) -> dict[str, Any]:
        return {
            "suggestion": self.suggestion,
            "diverged_at": self.diverged_at,
            "points": [asdict(point) for point in self.points],
            "folder": str(self.folder),
        }


def lr_find(
    job: Job,
    *,
    low: float = 1e-6,
    high: float = 1e-1,
    num_steps: int = 100,
    out: Path | None = None,
) -> Found:
    """Train through the rates with all else as `job.recipe` says, and draw the curve into `out`.

    `out`: a folder; None: `$ADAPTERS_HOME/lr-find/<key>`. Of the recipe its own rate, schedule,
    length, validations and guards are not used.

    Raises:
        UsageError: rates or steps that cannot be meant, or a method whose loss says nothing.
        Rejected: the first loss is no number already.
        Others: see `train.run.run`.
    """
    if not 0 < low < high <= 1 or num_steps < 10:
        raise UsageError(
            f"{num_steps} steps from {low} to {high} are no test.",
            fix="Use 10 steps or more, from --low up to --high, at most 1.",
        )
    if job.recipe.method in ("grpo", "rloo"):
        raise UsageError(
            f"The loss of --method {job.recipe.method} does not tell how well it learns.",
            fix="Try rates by what it earns: adapters sweep, with --metric eval_reward.",
        )
    job = replace(job, recipe=_climbing(job.recipe, high, num_steps))
    plan = make_plan(job, None)
    tokenizer = load_tokenizer(plan.base.path)
    climb = _Climb(job.recipe, low, num_steps)
    from train import loop
    from train.panel import Panel

    with (
        tempfile.TemporaryDirectory(prefix="adapters-lr-find-") as scratch,
        Panel("learning rate range test") as panel,
    ):
        rows = prepare_rows(plan, tokenizer, Path(scratch) / "rows")
        recipe, _ = ready(plan, rows)
        try:
            loop.train(
                recipe,
                plan.weights(),
                tokenizer,
                rows.train,
                None,
                out=Path(scratch),
                places=rows.places,
                callbacks=[climb, panel],
            )
        except _Climbed:
            pass
        except Rejected:  # no number, see `train.guards`
            if not climb.losses:
                raise
            climb.diverged = True
    return _drawn(found(climb.rates, climb.losses, climb.diverged, out or _folder(plan.key)))


def _folder(key: str) -> Path:
    return home() / "lr-find" / key


def _climbing(recipe: Recipe, high: float, num_steps: int) -> Recipe:
    changes: dict[str, Any] = {
        "learning_rate": high,
        "max_steps": num_steps,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "eval_steps": None,
        "load_best_model_at_end": False,
        "early_stopping_patience": None,
        "max_loss_spike": None if recipe.max_loss_spike is None else 0,
        "report_to": (),
        # The same rows a step, in one process, which can be followed.
        "num_processes": 1,
        "gradient_accumulation_steps": recipe.gradient_accumulation_steps * recipe.num_processes,
    }
    return replace(recipe, **changes)


class _Climbed(Exception):
    """The last rate was tried, or one at which it diverges."""


class _Climb(TrainerCallback):  # type: ignore[misc]
    """Set the rate of each step; end where all was seen."""

    def __init__(self, recipe: Recipe, low: float, num_steps: int) -> None:
        self._high = recipe.learning_rate
        self._steps = num_steps
        self._all = numpy.geomspace(low, self._high, num_steps).tolist()
        self.losses: list[float] = []
        self.diverged = False

    @property
    def rates(self) -> list[float]:
        """The rate of each of `losses`; of one more, where that was no number."""
        return list(self._all[: len(self.losses) + 1])

    def on_step_begin(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any
    ) -> None:
        """Set the step's rate; groups keep their ratio (LoRA+)."""
        for group in optimizer.param_groups:
            group["lr"] = self._all[state.global_step] * group["initial_lr"] / self._high

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Take the step's loss, and let others be told the rate that it had."""
        if "loss" not in (logs or {}):
            return
        logs["learning_rate"] = self._all[len(self.losses)]
        self.losses.append(logs["loss"])
        self.diverged = diverges(self.losses, self._steps)
        if self.diverged or len(self.losses) == self._steps:
            raise _Climbed


def smooth(losses: Sequence[float]) -> list[float]:
    """Return the running mean: each step before weighs 0.9 of the next."""
    mean, means = 0.0, []
    for count, loss in enumerate(losses, 1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        means.append(mean / (1 - _SMOOTHING**count))
    return means


def diverges(losses: Sequence[float], num_steps: int) -> bool:
    """Say whether the last of so many steps' losses is one at which it diverges."""
    first = math.ceil(num_steps * _TENTH)
    smoothed, start = smooth(losses), fmean(losses[:first])
    return len(losses) > first and smoothed[-1] > min(smoothed) + _RISEN * start


def found(rates: Sequence[float], losses: Sequence[float], diverged: bool, folder: Path) -> Found:
    """Return the suggestion of a curve; `rates` holds the next one too where there is one."""
    smoothed = smooth(losses)
    points = [Point(*each) for each in zip(rates, losses, smoothed, strict=False)]
    limit = None
    if diverged:
        limit = rates[min(len(losses), len(rates) - 1)]
    return Found(points, limit, _suggestion(rates, smoothed, limit), folder)


def _suggestion(
    rates: Sequence[float], smoothed: Sequence[float], limit: float | None
) -> float | None:
    first = math.ceil(len(smoothed) * _TENTH)  # few steps, no mean yet
    lowest = min(range(len(smoothed)), key=lambda at: smoothed[at])
    if lowest - first < 2:
        return None
    logs = numpy.log(rates[: len(smoothed)])
    slopes = numpy.gradient(numpy.asarray(smoothed), logs)[first:lowest]
    steepest = rates[first + int(slopes.argmin())]
    return min(steepest, limit * _TENTH) if limit else steepest


def _drawn(found: Found) -> Found:
    import matplotlib
    from matplotlib.figure import Figure

    from train.plots import save

    found.folder.mkdir(parents=True, exist_ok=True)
    rates = [point.learning_rate for point in found.points]
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        axes.semilogx(rates, [point.loss for point in found.points], alpha=0.35, label="loss")
        axes.semilogx(rates, [p.smoothed_loss for p in found.points], color="C0", label="smoothed")
        marks = (("suggestion", found.suggestion, "C2"), ("diverged", found.diverged_at, "C3"))
        for label, rate, colour in marks:
            if rate is not None:
                axes.axvline(rate, color=colour, linestyle="--", label=f"{label} {rate:.2g}")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss")
        axes.grid(alpha=0.3)
        axes.legend()
        for name in ("lr-find.svg", "lr-find.png"):
            save(figure, found.folder / name)
    return found
