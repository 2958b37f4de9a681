"""Experiments start and stop; every change is a phase, and phases are never rewritten."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

from adapters.errors import Conflict, NotFound, Rejected
from adapters.experiments import check_arms, free_name
from adapters.journals import experiment_journal, phase_line
from adapters.types import Arm, Phase, check_name
from adapters.verbs.writer import Writer, actor, now


class Experiments(Writer):
    """The verbs that split traffic."""

    def start_experiment(
        self, name: str, arms: Sequence[Arm], *, experiment: str | None = None, reason: str = ""
    ) -> Phase:
        """Split the requests for `name` between arms from now on.

        `experiment`: its name; None numbers it (`ab-1`, `ab-2`, …).

        Raises:
            InvalidName, NotFound: no such adapter, or an arm's version does not exist.
            UsageError: fewer than two arms, two of one name, a name that is none, or a weight
                that is not positive.
            Rejected: an arm's version is retired or quarantined, or its lint failed.
            Conflict: an experiment runs on it, or one of that name ran before.
        """
        check_arms(arms)
        self._numbers(name)
        with self._backend.writing(name):
            for arm in arms:
                if arm.version is not None:
                    self._check_may_stand(name, arm.version)
            if running := self.experiment(name):
                raise Conflict(
                    f"{running.experiment} is running on {name}.",
                    fix=f"Stop it first: adapters ab stop {name}",
                )
            taken = self._backend.journals(name, "experiments")
            chosen = check_name(experiment) if experiment else free_name(taken)
            if experiment_journal(chosen) in taken:
                raise Conflict(f"{name} had an experiment {chosen}.", fix="Choose another name.")
            phase = Phase(
                chosen, 1, "running", secrets.token_hex(8), tuple(arms), now(), actor(), reason
            )
            self._record(name, phase)
            return phase

    def stop_experiment(self, name: str, *, reason: str = "") -> Phase:
        """End the running experiment: requests for `name` go to production again.

        Raises:
            InvalidName, NotFound: no such adapter, or no experiment runs on it.
        """
        self._numbers(name)
        with self._backend.writing(name):
            running = self.experiment(name)
            if running is None:
                raise NotFound(
                    f"No experiment is running on {name}.",
                    fix=f"Start one: adapters ab start {name} --arm v1=50 --arm v2=50",
                )
            phase = replace(
                running,
                number=running.number + 1,
                status="stopped",
                time=now(),
                actor=actor(),
                reason=reason,
            )
            self._record(name, phase)
            return phase

    def _record(self, name: str, phase: Phase) -> None:
        journal = experiment_journal(phase.experiment)
        self._backend.append(name, journal, phase_line(phase), expect=phase.number - 1)
        try:  # as in `_move`
            for arm in phase.arms if phase.status == "running" else ():
                if arm.version is not None:
                    self._check_may_stand(name, arm.version)
        except (NotFound, Rejected):
            stopped = replace(phase, number=phase.number + 1, status="stopped", time=now())
            self._backend.append(name, journal, phase_line(stopped), expect=phase.number)
            raise
        action = f"experiment {phase.status}"
        self._note(name, action, experiment=phase.experiment, reason=phase.reason)
