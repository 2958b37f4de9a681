"""The request path hands exposures over: it never waits, never fails, and loses nothing unseen."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from adapters.errors import Unavailable
from serve.experiments.store.base import Exposure, Store
from serve.experiments.store.recorder import Recorder
from serve.experiments.store.sql import SqlStore
from tests.serve.experiments.store.rows import EXPERIMENT, exposure


class Troubled:
    """A store that is stuck, away, or choosy, as it is told."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.calls = 0
        self.away = False
        self.open = threading.Event()
        self.open.set()

    def expose(self, batch: Sequence[Exposure]) -> None:
        self.calls += 1
        self.open.wait(20)
        if self.away:
            raise Unavailable("Nobody is there.", fix="Start it.")
        if any(each.unit == "spoilt" for each in batch):
            raise ValueError("what is this?")
        self.kept += [each.unit for each in batch]


@pytest.fixture
def troubled() -> Troubled:
    return Troubled()


def recording(store: Any, **given: Any) -> Recorder:
    return Recorder(cast(Store, store), **{"interval_s": 0.01, "batch": 10, **given})


def test_what_is_recorded_is_in_the_store_at_the_end_in_its_order(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite:///{tmp_path}/experiments.db")
    names = [str(number) for number in range(1234)]
    with Recorder(store) as recorder:
        assert all(recorder.record(exposure(name)) for name in names)
    assert (recorder.written, recorder.dropped, recorder.waiting) == (1234, 0, 0)
    assert [each.unit for each in store.exposures(EXPERIMENT)] == names
    store.close()


def test_it_is_written_soon_although_nothing_follows(troubled: Troubled) -> None:
    with recording(troubled) as recorder:
        recorder.record(exposure("ann"))
        assert recorder.flush(5)
        assert troubled.kept == ["ann"]
        deadline = time.monotonic() + 5
        recorder.record(exposure("ben"))
        while troubled.kept != ["ann", "ben"]:
            assert time.monotonic() < deadline
            time.sleep(0.005)


def test_a_store_that_is_stuck_delays_nobody_and_what_finds_no_place_is_counted(
    troubled: Troubled,
) -> None:
    troubled.open.clear()
    with recording(troubled, capacity=100) as recorder:
        began = time.monotonic()
        taken = [recorder.record(exposure(str(number))) for number in range(250)]
        assert time.monotonic() - began < 1
        assert taken == [True] * 100 + [False] * 150
        assert (recorder.waiting, recorder.dropped, recorder.written) == (100, 150, 0)
        assert not recorder.flush(0.05)
        troubled.open.set()
        assert recorder.flush(5)
        assert recorder.record(exposure("later"))
    assert troubled.kept == [*map(str, range(100)), "later"]
    assert (recorder.written, recorder.dropped) == (101, 150)


def test_a_store_that_is_away_gets_all_of_it_when_it_is_back_and_is_told_of_once(
    troubled: Troubled, caplog: pytest.LogCaptureFixture
) -> None:
    troubled.away = True
    with recording(troubled) as recorder:
        for number in range(25):
            recorder.record(exposure(str(number)))
        while troubled.calls < 3:
            time.sleep(0.005)
        assert recorder.waiting == 25
        troubled.away = False
        assert recorder.flush(5)
    assert troubled.kept == [str(number) for number in range(25)]
    assert [record.getMessage() for record in caplog.records] == [
        "Exposures wait: Nobody is there. Start it."
    ]


def test_what_the_store_refuses_takes_no_other_with_it(
    troubled: Troubled, caplog: pytest.LogCaptureFixture
) -> None:
    with recording(troubled) as recorder:
        for name in ["ann", "spoilt", "ben"]:
            recorder.record(exposure(name))
        assert recorder.flush(5)
    assert troubled.kept == ["ann", "ben"]
    assert (recorder.written, recorder.dropped) == (2, 1)
    assert "The store refuses the exposure of r-spoilt: ValueError" in caplog.text


@pytest.mark.parametrize("trouble", ["stuck", "away"])
def test_the_end_waits_no_longer_than_it_may_and_says_what_was_lost(
    troubled: Troubled, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    if trouble == "stuck":
        troubled.open.clear()
    troubled.away = True
    with caplog.at_level(logging.WARNING):
        with recording(troubled, close_timeout_s=0.1) as recorder:
            for number in range(25):
                recorder.record(exposure(str(number)))
            began = time.monotonic()
        assert time.monotonic() - began < 3
    assert (recorder.written, recorder.dropped, recorder.waiting) == (0, 25, 0)
    assert "25 exposures could not be written before the end." in caplog.text
    troubled.away = False
    troubled.open.set()
    recorder._thread.join(5)  # what it may still write counts as dropped, once
    assert not recorder.record(exposure("too late"))
    assert (recorder.dropped, recorder.waiting) == (26, 0)


def test_a_store_that_comes_back_during_the_end_gets_what_is_left(troubled: Troubled) -> None:
    troubled.away = True
    with recording(troubled, close_timeout_s=3, batch=1, interval_s=30) as recorder:
        recorder.record(exposure("ann"))
        while not troubled.calls:
            time.sleep(0.005)
        threading.Timer(0.1, setattr, (troubled, "away", False)).start()
    assert (troubled.kept, recorder.dropped) == (["ann"], 0)


def test_many_threads_may_record(troubled: Troubled) -> None:
    with recording(troubled) as recorder:

        def record(first: int) -> None:
            for number in range(first, first + 200):
                assert recorder.record(exposure(str(number)))

        threads = [threading.Thread(target=record, args=(200 * turn,)) for turn in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(map(int, troubled.kept)) == list(range(800))
    assert (recorder.written, recorder.dropped) == (800, 0)
