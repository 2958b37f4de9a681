"""What `/metrics` says of requests, by who answered them, with labels that stay few."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from adapters.experiments import Arm
from adapters.registry import Registry
from adapters.types import Version
from serve.routes.routing import Route
from serve.watching import metrics as metrics_module
from serve.watching.exchange import Exchange
from serve.watching.metrics import MOST_SERIES, Metrics
from tests.serve.conftest import MakeServer


class Scrape:
    """What a scrape sees."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.metrics = Metrics(self._registry)

    def get(self, name: str, **labels: str) -> float | None:
        return self._registry.get_sample_value(f"switchyard_{name}", labels)

    def text(self) -> str:
        return generate_latest(self._registry).decode()


@pytest.fixture
def scrape() -> Scrape:
    return Scrape()


SUPPORT = {"adapter": "support", "version": "v1", "arm": ""}
NOBODY = {"adapter": "", "version": "", "arm": ""}
CHAT = "/v1/chat/completions"


def test_requests_are_counted_by_who_answered_and_how_it_went(
    serve: MakeServer, support: tuple[Version, Version], scrape: Scrape
) -> None:
    server = serve(metrics=scrape.metrics)
    for _ in range(3):
        server.chat("support")
    server.chat("small")
    server.chat("nobody")
    server.ask("GET", "/secret/path/of-a-client")
    assert scrape.get("requests_total", **SUPPORT, endpoint=CHAT, status="200") == 3
    base = {"adapter": "small", "version": "", "arm": ""}
    assert scrape.get("requests_total", **base, endpoint=CHAT, status="200") == 1
    assert scrape.get("requests_total", **NOBODY, endpoint=CHAT, status="404") == 1
    assert scrape.get("requests_total", **NOBODY, endpoint="other", status="404") == 1
    assert scrape.get("errors_total", **NOBODY, kind="not_found") == 1
    assert scrape.get("request_seconds_count", **SUPPORT) == 3
    assert scrape.get("admission_wait_seconds_count", **SUPPORT) == 3
    assert scrape.get("requests_running") == 0
    assert "nobody" not in scrape.text(), "labels never come from a client"
    assert "of-a-client" not in scrape.text()


def test_tokens_and_their_times(
    serve: MakeServer, support: tuple[Version, Version], scrape: Scrape
) -> None:
    server = serve(metrics=scrape.metrics)
    reply = server.chat("support", content={"stream": True, "max_tokens": 4})
    assert reply.text.endswith("data: [DONE]\n\n")
    assert '"usage"' not in reply.text
    assert scrape.get("time_to_first_token_seconds_count", **SUPPORT) == 1
    assert scrape.get("inter_token_latency_seconds_count", **SUPPORT) == 3
    assert scrape.get("generation_tokens_total", **SUPPORT) == 4
    assert scrape.get("prompt_tokens_total", **SUPPORT) == 2
    server.chat("support", content={"max_tokens": 5})
    assert scrape.get("generation_tokens_total", **SUPPORT) == 9
    assert scrape.get("time_to_first_token_seconds_count", **SUPPORT) == 1, "no stream, no first"


def test_an_experiments_arms_are_told_apart(
    serve: MakeServer, registry: Registry, support: tuple[Version, Version], scrape: Scrape
) -> None:
    registry.start_experiment("support", [Arm("v1", 1, 50), Arm("v2", 2, 50)])
    server = serve(metrics=scrape.metrics)
    for user in range(16):
        server.chat("support", content={"user": f"user-{user}"})
    counts = [
        scrape.get("request_seconds_count", adapter="support", version=arm, arm=arm)
        for arm in ("v1", "v2")
    ]
    assert None not in counts
    assert sum(count or 0 for count in counts) == 16


def noted(version: Version, arm: str | None = None) -> Exchange:
    chosen = Arm(arm, version.number, 1) if arm else None
    return Exchange(route=Route(version, arm=chosen), engine_name=version.engine_name)


def test_series_are_few_and_those_unasked_for_longest_make_room(
    support: tuple[Version, Version], scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(metrics_module.time, "monotonic", lambda: now)
    metrics = scrape.metrics
    for number in range(MOST_SERIES + 50):
        now = float(number)
        metrics.answered(noted(support[0], f"arm-{number}"), CHAT, 200, 0.1)
    arms = {line.split('arm="')[1].split('"')[0] for line in scrape.text().splitlines()
            if line.startswith("switchyard_request_seconds_count")}  # fmt: skip
    assert len(arms) == MOST_SERIES + 1
    other = {"adapter": "other", "version": "", "arm": ""}
    assert scrape.get("request_seconds_count", **other) == 50
    now = 5000.0
    metrics.answered(noted(support[0], "late"), CHAT, 200, 0.1)
    assert scrape.get("request_seconds_count", **{**SUPPORT, "arm": "late"}) == 1
    assert scrape.get("request_seconds_count", **{**SUPPORT, "arm": "arm-0"}) is None


def test_series_of_versions_that_left_the_registry_go(
    support: tuple[Version, Version], scrape: Scrape
) -> None:
    metrics = scrape.metrics
    for version in support:
        metrics.answered(noted(version), CHAT, 200, 0.1)
        metrics.loaded(version.engine_name, 0.2)
    metrics.keep({("support", "v2")})
    assert scrape.get("request_seconds_count", **SUPPORT) is None
    assert scrape.get("request_seconds_count", **{**SUPPORT, "version": "v2"}) == 1
    assert scrape.get("adapter_loads_total", adapter="support", result="loaded") == 2
    metrics.keep(set())
    assert "support" not in scrape.text()


def test_loads_evictions_and_residency(support: tuple[Version, Version], scrape: Scrape) -> None:
    metrics: Any = scrape.metrics
    metrics.loaded(support[0].engine_name, 0.2)
    metrics.loaded(support[1].engine_name, 0.2, failed=True)
    metrics.stalled(0.03)
    metrics.evicted(support[0].engine_name)
    metrics.standing({"loaded": 1, "quarantined": 1})
    assert scrape.get("adapter_loads_total", adapter="support", result="failed") == 1
    assert scrape.get("adapter_load_seconds_count") == 1
    assert scrape.get("adapter_load_stall_seconds_sum") == pytest.approx(0.03)
    assert scrape.get("adapter_evictions_total", adapter="support") == 1
    assert scrape.get("versions", state="loaded") == 1


def test_who_waits_for_a_slot_is_told_until_none_does(
    support: tuple[Version, Version], scrape: Scrape
) -> None:
    one, two = support
    scrape.metrics.waiting({one.engine_name: 2, two.engine_name: 3})
    assert scrape.get("requests_waiting", adapter="support") == 5, "both versions"
    scrape.metrics.waiting({})
    assert not scrape.get("requests_waiting", adapter="support")
