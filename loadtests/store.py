"""The store of experiments: how long a report takes, and what an exposure costs a request.

    python -m loadtests.store --exposures 100000 --outcomes 20000

On a SQLite file and on PostgreSQL: the one that DATABASE_URL names, else one it starts from the
machine's binaries. The report sums six measures, a quantile's limit and a label among them.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles

from adapters.render import table
from serve.experiments.store.base import Exposure, Measure, Outcome
from serve.experiments.store.recorder import Recorder
from serve.experiments.store.sql import SqlStore
from tests.serve.experiments.store.postgres import OwnPostgres, binaries

_EXPERIMENT = "support/ab-1"
_MEASURES = [
    Measure("solved"),
    Measure("stars"),
    Measure("mood", label="happy"),
    Measure("error"),
    Measure("latency_ms", above=800),
    Measure("output_tokens"),
]
_REPORTS = 5
_PHASES = 3


def main() -> None:
    """Fill, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--exposures", type=int, default=100_000)
    parser.add_argument("--outcomes", type=int, default=20_000)
    parser.add_argument("--a-unit", type=int, default=5, help="exposures of each unit")
    asked = parser.parse_args()
    exposures = _exposures(asked.exposures, asked.a_unit)
    outcomes = list(_outcomes(exposures, asked.outcomes))
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="adapters-store-")))
        urls = [f"sqlite:///{scratch}/experiments.db"]
        if url := os.environ.get("DATABASE_URL"):
            urls.append(url)
        elif folder := binaries():
            server = OwnPostgres(folder)
            stack.callback(server.remove)
            server.start()
            urls.append(server.database())
        rows = [_measured(url, exposures, outcomes) for url in urls]
    head = ["database", "record p50 ms", "p99 ms", "written a second", "outcome p50 ms"]
    print(table([*head, "p99 ms", "report s", "units"], rows))


def _measured(url: str, exposures: list[Exposure], outcomes: list[Outcome]) -> tuple[str, ...]:
    store = SqlStore(url)
    costs_ms = []
    began = time.perf_counter()
    with Recorder(store, close_timeout_s=60) as recorder:
        for exposure in exposures:
            while recorder.waiting > 15_000:  # faster than any server would be
                time.sleep(0.005)
            before = time.perf_counter()
            recorder.record(replace(exposure))  # making one is a cost of the request's, too
            costs_ms.append((time.perf_counter() - before) * 1000)
    assert recorder.written == len(exposures), (recorder.written, recorder.dropped)
    rate = len(exposures) / (time.perf_counter() - began)
    single = outcomes[:500]
    posted_ms = []
    for outcome in single:
        before = time.perf_counter()
        store.record([outcome])
        posted_ms.append((time.perf_counter() - before) * 1000)
    for start in range(len(single), len(outcomes), 1000):
        store.record(outcomes[start : start + 1000])
    reports_s = []
    for _ in range(_REPORTS):
        before = time.perf_counter()
        units = store.units(_EXPERIMENT, _MEASURES)
        reports_s.append(time.perf_counter() - before)
    assert units.exposures.sum() == len(exposures)
    assert units.count[:3].sum() == len(outcomes)
    store.close()
    return (
        url.partition(":")[0],
        f"{median(costs_ms):.4f}",
        f"{quantiles(costs_ms, n=100)[-1]:.4f}",
        f"{rate:,.0f}",
        f"{median(posted_ms):.2f}",
        f"{quantiles(posted_ms, n=100)[-1]:.2f}",
        f"{median(reports_s):.2f}",
        f"{len(units.unit):,}",
    )


def _exposures(number: int, a_unit: int) -> list[Exposure]:
    chance = random.Random(1)
    made = []
    for i in range(number):
        unit = chance.randrange(max(1, number // a_unit))
        made.append(
            Exposure(
                _EXPERIMENT,
                phase=1 + i * _PHASES // number,
                arm=f"v{1 + unit % 2}",
                unit=f"{unit:032x}",
                probability=0.5,
                request_id=f"{i:032x}",
                at_s=1e9 + i,
                error=chance.random() < 0.02,
                latency_ms=chance.lognormvariate(6, 0.5),
                ttft_ms=chance.lognormvariate(4, 0.5),
                output_tokens=chance.randrange(300),
                finish_reason="stop",
            )
        )
    return made


def _outcomes(exposures: list[Exposure], number: int) -> Iterator[Outcome]:
    chance = random.Random(2)
    metrics = {"solved": lambda: chance.random() < 0.4, "stars": lambda: chance.randint(1, 5)}
    metrics["mood"] = lambda: chance.choice(["happy", "cross"])
    for exposure in chance.sample(exposures, number):
        metric = chance.choice(list(metrics))
        yield Outcome(
            _EXPERIMENT,
            exposure.phase,
            exposure.arm,
            exposure.unit,
            exposure.request_id,
            metric,
            metrics[metric](),
            exposure.at_s + 60,
        )


if __name__ == "__main__":
    main()
