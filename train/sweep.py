"""A search for a good recipe: trials over a `train.space.Space`, the best one published.

    $ADAPTERS_HOME/sweeps/<key>.lock    held by the process that searches
    $ADAPTERS_HOME/sweeps/<key>/
        study.db                        Optuna's study, in SQLite: a kill leaves it whole
        rows/                           the prepared dataset, of all trials
        trials.svg, trials.png

Optuna's TPE chooses, its median pruner ends what is worse at a validation than half of the trials
were at the same. Each trial is a run (`train.trial`); of those that ended, only the best one's
weights are kept. One that was stopped, by a kill too, goes on from its last checkpoint under its
own number when the same command is given again; one that ended is not repeated.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.errors import Rejected, UsageError
from adapters.files import SWEEP_FILE
from adapters.home import home
from adapters.registry import Registry
from adapters.types import Version
from train.full import check_target
from train.plan import Job, Plan, finished_by, make_plan, need, say
from train.resume import RunFolder, held, run_key
from train.run import load_tokenizer, prepare_rows, publish
from train.space import Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

    from train.prepare import Prepared
    from train.trial import Ended

STARTUP = 5
"""Trials at random before TPE has something to go by, and before any is pruned."""
_TENTH = 0.1
_SMALLER = ("loss", "perplexity", "forgetting")
"""Ends of the names of metrics that are better the smaller they are."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What to search, for whom; `job.recipe` is not looked at."""

    job: Job
    space: Space
    trials: int
    """How many there are in the end, with those that ended before."""
    metric: str | None = None
    """One of the version's metrics; None: what tells the method's best weights."""
    direction: str | None = None
    """`minimize` or `maximize`; None: what the metric's name says."""


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


def sweep(order: Sweep, registry: Registry) -> Outcome:
    """Search, publish the best trial's adapter and draw the trials. Progress goes to stderr.

    Raises:
        UsageError: the metric is none of the version's, or is of held-out rows and there are none.
        Rejected: no trial was completed; the message holds the last reason.
        Others: as `train.run.run`, but that what goes wrong in a trial ends that trial only.
    """
    optuna = need("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    from train.methods.metrics import BEST

    for recipe in order.space.ends():
        check_target(replace(order.job, recipe=recipe))
    job = replace(order.job, recipe=order.space.first())
    metric = order.metric or BEST.get(job.recipe.method, "eval_loss")
    direction = order.direction or ("minimize" if metric.endswith(_SMALLER) else "maximize")
    if job.recipe.eval_steps is None:  # for something to prune by
        fixed = {**order.space.fixed, "eval_steps": _TENTH}
        order = replace(order, space=replace(order.space, fixed=fixed))
    plan = make_plan(job, registry)
    key = _key(order, plan, metric, direction)
    folder = home() / "sweeps" / key
    with held(folder, lambda: say("another process is at this sweep; waiting for it")):
        study = optuna.create_study(
            study_name=f"{job.name}-{key}",
            storage=f"sqlite:///{folder / 'study.db'}",
            direction=direction,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP),
            load_if_exists=True,
        )
        search = _Search(order, plan, study, metric, folder)
        try:
            search.run()
            version = search.publish(registry)
        finally:
            shutil.rmtree(folder / "rows", ignore_errors=True)
        outcome = Outcome(
            study.study_name,
            metric,
            direction,
            _tried(study),
            study.best_trial.number,
            _importances(study),
            version,
            folder,
        )
        from train.trial_plots import draw_trials

        validations = {t.number: t.intermediate_values for t in study.get_trials(deepcopy=False)}
        draw_trials(outcome, validations, folder / "trials.svg", folder / "trials.png")
    return outcome


def _key(order: Sweep, plan: Plan, metric: str, direction: str) -> str:
    """Return 16 hex digits of all that decides a sweep's trials but for their count."""
    recipe = order.space.first().as_json()
    recipe |= {name: repr(range_) for name, range_ in order.space.ranges.items()}
    recipe |= {"sweep": [plan.job.name, metric, direction]}
    return run_key(asdict(plan.base.model), recipe, plan.identity, plan.code)


