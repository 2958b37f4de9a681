"""Traffic that follows the better arms: top-two Thompson sampling, with a floor.

Russo, "Simple Bayesian algorithms for best-arm identification" (Operations Research 2020, arXiv
1602.08448). With probability β play the best arm of a draw from the posterior, else redraw until
another is best: half of the traffic so goes to the rivals, and the winner is found sooner than by
Thompson's own rule, which starves them. The floor bounds 1/π, and so the width of what
`propensities` finds.
"""

from __future__ import annotations

import numpy
from numpy.typing import ArrayLike

from adapters.errors import UsageError
from serve.experiments.statistics.estimates import Numbers

LEAST_FLOOR = 0.05
_LEADER = 0.5
"""β"""


def shares(best: ArrayLike, *, floor: float = LEAST_FLOOR) -> Numbers:
    """Return each arm's probability of being assigned next, ≥ `floor`: (arms,), summing to 1.

    `best`: (arms,), `posterior.Standing.best`. Before the floor it is, in closed form,
    α_i (β + (1−β) Σ_{j≠i} α_j/(1−α_j)) (ibid.). Log it as the propensity: units assigned under it
    are compared by `propensities.difference`, not by their plain means.

    Raises:
        UsageError: the floor is below 5 %, or so high that the arms' floors exceed 1.
    """
    a = numpy.asarray(best, numpy.float64)
    if not LEAST_FLOOR <= floor <= 1 / a.size:
        raise UsageError(
            f"A floor of {floor} is not possible with {a.size} arms.",
            fix=f"Use {LEAST_FLOOR} to {1 / a.size:.3g}.",
        )
    a = a / a.sum()
    others = numpy.array([numpy.delete(a, j).sum() for j in range(a.size)])  # 1 − α_j, to the digit
    with numpy.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # j leads and i is drawn next; where j leads for certain, its rivals are equal
        second = numpy.where(others > 0, a[:, None] / others * a, a / (a.size - 1))
    numpy.fill_diagonal(second, 0.0)
    played = _LEADER * a + (1 - _LEADER) * second.sum(axis=1)
    shared: Numbers = floor + (1 - a.size * floor) * played / played.sum()
    return shared
