"""Experiments start, ramp, pause and stop; every change is a phase, and none is rewritten."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from adapters.errors import Conflict, NotFound, Rejected
from adapters.experiments import check_arms, free_name, ramped
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
            Conflict: an experiment on it is not over, or one of that name ran before.
        """
        check_arms(arms)
        self._numbers(name)
        with self._backend.writing(name):
            self._check_arms_stand(name, arms)
            if current := self.experiment(name):
                raise Conflict(
                    f"{current.experiment} is {current.status} on {name}.",
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

    def ramp_experiment(self, name: str, shares: Mapping[str, float], *, reason: str = "") -> Phase:
        """Give the arms other shares. Units move one way only: between two arms never both ways.

        `shares`: of every arm, by its name; only their ratios matter.

        Raises:
            InvalidName, NotFound: no such adapter, or no experiment on it that is not over.
            UsageError: other arms than the experiment's are named, or a share is not above 0.
            Rejected: an arm's version is retired or quarantined meanwhile.
        """
        return self._change(name, reason, lambda now: {"arms": ramped(now.arms, shares)})

    def pause_experiment(self, name: str, *, reason: str = "") -> Phase:
        """Have requests for `name` go to production until it goes on.

        Raises:
            InvalidName, NotFound: no such adapter, or no experiment on it that is not over.
            Conflict: it is paused already.
        """
        return self._change(name, reason, lambda now: _turned(now, "paused"))

    def resume_experiment(self, name: str, *, reason: str = "") -> Phase:
        """Have a paused experiment go on: every unit gets the arm that it had.

        Raises:
            InvalidName, NotFound: no such adapter, or no experiment on it that is not over.
            Conflict: it runs already.
            Rejected: an arm's version is retired or quarantined meanwhile.
        """
        return self._change(name, reason, lambda now: _turned(now, "running"))

    def stop_experiment(self, name: str, *, reason: str = "") -> Phase:
        """End the experiment: requests for `name` go to production again.

        Raises:
            InvalidName, NotFound: no such adapter, or no experiment on it that is not over.
        """
        return self._change(name, reason, lambda _: {"status": "stopped"})

    def _change(
        self, name: str, reason: str, change: Callable[[Phase], Mapping[str, Any]]
    ) -> Phase:
        """Add a phase to the experiment that is not over."""
        self._numbers(name)
        with self._backend.writing(name):
            current = self.experiment(name)
            if current is None:
                raise NotFound(
                    f"No experiment is running on {name}.",
                    fix=f"Start one: adapters ab start {name} --arm v1=50 --arm v2=50",
                )
            phase = replace(
                current,
                number=current.number + 1,
                time=now(),
                actor=actor(),
                reason=reason,
                **change(current),
            )
            if phase.status == "running":
                self._check_arms_stand(name, phase.arms)
            self._record(name, phase)
            return phase

    def _record(self, name: str, phase: Phase) -> None:
        journal = experiment_journal(phase.experiment)
        self._backend.append(name, journal, phase_line(phase), expect=phase.number - 1)
        try:  # as in `_move`
            if phase.status == "running":
                self._check_arms_stand(name, phase.arms)
        except (NotFound, Rejected):
            stopped = replace(phase, number=phase.number + 1, status="stopped", time=now())
            self._backend.append(name, journal, phase_line(stopped), expect=phase.number)
            raise
        action = f"experiment {phase.status}"
        self._note(name, action, experiment=phase.experiment, reason=phase.reason)

    def _check_arms_stand(self, name: str, arms: Sequence[Arm]) -> None:
        for arm in arms:
            if arm.version is not None:
                self._check_may_stand(name, arm.version)


def _turned(current: Phase, status: str) -> Mapping[str, Any]:
    if current.status == status:
        raise Conflict(f"{current.experiment} is {status} already.", fix="Nothing is left to do.")
    return {"status": status}
