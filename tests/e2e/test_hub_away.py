"""A server whose registry on the Hub goes away and comes back, and which is ended in a hurry."""

from __future__ import annotations

import signal
from pathlib import Path

from adapters.registry import Registry
from adapters.transfer import transfer
from tests.e2e.test_endings import MANY, Started
from tests.hub.faults import Fault
from tests.hub.server import ORG, Hub
from tests.waiting import HANGS_S


def test_what_is_loaded_is_served_while_the_hub_is_away_and_a_second_signal_ends_it_at_once(
    registry: Registry, hub: Hub, tmp_path: Path
) -> None:
    """One server for both, as starting takes the time."""
    on_hub = Registry.open(f"hf://{ORG}")
    for ref in ("support@v1", "fleet-1@v1"):
        transfer(registry, ref, on_hub)
    server = Started(
        on_hub.location,
        tmp_path / "server.log",
        "--drain-timeout",
        "600",
        HF_HUB_OFFLINE="0",
        ADAPTERS_HOME=str(tmp_path),
    )
    try:
        assert server.chat("support").is_success
        away = [Fault("status", method, ".", 10**9, 403) for method in ("GET", "HEAD", "POST")]
        hub.faults.add(*away)
        server.wait(lambda: "unreachable since" in server.http.get("/ready").text)
        assert server.ready() == 200, "no reason to send requests elsewhere"
        assert server.chat("support").is_success
        assert server.chat("tiny").is_success
        assert server.chat("fleet-1").status_code == 503, "its files were never fetched"
        server.wait(lambda: registry_age_s(server) > 1)
        for fault in away:
            fault.times = 0
        server.wait(lambda: "unreachable" not in server.http.get("/ready").text)
        server.wait(lambda: server.chat("fleet-1").is_success)

        with server.streaming("support", **MANY) as lines:
            with server.standing_still():
                server.process.terminate()
                server.wait(lambda: server.ready() == 503)
                assert server.process.poll() is None, "the stream may end"
                server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(HANGS_S) == 0, "it had 600 s for the stream"
        assert "data: [DONE]" not in lines
    finally:
        server.end()


def registry_age_s(server: Started) -> float:
    lines = server.http.get("/metrics").text.splitlines()
    (age,) = [line for line in lines if line.startswith("switchyard_registry_age_seconds ")]
    return float(age.split()[1])
