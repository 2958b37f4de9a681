"""A registry of small genuine versions, and the gate over the in-process engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from adapters.registry import Registry
from adapters.types import BaseModel, Version
from serve.engines.echo_engine import EchoEngine
from serve.gate import Gate
from serve.http.asgi import ASGIApp
from serve.http.body import Limits
from serve.loading.admission import Admission
from serve.loading.residency import Residency
from serve.routes.routing import Base
from serve.routes.snapshot import Snapshot, take
from serve.tenants.keys import Keys
from serve.watching.metrics import Metrics
from serve.watching.observing import Observer
from tests.conftest import BASE, RANK, MakeAdapter

SERVED = Base(("small", "small-alias"), BASE)
FOREIGN = replace(BASE, id="another/base", revision="f" * 40)


class Publish:
    """Publishes seeded versions, each with other weights."""

    def __init__(self, registry: Registry, make: MakeAdapter) -> None:
        self._registry, self._make, self._seed = registry, make, 0

    def __call__(self, name: str, base: BaseModel = BASE, **made: Any) -> Version:
        self._seed += 1
        return self._registry.publish(name, self._make(seed=self._seed, **made), base=base)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.open(tmp_path / "registry")


@pytest.fixture
def publish(registry: Registry, make_adapter: MakeAdapter) -> Publish:
    return Publish(registry, make_adapter)


@pytest.fixture
def support(registry: Registry, publish: Publish) -> tuple[Version, Version]:
    """`support` v1, in production, and v2, the latest."""
    versions = publish("support"), publish("support")
    registry.promote("support@v1")
    return versions


class Server:
    """A gate over an `EchoEngine`, asked without a network."""

    def __init__(self, snapshot: Callable[[], Snapshot], **options: Any) -> None:
        self.engine = EchoEngine(SERVED.names[0], max_lora_rank=max(8, RANK))
        self.admission = Admission(Residency(self.engine, rotation=options.pop("rotation", None)))
        keys = Keys(options.pop("keys", []), options.pop("journal", None))
        metrics = options.pop("metrics", None) or Metrics(CollectorRegistry())
        observing = {key: options.pop(key) for key in ("tracing", "log_prompts") if key in options}
        if recording := options.get("recording"):
            observing["recording"] = recording.over
        self.app = Gate(
            self.engine.app,
            engine=self.engine,
            admission=self.admission,
            snapshot=snapshot,
            base=SERVED,
            keys=keys,
            limits=options.pop("limits", Limits()),
            **options,
        )
        self.observed: ASGIApp = Observer(self.app, metrics, **observing)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.ask_all([(method, path, options)])[0]

    def ask_all(self, requests: list[tuple[str, str, Mapping[str, Any]]]) -> list[httpx.Response]:
        """Send requests at once, over one event loop."""

        async def send() -> list[httpx.Response]:
            transport = httpx.ASGITransport(self.observed)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await asyncio.gather(
                    *(client.request(m, p, **dict(options)) for m, p, options in requests)
                )

        return asyncio.run(send())

    def chat(self, model: object, **options: Any) -> httpx.Response:
        content = {"model": model, "messages": [], **options.pop("content", {})}
        return self.ask("POST", "/v1/chat/completions", json=content, **options)


MakeServer = Callable[..., Server]


@pytest.fixture
def serve(registry: Registry) -> MakeServer:
    """Return a server over the registry as it is at each request."""
    return lambda **options: Server(lambda: take(registry), **options)
