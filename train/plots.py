"""The curve of a run: `loss.csv`, `loss.svg` and `loss.png`.

The same history gives the same bytes, so that one seed gives one digest: nothing in them tells
the time, the version of matplotlib, or what a person has set in matplotlibrc.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.files import CURVE_FILE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOGGED = (
    "epoch", "loss", "eval_loss", "learning_rate", "grad_norm",
    "reward", "eval_reward", "rewards/margins", "eval_rewards/margins",
)  # fmt: skip
"""What is kept of transformers' log: what the seed decides, so no times and no speeds."""
_LOSSES = ("loss", "eval_loss")
_SMOOTH_FROM = 50
"""Points of a line from which on its running mean is drawn beside it."""

Point = dict[str, float]


def points(history: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Return one point a step, in order, out of transformers' `TrainerState.log_history`."""
    steps: dict[int, Point] = {}
    for entry in history:
        kept = {key: float(entry[key]) for key in LOGGED if key in entry}
        if kept.keys() - {"epoch"}:  # else the summary at the end
            steps.setdefault(int(entry["step"]), {"step": entry["step"]}).update(kept)
    return [steps[step] for step in sorted(steps)]


def write_curve(history: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write a run's curve into its folder; nothing where nothing was logged."""
    if not (curve := points(history)):
        return
    columns = ["step", *(key for key in LOGGED if any(key in point for point in curve))]
    with (folder / "loss.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(curve)
    draw(curve, folder / "loss.svg", folder / CURVE_FILE)


def draw(curve: Sequence[Point], *paths: Path) -> None:
    """Draw losses over steps, below them rewards where there are any, and the learning rate."""
    import matplotlib
    from matplotlib.figure import Figure

    rewards = [key for key in LOGGED if "reward" in key]
    rows = [("loss", _LOSSES), ("reward", rewards), ("learning rate", ("learning_rate",))]
    drawn = [(label, keys) for label, keys in rows if any(_line(curve, key) for key in keys)]
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        heights = [3 if label != "learning rate" else 1 for label, _ in drawn]
        figure = Figure(figsize=(7, 1 + sum(heights)), layout="constrained")
        panels = figure.subplots(
            len(drawn), sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
        )
        for (axes,), (label, keys) in zip(panels, drawn, strict=True):
            for key in keys:
                _plot(axes, _line(curve, key), key)
            axes.set_ylabel(label)
            axes.grid(alpha=0.3)
            if len(keys) > 1:
                axes.legend()
        panels[-1][0].set_xlabel("step")
        for path in paths:
            save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG or SVG, by the path's suffix, the same bytes whenever it is drawn."""
    import matplotlib

    told = ("Software",) if path.suffix == ".png" else ("Date", "Creator")
    with matplotlib.rc_context({"svg.hashsalt": "switchyard"}):
        figure.savefig(path, metadata=dict.fromkeys(told))


def _line(curve: Sequence[Point], key: str) -> list[tuple[float, float]]:
    return [(point["step"], point[key]) for point in curve if key in point]


def _plot(axes: Any, line: Sequence[tuple[float, float]], key: str) -> None:
    if not line:
        return
    steps, values = zip(*line, strict=True)
    if key.startswith("eval_"):
        axes.plot(steps, values, "o-", label=key, markersize=3)
        return
    noisy = key != "learning_rate" and len(line) >= _SMOOTH_FROM
    (drawn,) = axes.plot(steps, values, label=key, alpha=0.35 if noisy else 1)
    if noisy:
        import numpy

        width = len(line) // (_SMOOTH_FROM // 2)
        mean = numpy.convolve(values, numpy.full(width, 1 / width), "valid")
        axes.plot(steps[width - 1 :], mean, color=drawn.get_color())
