"""A server that keeps what becomes of experiments, and what it kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from adapters.experiments import Arm, Phase
from adapters.registry import Registry
from adapters.types import Version
from serve.experiments.feedback import Feedback
from serve.experiments.recording import Recording
from serve.experiments.store.base import Exposure, Outcome
from serve.experiments.store.recorder import Recorder
from serve.experiments.store.sql import SqlStore
from serve.experiments.token import Tokens
from serve.routes.snapshot import take
from serve.watching.metrics import Metrics
from tests.serve.conftest import MakeServer, Server

EXPERIMENT = "support/ab-1"
ARMS = [Arm("v1", 1, 50), Arm("v2", 2, 50)]
Counting = Callable[..., Server]


class Kept:
    """A store with all that stands before it."""

    def __init__(self, store: SqlStore, recorder: Recorder, registry: Registry) -> None:
        self.store, self.recorder, self.tokens = store, recorder, Tokens()
        self.scraped = CollectorRegistry()
        self.metrics = Metrics(self.scraped)
        self.recording = Recording(recorder, self.tokens, self.metrics)
        self.feedback = Feedback(
            store,
            recorder,
            self.tokens,
            registry,
            self.metrics,
            snapshot=lambda: take(registry),
            recent=lambda request_id: self.recording.recent(request_id),
        )

    def exposures(self) -> list[Exposure]:
        """Return what was recorded until now."""
        assert self.recorder.flush(5)
        return list(self.store.exposures(EXPERIMENT))

    def outcomes(self) -> list[Outcome]:
        return list(self.store.outcomes(EXPERIMENT))

    def turn_to(self, store: Any) -> None:
        """Have feedback ask another store."""
        self.feedback._store = self.feedback._together._store = store

    def counted(self, status: str) -> float:
        """Return how many outcomes `/metrics` says were told so."""
        told = self.scraped.get_sample_value("switchyard_outcomes_total", {"status": status})
        return told or 0


@pytest.fixture
def kept(tmp_path: Path, registry: Registry) -> Iterator[Kept]:
    store = SqlStore(f"sqlite:///{tmp_path}/kept.db")
    with Recorder(store) as recorder:
        keeping = Kept(store, recorder, registry)
        yield keeping
        keeping.feedback.close()
    store.close()


@pytest.fixture
def counting(serve: MakeServer, support: tuple[Version, Version], kept: Kept) -> Counting:
    """Return a server that records, and takes feedback, over `support` v1 and v2."""
    ours = {"recording": kept.recording, "feedback": kept.feedback, "metrics": kept.metrics}
    return lambda **options: serve(**ours, **options)


@pytest.fixture
def phase(registry: Registry, support: tuple[Version, Version]) -> Phase:
    return registry.start_experiment("support", ARMS)
