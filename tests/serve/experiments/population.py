"""A population behind an experiment, as a store has it: units assigned, exposed, and what came."""

from __future__ import annotations

import random
from collections.abc import Mapping

from adapters.experiments import Phase
from serve.experiments.store.base import Exposure, Outcome, Store
from serve.experiments.store.units import key_of
from serve.routes.assignment import assign


def lived(
    store: Store,
    name: str,
    phase: Phase,
    solves: Mapping[str, float],
    *,
    units: int = 1200,
    fails: Mapping[str, float] | None = None,
    seed: int = 0,
) -> None:
    """Have units ask once each, and say whether it was solved; rates by arm."""
    chance, key = random.Random(seed), key_of(name, phase.experiment)
    exposures, outcomes = [], []
    for number in range(units):
        unit = f"{seed}-{number}"
        assigned = assign(phase, unit)
        assert assigned
        assert assigned.probability
        arm, at_s = assigned.arm.name, 1000.0 + number
        failed = chance.random() < (fails or {}).get(arm, 0.0)
        told = (key, phase.number, arm, unit)
        exposures.append(
            Exposure(*told, assigned.probability, f"r-{unit}", at_s, error=failed, latency_ms=20.0)
        )
        solved = chance.random() < solves[arm]
        outcomes.append(Outcome(*told, f"r-{unit}", "solved", solved, at_s))
    store.expose(exposures)
    for begun in range(0, units, 1000):
        store.record(outcomes[begun : begun + 1000])
