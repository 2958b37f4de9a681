"""Where else a run's numbers go: TensorBoard, Weights & Biases, MLflow …, through transformers.

A tracker is asked for by transformers' name and must be installed; the run's name is ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from adapters.errors import MissingExtra, UsageError, nearest

_CHECKS = {"azure_ml": "azureml", "comet_ml": "comet", "flyte": "flytekit"}
"""Trackers whose `is_…_available` in transformers has another name."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuse what transformers cannot send to, before anything is loaded.

    Raises:
        UsageError: no such tracker.
        MissingExtra: its package is not installed.
    """
    if not names:
        return
    from transformers.integrations import integration_utils

    known = integration_utils.INTEGRATION_TO_CALLBACK
    for name in names:
        if name not in known:
            hint = nearest(name, known) or f"There are {', '.join(sorted(known))}."
            raise UsageError(f"--report-to knows no {name!r}.", fix=hint)
        installed = getattr(integration_utils, f"is_{_CHECKS.get(name, name)}_available", None)
        if installed and not installed():
            raise MissingExtra(
                f"--report-to {name} needs a package that is not installed.",
                fix=f"pip install {name.replace('_', '-')}",
            )


@contextmanager
def named(name: str, run: str) -> Iterator[None]:
    """Have trackers file a run under `runs/NAME/RUN` and call it so; what a person has set wins.

    transformers takes these from the environment; TensorBoard's files would else lie among the
    run's checkpoints and go with them.
    """
    ours = {
        "TENSORBOARD_LOGGING_DIR": f"runs/{name}/{run}",
        "WANDB_NAME": f"{name}-{run}",
        "MLFLOW_RUN_NAME": f"{name}-{run}",
    }
    added = {key: value for key, value in ours.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)
