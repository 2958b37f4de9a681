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

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.errors import Rejected, UsageError
from adapters.files import SWEEP_FILE
from adapters.home import home
from adapters.registry import Registry
from adapters.runs import held
from adapters.types import Version
from train.before import load_tokenizer, prepare_rows
from train.full import check_target
from train.plan import Job, Plan, finished_by, make_plan, need, say
from train.resume import RunFolder, run_key
from train.run import publish
from train.space import Space
from train.trials import Outcome, best_trial, ended_trials, importances, record, tried, written

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
        except (KeyboardInterrupt, SystemExit):
            say("Stopped. The same command goes on from there.")
            raise
        finally:
            shutil.rmtree(folder / "rows", ignore_errors=True)
        outcome = Outcome(
            study.study_name,
            metric,
            direction,
            tried(study),
            study.best_trial.number,
            importances(study),
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
        if ended := len(tried(self._study)):
            say(f"{ended} of {self._order.trials} trials ended before")
        if ended < self._order.trials:
            self._rows()
        while trial := self._next():
            values = self._order.space.suggest(trial)
            ended = len(tried(self._study))
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
        others = (trial for trial in ended_trials(self._study) if trial.number != number)
        return next((trial for trial in others if trial.params == values), None)

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
        best = best_trial(self._study)
        for trial in ended_trials(self._study):
            run = trial.user_attrs.get("run")
            if run and not (best and run == best.user_attrs["run"]):
                folder = RunFolder(run)
                if folder.path.exists():
                    with folder.held():
                        folder.clear()

    def publish(self, registry: Registry) -> Version:
        """Publish what the best trial trained; once."""
        best = best_trial(self._study)
        if best is None:
            reasons = [trial.reason for trial in tried(self._study)]
            raise Rejected(
                f"None of {len(reasons)} trials was completed. The last: {reasons[-1]}",
                fix="Mend that, or narrow the ranges.",
            )
        plan = self._plan_of(best.params)
        told = (
            f"Trial {best.number} of {len(tried(self._study))} of sweep {self._study.study_name}: "
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
                    raise Rejected(
                        f"Trial {best.number} could not be trained again.",
                        fix="Train it by itself: adapters train with the values shown.",
                    )
                (folder.adapter / SWEEP_FILE).write_bytes(record(self._study, self._metric))
                lineage = self._rows().lineage
                version = publish(plan, lineage, metrics, folder.adapter, registry)
        with folder.held():
            folder.clear()
        return version