class _Search:
    """One process's work on a study."""

    def __init__(self, order: Sweep, plan: Plan, study: Study, metric: str, folder: Path) -> None:
        self._order = order
        self._plan = plan
        self._study = study
        self._metric = metric
        self._folder = folder
        self._prepared: Prepared | None = None

    def run(self) -> None:
        """Have trials until there are so many."""
        if ended := len(_tried(self._study)):
            say(f"{ended} of {self._order.trials} trials ended before")
        if ended < self._order.trials:
            self._rows()
        while trial := self._next():
            values = self._order.space.suggest(trial)
            ended = len(_tried(self._study))
            title = f"trial {trial.number} ({ended + 1} of {self._order.trials})"
            say(f"{title}: {written(values)}")
            if twin := self._twin(trial.number, values):
                say(f"{title} is trial {twin.number} again")
                self._copy(trial, twin)
            else:
                self._train(trial, self._plan_of(values), title)
            self._keep_the_best()

    def _next(self) -> Trial | None:
        """Return what was stopped, or else a new trial; None where there are enough."""
        from optuna.samplers import TPESampler
        from optuna.trial import Trial, TrialState

        trials = self._study.get_trials(deepcopy=False)
        stopped = next((t for t in trials if t.state == TrialState.RUNNING), None)
        if not stopped and len(trials) >= self._order.trials:
            return None
        number = stopped.number if stopped else len(trials)
        # Of the number too: a sampler that starts again would choose the same again.
        import numpy

        seed = numpy.random.SeedSequence([self._plan.job.recipe.seed, number]).generate_state(1)[0]
        self._study.sampler = TPESampler(n_startup_trials=STARTUP, seed=int(seed))
        return Trial(self._study, stopped._trial_id) if stopped else self._study.ask()

    def _twin(self, number: int, values: Mapping[str, Any]) -> FrozenTrial | None:
        return next(
            (t for t in _ended(self._study) if t.number != number and t.params == values), None
        )

    def _copy(self, trial: Trial, twin: FrozenTrial) -> None:
        for name, value in twin.user_attrs.items():
            trial.set_user_attr(name, value)
        trial.set_user_attr("seconds", 0.0)
        trial.set_user_attr("reason", f"as trial {twin.number}")
        self._study.tell(trial, twin.value, twin.state)

    def _plan_of(self, values: Mapping[str, Any]) -> Plan:
        job = replace(self._plan.job, recipe=self._order.space.recipe(values))
        return replace(self._plan, job=job)

    def _rows(self) -> Prepared:
        """Return the rows that all trials share, prepared where they are first asked for."""
        if self._prepared is None:
            tokenizer = load_tokenizer(self._plan.base.path)
            self._prepared = prepare_rows(self._plan, tokenizer, self._folder / "rows")
            if self._prepared.held_out is None and self._metric.startswith("eval_"):
                raise UsageError(
                    f"Nothing is held out to tell {self._metric} by.",
                    fix="Hold rows out: --test-size 0.05, or --eval-dataset FILE.",
                )
        return self._prepared

    def _train(self, trial: Trial, plan: Plan, title: str) -> None:
        from optuna.trial import TrialState

        from train.trial import attempt

        def hopeless(validation: int, value: float) -> bool:
            before = self._study.get_trials(deepcopy=False)[trial.number].intermediate_values
            if validation not in before:  # else told before it was stopped
                trial.report(value, validation)
            return trial.should_prune()

        trial.set_user_attr("run", plan.key)
        began = time.monotonic()
        ended = attempt(plan, self._rows(), title=title, metric=self._metric, hopeless=hopeless)
        ended, value = self._valued(ended)
        trial.set_user_attr("seconds", round(time.monotonic() - began, 1))
        trial.set_user_attr("metrics", ended.metrics)
        trial.set_user_attr("reason", ended.reason)
        state = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        self._study.tell(trial, value, state.get(ended.state, TrialState.FAIL))
        said = f"{ended.state}: {ended.reason}" if value is None else f"{self._metric} {value:.4g}"
        say(f"{title}: {said}")

    def _valued(self, ended: Ended) -> tuple[Ended, float | None]:
        """Return the trial's value, and it as failed where that is no number."""
        if ended.state != "complete":
            return ended, None
        if self._metric not in ended.metrics:
            raise UsageError(
                f"A version of these has no metric {self._metric!r}.",
                fix=f"There are {', '.join(sorted(ended.metrics))}.",
            )
        value = ended.metrics[self._metric]
        if not math.isfinite(value):
            return replace(ended, state="pruned", reason=f"{self._metric} is {value}"), None
        return ended, value

    def _keep_the_best(self) -> None:
        best = _best(self._study)
        for trial in _ended(self._study):
            run = trial.user_attrs.get("run")
            if run and not (best and run == best.user_attrs["run"]):
                folder = RunFolder(run)
                if folder.path.exists():
                    with folder.held():
                        folder.clear()

    def publish(self, registry: Registry) -> Version:
        """Publish what the best trial trained; once."""
        best = _best(self._study)
        if best is None:
            reasons = [trial.reason for trial in _tried(self._study)]
            raise Rejected(
                f"None of {len(reasons)} trials was completed. The last: {reasons[-1]}",
                fix="Mend that, or narrow the ranges.",
            )
        plan = self._plan_of(best.params)
        told = (
            f"Trial {best.number} of {len(_tried(self._study))} of sweep {self._study.study_name}: "
            f"{self._metric} {best.value:.4g} with {written(best.params)}."
        )
        job = replace(plan.job, notes=f"{plan.job.notes}\n{told}".strip())
        plan = replace(plan, job=job)
        folder = RunFolder(plan.key)
        with folder.held(lambda: say("another process is at this run; waiting for it")):
            version = finished_by(plan, registry)
        if version is None:
            if folder.trained() is None:  # its version, or its folder, was deleted since
                from train.trial import attempt

                attempt(plan, self._rows(), title=f"trial {best.number}", metric=self._metric)
            with folder.held():
                if (metrics := folder.trained()) is None:
                    raise Rejected(f"Trial {best.number} could not be trained again.")
                (folder.adapter / SWEEP_FILE).write_bytes(_record(self._study, self._metric))
                lineage = self._rows().lineage
                version = publish(plan, lineage, metrics, folder.adapter, registry)
        with folder.held():
            folder.clear()
        return version


def _record(study: Study, metric: str) -> bytes:
    """Return the trials as the version keeps them: nothing that another run would have other."""
    trials = [asdict(trial) for trial in _tried(study)]
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


def _ended(study: Study) -> list[FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def _best(study: Study) -> FrozenTrial | None:
    with suppress(ValueError):  # none is complete
        return study.best_trial
    return None


def _tried(study: Study) -> list[Tried]:
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
        for trial in _ended(study)
    ]


def _importances(study: Study) -> dict[str, float]:
    from optuna.importance import get_param_importances

    if len({trial.value for trial in _tried(study) if trial.value is not None}) < 2:
        return {}
    return dict(get_param_importances(study))


def written(values: Mapping[str, Any]) -> str:
    """Write a trial's values for people."""
    return ", ".join(f"{name} {short(value)}" for name, value in values.items())


def short(value: Any) -> str:
    """Write a value for people: 0.00031416 as 0.000314."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
