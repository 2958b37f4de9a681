"""What an experiment's records cost a request: the server's own code with and without, in turn.

    python -m loadtests.exposure_overhead

Gate and observer over the echo engine, in one process and without a network: nothing else is in it.
Both servers split the same traffic; one signs an assignment, reads how the answer ended and hands
an exposure to a recorder that writes to SQLite meanwhile. It fails above 0.3 ms at p50.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from prometheus_client import CollectorRegistry

from adapters import bases
from adapters.experiments import Arm
from adapters.registry import Registry
from adapters.render import table
from loadtests import fleet
from serve.engines.echo_engine import EchoEngine
from serve.experiments.recording import Recording
from serve.experiments.store.recorder import Recorder
from serve.experiments.store.sql import SqlStore
from serve.experiments.token import Tokens
from serve.gate import Gate
from serve.http.asgi import ASGIApp
from serve.loading.admission import Admission
from serve.loading.residency import Residency
from serve.routes.routing import Base
from serve.routes.snapshot import Snapshot, take
from serve.tenants.keys import Keys
from serve.watching.metrics import Metrics
from serve.watching.observing import Observer

_MOST_MS = 0.3
_PATH = "/v1/chat/completions"
_WARM = 200


def main() -> None:
    """Ask both servers in turn; print what a request takes on each, and the difference."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=4000, help="of each kind and server")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="adapters-overhead-") as scratch:
        snapshot = take(_registry(Path(scratch) / "registry"))
        store = SqlStore(f"sqlite:///{scratch}/experiments.db")
        tokens = Tokens(Path(scratch) / "assignment.keys")
        with Recorder(store) as recorder:
            plain, recording = Metrics(CollectorRegistry()), Metrics(CollectorRegistry())
            servers = (
                _server(snapshot, plain, None),
                _server(snapshot, recording, Recording(recorder, tokens, recording)),
            )
            rows, added = [], []
            for kind, content in _kinds().items():
                off, on = asyncio.run(_times_ms(servers, content, asked.requests))
                each = [b - a for a, b in zip(sorted(off), sorted(on), strict=True)]
                added.append(median(on) - median(off))
                rows.append(
                    (
                        kind,
                        *(f"{median(times):.3f}" for times in (off, on)),
                        f"{added[-1]:+.3f}",
                        f"{quantiles(each, n=100)[-1]:+.3f}",
                    )
                )
        print(table(["request", "without p50 ms", "with p50 ms", "added p50", "at p99"], rows))
        expected = len(_kinds()) * (asked.requests + _WARM)
        assert recorder.written == expected, (recorder.written, recorder.dropped)
        store.close()
    if max(added) > _MOST_MS:
        raise SystemExit(f"Above {_MOST_MS} ms.")


def _registry(folder: Path) -> Registry:
    """Return a registry with an experiment on two versions; the echo engine knows no canary."""
    registry, maker = Registry.open(folder), fleet.Maker()
    for seed in (1, 2):
        with tempfile.TemporaryDirectory() as written:
            maker.write(Path(written), seed)
            registry.publish("support", Path(written), base=maker.base.model)
    registry.start_experiment("support", [Arm("v1", 1, 50), Arm("v2", 2, 50)])
    return registry


def _server(snapshot: Snapshot, metrics: Metrics, recording: Recording | None) -> ASGIApp:
    engine = EchoEngine("tiny")
    gate = Gate(
        engine.app,
        engine=engine,
        admission=Admission(Residency(engine)),
        snapshot=lambda: snapshot,
        base=Base(("tiny",), bases.resolve("tiny").model),
        keys=Keys([]),
        recording=recording,
    )
    return Observer(gate, metrics, recording=recording.over if recording else None)


def _kinds() -> dict[str, dict[str, Any]]:
    def turns(words: int) -> list[dict[str, str]]:
        return [{"role": "user", "content": "word " * words}]

    return {
        "a short document": {"messages": turns(10), "max_tokens": 8},
        "a stream of 128 events": {"messages": turns(10), "max_tokens": 128, "stream": True},
        "a prompt of 40 000 characters": {"messages": turns(8000), "max_tokens": 8},
    }


async def _times_ms(
    servers: tuple[ASGIApp, ASGIApp], content: dict[str, Any], number: int
) -> tuple[list[float], list[float]]:
    """Return what requests took on each server, one at a time, each in its turn."""
    took: tuple[list[float], list[float]] = ([], [])
    for turn in range(_WARM + number):
        body = json.dumps({"model": "support", "user": f"user-{turn % 500}", **content}).encode()
        for server, times in zip(servers, took, strict=True):
            began = time.perf_counter()
            await _ask(server, body)
            times.append(1e3 * (time.perf_counter() - began))
    return took[0][_WARM:], took[1][_WARM:]


async def _ask(server: ASGIApp, body: bytes) -> None:
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": body}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200, message

    await server({"type": "http", "method": "POST", "path": _PATH, "headers": []}, receive, send)


if __name__ == "__main__":
    main()
