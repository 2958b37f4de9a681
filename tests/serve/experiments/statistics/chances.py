"""How many of so many runs may err: bounds that a right rate crosses once in a million seeds."""

from __future__ import annotations

from scipy.stats import binom


def at_most(runs: int, rate: float) -> int:
    """Return the count that is exceeded with probability 1e-6, if the rate is no higher."""
    return int(binom.isf(1e-6, runs, rate))


def at_least(runs: int, rate: float) -> int:
    """Return the count that is missed with probability 1e-6, if the rate is no lower."""
    return int(binom.ppf(1e-6, runs, rate))
