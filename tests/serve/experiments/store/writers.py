"""Processes that write to one store at once, or are killed while they do.

Run as a script it is a process without threads. `race URL WRITERS`: all of them open a database
that is empty, and then write. `kill URL KILLS`: a child opens, writes exposures and outcomes and
says what was acknowledged, until it is killed at a random moment; again and again.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from itertools import count

from serve.experiments.store.base import Receipt
from serve.experiments.store.sql import SqlStore
from tests.serve.experiments.store.rows import exposure, outcome

_WITHIN_S = 0.05
"""About as long as a few of a child's steps take."""


def race(url: str, writers: int) -> list[str]:
    """Let processes open an empty database at once; return what each was told."""
    fork = multiprocessing.get_context("fork")
    start, told = fork.Barrier(writers), fork.SimpleQueue()

    def write(writer: int) -> None:
        start.wait()
        try:
            store = SqlStore(url)
            store.expose([exposure(str(writer))])
            (receipt,) = store.record([outcome(unit="shared")])
            told.put(receipt.status if isinstance(receipt, Receipt) else str(receipt))
        except BaseException as error:
            told.put(repr(error))

    processes = [fork.Process(target=write, args=(n,)) for n in range(writers)]
    for process in processes:
        process.start()
    said = [told.get() for _ in processes]
    for process in processes:
        process.join()
    return sorted(said)


def kill(url: str, kills: int) -> list[str]:
    """Kill a writer at random moments; return the keys that were acknowledged to any of them."""
    chance = random.Random(22)
    told: list[str] = []
    for turn in range(kills):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            _write(url, turn, writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            lines = [stream.readline() for _ in range(chance.randint(0, 4))]
            time.sleep(chance.uniform(0, _WITHIN_S))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            lines += stream
        told += [key for line in lines if line.endswith(b"\n") for key in json.loads(line)]
    return told


def _write(url: str, turn: int, told: int) -> None:
    store = SqlStore(url)
    for step in count():
        keys = [f"{turn}-{step}-{place}" for place in range(1 + step % 3)]
        store.expose([exposure(key) for key in keys])
        receipts = store.record([outcome(step, "ann", key=key) for key in keys])
        assert all(isinstance(each, Receipt) for each in receipts)
        os.write(told, json.dumps(keys).encode() + b"\n")


if __name__ == "__main__":
    print(json.dumps({"race": race, "kill": kill}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))))
