"""How often whole reports err while an experiment runs: what was chosen, not each statistic alone.

    python -m loadtests.whole_reports --runs 1000     # about 20 minutes of one core

1 500 units come 6 000 times, half of the outcomes are late, the base rate rises by 30 points, and
somebody looks 15 times. Nothing is there to be found, so each claim is false.
"""

from __future__ import annotations

import argparse

import numpy

from adapters.intervals import wilson
from adapters.render import table
from tests.serve.experiments.analysis.visits import reports

_SPLITS = {
    "50 %": ([0.5], 0.0),
    "50 %, the base rate moves": ([0.5], 0.3),
    "5, 20, 50 %, the base rate moves": ([0.05, 0.2, 0.5], 0.3),
    "50, 10, 50 %, the base rate moves": ([0.5, 0.1, 0.5], 0.3),
}


def main() -> None:
    """Simulate, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    rows = []
    for name, (shares, drift) in _SPLITS.items():
        decided = 0
        for run in range(asked.runs):
            chance = numpy.random.default_rng([asked.seed, run])
            seen = reports(chance, shares, drift=drift)
            decided += any(each.verdict.kind == "winner" for each in seen)
        low, high = wilson(decided, asked.runs)
        ends = f"{100 * low:.1f}–{100 * high:.1f}"
        rows.append((name, asked.runs, f"{100 * decided / asked.runs:.1f}%", ends))
    print(table(["the second arm's share", "runs", "ever won", "95 % interval"], rows))


if __name__ == "__main__":
    main()
