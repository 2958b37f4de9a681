"""What of a trainer's numbers a version keeps: TRL's own names, with `/` written `_`.

Those of SFT are in `train.evaluation`. Those that begin with `eval_` are of the held-out rows after
the last step; the others are of the training rows, a mean over the last tenth of the steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

_PREFERENCES = {
    "eval_rewards_margins": "β · (how much likelier than to the base the better answer is, less "
    "the other): 0 before training",
    "eval_rewards_accuracies": "share of preferences with a margin above 0",
    "eval_rewards_chosen": "β · how much likelier than to the base: the better answers",
    "eval_rewards_rejected": "the same of the other answers",
}
_ONLINE = {
    "reward": "mean reward of its answers, weights applied",
    "eval_reward": "the same of held-out prompts",
    "eval_completions_clipped_ratio": "share of answers that max_completion_length cut off",
    "eval_completions_mean_length": "tokens of an answer",
    "kl": "distance from the base a token; where beta is above 0",
}
METRICS: Mapping[str, Mapping[str, str]] = {
    "dpo": _PREFERENCES,
    "kto": {
        **{k: v for k, v in _PREFERENCES.items() if k != "eval_rewards_accuracies"},
        "eval_kl": "distance from the base, as the loss takes it",
    },
    "reward": {
        "eval_accuracy": "share of preferences whose better answer gets the higher reward",
        "eval_margin": "reward of the better answer less that of the other",
        "eval_mean_reward": "mean reward of all answers",
    },
    "grpo": _ONLINE,
    "rloo": _ONLINE,
}
"""What each method keeps beside its losses, with its meaning."""
BEST = {"grpo": "eval_reward", "rloo": "eval_reward"}
"""What tells the best weights, the more the better, where `eval_loss` says nothing of them."""
_LAST = 0.1


def closing(
    method: str, evaluated: Mapping[str, Any], history: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Return a run's metrics by `METRICS`; what a trainer did not say is left out.

    `evaluated`: what its `evaluate()` returned; `history`: its `state.log_history`.
    """
    steps = [{_ours(name): value for name, value in entry.items()} for entry in history]
    steps = [entry for entry in steps if "loss" in entry]
    last = steps[-max(1, round(len(steps) * _LAST)) :]
    held_out = {_ours(name): value for name, value in evaluated.items()}
    found = {}
    for name in METRICS[method]:
        values = [held_out] if name.startswith("eval_") else last
        numbers = [float(entry[name]) for entry in values if name in entry]
        if numbers and all(map(math.isfinite, numbers)):
            found[name] = fmean(numbers)
    return found


def even_batch(rows: int, most: int, processes: int = 1) -> int:
    """Return how many held-out rows, at most so many, each process shall take at once.

    Trainers take the mean of batches' means, so batches are of nearly one size: a last one of few
    rows would weigh as much as any other.
    """
    batches = math.ceil(rows / (most * processes))
    return math.ceil(rows / (batches * processes))


def _ours(name: str) -> str:
    return name.replace("/", "_")
