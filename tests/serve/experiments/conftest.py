"""A server that keeps what becomes of experiments, and what it kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from serve.experiments.recording import Recording
from serve.experiments.store.base import Exposure
from serve.experiments.store.recorder import Recorder
from serve.experiments.store.sql import SqlStore
from serve.experiments.token import Tokens
from serve.watching.metrics import Metrics


class Kept:
    """A store with all that stands before it."""

    def __init__(self, store: SqlStore, recorder: Recorder) -> None:
        self.store, self.recorder, self.tokens = store, recorder, Tokens()
        self.scraped = CollectorRegistry()
        self.metrics = Metrics(self.scraped)
        self.recording = Recording(recorder, self.tokens, self.metrics)

    def exposures(self, experiment: str = "support/ab-1") -> list[Exposure]:
        """Return what was recorded until now."""
        assert self.recorder.flush(5)
        return list(self.store.exposures(experiment))


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    store = SqlStore(f"sqlite:///{tmp_path}/kept.db")
    with Recorder(store) as recorder:
        yield Kept(store, recorder)
    store.close()
