"""What the server counts of experiments that act by themselves, beside what it counts of requests.

Labels are bounded: adapters, arms and metrics come from the registry, and at most `MOST_SERIES` of
their combinations are told.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from serve.watching.metrics import MOST_SERIES

Shadowed = Literal["answered", "failed", "skipped"]
Asked = tuple[str, str, str, str]
"""Adapter, experiment, arm and metric."""


class ExperimentMetrics:
    """All of them. Thread-safe; one instance a process, as a registry takes each name once."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        self._shadows = counter(
            "switchyard_shadow_requests_total",
            "Copies of requests for shadows: answered, failed, or skipped for others' sake.",
            ["adapter", "result"],
        )
        self._decisions = counter(
            "switchyard_experiment_decisions_total",
            "What was done to experiments by itself, by kind.",
            ["kind"],
        )
        self._frozen = gauge(
            "switchyard_experiment_frozen",
            "1 where arms do not get the shares that they should, so that nothing is decided.",
            ["adapter", "experiment"],
        )
        self._log_e = gauge(
            "switchyard_experiment_log_e",
            "Evidence that an arm differs from control, or breaks a guardrail: ln of the e-value.",
            ["adapter", "experiment", "arm", "metric"],
        )
        self._report_s = gauge(
            "switchyard_experiment_report_seconds", "What the last look at all experiments took."
        )
        self._shadowing: set[str] = set()
        self._told: dict[Gauge, set[tuple[str, ...]]] = {}

    def shadowed(self, adapter: str, result: Shadowed) -> None:
        """A copy of a request is over, or was not sent."""
        if adapter not in self._shadowing and len(self._shadowing) >= MOST_SERIES:
            adapter = "other"
        self._shadowing.add(adapter)
        self._shadows.labels(adapter, result).inc()

    def decided(self, kind: str) -> None:
        """Something was done by itself; `kind` is one of a few."""
        self._decisions.labels(kind).inc()

    def looked(
        self,
        log_e: Mapping[Asked, float],
        frozen: Mapping[tuple[str, str], bool],
        took_s: float,
    ) -> None:
        """All experiments were looked at; only these have series from now on."""
        self._tell(self._log_e, log_e)
        self._tell(self._frozen, frozen)
        self._report_s.set(took_s)

    def _tell(self, metric: Gauge, values: Mapping[Any, float]) -> None:
        """Have a metric tell these values alone, by labels; never none, even for a moment."""
        kept = sorted(values)[:MOST_SERIES]
        for labels in kept:
            metric.labels(*labels).set(values[labels])
        for labels in self._told.get(metric, set()) - set(kept):
            metric.remove(*labels)
        self._told[metric] = set(kept)
