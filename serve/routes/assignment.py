"""Who gets which arm: a pure function, so every server and every replica says the same."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from itertools import accumulate

from adapters.types import Arm, Phase

_HASHES = 1 << 256


def assign(phase: Phase, unit: str) -> Arm:
    """Return the arm of a unit: its hash's place among the arms' cumulative weights.

    The salt stays for an experiment's life, so where the split between two arms moves, units
    move one way only, from the arm that shrank to the one that grew.
    """
    assert phase.arms, "the registry refuses an experiment without arms"
    digest = hashlib.sha256(f"{phase.salt}:{unit}".encode("utf-8", "surrogatepass")).digest()
    point = Fraction(int.from_bytes(digest), _HASHES)  # exact: no unit falls between two arms
    weights = [Fraction(arm.weight) for arm in phase.arms]
    total = sum(weights)
    for arm, end in zip(phase.arms, accumulate(weights), strict=True):
        if point * total < end:
            return arm
    raise AssertionError("the point is below 1 and the last interval ends at 1")
