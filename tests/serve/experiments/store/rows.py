"""Exposures and outcomes of which a test says only what matters to it."""

from __future__ import annotations

from typing import Any

from serve.experiments.store.base import Exposure, Outcome, Shadow

EXPERIMENT = "support/ab-1"


def exposure(unit: str = "ann", arm: str = "v1", **given: Any) -> Exposure:
    plain = {"experiment": EXPERIMENT, "phase": 1, "probability": 0.5, "at_s": 1000.0}
    return Exposure(arm=arm, unit=unit, **{**plain, "request_id": f"r-{unit}", **given})


def outcome(value: Any = True, unit: str = "ann", arm: str = "v1", **given: Any) -> Outcome:
    plain = {"experiment": EXPERIMENT, "phase": 1, "metric": "solved", "at_s": 2000.0}
    return Outcome(arm=arm, unit=unit, value=value, **{**plain, "request_id": f"r-{unit}", **given})


def shadow(unit: str = "ann", arm: str = "v1", **given: Any) -> Shadow:
    plain = {"experiment": EXPERIMENT, "phase": 1, "version": 3, "at_s": 1000.0}
    return Shadow(arm=arm, unit=unit, **{**plain, "request_id": f"r-{unit}", **given})
