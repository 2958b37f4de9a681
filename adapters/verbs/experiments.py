"""Experiments start, ramp, pause and stop; every change is a phase, and none is rewritten."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from adapters.errors import Conflict, NotFound, Rejected
from adapters.experiments import (
    Arm,
    Design,
    Phase,
    Status,
    check_arms,
    check_design,
    ramped,
    without,
)
from adapters.journals import experiment_journal, phase_line
from adapters.types import check_name
from adapters.verbs.writer import Writer, actor, now

_PLAIN = Design()
"""Nothing is measured: traffic is split, and that is all."""


class Experiments(Writer):
    """The verbs that split traffic."""

    def start_experiment(
        self,
        name: str,
        arms: Sequence[Arm],
        *,
        design: Design = _PLAIN,
        experiment: str | None = None,
        reason: str = "",
        status: Status = "running",
    ) -> Phase:
        """Split the requests for `name` between arms from now on; the first one is the control.

        One arm alone is possible where the design has a shadow.

        `experiment`: its name; None numbers it (`ab-1`, `ab-2`, …). `status`: "draft" keeps it
        until `resume_experiment` starts it.

        Raises:
            InvalidName, NotFound: no such adapter, or an arm's version does not exist.
            UsageError: arms or a design that cannot be (`check_arms`, `check_design`).
            Rejected: an arm's version is retired or quarantined, or its lint failed.
            Conflict: an experiment on it is not over, one of that name ran before, or one of its
                layer has some of its units.
        """
        assert status in ("draft", "running")
        check_arms(arms, alone=design.shadow is not None)
        check_design(design, arms)
        self._numbers(name)
        with self._backend.writing(name):
            if current := self.experiment(name):
                raise Conflict(
                    f"{current.experiment} is {current.status} on {name}.",
                    fix=f"Stop it first: adapters ab stop {name}",
                )
            taken = self._backend.journals(name, "experiments")
            chosen = check_name(experiment) if experiment else _free_name(taken)
            if experiment_journal(chosen) in taken:
                raise Conflict(f"{name} had an experiment {chosen}.", fix="Choose another name.")
            salt, by = secrets.token_hex(8), actor()
            phase = Phase(chosen, 1, status, salt, tuple(arms), now(), by, reason, design)
            self._check_may_run(name, phase)
            self._record(name, phase)
            return phase

    def ramp_experiment(
        self,
        name: str,
        shares: Mapping[str, float],
        *,
        reason: str = "",
        after: Phase | None = None,
    ) -> Phase:
        """Give the arms other shares. Units move one way only: between two arms never both ways.

        `shares`: of every arm, by its name; they sum to 1 or to 100. `after`: the phase on which
        this was decided.

        Raises:
            InvalidName, NotFound: no such adapter, or no experiment on it that is not over.
            UsageError: other arms than the experiment's are named, or shares that cannot be.
            Rejected: an arm's version is retired or quarantined meanwhile.
            Conflict: it has a later phase than `after`.
        """
        return self._change(name, reason, lambda now: {"arms": ramped(now.arms, shares)}, after)

    def take_out(
        self, name: str, arm: str, *, reason: str = "", after: Phase | None = None
    ) -> Phase:
        """Give the units of one arm the control; all others stay where they are.

        Raises:
            InvalidName, NotFound: no such adapter, or no experiment on it that is not over.
            UsageError: no such arm, or it is the control.
            Conflict: it is out already, or there is a later phase than `after`.
        """

        def change(current: Phase) -> Mapping[str, Any]:
            if current.arm(arm).out:
                raise Conflict(f"{arm} is out already.", fix="Nothing is left to do.")
            return {"arms": without(current.arms, arm)}

        return self._change(name, reason, change, after)

    def pause_experiment(self, name: str, *, reason: str = "") -> Phase:
        """Have requests for `name` go to production until it goes on.

        Raises:
            InvalidName, NotFound: no such adapter, or no experiment on it that is not over.
            Conflict: it is paused already.
        """
        return self._change(name, reason, lambda now: _turned(now, "paused"))

    def resume_experiment(self, name: str, *, reason: str = "") -> Phase:
        """Start a draft, or have a paused experiment go on: every unit gets the arm that it had.

        Raises:
            InvalidName, NotFound: no such adapter, or no experiment on it that is not over.
            Conflict: it runs already.
            Rejected: an arm's version is retired or quarantined meanwhile.
        """
        return self._change(name, reason, lambda now: _turned(now, "running"))

    def stop_experiment(self, name: str, *, reason: str = "", after: Phase | None = None) -> Phase:
        """End the experiment: requests for `name` go to production again.

        Raises:
            InvalidName, NotFound: no such adapter, or no experiment on it that is not over.
            Conflict: it has a later phase than `after`.
        """
        return self._change(name, reason, lambda _: {"status": "stopped"}, after)

    def _change(
        self,
        name: str,
        reason: str,
        change: Callable[[Phase], Mapping[str, Any]],
        after: Phase | None = None,
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
            if after and (current.experiment, current.number) != (after.experiment, after.number):
                raise Conflict(
                    f"{current.experiment} is in phase {current.number} by now.",
                    fix=f"See what changed: adapters ab log {name}",
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
                self._check_may_run(name, phase)
            self._record(name, phase)
            return phase

    def _record(self, name: str, phase: Phase) -> None:
        journal = experiment_journal(phase.experiment)
        self._backend.append(name, journal, phase_line(phase), expect=phase.number - 1)
        try:  # as in `_move`
            if phase.status in ("running", "draft"):
                self._check_may_run(name, phase)
        except (Conflict, NotFound, Rejected):
            stopped = replace(phase, number=phase.number + 1, status="stopped", time=now())
            self._backend.append(name, journal, phase_line(stopped), expect=phase.number)
            raise
        action = f"experiment {phase.status}"
        self._note(name, action, experiment=phase.experiment, reason=phase.reason)

    def _check_may_run(self, name: str, phase: Phase) -> None:
        """Refuse versions that may not stand, and units that another experiment has."""
        for number in sorted(phase.versions()):
            self._check_may_stand(name, number)
        design = phase.design
        if design.layer is None:
            return
        for other in self.names():
            there = self.experiment(other) if other != name else None
            if there and there.design.layer == design.layer and _meet(there.design, design):
                start, end = _span(there.design)
                raise Conflict(
                    f"{there.experiment} on {other} has {start:g} to {end:g} of {design.layer}.",
                    fix="Choose another layer_start, a smaller traffic, or stop that one.",
                )


def _span(design: Design) -> tuple[float, float]:
    return design.layer_start, design.layer_start + design.traffic


def _meet(one: Design, other: Design) -> bool:
    (a, b), (c, d) = _span(one), _span(other)
    return max(a, c) < min(b, d) - 1e-9


def _free_name(taken: Sequence[str]) -> str:
    """Return the first of `ab-1`, `ab-2` … whose journal is not taken."""
    return next(name for n in count(1) if experiment_journal(name := f"ab-{n}") not in taken)


def _turned(current: Phase, status: str) -> Mapping[str, Any]:
    if current.status == status:
        raise Conflict(f"{current.experiment} is {status} already.", fix="Nothing is left to do.")
    return {"status": status}
