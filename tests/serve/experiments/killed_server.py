"""A server over HTTP that is meant to be killed: the gate and feedback over the echo engine.

Run as a script: `killed_server REGISTRY STORE`. It says its port once it listens.
"""

from __future__ import annotations

import asyncio
import socket
import sys

import uvicorn
from prometheus_client import CollectorRegistry

from adapters.registry import Registry
from serve.engines.echo_engine import EchoEngine
from serve.experiments.feedback import Feedback
from serve.experiments.recording import Recording
from serve.experiments.store.recorder import Recorder
from serve.experiments.store.sql import SqlStore
from serve.experiments.token import Tokens
from serve.gate import Gate
from serve.loading.admission import Admission
from serve.loading.residency import Residency
from serve.routes.snapshot import take
from serve.tenants.keys import Keys
from serve.watching.metrics import Metrics
from serve.watching.observing import Observer
from tests.serve.conftest import SERVED


async def main(location: str, url: str) -> None:
    """Serve until somebody ends it."""
    registry, store, tokens = Registry.open(location), SqlStore(url), Tokens()
    snapshot, metrics, engine = take(registry), Metrics(CollectorRegistry()), EchoEngine("small")
    with Recorder(store) as recorder, socket.create_server(("127.0.0.1", 0)) as sock:
        recording = Recording(recorder, tokens, metrics)
        feedback = Feedback(
            store,
            recorder,
            tokens,
            registry,
            metrics,
            snapshot=lambda: snapshot,
            recent=recording.recent,
        )
        gate = Gate(
            engine.app,
            engine=engine,
            admission=Admission(Residency(engine)),
            snapshot=lambda: snapshot,
            base=SERVED,
            keys=Keys([]),
            recording=recording,
            feedback=feedback,
        )
        app = Observer(gate, metrics, recording=recording.over)
        print(sock.getsockname()[1], flush=True)
        config = uvicorn.Config(app, log_level="critical", lifespan="off")  # type: ignore[arg-type]
        await uvicorn.Server(config).serve(sockets=[sock])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
