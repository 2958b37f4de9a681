"""How often each statistic errs where it is looked at after every outcome, and what it finds.

    python -m loadtests.error_rates --runs 10000     # about 20 minutes of one core

Everything is simulated and seeded; nothing is served. In the first table nothing is there to be
found, so each claim is false: what promises 5 % must end its interval below that.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterator

import numpy

from adapters.intervals import wilson
from adapters.render import table
from loadtests import peeking
from serve.experiments.statistics.plan import Plan, Step, units_fixed
from serve.experiments.statistics.simulate import simulate

_RATE = Plan((Step(10_000, (1, 1)),), mean=0.3, effect=0.03)
_MEAN = Plan((Step(10_000, (1, 1)),), mean=100, effect=3, variance=900)


def main() -> None:
    """Simulate, print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=10_000, help="of most rows; default 10 000")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    began = time.perf_counter()
    print(f"{platform.machine()}, {os.cpu_count()} cores, numpy {numpy.__version__}", end="; ")
    print(f"seed {asked.seed}, α = {peeking.ALPHA}\n", flush=True)
    columns = ["claims, false", "of", "looks", "runs", "share", "95 % interval"]
    print(table(columns, _told(_nulls(asked.runs, asked.seed))), end="\n\n", flush=True)
    columns = ["claims, true", "of", "runs", "share", "95 % interval", "median n", "mean n"]
    print(table(columns, _told(_effects(asked.runs, asked.seed))), end="\n\n")
    print(f"{time.perf_counter() - began:.0f} s")


