"""Exposures and outcomes while writer and database are killed: what was acknowledged must be there.

    python -m loadtests.kills                          # 100 000 exposures, 20 000 outcomes
    python -m loadtests.kills --batches 40 --seed 7    # a fifth of it, other instants

On a SQLite file and, where the machine has its binaries, on PostgreSQL. A process writes batches,
and says of each when it is acknowledged; it is killed with SIGKILL at random instants, and of
PostgreSQL the server too. Who comes next sends again what was not acknowledged, as a client would.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from adapters.errors import Unavailable
from adapters.render import table
from serve.experiments.store.base import Exposure, Outcome, Receipt
from serve.experiments.store.sql import SqlStore
from tests.serve.experiments.store.postgres import OwnPostgres, binaries

_EXPERIMENT = "support/ab-1"
_EXPOSURES, _OUTCOMES = 500, 100
"""Of a batch."""
_LONGEST_S = 0.3
_PAUSE_S = 0.05


def main() -> None:
    """Fill both, killing; print a row each, and fail where anything is missing or twice."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batches", type=int, default=200, help="of 500 exposures; default 200")
    parser.add_argument("--seed", type=int, default=1, help="of the instants; default 1")
    parser.add_argument("--write", nargs=2, metavar=("URL", "BATCH"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.write:
        _write(asked.write[0], int(asked.write[1]), asked.batches)
        return
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="adapters-kills-"))
        rows = [_filled(f"sqlite:///{Path(scratch)}/experiments.db", None, asked)]
        if folder := binaries():
            server = OwnPostgres(folder)
            stack.callback(server.remove)
            server.start()
            rows.append(_filled(server.database(), server, asked))
    head = ["database", "exposures", "outcomes", "writers killed", "servers killed"]
    print(table([*head, "acknowledged and lost", "twice", "seconds"], rows))
    if any(row[5] or row[6] for row in rows):
        sys.exit("What was acknowledged is not there, or there twice.")


def _filled(url: str, server: OwnPostgres | None, asked: argparse.Namespace) -> list[object]:
    chance, began, acknowledged = random.Random(asked.seed), time.monotonic(), -1
    killed = [0, 0]
    while acknowledged < asked.batches - 1:
        command = [sys.executable, "-m", "loadtests.kills", "--batches", str(asked.batches)]
        writer = subprocess.Popen(
            [*command, "--write", url, str(acknowledged + 1)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout
        lines = iter(writer.stdout)
        acknowledged = int(next(lines, acknowledged))  # it is at work
        timer = threading.Timer(chance.uniform(0, _LONGEST_S), writer.kill)
        timer.start()
        if server and chance.random() < 0.5:
            time.sleep(chance.uniform(0, _LONGEST_S))
            server.kill()
            killed[1] += 1
            server.start()
        for line in lines:
            acknowledged = int(line)
        timer.cancel()
        killed[0] += writer.wait() < 0
    store = SqlStore(url)
    exposed = [each.unit for each in store.exposures(_EXPERIMENT)]
    told = {each.unit: each.value for each in store.outcomes(_EXPERIMENT)}
    count = len(list(store.outcomes(_EXPERIMENT)))
    store.close()
    units = {str(n) for n in range(asked.batches * _EXPOSURES)}
    posted = {o.unit: o.value for b in range(asked.batches) for o in _outcomes(b)}
    lost = len(units - set(exposed)) + sum(told.get(unit) != v for unit, v in posted.items())
    twice = len(exposed) - len(set(exposed)) + count - len(told)
    seconds = round(time.monotonic() - began)
    return [url.partition(":")[0], len(exposed), count, *killed, lost, twice, seconds]


def _write(url: str, batch: int, batches: int) -> None:
    """Write batches from one on; print the number of each once it is acknowledged."""
    store = None
    while batch < batches:
        try:
            store = store or SqlStore(url)
            store.expose(_exposures(batch))
            receipts = store.record(_outcomes(batch))
        except Unavailable:
            time.sleep(_PAUSE_S)  # and again, under the same keys
            continue
        assert all(isinstance(receipt, Receipt) for receipt in receipts)
        print(batch, flush=True)
        batch += 1


def _exposures(batch: int) -> list[Exposure]:
    first = batch * _EXPOSURES
    return [
        Exposure(
            _EXPERIMENT,
            1,
            f"v{1 + n % 2}",
            str(n),
            0.5,
            f"r-{n}",
            float(n),
            latency_ms=20.0,
            id=str(n),
        )
        for n in range(first, first + _EXPOSURES)
    ]


def _outcomes(batch: int) -> list[Outcome]:
    first = batch * _EXPOSURES
    return [
        Outcome(_EXPERIMENT, 1, f"v{1 + n % 2}", str(n), f"r-{n}", "solved", n % 3 == 0, float(n))
        for n in range(first, first + _OUTCOMES)
    ]


if __name__ == "__main__":
    main()
