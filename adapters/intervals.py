"""Intervals of what was counted. Pure."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the score interval of a proportion (Wilson 1927, JASA 22:209); `trials` ≥ 1."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (successes + z * z / 2) / (trials + z * z)
    half = z / (trials + z * z) * math.sqrt(successes * (1 - successes / trials) + z * z / 4)
    # At the ends it is exact; floats are not.
    return (centre - half if successes else 0.0), (centre + half if successes < trials else 1.0)
