"""A sweep's picture: each trial's value and the best so far, their validations, what decides."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.plots import save

if TYPE_CHECKING:
    from train.trials import Outcome


def draw_trials(
    outcome: Outcome, validations: Mapping[int, Mapping[int, float]], *paths: Path
) -> None:
    """Draw a sweep into files; `validations`: of each trial's number, the metric at each."""
    import matplotlib
    from matplotlib.figure import Figure

    panels = [_history]
    panels += [_validations] if any(validations.values()) else []
    panels += [_importances] if outcome.importances else []
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(figsize=(7, 1 + 2.5 * len(panels)), layout="constrained")
        for (axes,), panel in zip(figure.subplots(len(panels), squeeze=False), panels, strict=True):
            panel(axes, outcome, validations)
            axes.grid(alpha=0.3)
        for path in paths:
            save(figure, path)


def _history(axes: Any, outcome: Outcome, validations: Mapping[int, Mapping[int, float]]) -> None:
    complete = [trial for trial in outcome.trials if trial.value is not None]
    numbers = [trial.number for trial in complete]
    values = [trial.value for trial in complete if trial.value is not None]
    better = min if outcome.direction == "minimize" else max
    axes.plot(numbers, values, "o", label="complete")
    axes.step(numbers, list(accumulate(values, better)), where="post", label="best so far")
    for state, mark in (("pruned", "|"), ("failed", "x")):
        ended = [trial.number for trial in outcome.trials if trial.state == state]
        if ended:
            at = [1.0] * len(ended)
            axes.plot(ended, at, mark, transform=axes.get_xaxis_transform(), label=state)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("trial")
    axes.set_ylabel(outcome.metric)
    axes.legend()


def _validations(
    axes: Any, outcome: Outcome, validations: Mapping[int, Mapping[int, float]]
) -> None:
    states = {trial.number: trial.state for trial in outcome.trials}
    for number, line in validations.items():
        best = number == outcome.best
        style = "-" if states.get(number) == "complete" else ":"
        steps, values = zip(*sorted(line.items()), strict=True) if line else ((), ())
        axes.plot(steps, values, style, color="C1" if best else "C0", alpha=1 if best else 0.5)
    axes.set_xlabel("validation")
    axes.set_ylabel(outcome.metric)


def _importances(
    axes: Any, outcome: Outcome, validations: Mapping[int, Mapping[int, float]]
) -> None:
    ranked = sorted(outcome.importances.items(), key=lambda each: each[1])
    axes.barh([name for name, _ in ranked], [share for _, share in ranked])
    axes.set_xlim(0, 1)
    axes.set_xlabel("importance")
