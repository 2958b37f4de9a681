"""The machine's clock jumps, forwards and back: nothing goes by it but what people wrote down."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from adapters.keys import KeyJournal
from adapters.registry import Registry
from serve.routes.snapshot import take
from tests.serve.conftest import MakeServer, Publish


class Clock:
    """The wall clock of this process, as far off as it is told to be."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.off, clock, now = timedelta(), self, time.time

        class Now(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:
                return datetime.now(tz or UTC) + clock.off

        for module in (
            "adapters.keys",
            "adapters.verbs.writer",
            "serve.tenants.keys",
            "serve.watching.readiness",
        ):
            monkeypatch.setattr(f"{module}.datetime", Now)
        monkeypatch.setattr(time, "time", lambda: now() + clock.off.total_seconds())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_versions_aliases_and_their_history_go_by_number_and_line(
    registry: Registry, publish: Publish, clock: Clock
) -> None:
    for days in (0, 400, -400, -800):
        clock.off = timedelta(days=days)
        version = publish("support")
        registry.promote(version.ref)
        assert take(registry).adapters["support"].aliases["production"] == version.number
        assert registry.resolve("support@latest") == version
    assert [move.to_version for move in registry.history("support")] == [1, 2, 3, 4]
    registry.rollback("support")
    assert registry.resolve("support@production").number == 3


def test_a_key_is_over_from_its_day_on_and_limits_know_no_day(
    serve: MakeServer, support: object, clock: Clock, tmp_path: Any
) -> None:
    journal = KeyJournal(tmp_path / "keys.jsonl")
    _, secret = journal.create("web", allow=["support"], rpm=2, expires="30d")
    server = serve(journal=journal)

    def status() -> int:
        return server.chat("support", headers={"authorization": f"Bearer {secret}"}).status_code

    assert status() == 200
    clock.off = timedelta(days=-400)
    assert status() == 200
    assert status() == 429, "no minute has passed"
    clock.off = timedelta(days=20)
    assert status() == 429, "nor now"
    clock.off = timedelta(days=31)
    assert status() == 401


def test_what_is_loaded_stays(serve: MakeServer, support: object, clock: Clock) -> None:
    server = serve()
    for days in (0, 400, -400):
        clock.off = timedelta(days=days)
        assert server.chat("support").status_code == 200
        assert server.ask("GET", "/ready").status_code == 200
    assert len(server.engine.loads) == 1
