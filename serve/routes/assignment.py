"""Who gets which arm: pure functions, so every server and every replica says the same."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

from adapters.experiments import Arm, Phase

_HASHES = 1 << 256


@dataclass(frozen=True, slots=True)
class Assigned:
    """An arm, and how it came about."""

    arm: Arm
    probability: float | None
    """With which any unit gets it in this phase. None: this one was listed by hand, and counts
    nowhere."""


def assign(phase: Phase, unit: str) -> Assigned | None:
    """Return the arm of a unit: its hash's place among the arms' cumulative weights.

    The salt stays for an experiment's life, so where the split between two arms moves, units
    move one way only, from the arm that shrank to the one that grew. None: the unit takes no part.
    """
    design = phase.design
    if unit in design.exclude:
        return None
    if listed := design.allow.get(unit):
        return Assigned(phase.arm(listed), None)
    if design.holdout and _point("holdout", unit) < Fraction(design.holdout):
        return None
    if design.layer is not None or design.traffic < 1:
        salt = phase.salt if design.layer is None else design.layer
        start = Fraction(design.layer_start)
        if not start <= _point(f"traffic:{salt}", unit) < start + Fraction(design.traffic):
            return None
    arm = _place(phase, unit)
    arm = phase.control if arm.out else arm
    return Assigned(arm, phase.probabilities()[arm.name])


def _place(phase: Phase, unit: str) -> Arm:
    assert phase.arms, "the registry refuses an experiment without arms"
    point = _point(phase.salt, unit)
    weights = [Fraction(arm.weight) for arm in phase.arms]
    total = sum(weights)
    for arm, end in zip(phase.arms, accumulate(weights), strict=True):
        if point * total < end:
            return arm
    raise AssertionError("the point is below 1 and the last interval ends at 1")


def _point(salt: str, unit: str) -> Fraction:
    """Return sha256(salt:unit) in [0, 1), exactly: no unit falls between two intervals."""
    digest = hashlib.sha256(f"{salt}:{unit}".encode("utf-8", "surrogatepass")).digest()
    return Fraction(int.from_bytes(digest), _HASHES)
