"""The report of an experiment: how long it takes over a SQLite file, from the store to the page.

    python -m loadtests.report --exposures 100000 --outcomes 20000

Two experiments of two arms: one whose shares stayed, one that was ramped 5, 20, 50 %. Each has a
primary metric, three others and two guardrails. Best of five, with nothing else on the machine.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from adapters.experiments import Arm, Design, Phase
from adapters.metrics import Metric
from adapters.render import table
from serve.experiments.analysis import analyse
from serve.experiments.analysis.page import page
from serve.experiments.analysis.text import text
from serve.experiments.store.base import Exposure, Outcome
from serve.experiments.store.sql import SqlStore

_DESIGN = Design(
    (
        Metric.parse("solved:effect=0.02", "primary"),
        Metric.parse("stars:mean", "secondary"),
        Metric.parse("mood=happy", "secondary"),
        Metric.parse("latency_ms>800", "secondary"),
        Metric.parse("error<=5%", "guardrail"),
        Metric.parse("latency_ms:mean:margin=50", "guardrail"),
    )
)
_SPLITS = {"the same shares": (0.5, 0.5, 0.5), "a ramp": (0.05, 0.2, 0.5)}
_RUNS, _AT_ONCE = 5, 1000
_Made = TypeVar("_Made")


def main() -> None:
    """Fill, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--exposures", type=int, default=100_000)
    parser.add_argument("--outcomes", type=int, default=20_000)
    parser.add_argument("--a-unit", type=int, default=5, help="exposures of each unit")
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="adapters-report-") as scratch:
        for name, shares in _SPLITS.items():
            store = SqlStore(f"sqlite:///{Path(scratch)}/{len(rows)}.db")
            phases = [_phase(number, share) for number, share in enumerate(shares, start=1)]
            _fill(store, shares, asked.exposures, asked.outcomes, asked.a_unit)
            rows.append((name, *_measured(store, phases)))
            store.close()
    print(table(["experiment", "units", "analyse s", "text ms", "page ms", "page kB"], rows))


def _measured(store: SqlStore, phases: list[Phase]) -> tuple[str, ...]:
    report, analysed_s = _best(lambda: analyse("support", phases, store, now_s=2e9))
    _, text_s = _best(lambda: text(report))
    written, page_s = _best(lambda: page(report))
    units = sum(side.units for side in report.sides)
    told = f"{analysed_s:.2f}", f"{text_s * 1000:.1f}", f"{page_s * 1000:.1f}"
    return (f"{units:,}", *told, f"{len(written.encode()) / 1000:.0f}")


def _best(make: Callable[[], _Made]) -> tuple[_Made, float]:
    took = []
    for _ in range(_RUNS):
        before = time.perf_counter()
        made = make()
        took.append(time.perf_counter() - before)
    return made, min(took)


def _phase(number: int, share: float) -> Phase:
    arms = (Arm("v1", 1, 1 - share), Arm("v2", 2, share))
    return Phase("ab-1", number, "running", "salt", arms, "2026-11-26", "ann", "", _DESIGN)


def _fill(
    store: SqlStore, shares: tuple[float, ...], exposures: int, outcomes: int, a_unit: int
) -> None:
    chance = random.Random(1)
    places = [chance.random() for _ in range(max(1, exposures // a_unit))]
    made = [_exposure(chance, places, shares, i, exposures) for i in range(exposures)]
    posted = list(_outcomes(chance, made, outcomes))
    for start in range(0, len(made), _AT_ONCE):
        store.expose(made[start : start + _AT_ONCE])
    for start in range(0, len(posted), _AT_ONCE):
        store.record(posted[start : start + _AT_ONCE])


def _exposure(
    chance: random.Random, places: list[float], shares: tuple[float, ...], i: int, of: int
) -> Exposure:
    unit = chance.randrange(len(places))
    phase = i * len(shares) // of
    return Exposure(
        "support/ab-1",
        phase + 1,
        "v2" if places[unit] > 1 - shares[phase] else "v1",
        f"{unit:032x}",
        0.5,
        f"{i:032x}",
        1e9 + i,
        error=chance.random() < 0.02,
        latency_ms=chance.lognormvariate(6, 0.5),
        ttft_ms=chance.lognormvariate(4, 0.5),
        output_tokens=chance.randrange(300),
    )


def _outcomes(chance: random.Random, made: list[Exposure], number: int) -> Iterator[Outcome]:
    for i, each in enumerate(chance.sample(made, number)):
        named = (each.experiment, each.phase, each.arm, each.unit, each.request_id)
        if i % 3 == 0:
            yield Outcome(*named, "solved", chance.random() < 0.4, each.at_s)
        elif i % 3 == 1:
            yield Outcome(*named, "stars", chance.randint(1, 5), each.at_s)
        else:
            yield Outcome(*named, "mood", chance.choice(["happy", "cross"]), each.at_s)


if __name__ == "__main__":
    main()
