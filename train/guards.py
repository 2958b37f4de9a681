"""What stops a run that has gone wrong, before hours are spent on it and anything is published.

A loss or a gradient that is no number; a loss far above what the run had, and above what the base
itself has. The message names the step, its rows by file and line, the cause and the fix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from transformers import TrainerCallback

from adapters.errors import Rejected
from train.recipe import Recipe

_WINDOW = 32
"""Steps that the running median is of."""
_AT_LEAST = 8
"""Steps that there must be before a spike is one."""
_MOST_ROWS = 16


class Guards(TrainerCallback):  # type: ignore[misc]
    """Raise `Rejected` at the step that goes wrong.

    `rows`: the places (`file:line`) of the rows that a step learnt from.
    """

    def __init__(self, recipe: Recipe, rows: Callable[[int], Sequence[str]]) -> None:
        self._recipe = recipe
        self._rows = rows

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Look at a step's loss and gradient norm."""
        if "loss" not in (logs or {}):
            return
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        norm = 0.0 if args.fp16 else float(logs.get("grad_norm") or 0.0)  # fp16 skips such steps
        if wrong := self._not_a_number(losses[-1], norm):
            first = state.global_step == 1 and not math.isfinite(losses[-1])
            raise self._stopped(state, wrong, _BROKEN if first else self._lower())
        if wrong := self._spike(losses):
            raise self._stopped(state, wrong, self._lower() + _SPIKE)

    @staticmethod
    def _not_a_number(loss: float, norm: float) -> str:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        return "" if math.isfinite(norm) else f"the gradient's norm is {norm}"

    def _spike(self, losses: Sequence[float]) -> str:
        """Say what a spike is: many times the running median, and worse than the start."""
        *before, loss = losses
        ratio = self._recipe.max_loss_spike
        if not ratio or len(before) < _AT_LEAST:
            return ""
        usual, start = median(before[-_WINDOW:]), median(before[:_AT_LEAST])
        if loss <= ratio * usual or loss <= 1.5 * start:
            return ""
        return f"the loss jumps to {loss:.3g}, from {usual:.3g} (the median of the steps before)"

    def _stopped(self, state: Any, wrong: str, fix: str) -> Rejected:
        rows = list(self._rows(state.global_step))
        named = ", ".join(rows[:_MOST_ROWS]) or "unknown"
        if len(rows) > _MOST_ROWS:
            named += f" and {len(rows) - _MOST_ROWS} more"
        return Rejected(
            f"Step {state.global_step} of {state.max_steps}: {wrong}. Its rows: {named}. "
            "Nothing was published.",
            fix=fix,
        )

    def _lower(self) -> str:
        rate = self._recipe.learning_rate
        return (
            f"The learning rate is likely too high: lower --learning-rate ({rate:g}; try "
            f"{rate / 10:g}), or lengthen --warmup-steps."
        )


_BROKEN = (
    "Nothing was learnt yet, so these rows or the base's weights are the cause: look at the rows, "
    "or try another base."
)
_SPIKE = " If those rows are odd, mend them. Or allow it: --max-loss-spike 0"
