"""What a sweep's study holds, for people and for the version: trials, the best, what decides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.types import Version

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial


@dataclass(frozen=True, slots=True)
class Tried:
    """One trial that ended."""

    number: int
    state: str
    """complete, pruned or failed."""
    value: float | None
    params: dict[str, Any]
    seconds: float
    """Of the processes that came to their end."""
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a sweep found."""

    study: str
    metric: str
    direction: str
    trials: Sequence[Tried]
    best: int
    """The number of the trial whose version this is."""
    importances: Mapping[str, float]
    """How much each range decides (PED-ANOVA), of 1 in all; empty with fewer than two values."""
    version: Version
    folder: Path

    def as_json(self) -> dict[str, Any]:
        return {
            "study": self.study,
            "metric": self.metric,
            "direction": self.direction,
            "trials": [asdict(trial) for trial in self.trials],
            "best": self.best,
            "importances": dict(self.importances),
            "engine_name": self.version.engine_name,
            "path": str(self.version.path),
            "folder": str(self.folder),
        }


def record(study: Study, metric: str) -> bytes:
    """Return the trials as the version keeps them: nothing that another run would have other."""
    trials = [asdict(trial) for trial in tried(study)]
    for trial in trials:
        del trial["seconds"]
    content = {
        "study": study.study_name,
        "metric": metric,
        "direction": study.direction.name.lower(),
        "best": study.best_trial.number,
        "trials": trials,
    }
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def ended_trials(study: Study) -> list[FrozenTrial]:
    """Return those that ended, in whatever way, in their order."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def best_trial(study: Study) -> FrozenTrial | None:
    """Return the complete trial with the best value; None where none is complete."""
    with suppress(ValueError):
        return study.best_trial
    return None


def tried(study: Study) -> list[Tried]:
    """Return the trials that ended, in their order."""
    states = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    return [
        Tried(
            trial.number,
            states[trial.state.name],
            trial.value if trial.state.name == "COMPLETE" else None,
            dict(trial.params),
            trial.user_attrs.get("seconds", 0.0),
            trial.user_attrs.get("reason", ""),
        )
        for trial in ended_trials(study)
    ]


def importances(study: Study) -> dict[str, float]:
    """Return how much each range decides, see `Outcome.importances`."""
    from optuna.importance import get_param_importances

    if len({trial.value for trial in tried(study) if trial.value is not None}) < 2:
        return {}
    return dict(get_param_importances(study))


def written(values: Mapping[str, Any]) -> str:
    """Write a trial's values for people."""
    return ", ".join(f"{name} {short(value)}" for name, value in values.items())


def short(value: Any) -> str:
    """Write a value for people: 0.00031416 as 0.000314."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