def _told(rows: Iterator[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """Return them, each told on stderr as it comes: they take minutes."""
    told = []
    for row in rows:
        print(*row, sep="  ", file=sys.stderr, flush=True)
        told.append(row)
    return told


def _nulls(runs: int, seed: int) -> Iterator[tuple[object, ...]]:
    for name, of, looks, method in (
        ("z-test", "30 and 30 %", 10_000, peeking.z_test),
        ("P(best) > 95 %", "30 and 30 %", 10_000, peeking.bayesian),
        ("χ² at 0.001", "1:1", 10_000, peeking.chi_square),
        ("sequence, one-sided", "30 and 30 %", 10_000, peeking.one_sided),
        ("margin of 5 points", "30 and 35 %", 10_000, peeking.at_margin),
        ("blocks", "30 and 30 %", 5_000, peeking.pairs(0.3, 0.3)),
        ("blocks", "2 and 2 %", 5_000, peeking.pairs(0.02, 0.02)),
        ("bounded", "Beta(0.3, 0.7)", 2_000, peeking.betting),
        ("bounded, pairs", "Beta(0.3, 0.7) twice", 2_000, peeking.betting_on_pairs),
        ("preferences", "50 % wins", 10_000, peeking.preferences(0.5)),
        ("guardrail of 5 %", "5 %", 10_000, peeking.guardrail(0.05)),
        ("guardrail of 5 %", "3 %", 10_000, peeking.guardrail(0.03)),
        ("sample ratio at 0.001", "1:1", 10_000, peeking.split(0.5)),
    ):
        claims = numpy.isfinite(peeking.first_claims(method, runs, looks, seed)).sum()
        yield name, of, looks, runs, *_share(int(claims), runs)
    fewer = max(runs // 5, 1)
    for name, by_unit in (("z-test, by request", False), ("sequence, by unit", True)):
        chances = (numpy.random.default_rng([seed, run]) for run in range(fewer))
        claims = sum(peeking.returning(chance, by_unit=by_unit) for chance in chances)
        yield name, "300 users, 20 requests each", 201, fewer, *_share(claims, fewer)
    for of, plan, drift in (
        ("30 and 30 %", _RATE, 0.0),
        ("equal, 20 to 40 % over time", _RATE, 0.2),
        ("normal outcomes", _MEAN, 0.0),
        ("three arms of 30 %", Plan((Step(10_000, (1, 1, 1)),), 0.3, 0.03), 0.0),
        ("1 and 1 %, 95:5", Plan((Step(10_000, (95, 5)),), 0.01, 0.01), 0.0),
        ("20 to 40 %, ramp 5, 20, 50 %", Plan(_ramp(10_000, 5, 20, 50), 0.3, 0.03), 0.2),
        ("20 to 40 %, ramp 1, 5, 25, 50 %", Plan(_ramp(10_000, 1, 5, 25, 50), 0.3, 0.03), 0.2),
    ):
        found = simulate(plan, runs=runs, looks=plan.units, seed=seed, drift=drift)
        yield "sequence", of, plan.units, runs, *_share(found.false_positives, runs)
    long = Plan((Step(400_000, (95, 5)),), 0.01, 0.01)
    found = simulate(long, runs=fewer, looks=4_000, seed=seed)
    yield (
        "sequence",
        "1 and 1 %, 95:5, 400 000 units",
        4_000,
        fewer,
        *_share(found.false_positives, fewer),
    )
    few = max(runs // 10, 1)
    claims = sum(peeking.bandit_of_three(numpy.random.default_rng([seed, n])) for n in range(few))
    yield "sequence", "20 to 40 %, bandit of 3 arms", 50, few, *_share(claims, few)


def _effects(runs: int, seed: int) -> Iterator[tuple[object, ...]]:
    fixed = units_fixed(Plan((Step(20_000, (1, 1)),), 0.3, 0.03))
    yield "z-test, one look", "30 and 33 %", None, "80.00%", "by design", fixed, fixed
    for of, plan, drift in (
        ("30 and 33 %", Plan((Step(20_000, (1, 1)),), 0.3, 0.03), 0.0),
        ("100 and 103, s = 30", Plan((Step(20_000, (1, 1)),), 100, 3, variance=900), 0.0),
        ("30 and 33 %, ramp 5, 20, 50 %", Plan(_ramp(20_000, 5, 20, 50), 0.3, 0.03), 0.2),
        ("30 and 33 %, ramp 1, 5, 25, 50 %", Plan(_ramp(20_000, 1, 5, 25, 50), 0.3, 0.03), 0.2),
        ("1 and 2 %, 95:5", Plan((Step(100_000, (95, 5)),), 0.01, 0.01), 0.0),
    ):
        found = simulate(plan, runs=runs, looks=1_000, seed=seed, drift=drift)
        ended = found.ended_effect
        yield "sequence", of, runs, *_share(found.found, runs), *_units(ended)
    for name, of, looks, method in (
        ("blocks", "30 and 33 %", 10_000, peeking.pairs(0.3, 0.33)),
        ("blocks", "20 and 50 %", 500, peeking.pairs(0.2, 0.5)),
        ("preferences", "60 % wins", 1_000, peeking.preferences(0.6)),
        ("guardrail of 5 %", "15 %", 1_000, peeking.guardrail(0.15)),
        ("sample ratio at 0.001", "51:49", 100_000, peeking.split(0.51)),
    ):
        count = runs if looks <= 10_000 else max(runs // 5, 1)
        first = peeking.first_claims(method, count, looks, seed)
        ended = numpy.minimum(first, looks) * (2 if name == "blocks" else 1)  # arms' units
        yield name, of, count, *_share(int(numpy.isfinite(first).sum()), count), *_units(ended)


def _ramp(units: int, *percent: int) -> tuple[Step, ...]:
    """Return equally long steps, but the last one takes half."""
    each = units // (2 * (len(percent) - 1))
    sizes = [each] * (len(percent) - 1)
    return tuple(
        Step(size, (100 - share, share))
        for size, share in zip([*sizes, units - sum(sizes)], percent, strict=True)
    )


def _units(ended: numpy.ndarray) -> tuple[str, str]:
    return f"{numpy.median(ended):.0f}", f"{ended.mean():.0f}"


def _share(claims: int, runs: int) -> tuple[str, str]:
    low, high = wilson(claims, runs)
    return f"{100 * claims / runs:.2f}%", f"{100 * low:.2f}–{100 * high:.2f}"


if __name__ == "__main__":
    main()
