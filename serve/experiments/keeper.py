"""Experiments that look after themselves: reports are made in the background, and acted upon.

Every server over a registry does this, and what is decided happens once: each change is made upon
the phase, or the place of an alias, that it was decided on, and whoever comes second is refused by
the registry. Nothing is remembered here that a restart could lose.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy

from adapters.errors import AdaptersError, Conflict, NotFound
from adapters.experiments import Phase
from adapters.registry import Registry
from adapters.verbs.writer import acting
from serve.experiments.analysis import Report, analyse
from serve.experiments.decisions import Action, act, keeps, under_this_share
from serve.experiments.promotion import move_alias
from serve.experiments.store.base import Store
from serve.experiments.store.units import key_of
from serve.routes.snapshot import Snapshot

_LOOK_S = 5.0
_SHARE = 20.0
"""Looking takes at most this fraction of a core."""
_ACTOR = "server"

log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Is told what was seen and done. `serve.watching.experiment_metrics` is one."""

    def decided(self, kind: str) -> None:
        """An action of this kind was taken here."""

    def looked(
        self,
        log_e: Mapping[tuple[str, str, str, str], float],
        frozen: Mapping[tuple[str, str], bool],
        took_s: float,
    ) -> None:
        """All experiments were looked at: evidence by adapter, experiment, arm and metric."""


class Keeper:
    """Acts for the experiments of a snapshot. Blocks on the store and the registry."""

    def __init__(
        self,
        registry: Registry,
        store: Store,
        snapshot: Callable[[], Snapshot],
        watcher: Watcher,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._store = store
        self._snapshot = snapshot
        self._watcher = watcher
        self._clock = clock
        self._said: dict[str, str] = {}
        """What was logged last of each adapter, and would be again every few seconds."""

    async def run(self) -> None:
        """Look until cancelled, on threads: seldom, where looking takes long."""
        while True:
            began = time.monotonic()
            await asyncio.to_thread(self.look)
            await asyncio.sleep(max(_LOOK_S, (time.monotonic() - began) * _SHARE))

    def look(self) -> None:
        """Look at every experiment once, and do what follows; raises nothing."""
        began = time.monotonic()
        log_e: dict[tuple[str, str, str, str], float] = {}
        frozen: dict[tuple[str, str], bool] = {}
        for name, adapter in self._snapshot().adapters.items():
            if adapter.running is None or not keeps(adapter.running):
                self._said.pop(name, None)
                continue
            try:
                said = self._keep(name, adapter.running, log_e, frozen)
            except (Conflict, NotFound):
                continue  # another server was first, or somebody; what holds now is seen next time
            except AdaptersError as error:
                said = f"nothing can be decided: {error}"
            except Exception as error:  # a task that dies here would look after nothing any more
                if self._said.get(name) != repr(error):
                    log.exception("Looking after the experiment on %s failed", name)
                self._said[name] = repr(error)
                continue
            if said and self._said.get(name) != said:
                log.error("The experiment on %s: %s", name, said)
            self._said[name] = said
        self._watcher.looked(log_e, frozen, time.monotonic() - began)

    def _keep(
        self,
        name: str,
        running: Phase,
        log_e: dict[tuple[str, str, str, str], float],
        frozen: dict[tuple[str, str], bool],
    ) -> str:
        """Report on an experiment and act upon it. Returns what people should be told, if any.

        Raises:
            Conflict, NotFound: somebody else has changed it meanwhile, or ended it.
            AdaptersError: the store or the registry is gone, or refuses.
        """
        phases = self._registry.phases(name, running.experiment)
        if not keeps(phases[-1]):
            return ""  # the snapshot is older than that
        report, now_s = analyse(name, phases, self._store, now_s=self._clock()), self._clock()
        where = (name, running.experiment)
        frozen[where] = report.frozen
        log_e |= {(*where, *asked): value for asked, value in _evidence(report).items()}
        seen = self._seen(name, phases) if phases[-1].design.policy == "canary" else 0
        if action := act(report, phases, now_s, seen=seen):
            with acting(_ACTOR):
                self._do(name, phases[-1], action)
            return ""
        return report.verdict.said if report.frozen else ""

    def _seen(self, name: str, phases: Sequence[Phase]) -> int:
        """Return how many units a canary's arm has had since its share is what it is."""
        phase = phases[-1]
        units = self._store.units(key_of(name, phase.experiment))
        numbers = [each.number for each in under_this_share(phases)]
        counted = (units.arm == phase.arms[1].name) & ~units.crossed
        return len(numpy.unique(units.unit[counted & numpy.isin(units.phase, numbers)]))

    def _do(self, name: str, phase: Phase, action: Action) -> None:
        """Change the registry.

        Raises:
            Conflict, NotFound: it is not as it was when this was decided, or over.
            AdaptersError: the registry is gone, or refuses.
        """
        reason = f"by itself: {action.reason}"
        if action.kind in ("step", "share"):
            self._registry.ramp_experiment(name, action.shares, reason=reason, after=phase)
        elif action.kind == "take_out":
            self._registry.take_out(name, action.arm, reason=reason, after=phase)
        else:
            if action.kind == "promote" and (arm := phase.arm(action.arm)).version is not None:
                # Killed before the experiment is stopped, the next look finds the alias there.
                move_alias(
                    self._registry, name, phase, arm, reason=reason, evidence=action.evidence
                )
            self._registry.stop_experiment(name, reason=reason, after=phase)
        self._watcher.decided(action.kind)
        log.warning("%s on %s: %s, %s", phase.experiment, name, action.kind, reason)


def _evidence(report: Report) -> dict[tuple[str, str], float]:
    """Return what is known of each arm and metric: a guardrail's metric may be another's, too."""
    found = {(each.arm, each.title): each.log_e for each in report.comparisons}
    found |= {(each.arm, f"{each.title} (guardrail)"): each.log_e for each in report.guards}
    return {asked: log_e for asked, log_e in found.items() if math.isfinite(log_e)}
